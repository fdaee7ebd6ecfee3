//! The state of limits, as operators see it.

use std::collections::HashMap;

use antiphon_protocol::id::ProjectId;
use antiphon_store::{Count, CounterId, Measure, StoreError, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::{KeyRules, Limits, NO_WINDOW, Owner, Rule, Rules, project_scope};
use antiphon_runtime::rfc3339;

/// State of a limit. The name says whether amounts are requests, tokens, turns or US dollars.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limit)]
pub struct LimitView {
    owner: Owner,
    #[schema(example = "tokens per day for gpt-5*")]
    pub name: String,
    pub limit: f64,
    /// Amount used by finished turns in the current window.
    pub used: f64,
    /// Amount reserved by running turns.
    pub held: f64,
    /// When the window ends, RFC 3339 in UTC; null for concurrent turns.
    pub resets_at: Option<String>,
}

// === impl LimitView ===

impl LimitView {
    /// How much of the limit is used or held.
    pub fn share(&self) -> f64 {
        if self.limit > 0.0 { (self.used + self.held) / self.limit } else { 0.0 }
    }

    pub fn is_of_project(&self) -> bool {
        self.owner == Owner::Project
    }
}

// === impl Limits ===

impl Limits {
    /// The limits of a key and of its project.
    pub async fn view(
        &self,
        key: KeyRules<'_>,
        project: &ProjectId,
        now: Timestamp,
    ) -> Result<Vec<LimitView>, StoreError> {
        let mut views = self.view_scope(Owner::Key, &key.id.to_string(), key.rules, now).await?;
        if let Some(rules) = self.projects.get(project) {
            views.extend(self.view_scope(Owner::Project, &project_scope(project), rules, now).await?);
        }
        Ok(views)
    }

    async fn view_scope(
        &self,
        owner: Owner,
        scope: &str,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<Vec<LimitView>, StoreError> {
        if rules.is_empty() {
            return Ok(Vec::new());
        }
        let counters: HashMap<CounterId, Count> =
            self.store.list_counters(scope, now).await?.into_iter().collect();
        let view = |rule: &Rule| {
            let window = rule.window.map(|window| window.bounds_at(now));
            let window_start = window.map_or(NO_WINDOW, |(start, _)| start);
            let id = CounterId { scope: scope.into(), rule: rule.name.clone(), window_start };
            let Count { used, held } = counters.get(&id).copied().unwrap_or_default();
            LimitView {
                owner,
                name: rule.name.to_string(),
                limit: display_amount(rule, rule.limit),
                used: display_amount(rule, used),
                held: display_amount(rule, held),
                resets_at: window.map(|(_, end)| rfc3339(end)),
            }
        };
        Ok(rules.all().map(view).collect())
    }
}

fn display_amount(rule: &Rule, amount: u64) -> f64 {
    let amount = amount as f64;
    if rule.measure == Measure::Cost { amount / 1e9 } else { amount }
}
