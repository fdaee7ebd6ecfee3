//! The form of a new key.

use antiphon_access::keys::NewKey;
use antiphon_access::limits::LimitSettings;
use antiphon_access::pattern::PatternText;
use antiphon_operations::InvalidRequest;
use maud::{Markup, html};
use serde::Deserialize;

use super::limits_form::LimitsForm;
use super::pieces::alert;

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
            limits: Some(self.limits().apply_to(LimitSettings::default())?),
        })
    }

    fn limits(&self) -> LimitsForm {
        LimitsForm {
            requests_per_minute: self.requests_per_minute.clone(),
            tokens_per_minute: self.tokens_per_minute.clone(),
            concurrent_turns: self.concurrent_turns.clone(),
            budget: self.budget.clone(),
            budget_unit: self.budget_unit.clone(),
            budget_window: self.budget_window.clone(),
        }
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
                (self.limits().fields())
                div .buttons { button .primary type="submit" { "Create key" } a .button href="/keys" { "Cancel" } }
            }
        }
    }
}

fn filled(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
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
