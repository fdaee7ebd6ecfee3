//! Rows of the request log that nobody waits for: they gather until a commit takes them along, or for a while.

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
    /// There is a first row.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: Vec<LogRow>,
    is_closed: bool,
}

// === impl LogRows ===

impl LogRows {
    /// `false` if there is no place for it.
    pub(super) fn push(&self, row: LogRow) -> bool {
        let mut waiting = self.lock();
        if waiting.is_closed || waiting.rows.len() >= MAX_ROWS {
            return false;
        }
        waiting.rows.push(row);
        if waiting.rows.len() == 1 {
            self.arrived.notify_one();
        }
        true
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
