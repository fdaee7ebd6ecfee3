//! Turns that are finished without their clients: how many at once, and how many of one tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::body_memory::Tenant;

/// The room for them, of which a tenant gets a quarter.
#[derive(Debug)]
pub struct DetachedTurns {
    max: usize,
    counts: Mutex<Counts>,
    running: Gauge,
    refused: Counter,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Of those that have some.
    by_tenant: HashMap<Tenant, usize>,
}

/// Room for one turn. Dropping it makes room for another.
#[derive(Debug)]
pub struct DetachPermit {
    turns: Arc<DetachedTurns>,
    tenant: Tenant,
}

// === impl DetachedTurns ===

impl DetachedTurns {
    pub fn new(max: usize) -> Self {
        Self { max, counts: Mutex::default(), running: Gauge::default(), refused: Counter::default() }
    }

    /// Room for a turn of this tenant, if there is any.
    pub fn try_enter(self: &Arc<Self>, tenant: &Tenant) -> Option<DetachPermit> {
        let mut counts = self.counts();
        let own = counts.by_tenant.get(tenant).copied().unwrap_or_default();
        if counts.all >= self.max || own >= self.share() {
            drop(counts);
            self.refused.inc();
            tracing::info!(
                ?tenant,
                "too many turns are being finished without their clients; another one is cancelled"
            );
            return None;
        }
        counts.all += 1;
        counts.by_tenant.insert(tenant.clone(), own + 1);
        self.running.inc();
        Some(DetachPermit { turns: Arc::clone(self), tenant: tenant.clone() })
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "turns_detached",
            "Turns in flight that are finished without their clients",
            self.running.clone(),
        );
        registry.register(
            "turns_detached_refused",
            "Turns cancelled when their clients left, as too many others were being finished without theirs",
            self.refused.clone(),
        );
    }

    fn share(&self) -> usize {
        (self.max / 4).max(1)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl DetachPermit ===

impl Drop for DetachPermit {
    fn drop(&mut self) {
        let mut counts = self.turns.counts();
        counts.all -= 1;
        if let Some(own) = counts.by_tenant.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                counts.by_tenant.remove(&self.tenant);
            }
        }
        self.turns.running.dec();
    }
}

#[cfg(test)]
mod tests {
    use antiphon_protocol::id::ProjectId;

    use super::*;

    #[test]
    fn a_tenant_gets_a_quarter_and_all_together_the_maximum() {
        let turns = Arc::new(DetachedTurns::new(9));
        let tenant = |name: &str| Tenant::Project(ProjectId::new(name));
        let enter = |name| turns.try_enter(&tenant(name));
        let mut permits = Vec::new();
        for name in ["a", "b", "c", "d"] {
            permits.extend([enter(name), enter(name)].map(Option::unwrap));
            assert!(enter(name).is_none(), "two are a quarter");
        }
        permits.push(enter("e").unwrap());
        assert!(enter("f").is_none(), "nine are all");
        assert_eq!(turns.running.get(), 9);
        permits.remove(0);
        permits.push(enter("f").unwrap());
        permits.clear();
        let counts = turns.counts();
        assert_eq!((counts.all, counts.by_tenant.len(), turns.running.get()), (0, 0, 0));
        assert!(Arc::new(DetachedTurns::new(1)).try_enter(&tenant("a")).is_some());
    }
}
