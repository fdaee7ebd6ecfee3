//! The engines of group commit. Each writes one batch at a time, on one of the connections for writing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use rand::RngExt;
use tokio_postgres::{Client, Error};

use super::background::Ending;
use super::conversations::{Appends, lock_rows};
use super::error::{QueryError, is_conflict};
use super::insert::{INSERT, Inserts};
use super::limits::LimitOperations;
use super::pool::Pool;
use super::{purge, statement};
use crate::Appended;
use crate::body::Encoder;
use crate::group::{Engine, NotCommitted, Operation, Outcome};

/// A stuck connection is given up no sooner than this: opening another costs more than a short wait.
pub(super) const MIN_LIMIT: Duration = Duration::from_secs(1);
/// The part of the limit after which the server ends a transaction whose client is silent, as other writers may wait for its rows. It is
/// small, as a store can fall silent in several transactions that wait for each other.
const SILENT_PART: u32 = 4;
/// The server takes no more than 24 days.
const MAX_SILENT: Duration = Duration::from_hours(24);
/// How often a batch is tried again that was in conflict with another writer's, and the unit of the pauses between.
const MAX_RETRIES: u32 = 8;
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// One of the engines of a store.
pub(super) struct PostgresEngine {
    pool: Arc<Pool>,
    /// The connection to prefer.
    own: usize,
    begin: String,
    encoder: Encoder,
}

// === impl PostgresEngine ===

impl PostgresEngine {
    pub(super) fn new(pool: Arc<Pool>, own: usize) -> Self {
        let silent = MAX_SILENT.min(pool.limit() / SILENT_PART);
        let begin = format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = {}", silent.as_millis());
        Self { pool, own, begin, encoder: Encoder::new() }
    }

    async fn try_commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, QueryError> {
        let (mut inserts, mut limiting) = (Inserts::of(batch, &mut self.encoder), LimitOperations::of(batch));
        let appends = Appends::of(batch);
        let endings = Ending::all(batch, &mut self.encoder);
        let session = self.pool.acquire(None, self.own).await?;
        let client = session.client();
        let is_inserted =
            |operation: &Operation| matches!(operation, Operation::Record(_) | Operation::Log(..));
        if limiting.is_empty() && appends.is_empty() && batch.iter().all(is_inserted) {
            session.run(insert(client, inserts.columns())).await?;
            return Ok(vec![Outcome::Done; batch.len()]);
        }
        let transaction = async {
            client.batch_execute(&self.begin).await?;
            lock_rows(client, batch).await?;
            let appended = appends.advance(client, batch).await?;
            inserts.leave_out(&appended);
            if !inserts.is_empty() {
                insert(client, inserts.columns()).await?;
            }
            let mut outcomes = Vec::with_capacity(batch.len());
            for operation in batch {
                outcomes.push(run_one(client, operation).await?);
            }
            appends.finish(client, batch, &appended, &mut outcomes).await?;
            for ending in endings {
                ending.run(client, &mut limiting, &mut outcomes).await?;
            }
            limiting.run(client, &mut outcomes).await?;
            client.batch_execute("COMMIT").await?;
            Ok(outcomes)
        };
        let result = session.run(transaction).await;
        if matches!(result, Err(QueryError::Refused(_) | QueryError::Forbidden(_) | QueryError::NoParent))
            && session.run(client.batch_execute("ROLLBACK")).await.is_err()
        {
            session.give_up();
        }
        result
    }
}

impl Engine for PostgresEngine {
    async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        let mut result = self.try_commit(batch).await;
        for attempt in 1..=MAX_RETRIES {
            if !result.as_ref().is_err_and(is_conflict) {
                break;
            }
            // Writers that met would meet again if they went on at the same time.
            let pause = rand::rng().random_range(Duration::ZERO..RETRY_PAUSE * attempt);
            tokio::time::sleep(pause).await;
            result = self.try_commit(batch).await;
        }
        match (result, batch) {
            // In a batch of several, the others are written without it first.
            (Err(QueryError::NoParent), [Operation::EndBackground(_)]) => {
                Ok(vec![Outcome::Ended(Some(Appended::NoParent))])
            }
            (Err(QueryError::NoParent), [_]) => Ok(vec![Outcome::Appended(Appended::NoParent)]),
            (result, _) => Ok(result?),
        }
    }

    async fn gather(&mut self) {
        tokio::task::yield_now().await;
    }

    /// Does nothing: the store closes the connections once no engine needs them.
    async fn close(&mut self) {}
}

pub(super) async fn insert(client: &Client, columns: Vec<super::insert::Column<'_>>) -> Result<(), Error> {
    let rows = client.query_typed_raw(INSERT, columns).await?;
    rows.try_collect::<Vec<_>>().await.map(|_| ())
}

async fn run_one(client: &Client, operation: &Operation) -> Result<Outcome, Error> {
    match operation {
        // Written with the others of their kind.
        Operation::Record(_)
        | Operation::Post(_)
        | Operation::EndBackground(_)
        | Operation::Log(..)
        | Operation::Reserve(_)
        | Operation::Settle(_)
        | Operation::Sweep(_) => Ok(Outcome::Done),
        Operation::Purge(step) => {
            purge::purge(client, step).await.map(|(purged, next)| Outcome::Purged(purged, next))
        }
        Operation::Execute(statements) => {
            // Pipelined: none waits for the reply to another.
            let all = statements.iter().map(|statement| statement::execute(client, statement));
            try_join_all(all).await.map(|changes| Outcome::Changed(changes.contains(&true)))
        }
        Operation::ExecuteSoon(statement) => {
            statement::execute(client, statement).await.map(Outcome::Changed)
        }
    }
}
