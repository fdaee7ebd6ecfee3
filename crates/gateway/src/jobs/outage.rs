//! Failures of a job that is repeated soon: the log says when they begin and when they end.

use antiphon_store::{Store, StoreError};

/// What a job can't do at times.
pub(super) struct Outage {
    /// What does not work, and what follows from it.
    failing: &'static str,
    working: &'static str,
    is_logged: bool,
}

// === impl Outage ===

impl Outage {
    pub(super) const fn new(failing: &'static str, working: &'static str) -> Self {
        Self { failing, working, is_logged: false }
    }

    /// Called each time that the job was tried.
    pub(super) fn note(&mut self, outcome: Result<(), StoreError>, store: &dyn Store) {
        match outcome {
            // An unavailable store logs that itself.
            Err(error) if self.is_logged || !store.is_available() => {
                tracing::debug!(%error, "{}; retrying", self.failing);
            }
            Err(error) => {
                tracing::warn!(%error, "{}; retrying", self.failing);
                self.is_logged = true;
            }
            Ok(()) if self.is_logged => {
                tracing::info!("{}", self.working);
                self.is_logged = false;
            }
            Ok(()) => {}
        }
    }
}
