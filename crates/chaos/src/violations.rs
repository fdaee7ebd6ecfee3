//! Promises that were broken.

use std::sync::{Arc, Mutex};

/// So many are told; the rest is counted.
const MAX_TOLD: usize = 20;

/// What was violated, in the order in which it was found. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Violations(Arc<Mutex<Vec<String>>>);

impl Violations {
    pub fn add(&self, what: impl Into<String>) {
        let mut list = self.0.lock().expect("nobody panics while holding it");
        list.push(what.into());
        if let (true, Some(what)) = (list.len() <= MAX_TOLD, list.last()) {
            eprintln!("VIOLATION: {what}");
        }
    }

    pub fn list(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics while holding it").clone()
    }
}
