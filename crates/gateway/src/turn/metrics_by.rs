//! Metrics of turns by model and by key. Of each, only the first hundred names are told apart, so that the page stays small whatever
//! clients write.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use antiphon_protocol::usage::Usage;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

const MAX_NAMES: usize = 100;
const OTHER: &str = "other";
const NONE: &str = "none";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    key: String,
}

/// Names that have a value of their own.
#[derive(Debug, Default)]
struct Names(RwLock<BTreeSet<String>>);

/// Turns and tokens by model and by key.
#[derive(Debug, Default)]
pub struct MetricsBy {
    models: Names,
    keys: Names,
    turns_by_model: Family<ModelLabels, Counter>,
    tokens_by_model: Family<ModelLabels, Counter>,
    turns_by_key: Family<KeyLabels, Counter>,
    tokens_by_key: Family<KeyLabels, Counter>,
}

// === impl MetricsBy ===

impl MetricsBy {
    /// `model` is `None` for a turn that no account was chosen for: its client may have written anything.
    pub fn turn_ended(&self, model: Option<&str>, key: Option<&str>, usage: &Usage) {
        let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        let labels = ModelLabels { model: self.models.label(model) };
        self.turns_by_model.get_or_create(&labels).inc();
        self.tokens_by_model.get_or_create(&labels).inc_by(tokens);
        let labels = KeyLabels { key: self.keys.label(key) };
        self.turns_by_key.get_or_create(&labels).inc();
        self.tokens_by_key.get_or_create(&labels).inc_by(tokens);
    }

    pub fn register(&self, registry: &mut Registry) {
        let bound = "the first hundred have a label of their own";
        registry.register(
            "model_turns",
            format!("Finished turns by model; {bound}"),
            self.turns_by_model.clone(),
        );
        registry.register(
            "model_tokens",
            format!("Input and output tokens by model; {bound}"),
            self.tokens_by_model.clone(),
        );
        registry.register(
            "key_turns",
            format!("Finished turns by the name of the key; {bound}"),
            self.turns_by_key.clone(),
        );
        registry.register(
            "key_tokens",
            format!("Input and output tokens by the name of the key; {bound}"),
            self.tokens_by_key.clone(),
        );
    }
}

// === impl Names ===

impl Names {
    fn label(&self, name: Option<&str>) -> String {
        let Some(name) = name else { return NONE.to_owned() };
        if self.0.read().unwrap_or_else(PoisonError::into_inner).contains(name) {
            return name.to_owned();
        }
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES {
            return OTHER.to_owned();
        }
        names.insert(name.to_owned());
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_names_are_told_apart() {
        let names = Names::default();
        for n in 0..MAX_NAMES {
            assert_eq!(names.label(Some(&n.to_string())), n.to_string());
        }
        assert_eq!(
            (names.label(Some("new")), names.label(Some("7")), names.label(None)),
            (OTHER.into(), "7".into(), NONE.into())
        );
    }
}
