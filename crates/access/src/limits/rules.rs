//! The limits of a key or a project, checked and ready to be applied to turns.

use std::fmt::Write;
use std::sync::Arc;

use antiphon_store::Measure;
use serde::Deserialize;
use serde_json::Value;

use super::Window;
use super::settings::{Budget, LimitSettings};
use crate::pattern::PatternText;
use antiphon_protocol::model::ModelPattern;

/// A turn reserves against all of them in one transaction.
const MAX_RULES: usize = 50;
const MAX_PATTERNS: usize = 50;
/// A million dollars, or more tokens than anybody uses: small enough that sums never overflow.
const MAX_LIMIT: u64 = 1_000_000_000_000_000;
const NANO_PER_USD: f64 = 1e9;

/// The limits of one key or project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The name that people and counters use. A changed limit keeps what was counted under the same name.
    pub name: Arc<str>,
    pub measure: Measure,
    /// `None` for a limit on concurrent turns.
    pub window: Option<Window>,
    /// The models it applies to; empty for all models.
    models: Vec<ModelPattern>,
    /// Costs in billionths of a US dollar.
    pub limit: u64,
}

/// What is wrong with the limits that an operator wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRules(String);

// === impl Rules ===

impl Rules {
    /// Reads JSON. An empty object means no limits.
    pub fn parse(limits: &Value) -> Result<Self, InvalidRules> {
        let settings = LimitSettings::deserialize(limits).map_err(|error| InvalidRules(error.to_string()))?;
        Self::new(&settings)
    }

    pub(crate) fn new(settings: &LimitSettings) -> Result<Self, InvalidRules> {
        let mut rules = Vec::new();
        let limits = RateLimits {
            requests: settings.requests_per_minute,
            tokens: settings.tokens_per_minute,
            turns: settings.concurrent_turns,
        };
        limits.add_rules(&[], &mut rules)?;
        for entry in settings.per_model.iter().flatten() {
            let models = parse_patterns(&entry.models)?;
            if models.is_empty() {
                return Err(InvalidRules("per_model requires models".to_owned()));
            }
            let limits = RateLimits {
                requests: entry.requests_per_minute,
                tokens: entry.tokens_per_minute,
                turns: entry.concurrent_turns,
            };
            let before = rules.len();
            limits.add_rules(&models, &mut rules)?;
            if rules.len() == before {
                return Err(InvalidRules("per_model requires at least one limit".to_owned()));
            }
        }
        for budget in settings.budgets.iter().flatten() {
            rules.push(budget_rule(budget)?);
        }
        if rules.len() > MAX_RULES {
            return Err(InvalidRules(format!("more than {MAX_RULES} limits")));
        }
        for (index, rule) in rules.iter().enumerate() {
            if rules[..index].iter().any(|earlier| earlier.name == rule.name) {
                return Err(InvalidRules(format!("duplicate limit: {}", rule.name)));
            }
        }
        Ok(Self(rules))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// The limits that apply to a turn with this model.
    pub fn for_model<'a>(&'a self, model: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(move |rule| rule.applies_to(model))
    }
}

/// Limits without a `window` of their own: per minute, and concurrent.
struct RateLimits {
    requests: Option<u64>,
    tokens: Option<u64>,
    turns: Option<u64>,
}

// === impl RateLimits ===

impl RateLimits {
    /// Adds a rule for each limit; without models the rules apply to all of them.
    fn add_rules(&self, models: &[ModelPattern], rules: &mut Vec<Rule>) -> Result<(), InvalidRules> {
        for (measure, window, limit) in [
            (Measure::Requests, Some(Window::Minute), self.requests),
            (Measure::Tokens, Some(Window::Minute), self.tokens),
            (Measure::Turns, None, self.turns),
        ] {
            if let Some(limit) = limit {
                rules.push(Rule::new(measure, window, models.to_vec(), limit)?);
            }
        }
        Ok(())
    }
}

fn parse_patterns(texts: &[PatternText]) -> Result<Vec<ModelPattern>, InvalidRules> {
    if texts.len() > MAX_PATTERNS {
        return Err(InvalidRules(format!("a limit has more than {MAX_PATTERNS} model patterns")));
    }
    let parse = |text: &PatternText| {
        text.parse().ok_or_else(|| InvalidRules(format!("{:?} is not a valid model pattern", text.0)))
    };
    texts.iter().map(parse).collect()
}

fn budget_rule(budget: &Budget) -> Result<Rule, InvalidRules> {
    let (measure, limit) = match (budget.tokens, &budget.cost) {
        (Some(tokens), None) => (Measure::Tokens, tokens),
        (None, Some(dollars)) => (Measure::Cost, nano_usd(dollars.as_f64().unwrap_or(f64::NAN))?),
        _ => return Err(InvalidRules("a budget requires either tokens or cost".to_owned())),
    };
    let models = parse_patterns(budget.models.as_deref().unwrap_or_default())?;
    Rule::new(measure, Some(budget.window), models, limit)
}

fn nano_usd(dollars: f64) -> Result<u64, InvalidRules> {
    let nano = (dollars * NANO_PER_USD).round();
    // Compared as a float, which rejects NaN as well.
    if (1.0..=MAX_LIMIT as f64).contains(&nano) {
        return Ok(nano as u64);
    }
    Err(InvalidRules("a cost must be above zero and at most 1000000 US dollars".to_owned()))
}

// === impl Rule ===

impl Rule {
    fn new(
        measure: Measure,
        window: Option<Window>,
        models: Vec<ModelPattern>,
        limit: u64,
    ) -> Result<Self, InvalidRules> {
        let mut name = match measure {
            Measure::Requests => "requests",
            Measure::Tokens => "tokens",
            Measure::Cost => "US dollars",
            Measure::Turns => "concurrent turns",
        }
        .to_owned();
        if let Some(window) = window {
            // Writing to a String does not fail.
            let _ = write!(name, " per {window}");
        }
        for (index, model) in models.iter().enumerate() {
            let _ = write!(name, "{}{model}", if index == 0 { " for " } else { ", " });
        }
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(InvalidRules(format!("the limit of {name} must be from 1 to {MAX_LIMIT}")));
        }
        Ok(Self { name: name.into(), measure, window, models, limit })
    }

    pub(crate) fn applies_to(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|glob| glob.covers(model))
    }

    /// Whether it is on requests, whatever their model.
    pub(crate) fn counts_all_requests(&self) -> bool {
        self.measure == Measure::Requests && self.models.is_empty()
    }

    /// Whether its window is longer than a minute: errors report such a limit as an exhausted quota.
    pub fn is_budget(&self) -> bool {
        self.window.is_some_and(|window| window != Window::Minute)
    }

    /// An amount in the limit's unit; costs in US dollars.
    pub(crate) fn format_amount(&self, amount: u64) -> String {
        match self.measure {
            Measure::Cost => format_dollars(amount),
            Measure::Requests | Measure::Tokens | Measure::Turns => amount.to_string(),
        }
    }
}

/// With two decimals, or more if the amount has them.
fn format_dollars(nano: u64) -> String {
    let fraction = format!("{:09}", nano % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    format!("{}.{fraction:0<2}", nano / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(limits: &Value) -> Vec<(String, u64, bool)> {
        let rules = Rules::parse(limits).unwrap();
        rules.0.iter().map(|rule| (rule.name.to_string(), rule.limit, rule.is_budget())).collect()
    }

    #[test]
    fn limits_have_descriptive_names() {
        let rules = parse(&json!({
            "requests_per_minute": 60,
            "tokens_per_minute": 100_000,
            "concurrent_turns": 8,
            "per_model": [{ "models": ["gpt-5*", "o3"], "requests_per_minute": 6, "concurrent_turns": 1 }],
            "budgets": [
                { "tokens": 1_000_000, "window": "day" },
                { "cost": 2.5, "window": "month", "models": ["gpt-5*"] },
                { "cost": 0.000_000_001, "window": "hour" },
                { "cost": 10, "window": "week" },
            ],
        }));
        let expected = [
            ("requests per minute", 60, false),
            ("tokens per minute", 100_000, false),
            ("concurrent turns", 8, false),
            ("requests per minute for gpt-5*, o3", 6, false),
            ("concurrent turns for gpt-5*, o3", 1, false),
            ("tokens per day", 1_000_000, true),
            ("US dollars per month for gpt-5*", 2_500_000_000, true),
            ("US dollars per hour", 1, true),
            ("US dollars per week", 10_000_000_000, true),
        ];
        assert_eq!(rules, expected.map(|(name, limit, is_budget)| (name.to_owned(), limit, is_budget)));
        assert!(Rules::parse(&json!({})).unwrap().is_empty());
    }

    #[test]
    fn only_limits_that_match_the_model_apply() {
        let rules = Rules::parse(&json!({
            "concurrent_turns": 8,
            "per_model": [{ "models": ["gpt-5*"], "concurrent_turns": 1 }],
        }));
        let rules = rules.unwrap();
        let names = |model| rules.for_model(model).map(|rule| rule.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names("gpt-4o"), ["concurrent turns"]);
        assert_eq!(names("gpt-5-mini"), ["concurrent turns", "concurrent turns for gpt-5*"]);
    }

    #[test]
    fn a_limit_of_a_model_applies_to_both_of_its_names() {
        let rules = Rules::parse(&json!({ "per_model": [
            { "models": ["plain"], "concurrent_turns": 1 },
            { "models": ["tagged:latest"], "concurrent_turns": 1 },
        ]}));
        let rules = rules.unwrap();
        let applied = ["plain", "plain:latest", "plain:8b", "tagged", "tagged:latest"]
            .map(|model| rules.for_model(model).count());
        assert_eq!(applied, [1, 1, 0, 1, 1]);
    }

    #[test]
    fn invalid_limits_are_rejected_with_a_reason() {
        for (limits, message) in [
            (json!([]), "expected an object of limits"),
            (json!({ "rpm": 1 }), "unknown field `rpm`, expected one of"),
            (json!({ "requests_per_minute": 0 }), "the limit of requests per minute must be from 1 to"),
            (json!({ "requests_per_minute": -1 }), "invalid value: integer `-1`, expected u64"),
            (json!({ "tokens_per_minute": "1" }), "invalid type: string"),
            (json!({ "budgets": [{ "window": "day" }] }), "a budget requires either tokens or cost"),
            (json!({ "budgets": [{ "tokens": 1, "cost": 1, "window": "day" }] }), "a budget requires either"),
            (json!({ "budgets": [{ "tokens": 1 }] }), "missing field `window`"),
            (json!({ "budgets": [{ "tokens": 1, "window": "minute" }] }), "unknown variant `minute`"),
            (json!({ "budgets": [{ "tokens": 1, "window": "year" }] }), "unknown variant `year`"),
            (json!({ "budgets": [{ "cost": -1, "window": "day" }] }), "a cost must be above zero"),
            (json!({ "budgets": [{ "cost": 1e300, "window": "day" }] }), "a cost must be above zero"),
            (
                json!({ "budgets": [{ "tokens": 1, "window": "day", "models": ["a b"] }] }),
                "\"a b\" is not a valid model pattern",
            ),
            (
                json!({ "per_model": [{ "models": [], "requests_per_minute": 1 }] }),
                "per_model requires models",
            ),
            (json!({ "per_model": [{ "models": ["m"] }] }), "per_model requires at least one limit"),
            (
                json!({ "budgets": [{ "tokens": 1, "window": "day" }, { "tokens": 2, "window": "day" }] }),
                "duplicate limit: tokens per day",
            ),
        ] {
            let error = Rules::parse(&limits).unwrap_err().to_string();
            assert!(error.contains(message), "{error} of {limits}");
        }
    }

    #[test]
    fn dollars_are_formatted_without_losing_digits() {
        let shown = [0, 1, 2_500_000_000, 10_120_000_000, 12_345_678_900].map(format_dollars);
        assert_eq!(shown, ["0.00", "0.000000001", "2.50", "10.12", "12.3456789"]);
    }
}
