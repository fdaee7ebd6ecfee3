//! `[projects]`: what all keys of a project share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::Problems;
use antiphon_access::limits::Rules;

#[derive(Debug, Clone, Default, Serialize)]
pub struct ProjectConfig {
    /// What its keys together may use how much of (docs/limits.md). Default: no limits.
    #[serde(skip_serializing_if = "LimitRules::is_empty")]
    pub limits: LimitRules,
}

/// Limits, and how they were written.
#[derive(Debug, Clone, Default)]
pub struct LimitRules {
    written: Map<String, Value>,
    rules: Rules,
}

/// A project as it is written.
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
    for (name, ProjectDraft { limits: written }) in drafts {
        if !is_name(&name) {
            problems.refuse(format!("projects.{name}"), "no key can have a project of this name");
        }
        match Rules::parse(&Value::Object(written.clone())) {
            Ok(rules) => drop(projects.insert(name, ProjectConfig { limits: LimitRules { written, rules } })),
            Err(error) => problems.refuse(format!("projects.{name}.limits"), error.to_string()),
        }
    }
    projects
}

/// As keys and projects are named.
fn is_name(name: &str) -> bool {
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
        self.written.serialize(serializer)
    }
}
