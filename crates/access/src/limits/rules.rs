//! The limits of a key or a project, as an operator writes them and as turns are held against them.

use std::fmt::Write;
use std::sync::Arc;

use antiphon_store::Measure;
use serde::Deserialize;
use serde_json::Value;

use super::Window;
use super::settings::{Budget, LimitSettings};
use crate::pattern::PatternText;
use antiphon_protocol::model::ModelPattern;

/// A turn is held against all of them in one transaction.
const MAX_RULES: usize = 50;
const MAX_PATTERNS: usize = 50;
/// A million dollars, or more tokens than anybody uses: small enough to be added up for ever.
const MOST: u64 = 1_000_000_000_000_000;
const NANO: f64 = 1e9;

/// The limits of one key or project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What people and counters call it. A limit that is changed goes on with what was counted under its name.
    pub name: Arc<str>,
    pub measure: Measure,
    /// `None` counts what runs at the same time.
    pub window: Option<Window>,
    /// The models that it is for; any, if there is none.
    models: Vec<ModelPattern>,
    /// Costs are in billionths of a US dollar.
    pub limit: u64,
}

/// What is wrong with limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotRules(String);

// === impl Rules ===

impl Rules {
    /// From JSON. An empty object is no limit at all.
    pub fn parse(limits: &Value) -> Result<Self, NotRules> {
        let settings = LimitSettings::deserialize(limits).map_err(|error| NotRules(error.to_string()))?;
        Self::new(&settings)
    }

    pub fn new(settings: &LimitSettings) -> Result<Self, NotRules> {
        let mut rules = Vec::new();
        let limits = RateLimits {
            requests: settings.requests_per_minute,
            tokens: settings.tokens_per_minute,
            turns: settings.concurrent_turns,
        };
        limits.add_rules(&[], &mut rules)?;
        for of in settings.per_model.iter().flatten() {
            let models = patterns(&of.models)?;
            if models.is_empty() {
                return Err(NotRules("per_model needs models".to_owned()));
            }
            let limits = RateLimits {
                requests: of.requests_per_minute,
                tokens: of.tokens_per_minute,
                turns: of.concurrent_turns,
            };
            let before = rules.len();
            limits.add_rules(&models, &mut rules)?;
            if rules.len() == before {
                return Err(NotRules("per_model needs a limit beside its models".to_owned()));
            }
        }
        for budget in settings.budgets.iter().flatten() {
            rules.push(rule_of(budget)?);
        }
        if rules.len() > MAX_RULES {
            return Err(NotRules(format!("there are more than {MAX_RULES} limits")));
        }
        for (place, rule) in rules.iter().enumerate() {
            if rules[..place].iter().any(|earlier| earlier.name == rule.name) {
                return Err(NotRules(format!("there are two limits of {}", rule.name)));
            }
        }
        Ok(Self(rules))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// Those that a turn with this model is under.
    pub fn of_model<'a>(&'a self, model: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.0.iter().filter(move |rule| rule.is_for(model))
    }
}

/// Limits that need no window of their own: by the minute, and at once.
struct RateLimits {
    requests: Option<u64>,
    tokens: Option<u64>,
    turns: Option<u64>,
}

// === impl RateLimits ===

impl RateLimits {
    /// Adds a rule for each limit; without models it is for all of them.
    fn add_rules(&self, models: &[ModelPattern], rules: &mut Vec<Rule>) -> Result<(), NotRules> {
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

fn patterns(texts: &[PatternText]) -> Result<Vec<ModelPattern>, NotRules> {
    if texts.len() > MAX_PATTERNS {
        return Err(NotRules(format!("a limit is for more than {MAX_PATTERNS} patterns of models")));
    }
    let parse = |text: &PatternText| {
        text.parse().ok_or_else(|| NotRules(format!("{:?} is no pattern of a model's name", text.0)))
    };
    texts.iter().map(parse).collect()
}

fn rule_of(budget: &Budget) -> Result<Rule, NotRules> {
    let (measure, limit) = match (budget.tokens, &budget.cost) {
        (Some(tokens), None) => (Measure::Tokens, tokens),
        (None, Some(dollars)) => (Measure::Cost, nano_usd(dollars.as_f64().unwrap_or(f64::NAN))?),
        _ => return Err(NotRules("a budget has either tokens or cost".to_owned())),
    };
    let models = patterns(budget.models.as_deref().unwrap_or_default())?;
    Rule::new(measure, Some(budget.window), models, limit)
}

fn nano_usd(dollars: f64) -> Result<u64, NotRules> {
    let nano = (dollars * NANO).round();
    // Compared before it is converted: what is no number is refused too.
    if (1.0..=MOST as f64).contains(&nano) {
        return Ok(nano as u64);
    }
    Err(NotRules("a cost is above zero and at most 1000000 US dollars".to_owned()))
}

// === impl Rule ===

impl Rule {
    fn new(
        measure: Measure,
        window: Option<Window>,
        models: Vec<ModelPattern>,
        limit: u64,
    ) -> Result<Self, NotRules> {
        let mut name = match measure {
            Measure::Requests => "requests",
            Measure::Tokens => "tokens",
            Measure::Cost => "US dollars",
            Measure::Turns => "concurrent turns",
        }
        .to_owned();
        if let Some(window) = window {
            // Writing into a text can't fail.
            let _ = write!(name, " per {window}");
        }
        for (place, model) in models.iter().enumerate() {
            let _ = write!(name, "{}{model}", if place == 0 { " for " } else { ", " });
        }
        if !(1..=MOST).contains(&limit) {
            return Err(NotRules(format!("the limit of {name} is from 1 to {MOST}")));
        }
        Ok(Self { name: name.into(), measure, window, models, limit })
    }

    fn is_for(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|glob| glob.matches(model))
    }

    /// Whether only its window's end helps, which is far away: what is told of as a quota.
    pub fn is_budget(&self) -> bool {
        self.window.is_some_and(|window| window != Window::Minute)
    }

    /// An amount as people read it.
    pub fn shown(&self, amount: u64) -> String {
        match self.measure {
            Measure::Cost => dollars(amount),
            Measure::Requests | Measure::Tokens | Measure::Turns => amount.to_string(),
        }
    }
}

/// In whole cents, unless that would hide something.
fn dollars(nano: u64) -> String {
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
    fn limits_have_names_that_tell_what_they_are() {
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
    fn only_limits_of_the_model_count() {
        let rules = Rules::parse(&json!({
            "concurrent_turns": 8,
            "per_model": [{ "models": ["gpt-5*"], "concurrent_turns": 1 }],
        }));
        let rules = rules.unwrap();
        let names = |model| rules.of_model(model).map(|rule| rule.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names("gpt-4o"), ["concurrent turns"]);
        assert_eq!(names("gpt-5-mini"), ["concurrent turns", "concurrent turns for gpt-5*"]);
    }

    #[test]
    fn what_is_no_limit_is_refused_and_told() {
        for (limits, message) in [
            (json!([]), "expected an object of limits"),
            (json!({ "rpm": 1 }), "unknown field `rpm`, expected one of"),
            (json!({ "requests_per_minute": 0 }), "the limit of requests per minute is from 1 to"),
            (json!({ "requests_per_minute": -1 }), "invalid value: integer `-1`, expected u64"),
            (json!({ "tokens_per_minute": "1" }), "invalid type: string"),
            (json!({ "budgets": [{ "window": "day" }] }), "a budget has either tokens or cost"),
            (json!({ "budgets": [{ "tokens": 1, "cost": 1, "window": "day" }] }), "a budget has either"),
            (json!({ "budgets": [{ "tokens": 1 }] }), "missing field `window`"),
            (json!({ "budgets": [{ "tokens": 1, "window": "minute" }] }), "unknown variant `minute`"),
            (json!({ "budgets": [{ "tokens": 1, "window": "year" }] }), "unknown variant `year`"),
            (json!({ "budgets": [{ "cost": -1, "window": "day" }] }), "a cost is above zero"),
            (json!({ "budgets": [{ "cost": 1e300, "window": "day" }] }), "a cost is above zero"),
            (
                json!({ "budgets": [{ "tokens": 1, "window": "day", "models": ["a b"] }] }),
                "\"a b\" is no pattern",
            ),
            (json!({ "per_model": [{ "models": [], "requests_per_minute": 1 }] }), "per_model needs models"),
            (json!({ "per_model": [{ "models": ["m"] }] }), "per_model needs a limit"),
            (
                json!({ "budgets": [{ "tokens": 1, "window": "day" }, { "tokens": 2, "window": "day" }] }),
                "there are two limits of tokens per day",
            ),
        ] {
            let error = Rules::parse(&limits).unwrap_err().to_string();
            assert!(error.contains(message), "{error} of {limits}");
        }
    }

    #[test]
    fn dollars_are_shown_whole() {
        let shown = [0, 1, 2_500_000_000, 10_120_000_000, 12_345_678_900].map(dollars);
        assert_eq!(shown, ["0.00", "0.000000001", "2.50", "10.12", "12.3456789"]);
    }
}
