//! Limits: what running turns hold of them, and what finished turns used.
//!
//! A turn reserves the most that it may use, of all its limits or of none, and settles with what it used. A reservation is a row
//! that its settlement removes, so nothing is settled twice. A replica that dies between the two leaves the row, and another
//! one [sweeps](Limits::sweep) it: that releases what it held, once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_protocol::id::ResponseId;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::sql::{Columns, Database, Kind, Query, Statement, number, text};
use crate::{LogRow, Replica, StoreError, Timestamp};

/// The most that a turn may use of each of its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The id of the turn's response: a turn reserves once.
    pub id: ResponseId,
    /// The replica that runs the turn.
    pub replica: Uuid,
    /// When it may be released without a settlement.
    pub expires_at: Timestamp,
    pub holds: Vec<Hold>,
}

/// The most that a turn may use of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub counter: CounterId,
    /// When the counter is no longer needed.
    pub window_end: Timestamp,
    pub measure: Measure,
    pub amount: u64,
    /// How much may be used and held in all, this hold included.
    pub limit: u64,
}

/// Identifies a counter. Counters are written in the order of their ids, so that replicas don't deadlock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterId {
    /// Whose usage it counts.
    pub scope: Arc<str>,
    /// The limit that it is for.
    pub rule: Arc<str>,
    pub window_start: Timestamp,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    Requests,
    Tokens,
    /// In billionths of a US dollar.
    Cost,
    /// Concurrent turns: they are held, but never used.
    Turns,
}

/// The value of a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub used: u64,
    pub held: u64,
}

/// The outcome of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// `false` if a limit would be exceeded: nothing is held.
    pub is_held: bool,
    /// The counters without this reservation, in the order of its holds.
    pub counts: Vec<Count>,
}

/// What a turn used: it takes the place of the turn's reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    pub id: ResponseId,
    pub spent: Spent,
}

/// What a turn used, by measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    pub requests: u64,
    pub tokens: u64,
    pub cost_nano_usd: u64,
}

/// Reservations that nobody will settle, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// Those that have expired.
    Expired,
    /// Those of every replica but this one, which has the store for itself.
    NotOf(Uuid),
    /// Those of a replica that has written no heartbeat since it was listed.
    Of(Replica),
}

/// Reservations.
///
/// # Errors
/// A [write error](StoreError#write-errors).
#[async_trait]
pub trait Limits: Send + Sync {
    /// Holds what the reservation asks for if no limit is exceeded by that, else nothing. If this fails, or is dropped before it
    /// returns, nothing stays held, even if the write succeeds later.
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError>;

    /// Queues a settlement, which is written soon, with the turn's row in the request log. Returns at once. A turn that is
    /// already settled is not settled again. While the store is unavailable settlements are kept.
    fn settle(&self, settlement: Settlement, row: Option<LogRow>);

    /// Releases what up to `max_rows` of these reservations hold, and returns how many those were. If such a turn settles later,
    /// its usage still counts.
    async fn sweep(&self, abandoned: Abandoned, now: Timestamp, max_rows: u32) -> Result<u64, StoreError>;
}

/// Counters of limits.
#[async_trait]
pub trait Counters: Send + Sync {
    /// Every counter of this scope whose window has not ended, in the order of their ids.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn list_counters(&self, scope: &str, now: Timestamp)
    -> Result<Vec<(CounterId, Count)>, StoreError>;

    /// Counters of all scopes whose window has not ended.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn list_current_counters(
        &self,
        now: Timestamp,
        max_rows: u32,
    ) -> Result<Vec<(CounterId, Count)>, StoreError>;

    /// How many reservations hold something.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn count_reservations(&self) -> Result<u64, StoreError>;

    /// Removes up to `max_rows` counters whose windows had ended by then, and up to `max_rows` reservations that were swept and
    /// had expired by then. `false` if there were none.
    ///
    /// # Errors
    /// A [write error](StoreError#write-errors).
    async fn purge_counters(&self, before: Timestamp, max_rows: u32) -> Result<bool, StoreError>;
}

const LIST: &str = "SELECT rule, window_start, used, held FROM counters \
     WHERE scope = $1 AND (window_end > $2 OR window_end = 0) ORDER BY rule, window_start";

const LIST_CURRENT: &str =
    "SELECT scope, rule, window_start, used, held FROM counters WHERE window_end > $1 LIMIT $2";

const COUNT: &str = "SELECT count(*) FROM reservations WHERE swept_at IS NULL";

/// The outer condition is checked again on a row that another transaction has just changed.
const PURGE_COUNTERS: &str = "DELETE FROM counters WHERE held = 0 AND (scope, rule, window_start) IN \
     (SELECT scope, rule, window_start FROM counters WHERE window_end <= $1 AND held = 0 ORDER BY window_end LIMIT $2)";

const PURGE_RESERVATIONS: &str = "DELETE FROM reservations WHERE swept_at IS NOT NULL AND id IN \
     (SELECT id FROM reservations WHERE expires_at <= $1 AND swept_at IS NOT NULL ORDER BY expires_at LIMIT $2)";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 5] = [LIST, LIST_CURRENT, COUNT, PURGE_COUNTERS, PURGE_RESERVATIONS];

#[async_trait]
impl<D: Database> Limits for D {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        self.group().reserve(reservation).await
    }

    fn settle(&self, settlement: Settlement, row: Option<LogRow>) {
        self.group().settle(settlement, row);
    }

    async fn sweep(&self, abandoned: Abandoned, now: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        self.group().sweep(Sweep { abandoned, now, max_rows }).await
    }
}

#[async_trait]
impl<D: Database> Counters for D {
    async fn list_counters(
        &self,
        scope: &str,
        now: Timestamp,
    ) -> Result<Vec<(CounterId, Count)>, StoreError> {
        const COLUMNS: [Kind; 4] = [Kind::Text, Kind::Number, Kind::Number, Kind::Number];
        let arguments = vec![text(scope), number(now.unix_ms())];
        let rows = self.query(Query { text: LIST, arguments, columns: &COLUMNS }).await?;
        let scope: Arc<str> = scope.into();
        rows.into_iter()
            .map(|mut row| {
                let rule = row.text()?.into();
                let window_start = Timestamp::from_unix_ms(row.number()?);
                let count = Count { used: counted(row.number()?), held: counted(row.number()?) };
                Ok((CounterId { scope: Arc::clone(&scope), rule, window_start }, count))
            })
            .collect()
    }

    async fn list_current_counters(
        &self,
        now: Timestamp,
        max_rows: u32,
    ) -> Result<Vec<(CounterId, Count)>, StoreError> {
        const COLUMNS: [Kind; 5] = [Kind::Text, Kind::Text, Kind::Number, Kind::Number, Kind::Number];
        let arguments = vec![number(now.unix_ms()), number(i64::from(max_rows))];
        let rows = self.query(Query { text: LIST_CURRENT, arguments, columns: &COLUMNS }).await?;
        let counter = |mut row: Columns| {
            let (scope, rule) = (row.text()?.into(), row.text()?.into());
            let window_start = Timestamp::from_unix_ms(row.number()?);
            let count = Count { used: counted(row.number()?), held: counted(row.number()?) };
            Ok((CounterId { scope, rule, window_start }, count))
        };
        rows.into_iter().map(counter).collect()
    }

    async fn count_reservations(&self) -> Result<u64, StoreError> {
        let query = Query { text: COUNT, arguments: Vec::new(), columns: &[Kind::Number] };
        let rows = self.query(query).await?;
        rows.into_iter().next().map_or(Ok(0), |mut row| row.number().map(counted))
    }

    async fn purge_counters(&self, before: Timestamp, max_rows: u32) -> Result<bool, StoreError> {
        let arguments = vec![number(before.unix_ms()), number(i64::from(max_rows))];
        // Reservations are locked before counters, as by a settlement.
        let purge = [PURGE_RESERVATIONS, PURGE_COUNTERS].map(|text| Statement::new(text, arguments.clone()));
        self.group().execute_all(purge.into()).await
    }
}

/// A call of [`Limits::sweep`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sweep {
    pub(crate) abandoned: Abandoned,
    pub(crate) now: Timestamp,
    pub(crate) max_rows: u32,
}

/// How much is added to a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) window_end: i64,
    pub(crate) used: i64,
    pub(crate) held: i64,
}

/// A hold as it is stored with its reservation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredHold {
    counter: CounterId,
    window_end: i64,
    measure: Measure,
    amount: i64,
}

/// A [`StoredHold`] in JSON: scope, rule, start and end of the window, measure, amount.
type Encoded<'a> = (Cow<'a, str>, Cow<'a, str>, i64, i64, Measure, i64);

/// Bounds what one turn can use: upstreams report any number, and sums must not overflow.
const MAX_AMOUNT: u64 = 1_000_000_000_000_000;

pub(crate) fn amount(amount: u64) -> i64 {
    i64::try_from(amount.min(MAX_AMOUNT)).unwrap_or(i64::MAX)
}

/// A sum below zero could only come from a bug. Zero keeps that from blocking every turn, or none.
pub(crate) fn counted(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(crate) fn encode_holds(reservation: &Reservation) -> String {
    let holds: Vec<Encoded<'_>> = reservation.holds.iter().map(Hold::encoded).collect();
    serde_json::to_string(&holds).unwrap_or_default()
}

pub(crate) fn decode_holds(text: &str) -> Vec<StoredHold> {
    let decoded = serde_json::from_str::<Vec<Encoded<'_>>>(text);
    let holds = decoded.unwrap_or_else(|error| {
        tracing::error!(%error, "the holds of a reservation can't be read");
        Vec::new()
    });
    let stored = |(scope, rule, start, window_end, measure, amount): Encoded<'_>| {
        let window_start = Timestamp::from_unix_ms(start);
        let counter = CounterId { scope: scope.into(), rule: rule.into(), window_start };
        StoredHold { counter, window_end, measure, amount }
    };
    holds.into_iter().map(stored).collect()
}

/// Decides whether every hold fits.
pub(crate) fn judge(reservation: &Reservation, counts: Vec<Count>) -> Reserved {
    let is_held = reservation.holds.iter().zip(&counts).all(|(hold, count)| hold.fits(*count));
    Reserved { is_held, counts }
}

/// What a reservation adds to its counters.
pub(crate) fn changes_of(reservation: &Reservation) -> impl Iterator<Item = (&CounterId, Change)> {
    reservation.holds.iter().map(|hold| {
        let change = Change { window_end: hold.window_end.unix_ms(), used: 0, held: amount(hold.amount) };
        (&hold.counter, change)
    })
}

/// Changes of counters, each counter once and in the order of their ids.
#[derive(Debug, Default)]
pub(crate) struct Changes(pub(crate) BTreeMap<CounterId, Change>);

// === impl Changes ===

impl Changes {
    pub(crate) fn add(&mut self, counter: &CounterId, change: Change) {
        let sum = match self.0.get_mut(counter) {
            Some(sum) => sum,
            None => self.0.entry(counter.clone()).or_default(),
        };
        sum.window_end = sum.window_end.max(change.window_end);
        sum.used += change.used;
        sum.held += change.held;
    }

    /// Releases the holds of a turn that has ended, or whose reservation has expired, and adds what it used.
    pub(crate) fn release(&mut self, holds: &[StoredHold], was_swept: bool, spent: Spent) {
        for hold in holds {
            let held = if was_swept { 0 } else { -hold.amount };
            let change = Change { window_end: hold.window_end, used: spent.of(hold.measure), held };
            self.add(&hold.counter, change);
        }
    }
}

// === impl Hold ===

impl Hold {
    /// Whether the limit is still kept with this hold on top of the count.
    pub fn fits(&self, count: Count) -> bool {
        count.used.saturating_add(count.held).saturating_add(self.amount) <= self.limit
    }

    fn encoded(&self) -> Encoded<'_> {
        let CounterId { scope, rule, window_start } = &self.counter;
        let window = (window_start.unix_ms(), self.window_end.unix_ms());
        (Cow::from(&**scope), Cow::from(&**rule), window.0, window.1, self.measure, amount(self.amount))
    }
}

// === impl Spent ===

impl Spent {
    fn of(self, measure: Measure) -> i64 {
        amount(match measure {
            Measure::Requests => self.requests,
            Measure::Tokens => self.tokens,
            Measure::Cost => self.cost_nano_usd,
            Measure::Turns => 0,
        })
    }
}

// === impl Settlement ===

impl Settlement {
    /// Settles a turn that used nothing.
    pub fn release(id: ResponseId) -> Self {
        Self { id, spent: Spent::default() }
    }
}
