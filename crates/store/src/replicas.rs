//! Replicas: the processes that serve turns over a store, and which of them are alive.

use async_trait::async_trait;
use uuid::Uuid;

use crate::sql::{Columns, Database, Kind, Query, Statement, id, number};
use crate::{StoreError, Timestamp};

/// A process that serves turns over a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    pub id: Uuid,
    /// How many heartbeats it has written. 0 if it has reservations, but no heartbeat.
    pub beats: u64,
}

/// Heartbeats.
///
/// # Errors
/// [`list_replicas`](Replicas::list_replicas) fails with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait Replicas: Send + Sync {
    /// Tells the others that this replica is alive.
    async fn beat(&self, replica: Uuid, now: Timestamp) -> Result<(), StoreError>;

    /// The replicas that are not forgotten, and those that have reservations without being known.
    async fn list_replicas(&self) -> Result<Vec<Replica>, StoreError>;

    /// Removes a replica, unless it has written a heartbeat since it was listed.
    async fn forget_replica(&self, replica: Replica) -> Result<(), StoreError>;
}

const BEAT: &str = "INSERT INTO replicas (id, started_at, seen_at, beats) VALUES ($1, $2, $2, 1) \
     ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, beats = replicas.beats + 1";

const LIST: &str = "SELECT id, beats FROM replicas UNION ALL \
     SELECT DISTINCT r.replica, 0 FROM reservations r WHERE r.swept_at IS NULL AND r.replica IS NOT NULL \
     AND NOT EXISTS (SELECT 1 FROM background_turns b WHERE b.id = r.id AND b.ended_at IS NULL) \
     AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.id = r.replica)";

const FORGET: &str = "DELETE FROM replicas WHERE id = $1 AND beats <= $2";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 3] = [BEAT, LIST, FORGET];

#[async_trait]
impl<D: Database> Replicas for D {
    async fn beat(&self, replica: Uuid, now: Timestamp) -> Result<(), StoreError> {
        let arguments = vec![id(replica), number(now.unix_ms())];
        self.group().execute(Statement::new(BEAT, arguments)).await.map(|_| ())
    }

    async fn list_replicas(&self) -> Result<Vec<Replica>, StoreError> {
        let query = Query { text: LIST, arguments: Vec::new(), columns: &[Kind::Id, Kind::Number] };
        let replica = |mut row: Columns| Ok(Replica { id: row.id()?, beats: row.integer()? });
        self.query(query).await?.into_iter().map(replica).collect()
    }

    async fn forget_replica(&self, replica: Replica) -> Result<(), StoreError> {
        let arguments = vec![id(replica.id), number(replica.beats())];
        self.group().execute(Statement::new(FORGET, arguments)).await.map(|_| ())
    }
}

// === impl Replica ===

impl Replica {
    /// Its heartbeats as a column holds them.
    pub(crate) fn beats(self) -> i64 {
        i64::try_from(self.beats).unwrap_or(i64::MAX)
    }
}
