//! `[projects]`: settings that all keys of a project share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::Problems;
use antiphon_access::limits::Rules;

#[derive(Debug, Clone, Default, Serialize)]
pub struct ProjectConfig {
    /// Limits that its keys share (docs/limits.md). Default: none.
    #[serde(skip_serializing_if = "LimitRules::is_empty")]
    pub limits: LimitRules,
}

/// Limits, and the settings they were read from.
#[derive(Debug, Clone, Default)]
pub struct LimitRules {
    settings: Map<String, Value>,
    rules: Rules,
}

/// A project as it is settings.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct ProjectDraft {
    limits: Map<String, Value>,
}

pub(super) fn resolve(
    drafts: BTreeMap<String, ProjectDraft>,
    problems: &mut Problems,
) -> BTreeMap<String, ProjectConfig> {
    let mut projects = BTreeMap::new();
    for (name, ProjectDraft { limits: settings }) in drafts {
        if !is_valid_name(&name) {
            problems.reject(
                format!("projects.{name}"),
                "is not a valid project name: use 1 to 64 characters of A-Z a-z 0-9 _ . -",
            );
        }
        match Rules::parse(&Value::Object(settings.clone())) {
            Ok(rules) => {
                projects.insert(name, ProjectConfig { limits: LimitRules { settings, rules } });
            }
            Err(error) => problems.reject(format!("projects.{name}.limits"), error.to_string()),
        }
    }
    projects
}

/// The rule for names of keys and projects.
fn is_valid_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

// === impl LimitRules ===

impl LimitRules {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

impl Serialize for LimitRules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.settings.serialize(serializer)
    }
}
