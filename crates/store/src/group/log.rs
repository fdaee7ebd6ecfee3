//! Rows of the request log, and settlements, that nobody waits for: they gather until a commit takes them along, or for a while.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Operation;
use crate::Timestamp;

/// How long rows may wait for company: waking the writer for each of them, or a commit for each, would cost more than the
/// turn that the row is about.
const GATHERING: Duration = Duration::from_millis(50);
/// Rows that wait; more are lost.
const MAX_ROWS: usize = 16 * 1024;
const NONE: i64 = i64::MAX;
/// How often the log tells at most of rows that were lost: a store that is away may lose thousands of them a second.
const TELLING: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct LogRows {
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
    /// The earliest time of rows that were written, and that nobody has asked for; [`NONE`] if there is none.
    earliest: AtomicI64,
    /// There is a first row.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: Vec<Operation>,
    /// They came back from a commit that failed, and nobody has been told to try again.
    are_back: bool,
    is_closed: bool,
    untold: Untold,
}

/// Rows that were lost since the log last told of some.
#[derive(Debug, Default)]
struct Untold {
    rows: usize,
    told_at: Option<Instant>,
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
    /// Rows with these times may have been written.
    pub(super) fn note(&self, times: impl IntoIterator<Item = Timestamp>) {
        if let Some(earliest) = times.into_iter().min() {
            self.earliest.fetch_min(earliest.unix_ms(), Ordering::Relaxed);
        }
    }

    pub(super) fn take_earliest(&self) -> Option<Timestamp> {
        let earliest = self.earliest.swap(NONE, Ordering::Relaxed);
        (earliest != NONE).then(|| Timestamp::from_unix_ms(earliest))
    }

    /// Lost if there is no place for it.
    pub(super) fn push(&self, row: Operation) {
        let mut waiting = self.lock();
        if waiting.is_closed || !waiting.has_room_for(&row) {
            self.lose_untold(waiting, 1);
            return;
        }
        waiting.rows.push(row);
        if waiting.rows.len() == 1 || std::mem::take(&mut waiting.are_back) {
            self.arrived.notify_one();
        }
    }

    /// Takes rows back that could not be written now; as many as there is place for. They are tried again with the next
    /// operation, or the next row.
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
        self.lose_untold(waiting, excess);
    }

    /// So many rows will never be written, and the log tells of it when it is time to.
    fn lose_untold(&self, mut waiting: MutexGuard<'_, Waiting>, rows: usize) {
        self.count_lost(rows);
        waiting.untold.rows += rows;
        let due = waiting.untold.due(Instant::now());
        drop(waiting);
        tell(due);
    }

    /// These can't be written, now or later; a settlement can be without its row. The caller sees to it that the log tells
    /// why.
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

    /// Resolves when rows have waited long enough.
    pub(super) async fn due(&self) {
        self.arrived.notified().await;
        tokio::time::sleep(GATHERING).await;
    }

    pub(super) fn take(&self) -> Vec<Operation> {
        let mut waiting = self.lock();
        let rows = std::mem::take(&mut waiting.rows);
        let due = waiting.untold.due(Instant::now());
        drop(waiting);
        tell(due);
        rows
    }

    /// No more rows are taken. The log tells of what it has not told yet: there may be no later time.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        let rest = waiting.untold.all(Instant::now());
        drop(waiting);
        tell(rest);
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

fn tell(lost: Option<usize>) {
    if let Some(rows) = lost {
        tracing::warn!(rows, "rows of the request log were lost: the store did not take them in time");
    }
}

// === impl Waiting ===

impl Waiting {
    /// Settlements have a place in any case: there are no more of them than turns that hold something.
    fn has_room_for(&self, row: &Operation) -> bool {
        self.rows.len() < MAX_ROWS || row.settlement().is_some()
    }
}

// === impl Untold ===

impl Untold {
    /// How many the log is to tell of, if it is time to.
    fn due(&mut self, now: Instant) -> Option<usize> {
        if self.told_at.is_some_and(|at| now.saturating_duration_since(at) < TELLING) {
            return None;
        }
        self.all(now)
    }

    fn all(&mut self, now: Instant) -> Option<usize> {
        let rows = std::mem::take(&mut self.rows);
        (rows > 0).then(|| {
            self.told_at = Some(now);
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
    struct Told(Arc<Mutex<Vec<u64>>>);

    impl Visit for &Told {
        fn record_u64(&mut self, field: &Field, value: u64) {
            if field.name() == "rows" {
                self.0.lock().unwrap().push(value);
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }

    impl tracing::Subscriber for Told {
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
    fn the_log_tells_of_lost_rows_at_once_and_of_the_rest_at_the_end() {
        let told = Told::default();
        let log = LogRows::default();
        tracing::subscriber::with_default(told.clone(), || {
            for _ in 0..MAX_ROWS {
                log.push(row());
            }
            assert_eq!(*told.0.lock().unwrap(), [0; 0], "none is lost");
            for _ in 0..1000 {
                log.push(row());
            }
            assert_eq!(*told.0.lock().unwrap(), [1]);
            let rows = log.take();
            log.push(row());
            log.put_back(rows);
            assert_eq!(*told.0.lock().unwrap(), [1], "the minute is not over");
            log.close();
            assert_eq!(*told.0.lock().unwrap(), [1, 1000]);
            log.push(row());
            log.push(row());
            assert_eq!(log.lost(), 1003);
            drop(log);
        });
        assert_eq!(*told.0.lock().unwrap(), [1, 1000, 2]);
    }

    #[test]
    fn lost_rows_are_told_of_once_a_minute_and_each_once() {
        let mut untold = Untold::default();
        let start = Instant::now();
        // Ten a second, for five minutes; then nothing more is lost, but the log is asked.
        let told: Vec<_> = (0..600)
            .filter_map(|second| {
                untold.rows += if second < 300 { 10 } else { 0 };
                Some((second, untold.due(start + Duration::from_secs(second))?))
            })
            .collect();
        assert_eq!(told, [(0, 10), (60, 600), (120, 600), (180, 600), (240, 600), (300, 590)]);
    }
}
