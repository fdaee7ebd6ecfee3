//! How limits stand, as operators see them.

use std::collections::HashMap;

use antiphon_protocol::id::ProjectId;
use antiphon_store::{Count, CounterId, Measure, StoreError, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ALWAYS, KeyRules, Limits, Owner, Rule, Rules, scope_of_project};
use antiphon_runtime::rfc3339;

/// How one limit stands. Amounts are requests, tokens, turns or US dollars, as its name says.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limit)]
pub struct LimitView {
    owner: Owner,
    #[schema(example = "tokens per day for gpt-5*")]
    name: String,
    limit: f64,
    /// By turns that are over, in the window of now.
    used: f64,
    /// By turns under way.
    held: f64,
    /// In RFC 3339, in UTC; null for concurrent turns.
    resets_at: Option<String>,
}

// === impl Limits ===

impl Limits {
    /// Those of a key, and of its project.
    pub async fn view(
        &self,
        key: KeyRules<'_>,
        project: &ProjectId,
        now: Timestamp,
    ) -> Result<Vec<LimitView>, StoreError> {
        let mut views = self.view_of(Owner::Key, &key.id.to_string(), key.rules, now).await?;
        if let Some(rules) = self.projects.get(project) {
            views.extend(self.view_of(Owner::Project, &scope_of_project(project), rules, now).await?);
        }
        Ok(views)
    }

    async fn view_of(
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
            let window = rule.window.map(|window| window.around(now));
            let window_start = window.map_or(ALWAYS, |(start, _)| start);
            let id = CounterId { scope: scope.into(), rule: rule.name.clone(), window_start };
            let Count { used, held } = counters.get(&id).copied().unwrap_or_default();
            LimitView {
                owner,
                name: rule.name.to_string(),
                limit: number(rule, rule.limit),
                used: number(rule, used),
                held: number(rule, held),
                resets_at: window.map(|(_, end)| rfc3339(end)),
            }
        };
        Ok(rules.all().map(view).collect())
    }
}

fn number(rule: &Rule, amount: u64) -> f64 {
    let amount = amount as f64;
    if rule.measure == Measure::Cost { amount / 1e9 } else { amount }
}
