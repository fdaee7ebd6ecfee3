//! The form of a new key, and of its limits.

use antiphon_access::keys::NewKey;
use antiphon_access::limits::{Budget, LimitSettings, Window};
use antiphon_access::pattern::PatternText;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Number;

use super::pieces::alert;
use crate::operations::InvalidRequest;

/// As the fields were filled in.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyForm {
    name: String,
    project: String,
    models: String,
    /// A day, at whose end in UTC the key expires.
    expires_on: String,
    requests_per_minute: String,
    tokens_per_minute: String,
    concurrent_turns: String,
    budget: String,
    budget_unit: String,
    budget_window: String,
}

// === impl KeyForm ===

impl KeyForm {
    pub fn to_new_key(&self) -> Result<NewKey, InvalidRequest> {
        let models: Vec<PatternText> = self
            .models
            .split([',', '\n', ' ', '\r'])
            .filter(|pattern| !pattern.is_empty())
            .map(|pattern| PatternText(pattern.to_owned()))
            .collect();
        Ok(NewKey {
            name: self.name.trim().to_owned(),
            project: filled(&self.project).map(str::to_owned),
            models: Some(models),
            expires_at: filled(&self.expires_on).map(|day| format!("{day}T23:59:59Z")),
            limits: Some(LimitSettings {
                requests_per_minute: count("requests_per_minute", &self.requests_per_minute)?,
                tokens_per_minute: count("tokens_per_minute", &self.tokens_per_minute)?,
                concurrent_turns: count("concurrent_turns", &self.concurrent_turns)?,
                per_model: None,
                budgets: self.to_budget()?.map(|budget| vec![budget]),
            }),
        })
    }

    fn to_budget(&self) -> Result<Option<Budget>, InvalidRequest> {
        let Some(amount) = filled(&self.budget) else { return Ok(None) };
        let window: Window = serde_json::from_value(self.budget_window.as_str().into())
            .map_err(|_| InvalidRequest::value("budget_window", "choose a window of the list"))?;
        let is_cost = self.budget_unit == "usd";
        let cost: Option<Number> = if is_cost {
            let invalid =
                |_| InvalidRequest::value("budget", "expected an amount in US dollars, such as 12.50");
            Some(amount.parse().map_err(invalid)?)
        } else {
            None
        };
        let tokens = if is_cost { None } else { count("budget", amount)? };
        Ok(Some(Budget { tokens, cost, window, models: None }))
    }

    pub fn render_new(&self, error: Option<&str>) -> Markup {
        html! {
            @if let Some(error) = error { (alert(error)) }
            form .card.stack method="post" action="/keys" autocomplete="off" {
                (field("name", "Name", &self.name, "laptop", "Unique; shown in lists and logs.", true))
                (field("project", "Project", &self.project, "a new project", "Keys of a project share its responses.", false))
                (field("models", "Models", &self.models, "gpt-*, o4-mini", "Names or patterns with * and ?, separated by commas. \
                    Empty allows all models.", false))
                label .field {
                    span { "Expires" }
                    input type="date" name="expires_on" value=(self.expires_on) aria-describedby="expires-help";
                    span #expires-help .hint { "At the end of this day in UTC. Empty for never." }
                }
                fieldset {
                    legend { "Limits" }
                    div .fields {
                        (number("requests_per_minute", "Requests per minute", &self.requests_per_minute))
                        (number("tokens_per_minute", "Tokens per minute", &self.tokens_per_minute))
                        (number("concurrent_turns", "Concurrent turns", &self.concurrent_turns))
                    }
                    (self.render_budget())
                }
                div .buttons { button .primary type="submit" { "Create key" } a .button href="/keys" { "Cancel" } }
            }
        }
    }

    fn render_budget(&self) -> Markup {
        let option = |value: &str, chosen: &str, text: &str| {
            html! { option value=(value) selected[value == chosen] { (text) } }
        };
        html! {
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

fn filled(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

fn count(name: &str, text: &str) -> Result<Option<u64>, InvalidRequest> {
    let Some(text) = filled(text) else { return Ok(None) };
    let count = text.replace([',', '_', ' '], "").parse();
    count.map(Some).map_err(|_| InvalidRequest::value(name, "expected a whole number"))
}

fn field(name: &str, label: &str, value: &str, placeholder: &str, help: &str, is_required: bool) -> Markup {
    let help_id = format!("{name}-help");
    html! {
        label .field {
            span { (label) }
            input type="text" name=(name) value=(value) placeholder=(placeholder) required[is_required]
                spellcheck="false" autocapitalize="none" aria-describedby=(help_id);
            span #(help_id) .hint { (help) }
        }
    }
}

fn number(name: &str, label: &str, value: &str) -> Markup {
    html! {
        label .field {
            span { (label) }
            input type="text" inputmode="decimal" name=(name) value=(value) placeholder="no limit";
        }
    }
}
