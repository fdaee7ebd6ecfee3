//! The fields of a key's limits, in forms.

use antiphon_access::limits::{Budget, LimitSettings, Window};
use antiphon_operations::InvalidRequest;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

/// As the fields were filled in. Limits of single models, and budgets beyond the first, have no fields: they stay as they are.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsForm {
    pub requests_per_minute: String,
    pub tokens_per_minute: String,
    pub concurrent_turns: String,
    pub budget: String,
    pub budget_unit: String,
    pub budget_window: String,
}

// === impl LimitsForm ===

impl LimitsForm {
    /// The fields for what a key has.
    pub fn of(limits: &LimitSettings) -> Self {
        let text = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
        let budget = limits.budgets.iter().flatten().next();
        let is_cost = budget.is_some_and(|budget| budget.cost.is_some());
        let amount = budget.map(|budget| match &budget.cost {
            Some(cost) => cost.to_string(),
            None => text(budget.tokens),
        });
        let window =
            budget.and_then(|budget| serde_json::to_value(budget.window).ok()?.as_str().map(str::to_owned));
        Self {
            requests_per_minute: text(limits.requests_per_minute),
            tokens_per_minute: text(limits.tokens_per_minute),
            concurrent_turns: text(limits.concurrent_turns),
            budget: amount.unwrap_or_default(),
            budget_unit: if is_cost || budget.is_none() { "usd" } else { "tokens" }.to_owned(),
            budget_window: window.unwrap_or_else(|| "day".to_owned()),
        }
    }

    /// The limits of a key that has these, after the change.
    pub fn apply_to(&self, limits: LimitSettings) -> Result<LimitSettings, InvalidRequest> {
        let mut budgets = limits.budgets.unwrap_or_default();
        let models = if budgets.is_empty() { None } else { budgets.remove(0).models };
        if let Some(budget) = self.to_budget()? {
            budgets.insert(0, Budget { models, ..budget });
        }
        Ok(LimitSettings {
            requests_per_minute: count("requests_per_minute", &self.requests_per_minute)?,
            tokens_per_minute: count("tokens_per_minute", &self.tokens_per_minute)?,
            concurrent_turns: count("concurrent_turns", &self.concurrent_turns)?,
            per_model: limits.per_model,
            budgets: Some(budgets).filter(|budgets| !budgets.is_empty()),
        })
    }

    fn to_budget(&self) -> Result<Option<Budget>, InvalidRequest> {
        let amount = self.budget.trim();
        if amount.is_empty() {
            return Ok(None);
        }
        let window: Window = serde_json::from_value(self.budget_window.as_str().into())
            .map_err(|_| InvalidRequest::value("budget_window", "choose a window of the list"))?;
        let is_cost = self.budget_unit == "usd";
        let invalid = |_| InvalidRequest::value("budget", "expected an amount in US dollars, such as 12.50");
        let cost: Option<Number> = if is_cost { Some(amount.parse().map_err(invalid)?) } else { None };
        let tokens = if is_cost { None } else { count("budget", amount)? };
        Ok(Some(Budget { tokens, cost, window, models: None }))
    }

    pub fn fields(&self) -> Markup {
        let option = |value: &str, chosen: &str, text: &str| {
            html! { option value=(value) selected[value == chosen] { (text) } }
        };
        html! {
            fieldset {
                legend { "Limits" }
                div .fields {
                    (number("requests_per_minute", "Requests per minute", &self.requests_per_minute))
                    (number("tokens_per_minute", "Tokens per minute", &self.tokens_per_minute))
                    (number("concurrent_turns", "Concurrent turns", &self.concurrent_turns))
                }
                div .fields {
                    (number("budget", "Budget", &self.budget))
                    label .field {
                        span { "Unit" }
                        select name="budget_unit" {
                            (option("usd", &self.budget_unit, "US dollars")) (option("tokens", &self.budget_unit, "tokens"))
                        }
                    }
                    label .field {
                        span { "Window" }
                        select name="budget_window" {
                            @for window in ["day", "week", "month", "hour"] {
                                (option(window, &self.budget_window, window))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The limits of a key as it is shown.
pub fn settings(limits: &Map<String, Value>) -> LimitSettings {
    serde_json::from_value(Value::Object(limits.clone())).unwrap_or_default()
}

fn count(name: &str, text: &str) -> Result<Option<u64>, InvalidRequest> {
    let text = text.replace([',', '_', ' '], "");
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| InvalidRequest::value(name, "expected a whole number"))
}

fn number(name: &str, label: &str, value: &str) -> Markup {
    html! {
        label .field {
            span { (label) }
            input type="text" inputmode="decimal" name=(name) value=(value) placeholder="no limit";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_without_fields_stay_as_they_are() {
        let limits: LimitSettings = serde_json::from_value(serde_json::json!({
            "requests_per_minute": 60,
            "per_model": [{"models": ["gpt-*"], "tokens_per_minute": 10}],
            "budgets": [{"cost": 5, "window": "day", "models": ["a"]}, {"tokens": 7, "window": "month"}],
        }))
        .unwrap();
        let form = LimitsForm::of(&limits);
        assert_eq!((form.budget.as_str(), form.budget_window.as_str()), ("5", "day"));
        assert_eq!(form.apply_to(limits.clone()).unwrap(), limits);
        let less = LimitsForm { budget: String::new(), ..form }.apply_to(limits.clone()).unwrap();
        assert_eq!(less.budgets.unwrap(), limits.budgets.unwrap()[1..]);
    }
}
