//! Promises that were broken.

use std::sync::{Arc, Mutex};

/// So many are told as they are found; the table counts all.
const MAX_TOLD: usize = 20;

/// What a gateway promises, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// An acknowledged response can be read, exactly as it was.
    Durable,
    /// A turn is sent upstream with its whole history, and nothing else.
    History,
    /// A project sees nothing of another one.
    Isolation,
    /// Events are whole and in order, and a turn ends once, in time and in the form that the API has for that.
    Events,
    /// A turn is refused only for a reason that the fault explains.
    Refusals,
    /// A gateway is ready again after a fault.
    Recovery,
    /// What is held is bounded, and given back.
    Bounds,
    /// Every acknowledged turn is in the usage of its key.
    Usage,
    /// Damage on disk is an error that names it.
    Damage,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    pub promise: Promise,
    pub what: String,
}

/// What was violated, in the order in which it was found. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Violations(Arc<Mutex<Vec<Violation>>>);

impl Promise {
    pub const ALL: [Self; 9] = [
        Self::Durable,
        Self::History,
        Self::Isolation,
        Self::Events,
        Self::Refusals,
        Self::Recovery,
        Self::Bounds,
        Self::Usage,
        Self::Damage,
    ];

    /// What it is called when it is broken.
    pub fn broken(self) -> &'static str {
        match self {
            Self::Durable => "lost or changed responses",
            Self::History => "wrong histories",
            Self::Isolation => "foreign responses seen",
            Self::Events => "broken event sequences or replies",
            Self::Refusals => "unexplained refusals",
            Self::Recovery => "failed recoveries",
            Self::Bounds => "resources above their bound or not released",
            Self::Usage => "usage not counted",
            Self::Damage => "unreported damage",
        }
    }
}

impl Violation {
    pub fn new(promise: Promise, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }
}

impl Violations {
    pub fn add(&self, promise: Promise, what: impl Into<String>) {
        self.push(Violation::new(promise, what));
    }

    pub fn push(&self, violation: Violation) {
        let mut list = self.0.lock().expect("nobody panics while holding it");
        if list.len() < MAX_TOLD {
            eprintln!("VIOLATION ({}): {}", violation.promise.broken(), violation.what);
        }
        list.push(violation);
    }

    pub fn list(&self) -> Vec<Violation> {
        self.0.lock().expect("nobody panics while holding it").clone()
    }

    pub fn count(&self, promise: Promise) -> usize {
        self.list().iter().filter(|violation| violation.promise == promise).count()
    }
}
