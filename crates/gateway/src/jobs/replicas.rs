//! Heartbeats: replicas tell each other that they are alive, and release what a dead one held.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::limits::Limits;
use antiphon_runtime::Clock;
use antiphon_store::{Abandoned, Replica, Store, StoreError};
use uuid::Uuid;

use super::limits::sweep_all;
use super::outage::Outage;

const INTERVAL: Duration = Duration::from_secs(4);
/// A replica is dead once another one has written so many heartbeats without seeing a new one of it. No clock decides that: while
/// the database is away, or a replica frozen, nobody is declared dead.
const MISSED: u32 = 5;

/// Writes this replica's heartbeats, and watches those of the others.
pub async fn watch(limits: Arc<Limits>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut watched = Watched::default();
    let mut outage = Outage::new(
        "heartbeats can't be written or read: other replicas may release this one's reservations",
        "heartbeats can be written and read again",
    );
    loop {
        outage.note(beat_once(&limits, &*store, &*clock, &mut watched).await, &*store);
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn beat_once(
    limits: &Limits,
    store: &dyn Store,
    clock: &dyn Clock,
    watched: &mut Watched,
) -> Result<(), StoreError> {
    store.beat(limits.replica(), clock.now()).await?;
    let mut others = store.list_replicas().await?;
    others.retain(|replica| replica.id != limits.replica());
    for dead in watched.note(&others) {
        let released = sweep_all(limits, Abandoned::Of(dead), clock.now()).await?;
        if released > 0 {
            tracing::warn!(replica.id = %dead.id, reservations = released, "a replica is gone; its reservations were released");
        }
        store.forget_replica(dead).await?;
    }
    Ok(())
}

/// The other replicas: each as it was seen last, and how often it has been seen so.
#[derive(Debug, Default)]
struct Watched(HashMap<Uuid, (Replica, u32)>);

// === impl Watched ===

impl Watched {
    /// Called with every heartbeat of this replica. Returns those that are dead.
    fn note(&mut self, others: &[Replica]) -> Vec<Replica> {
        let mut dead = Vec::new();
        let seen = others.iter().map(|replica| {
            let missed = match self.0.get(&replica.id) {
                Some((before, missed)) if before == replica => missed + 1,
                _ => 0,
            };
            if missed >= MISSED {
                dead.push(*replica);
            }
            (replica.id, (*replica, missed))
        });
        self.0 = seen.collect();
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn replica(id: u128, beats: u64) -> Replica {
        Replica { id: Uuid::from_u128(id), beats }
    }

    #[test]
    fn a_replica_without_heartbeats_is_dead_after_five_of_ours() {
        let mut watched = Watched::default();
        for n in 0..5 {
            assert_eq!(watched.note(&[replica(1, 9), replica(2, n)]), [], "{n}");
        }
        assert_eq!(watched.note(&[replica(1, 9), replica(2, 5)]), [replica(1, 9)]);
        assert_eq!(watched.note(&[replica(1, 9)]), [replica(1, 9)], "until it is forgotten");
        assert_eq!(watched.note(&[]), []);
    }

    #[test]
    fn a_replica_that_comes_back_is_watched_anew() {
        let mut watched = Watched::default();
        (0..5).for_each(|_| assert_eq!(watched.note(&[replica(1, 9)]), []));
        // It was forgotten by another replica meanwhile, and so counts from 1 again.
        for beats in [1, 1, 1, 1, 1] {
            assert_eq!(watched.note(&[replica(1, beats)]), []);
        }
        assert_eq!(watched.note(&[replica(1, 1)]), [replica(1, 1)]);
    }
}
