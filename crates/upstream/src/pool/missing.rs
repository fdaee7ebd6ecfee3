//! What upstreams have said that they lack.
//!
//! Such a statement is believed for a while, and only of the endpoint that was asked: an upstream that refuses a model there may
//! serve it elsewhere.

use std::collections::HashMap;
use std::time::Duration;

use antiphon_protocol::request::Operation;
use antiphon_store::Timestamp;

/// How long a statement is believed.
const BELIEVED_FOR: Duration = Duration::from_mins(5);
/// Statements are remembered of so many models. Clients may make up any number of names.
const MAX_MODELS: usize = 1_000;

/// By model: the endpoints, and until when that is believed.
#[derive(Debug, Default, Clone)]
pub struct Missing(HashMap<String, Vec<(Operation, Timestamp)>>);

// === impl Missing ===

impl Missing {
    pub fn add(&mut self, operation: Operation, model: &str, now: Timestamp) {
        self.0.retain(|_, endpoints| {
            endpoints.retain(|(_, until)| is_believed(*until, now));
            !endpoints.is_empty()
        });
        self.remove(operation, model);
        if self.0.len() >= MAX_MODELS {
            self.0.clear();
        }
        self.0.entry(model.to_owned()).or_default().push((operation, now.plus(BELIEVED_FOR)));
    }

    pub fn remove(&mut self, operation: Operation, model: &str) {
        if let Some(endpoints) = self.0.get_mut(model) {
            endpoints.retain(|(missing, _)| *missing != operation);
        }
    }

    pub fn has(&self, operation: Operation, model: &str, now: Timestamp) -> bool {
        self.endpoints(model, now).any(|missing| missing == operation)
    }

    /// The endpoints where the model is missing.
    pub fn endpoints(&self, model: &str, now: Timestamp) -> impl Iterator<Item = Operation> {
        let endpoints = self.0.get(model).into_iter().flatten();
        endpoints.filter(move |(_, until)| is_believed(*until, now)).map(|(operation, _)| *operation)
    }
}

/// Whether a statement still counts. One that seems to count for longer than any was made before the clock was set back.
fn is_believed(until: Timestamp, now: Timestamp) -> bool {
    until > now && until.since(now) <= BELIEVED_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_ms(1_000_000);

    #[test]
    fn a_statement_counts_for_its_endpoint_and_model_for_five_minutes() {
        let mut missing = Missing::default();
        missing.add(Operation::Embed, "m", START);
        missing.add(Operation::Compact, "m", START);
        let lacks = |missing: &Missing, now| {
            Operation::ALL.map(|operation| missing.has(operation, "m", now)).map(u8::from)
        };
        assert_eq!(lacks(&missing, START), [0, 1, 0, 0, 1]);
        let endpoints = |missing: &Missing, model, now| missing.endpoints(model, now).collect::<Vec<_>>();
        assert_eq!(endpoints(&missing, "m", START), [Operation::Embed, Operation::Compact]);
        assert_eq!(endpoints(&missing, "n", START), []);
        let (before_end, end) = (START.plus(Duration::from_secs(299)), START.plus(Duration::from_mins(5)));
        assert_eq!(lacks(&missing, before_end), [0, 1, 0, 0, 1]);
        missing.add(Operation::Embed, "m", before_end);
        assert_eq!(lacks(&missing, end), [0, 0, 0, 0, 1]);
        missing.remove(Operation::Embed, "m");
        assert_eq!(endpoints(&missing, "m", end), []);
        let set_back = START.minus(Duration::from_secs(1));
        missing.add(Operation::Create, "m", START);
        assert_eq!(endpoints(&missing, "m", set_back), []);
    }

    #[test]
    fn memory_for_models_is_bounded() {
        let mut missing = Missing::default();
        for n in 0..3 * MAX_MODELS {
            missing.add(Operation::Create, &n.to_string(), START);
            assert!(missing.0.len() <= MAX_MODELS);
            assert!(missing.has(Operation::Create, &n.to_string(), START));
        }
    }
}
