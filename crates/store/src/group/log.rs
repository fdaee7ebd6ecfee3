//! Rows of the request log that nobody waits for: they gather until a commit takes them along, or for a while.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::LogRow;

/// How long rows may wait for company: waking the writer for each of them, or a commit for each, would cost more than the
/// turn that the row is about.
const GATHERING: Duration = Duration::from_millis(50);
/// Rows that wait; more are lost.
const MAX_ROWS: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(super) struct LogRows {
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
    /// There is a first row.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: Vec<LogRow>,
    /// They came back from a commit that failed, and nobody has been told to try again.
    are_back: bool,
    is_closed: bool,
}

// === impl LogRows ===

impl LogRows {
    /// Lost if there is no place for it.
    pub(super) fn push(&self, row: LogRow) {
        let mut waiting = self.lock();
        if waiting.is_closed || waiting.rows.len() >= MAX_ROWS {
            self.lose(1);
            return;
        }
        waiting.rows.push(row);
        if waiting.rows.len() == 1 || std::mem::take(&mut waiting.are_back) {
            self.arrived.notify_one();
        }
    }

    /// Takes rows back that could not be written now; as many as there is place for. They are tried again with the next
    /// operation, or the next row.
    pub(super) fn put_back(&self, rows: Vec<LogRow>) {
        let mut waiting = self.lock();
        let room = if waiting.is_closed { 0 } else { MAX_ROWS.saturating_sub(waiting.rows.len()) };
        self.lose(rows.len().saturating_sub(room));
        waiting.rows.extend(rows.into_iter().take(room));
        waiting.are_back = true;
    }

    /// So many rows will never be written.
    pub(super) fn lose(&self, rows: usize) {
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

    pub(super) fn take(&self) -> Vec<LogRow> {
        std::mem::take(&mut self.lock().rows)
    }

    /// No more rows are taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
