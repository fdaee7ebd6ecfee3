//! Whether the gateway can serve and store a turn.

use std::time::{Duration, Instant};

use antiphon_access::keys::Keys;
use tokio::sync::Mutex;

use crate::turn::Turns;

/// How long an outcome is reused: however many probes come, the store is checked no more often.
const MAX_AGE: Duration = Duration::from_secs(1);

/// The last outcome. Probes that come together share one check of the store.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<Checked>>);

#[derive(Debug)]
struct Checked {
    at: Instant,
    was_available: bool,
    outcome: Result<(), &'static str>,
}

// === impl Readiness ===

impl Readiness {
    /// Returns why the gateway is not ready, if it is not.
    pub async fn check(&self, turns: &Turns, keys: &Keys) -> Result<(), &'static str> {
        let store = turns.chains.store();
        let mut checked = self.0.lock().await;
        if let Some(checked) = &*checked
            && checked.at.elapsed() < MAX_AGE
            && checked.was_available == store.is_available()
        {
            return checked.outcome;
        }
        let outcome = check_now(turns, keys).await;
        *checked = Some(Checked { at: Instant::now(), was_available: store.is_available(), outcome });
        outcome
    }
}

async fn check_now(turns: &Turns, keys: &Keys) -> Result<(), &'static str> {
    if let Err(error) = turns.chains.store().check().await {
        tracing::warn!(%error, "not ready");
        return Err("the store is unavailable");
    }
    if !keys.is_ready() {
        return Err("the keys could not be read yet");
    }
    if turns.pool.accounts().is_empty() {
        return Err("no account is configured");
    }
    Ok(())
}
