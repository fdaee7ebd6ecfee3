//! What the connections of a store share: how they are opened, and how many of them are open.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use tokio::time::sleep;
use tokio_postgres::CancelToken;

use super::connect::{ConnectError, Connector, Opened};
use super::schema::Schema;

/// Delays between attempts to connect. The first attempt has none, and each delay is twice the one before.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(10);
/// What counts at most of the losses of a connection whose pool has no other: its delay stays below half a second.
const MAX_URGENT_LOSSES: u32 = 3;

/// What the connections of a pool are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Writing,
    Reading,
}

/// What all connections of a store need to open.
pub(super) struct ConnectContext {
    connector: Connector,
    schema: Schema,
    /// How many attempts in a row have failed while no connection was open. Locked during an attempt: while the server is
    /// unreachable one connection tries for all, and once it succeeds the others follow at once.
    failures: Mutex<u32>,
    writing: Side,
    reading: Side,
    counts: watch::Sender<Counts>,
    /// Whether the log says that not all connections can be opened.
    is_reported: AtomicBool,
}

/// What concerns one of the pools.
#[derive(Default)]
struct Side {
    /// Asks one of its connections to close, as the other pool has none.
    asked: Notify,
    /// Whether the log says that none of its connections can be opened.
    is_reported: AtomicBool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    writing: Count,
    reading: Count,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    wanted: u64,
    open: u64,
}

// === impl Purpose ===

impl Purpose {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Writing => Self::Reading,
            Self::Reading => Self::Writing,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Reading => "reading",
        }
    }
}

// === impl Counts ===

impl Counts {
    fn of(&self, purpose: Purpose) -> Count {
        match purpose {
            Purpose::Writing => self.writing,
            Purpose::Reading => self.reading,
        }
    }

    fn of_mut(&mut self, purpose: Purpose) -> &mut Count {
        match purpose {
            Purpose::Writing => &mut self.writing,
            Purpose::Reading => &mut self.reading,
        }
    }

    fn wanted(&self) -> u64 {
        self.writing.wanted + self.reading.wanted
    }

    fn open(&self) -> u64 {
        self.writing.open + self.reading.open
    }

    /// Whether the pool has no connection at all.
    fn lacks(&self, purpose: Purpose) -> bool {
        let count = self.of(purpose);
        count.wanted > 0 && count.open == 0
    }

    /// Whether the pool should give one of its connections up: the other has none.
    fn can_spare(&self, purpose: Purpose) -> bool {
        self.of(purpose).open > 1 && self.lacks(purpose.other())
    }
}

// === impl ConnectContext ===

impl ConnectContext {
    pub(super) fn new(connector: Connector, schema: Schema) -> Self {
        Self {
            connector,
            schema,
            failures: Mutex::new(0),
            writing: Side::default(),
            reading: Side::default(),
            counts: watch::Sender::default(),
            is_reported: AtomicBool::new(false),
        }
    }

    fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    fn side(&self, purpose: Purpose) -> &Side {
        match purpose {
            Purpose::Writing => &self.writing,
            Purpose::Reading => &self.reading,
        }
    }

    /// How many connections are not open.
    pub(super) fn missing(&self) -> u64 {
        let counts = self.counts();
        counts.wanted().saturating_sub(counts.open())
    }

    pub(super) fn has_open(&self) -> bool {
        self.counts().open() > 0
    }

    pub(super) fn note_wanted(&self, purpose: Purpose) {
        self.counts.send_modify(|counts| counts.of_mut(purpose).wanted += 1);
    }

    pub(super) fn note_opened(&self, purpose: Purpose) {
        self.counts.send_modify(|counts| counts.of_mut(purpose).open += 1);
        self.side(purpose).is_reported.store(false, Ordering::Relaxed);
        if self.missing() == 0 && self.is_reported.swap(false, Ordering::Relaxed) {
            tracing::info!("all connections to the database are open again");
        }
    }

    pub(super) fn note_closed(&self, purpose: Purpose) {
        self.counts.send_modify(|counts| counts.of_mut(purpose).open -= 1);
    }

    /// Without any connection the store is unavailable, which is reported elsewhere. With some, nobody would know why. Returns
    /// whether the other pool makes way.
    pub(super) fn note_failed(&self, purpose: Purpose, error: &ConnectError) -> bool {
        let counts = self.counts();
        let (wanted, open) = (counts.wanted(), counts.open());
        let is_new = |reported: &AtomicBool| !reported.swap(true, Ordering::Relaxed);
        if open > 0 && counts.lacks(purpose) && is_new(&self.side(purpose).is_reported) {
            let purpose = purpose.name();
            tracing::warn!(%error, open, wanted, "no connection to the database for {purpose}; trying again");
        } else if open > 0 && !counts.lacks(purpose) && is_new(&self.is_reported) {
            tracing::warn!(%error, open, wanted, "not all connections to the database can be opened; trying again");
        } else {
            tracing::debug!(%error, "no connection to the database");
        }
        // The server may grant no more than there are.
        let makes_way = matches!(error, ConnectError::Unavailable(_)) && counts.can_spare(purpose.other());
        if makes_way {
            self.side(purpose.other()).asked.notify_one();
        }
        makes_way
    }

    /// Resolves when the pool is asked to give a connection up.
    pub(super) async fn asked(&self, purpose: Purpose) {
        self.side(purpose).asked.notified().await;
    }

    /// Whether the pool gives one up, which counts as closed from here on.
    pub(super) fn spare(&self, purpose: Purpose) -> bool {
        self.counts.send_if_modified(|counts| {
            let can_spare = counts.can_spare(purpose);
            if can_spare {
                counts.of_mut(purpose).open -= 1;
            }
            can_spare
        })
    }

    /// Makes way for the other pool as long as that has no connection and this one has.
    pub(super) async fn give_way(&self, purpose: Purpose) {
        let is_next = |counts: &Counts| counts.lacks(purpose) || !counts.lacks(purpose.other());
        // An error is impossible: the sender is here.
        let _ = self.counts.subscribe().wait_for(is_next).await;
    }

    pub(super) fn lacks(&self, purpose: Purpose) -> bool {
        self.counts().lacks(purpose)
    }

    /// Makes one attempt, after the delay that is due.
    pub(super) async fn open(&self) -> Result<Opened, ConnectError> {
        let mut failures = self.failures.lock().await;
        sleep(backoff(*failures)).await;
        let opened = async {
            self.schema.bring_up_to_date().await?;
            self.connector.connect().await
        };
        let opened = opened.await;
        // A server that has others open refuses this one only, which does not delay those that are lost.
        *failures = if opened.is_ok() || self.has_open() { 0 } else { failures.saturating_add(1) };
        opened
    }

    /// Asks the server to cancel the query of a connection.
    pub(super) async fn cancel(&self, connection: &CancelToken) -> Result<(), ConnectError> {
        self.connector.cancel(connection).await
    }
}

/// How many losses in a row count after one more, of a connection that was open for so long. If it was the last of its pool, nothing
/// of its kind can be done until it is back, and its login worked.
pub(super) fn losses_after(losses: u32, open: Duration, was_last: bool) -> u32 {
    match losses.saturating_add(1) {
        _ if open >= MAX_DELAY => 0,
        more if was_last => more.min(MAX_URGENT_LOSSES),
        more => more,
    }
}

/// Exponential, with jitter for replicas that have lost the same server.
pub(super) fn backoff(failures: u32) -> Duration {
    jittered(failures, RandomState::new().hash_one(failures))
}

fn jittered(failures: u32, random: u64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let delay = FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(MAX_DELAY);
    let half = delay / 2;
    half + half.mul_f64((random % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use antiphon_testkit::Postgres;

    use super::super::link::Link;
    use super::*;
    use crate::{Migrate, StoreUrl};

    fn context(url: &str) -> ConnectContext {
        let StoreUrl::Postgres(target) = url.parse().unwrap() else { unreachable!() };
        let connector = || Connector::new(&target).unwrap();
        ConnectContext::new(connector(), Schema::new(connector(), Migrate::Auto))
    }

    #[tokio::test]
    async fn a_connection_that_is_refused_while_others_are_open_does_not_delay_them() {
        let name = "link_refused";
        let context = Arc::new(context(&Postgres::shared().create_database(name).await));
        let link = Link::start(Arc::clone(&context), Purpose::Writing, Arc::default());
        link.settled().await.unwrap();
        let refuse = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false");
        Postgres::shared().execute("postgres", &refuse).await;
        assert!(context.open().await.is_err());
        assert_eq!(*context.failures.lock().await, 0);
        link.close().await;
        assert!(context.open().await.is_err());
        assert_eq!(*context.failures.lock().await, 1, "no connection is open");
    }

    #[test]
    fn the_last_connection_of_a_pool_waits_only_briefly_however_often_it_was_lost() {
        let soon = Duration::from_secs(4);
        let after_many = |was_last| (0..40).fold(0, |losses, _| losses_after(losses, soon, was_last));
        assert!(backoff(after_many(true)) < Duration::from_millis(500));
        assert!(backoff(after_many(false)) >= MAX_DELAY / 2);
        assert_eq!(losses_after(40, MAX_DELAY, false), 0);
    }

    #[test]
    fn delays_grow_up_to_a_bound_and_are_jittered() {
        assert_eq!(jittered(0, 7), Duration::ZERO);
        for (failures, longest) in [(1, 100), (2, 200), (3, 400), (7, 6_400), (8, 10_000), (u32::MAX, 10_000)]
        {
            let longest = Duration::from_millis(longest);
            let delays = [0, 300, 700, 1_023].map(|random| jittered(failures, random));
            assert!(delays.iter().all(|delay| (longest / 2..longest).contains(delay)), "{delays:?}");
            assert!(delays.is_sorted_by(|a, b| a < b));
        }
    }
}
