//! The state of limits, as operators see it.

use std::collections::HashMap;

use antiphon_protocol::id::ProjectId;
use antiphon_store::{Count, CounterId, Measure, StoreError, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::{KeyRules, Limits, NO_WINDOW, Owner, Rule, Rules, project_scope};
use antiphon_runtime::rfc3339;

/// A limit of which much is used.
#[derive(Debug, Clone, PartialEq)]
pub struct NearLimit {
    pub owner: Owner,
    /// The name of the key or the project.
    pub of: String,
    pub limit: String,
    /// What is used and held of it, from 0 to 1 or more.
    pub share: f64,
    pub resets_at: Option<Timestamp>,
}

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

/// More counters than this are not looked at.
const MAX_COUNTERS: u32 = 20_000;

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
        if let Some(rules) = self.projects.load().get(project) {
            views.extend(self.view_scope(Owner::Project, &project_scope(project), rules, now).await?);
        }
        Ok(views)
    }

    /// Limits of these keys, each with its name, and of projects, of which at least this share is used or held, the most used first. Reads a bounded number of
    /// counters.
    pub async fn near(
        &self,
        keys: &[(KeyRules<'_>, &str)],
        min_share: f64,
        now: Timestamp,
    ) -> Result<Vec<NearLimit>, StoreError> {
        let projects = self.projects.load();
        let mut scopes: HashMap<String, (Owner, &str, &Rules)> = HashMap::new();
        for (key, name) in keys.iter().filter(|(key, _)| !key.rules.is_empty()) {
            scopes.insert(key.id.to_string(), (Owner::Key, name, key.rules));
        }
        for (project, rules) in projects.iter() {
            scopes.insert(project_scope(project), (Owner::Project, project.as_str(), rules));
        }
        if scopes.is_empty() {
            return Ok(Vec::new());
        }
        let mut near: Vec<NearLimit> = Vec::new();
        for (CounterId { scope, rule, window_start }, count) in
            self.store.list_current_counters(now, MAX_COUNTERS).await?
        {
            let Some((owner, name, rules)) = scopes.get(&*scope) else { continue };
            let Some(rule) = rules.all().find(|known| known.name == rule) else { continue };
            let window = rule.window.map(|window| window.bounds_at(now));
            let share = count.used.saturating_add(count.held) as f64 / rule.limit as f64;
            if share < min_share || window.is_some_and(|(start, _)| start != window_start) {
                continue;
            }
            let (of, limit) = ((*name).to_owned(), rule.name.to_string());
            near.push(NearLimit { owner: *owner, of, limit, share, resets_at: window.map(|(_, end)| end) });
        }
        near.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.of.cmp(&b.of)));
        Ok(near)
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
