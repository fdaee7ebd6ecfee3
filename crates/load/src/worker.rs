//! A worker: one connection, and one turn after another.

use crate::Amount;
use crate::outcome::{Failure, Success, Tally, TurnTime};
use crate::reply::Parent;
use crate::target::{Connection, Target};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A turn that takes longer counts as failed.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause after a failed connect, which saves CPU while nothing is listening.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// How much all workers together may send.
#[derive(Debug)]
pub(crate) struct Budget {
    amount: Amount,
    taken: AtomicU64,
    deadline: OnceLock<Instant>,
}

impl Budget {
    pub(crate) fn new(amount: Amount) -> Self {
        Self { amount, taken: AtomicU64::new(0), deadline: OnceLock::new() }
    }

    fn take(&self) -> bool {
        match self.amount {
            Amount::Requests(allowed) => self.taken.fetch_add(1, Ordering::Relaxed) < allowed,
            Amount::Time(time) => {
                let now = Instant::now();
                now < *self.deadline.get_or_init(|| now + time)
            }
        }
    }
}

pub(crate) struct Worker {
    target: Arc<Target>,
    /// The turns of a chain whose mean time is reported.
    report_turns: Arc<[usize]>,
    connection: Option<Connection>,
    /// The newest response of the chain, and how many turns it has.
    chain: Option<(Parent, usize)>,
}

impl Worker {
    pub(crate) fn new(target: Arc<Target>, report_turns: Arc<[usize]>) -> Self {
        Self { target, report_turns, connection: None, chain: None }
    }

    /// Runs turns until the budget is spent.
    pub(crate) async fn spend(&mut self, budget: &Budget) -> Tally {
        let mut tally = Tally::new();
        while budget.take() {
            let started = Instant::now();
            let outcome = match tokio::time::timeout(TURN_TIMEOUT, self.turn()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::Timeout),
            };
            let took = started.elapsed();
            tally.count(took, outcome.as_ref().map_err(|failure| *failure));
            if outcome.is_ok() {
                self.count_turn(&mut tally, took);
            }
            self.advance_chain(outcome).await;
        }
        tally.ended = Instant::now();
        tally
    }

    fn count_turn(&self, tally: &mut Tally, took: Duration) {
        let turn = self.chain.as_ref().map_or(0, |(_, turns)| *turns) + 1;
        if self.target.turns > 1 && self.report_turns.contains(&turn) {
            tally.turns.entry(turn).or_default().add(TurnTime { count: 1, total: took });
        }
    }

    async fn turn(&mut self) -> Result<Success, Failure> {
        let usable = match &mut self.connection {
            Some(connection) => connection.is_usable().await,
            None => false,
        };
        if !usable {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.target.open().await?),
        };
        let parent = self.chain.as_ref().map(|(parent, _)| parent);
        self.target.run(connection, parent).await
    }

    async fn advance_chain(&mut self, outcome: Result<Success, Failure>) {
        let turns = self.chain.take().map_or(0, |(_, turns)| turns) + 1;
        match outcome {
            Ok(success) => {
                let parent = success.parent.filter(|_| turns < self.target.turns);
                self.chain = parent.map(|parent| (parent, turns));
            }
            Err(failure) => {
                if failure.loses_connection() {
                    self.connection = None;
                }
                if failure == Failure::Connect {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
            }
        }
    }
}
