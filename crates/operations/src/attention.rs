//! What needs an operator's attention.

use antiphon_access::limits::{KeyRules, NearLimit, Owner};
use antiphon_runtime::rfc3339;
use antiphon_upstream::pool::Cooldown;
use serde::Serialize;
use utoipa::ToSchema;

use super::{OperationError, Operations};

/// The share of a limit from which it is listed.
const NEAR: f64 = 0.8;
/// How many limits are listed.
const MAX_LIMITS: usize = 20;

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Attention {
    #[schema(inline)]
    pub kind: AttentionKind,
    /// Name of the account, the key or the project.
    pub subject: Option<String>,
    /// What to know about it: why an account is cooling down, which limit is nearly used up.
    pub detail: Option<String>,
    /// The used share of a limit (1 is all of it), or how many there are.
    pub value: Option<f64>,
    /// When it ends by itself, in RFC 3339.
    pub until: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// The store accepts no writes.
    StoreUnavailable,
    /// Rows of the request log were lost since the start.
    LogRowsLost,
    AccountDisabled,
    AccountCooling,
    KeyNearLimit,
    ProjectNearLimit,
    /// Background turns whose lease has expired, and that nobody has taken over.
    BackgroundWithoutLease,
}

// === impl Operations ===

impl Operations {
    /// What needs attention, the most urgent first.
    pub(super) async fn attention(&self) -> Result<Vec<Attention>, OperationError> {
        let now = self.clock.now();
        let mut list = Vec::new();
        if !self.store.is_available() {
            list.push(Attention::new(AttentionKind::StoreUnavailable));
        }
        for view in self.pool.view() {
            let subject = Some(view.account.name.clone());
            match view.state.label(now) {
                "disabled" => {
                    list.push(Attention { subject, ..Attention::new(AttentionKind::AccountDisabled) });
                }
                "cooling" => list.push(Attention {
                    subject,
                    detail: view.state.cooldown.map(|Cooldown { reason, .. }| reason.as_str().to_owned()),
                    until: view.state.cooldown.map(|Cooldown { until, .. }| rfc3339(until)),
                    ..Attention::new(AttentionKind::AccountCooling)
                }),
                _ => {}
            }
        }
        let count = |kind, count: u64| {
            (count > 0).then(|| Attention { value: Some(count as f64), ..Attention::new(kind) })
        };
        list.extend(count(AttentionKind::LogRowsLost, self.store.lost_rows()));
        let abandoned = self.store.count_abandoned_background(now).await?;
        list.extend(count(AttentionKind::BackgroundWithoutLease, abandoned));
        let keys = self.keys.all();
        let rules: Vec<(KeyRules<'_>, &str)> =
            keys.iter().map(|key| (KeyRules { id: key.id, rules: &key.limits }, key.name.as_str())).collect();
        let near = self.limits.near(&rules, NEAR, now).await?;
        list.extend(near.into_iter().take(MAX_LIMITS).map(Attention::from));
        Ok(list)
    }
}

// === impl Attention ===

impl Attention {
    fn new(kind: AttentionKind) -> Self {
        Self { kind, subject: None, detail: None, value: None, until: None }
    }
}

impl From<NearLimit> for Attention {
    fn from(near: NearLimit) -> Self {
        let kind = match near.owner {
            Owner::Key => AttentionKind::KeyNearLimit,
            Owner::Project => AttentionKind::ProjectNearLimit,
        };
        Self {
            subject: Some(near.of),
            detail: Some(near.limit),
            value: Some(near.share),
            until: near.resets_at.map(rfc3339),
            ..Self::new(kind)
        }
    }
}
