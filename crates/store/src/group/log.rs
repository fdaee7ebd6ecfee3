//! Rows of the request log and settlements that nobody waits for. They are written with the next commit, or after a short wait.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Operation;
use crate::Timestamp;

/// How long rows wait for more: waking the writer or committing for each of them would cost more than its turn.
const GATHERING: Duration = Duration::from_millis(50);
/// How many rows may wait. More are lost.
const MAX_ROWS: usize = 16 * 1024;
const NONE: i64 = i64::MAX;
/// The shortest time between two warnings of lost rows: an unavailable store may lose thousands of rows a second.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct LogRows {
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
    /// The earliest time in the rows written since it was last asked for; [`NONE`] if there are none.
    earliest: AtomicI64,
    /// Notified when the first row arrives.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: Vec<Operation>,
    /// The rows come from a failed commit, and no writer has been woken for them since.
    are_back: bool,
    is_closed: bool,
    unreported: Unreported,
}

/// Rows lost since the last warning.
#[derive(Debug, Default)]
struct Unreported {
    rows: usize,
    warned_at: Option<Instant>,
}

// === impl LogRows ===

impl Default for LogRows {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            lost: AtomicU64::new(0),
            earliest: AtomicI64::new(NONE),
            arrived: Notify::new(),
        }
    }
}

impl LogRows {
    /// Notes the times of rows that have been written, or may have been.
    pub(super) fn note_written(&self, times: impl IntoIterator<Item = Timestamp>) {
        if let Some(earliest) = times.into_iter().min() {
            self.earliest.fetch_min(earliest.unix_ms(), Ordering::Relaxed);
        }
    }

    pub(super) fn take_earliest_written(&self) -> Option<Timestamp> {
        let earliest = self.earliest.swap(NONE, Ordering::Relaxed);
        (earliest != NONE).then(|| Timestamp::from_unix_ms(earliest))
    }

    /// Adds a row. It is lost if there is no room for it.
    pub(super) fn push(&self, row: Operation) {
        let mut waiting = self.lock();
        if waiting.is_closed || !waiting.has_room_for(&row) {
            self.count_and_warn(waiting, 1);
            return;
        }
        waiting.rows.push(row);
        if waiting.rows.len() == 1 || std::mem::take(&mut waiting.are_back) {
            self.arrived.notify_one();
        }
    }

    /// Takes rows back after a failed commit, as many as there is room for. They are tried again with the next operation or
    /// row.
    pub(super) fn put_back(&self, rows: Vec<Operation>) {
        let mut waiting = self.lock();
        let mut excess = 0;
        for row in rows {
            if !waiting.is_closed && waiting.has_room_for(&row) {
                waiting.rows.push(row);
            } else {
                excess += 1;
            }
        }
        waiting.are_back = true;
        self.count_and_warn(waiting, excess);
    }

    /// Counts rows as lost, and warns if a warning is due.
    fn count_and_warn(&self, mut waiting: MutexGuard<'_, Waiting>, rows: usize) {
        self.count_lost(rows);
        waiting.unreported.rows += rows;
        let due = waiting.unreported.due(Instant::now());
        drop(waiting);
        warn(due);
    }

    /// Drops rows that can never be written, but keeps their settlements. The caller logs why.
    pub(super) fn lose(&self, rows: Vec<Operation>) {
        self.count_lost(rows.len());
        for row in rows {
            if let Operation::Log(_, Some(settlement)) = row {
                self.push(Operation::Settle(settlement));
            }
        }
    }

    fn count_lost(&self, rows: usize) {
        self.lost.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Resolves when the rows have waited long enough.
    pub(super) async fn due(&self) {
        self.arrived.notified().await;
        tokio::time::sleep(GATHERING).await;
    }

    pub(super) fn take(&self) -> Vec<Operation> {
        let mut waiting = self.lock();
        let rows = std::mem::take(&mut waiting.rows);
        let due = waiting.unreported.due(Instant::now());
        drop(waiting);
        warn(due);
        rows
    }

    /// Takes no more rows, and warns of those whose loss is not reported yet.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        let rest = waiting.unreported.all(Instant::now());
        drop(waiting);
        warn(rest);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns may end after the store was closed.
impl Drop for LogRows {
    fn drop(&mut self) {
        self.close();
    }
}

fn warn(lost: Option<usize>) {
    if let Some(rows) = lost {
        tracing::warn!(rows, "rows of the request log were lost: the store was unavailable for too long");
    }
}

// === impl Waiting ===

impl Waiting {
    /// There is always room for settlements: there are no more of them than turns with a reservation.
    fn has_room_for(&self, row: &Operation) -> bool {
        self.rows.len() < MAX_ROWS || row.settlement().is_some()
    }
}

// === impl Unreported ===

impl Unreported {
    /// How many rows to warn of, if a warning is due.
    fn due(&mut self, now: Instant) -> Option<usize> {
        if self.warned_at.is_some_and(|at| now.saturating_duration_since(at) < WARNING_INTERVAL) {
            return None;
        }
        self.all(now)
    }

    fn all(&mut self, now: Instant) -> Option<usize> {
        let rows = std::mem::take(&mut self.rows);
        (rows > 0).then(|| {
            self.warned_at = Some(now);
            rows
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use antiphon_protocol::id::ResponseId;
    use tracing::field::{Field, Visit};
    use tracing::span;

    use super::*;
    use crate::LogRow;

    /// Notes the `rows` of each event.
    #[derive(Debug, Clone, Default)]
    struct Warnings(Arc<Mutex<Vec<u64>>>);

    impl Visit for &Warnings {
        fn record_u64(&mut self, field: &Field, value: u64) {
            if field.name() == "rows" {
                self.0.lock().unwrap().push(value);
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            event.record(&mut &*self);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn row() -> Operation {
        let row = LogRow::bare(Timestamp::from_unix_ms(0), ResponseId::mint(0, &[0; 10]));
        Operation::Log(Box::new(row), None)
    }

    #[test]
    fn lost_rows_are_reported_at_once_and_the_rest_at_the_end() {
        let warnings = Warnings::default();
        let log = LogRows::default();
        tracing::subscriber::with_default(warnings.clone(), || {
            for _ in 0..MAX_ROWS {
                log.push(row());
            }
            assert_eq!(*warnings.0.lock().unwrap(), [0; 0], "none is lost");
            for _ in 0..1000 {
                log.push(row());
            }
            assert_eq!(*warnings.0.lock().unwrap(), [1]);
            let rows = log.take();
            log.push(row());
            log.put_back(rows);
            assert_eq!(*warnings.0.lock().unwrap(), [1], "the minute is not over");
            log.close();
            assert_eq!(*warnings.0.lock().unwrap(), [1, 1000]);
            log.push(row());
            log.push(row());
            assert_eq!(log.lost(), 1003);
            drop(log);
        });
        assert_eq!(*warnings.0.lock().unwrap(), [1, 1000, 2]);
    }

    #[test]
    fn lost_rows_are_reported_once_a_minute_and_each_once() {
        let mut unreported = Unreported::default();
        let start = Instant::now();
        // Ten rows a second for five minutes, then none.
        let warned: Vec<_> = (0..600)
            .filter_map(|second| {
                unreported.rows += if second < 300 { 10 } else { 0 };
                Some((second, unreported.due(start + Duration::from_secs(second))?))
            })
            .collect();
        assert_eq!(warned, [(0, 10), (60, 600), (120, 600), (180, 600), (240, 600), (300, 590)]);
    }
}
