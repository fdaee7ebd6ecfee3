//! The log writer: a thread writes lines to standard error, so that a slow or missing reader blocks no turn.
//!
//! `tracing-appender` does the same with a channel. It wakes its thread for each line, bounds the number of lines instead of
//! their bytes, and does not count lines that fail to write. Here lines gather in one buffer and are written in batches.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// The memory for waiting lines, and as much again for those that are being written. Further lines are dropped.
const MAX_BUFFERED_BYTES: usize = 1024 * 1024;
/// How long the thread lets lines gather between two batches: waking it for each line would cost more than the line.
const BATCH_DELAY: Duration = Duration::from_millis(20);
/// How long the end of the process waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts lines from any thread without blocking.
#[derive(Debug, Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

/// Dropping it writes the waiting lines and ends the thread; gives up after [`FLUSH_TIMEOUT`] if the reader is stuck.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    /// The thread is waiting for the first line of a new batch.
    is_idle: bool,
    is_closing: bool,
    has_ended: bool,
}

// === impl LogWriter ===

impl LogWriter {
    /// Starts the thread that writes to `out`. `dropped` counts lines that are dropped or fail to write.
    pub fn start(out: impl Write + Send + 'static, dropped: Counter) -> io::Result<(Self, LogGuard)> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), dropped });
        let writing = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_all(out))?;
        Ok((Self { shared: Arc::clone(&shared) }, LogGuard { shared }))
    }
}

impl Write for &LogWriter {
    /// Each call passes one whole line, which is buffered or dropped as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        if state.has_ended || state.buffer.len() + line.len() > MAX_BUFFERED_BYTES {
            self.shared.dropped.inc();
            return Ok(line.len());
        }
        state.buffer.extend_from_slice(line);
        if std::mem::take(&mut state.is_idle) {
            self.shared.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a LogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        while self.next_batch(&mut lines) {
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                self.dropped.inc_by(lines.iter().filter(|byte| **byte == b'\n').count() as u64);
            }
            lines.clear();
            let state = self.changed.wait_timeout_while(self.lock(), BATCH_DELAY, |state| !state.is_closing);
            drop(state);
        }
        self.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// Waits for lines and moves them into `lines`; `false` if there will be no more.
    fn next_batch(&self, lines: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        while state.buffer.is_empty() && !state.is_closing {
            state.is_idle = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_idle = false;
        std::mem::swap(&mut state.buffer, lines);
        !lines.is_empty()
    }
}

// === impl LogGuard ===

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closing = true;
        self.shared.changed.notify_all();
        drop(self.shared.changed.wait_timeout_while(state, FLUSH_TIMEOUT, |state| !state.has_ended));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Blocks in `write` until the test receives the batch.
    struct Slow(mpsc::SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.0.send(lines.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_whole_in_order_and_flushed_on_drop() {
        let (sender, batches) = mpsc::sync_channel(1024);
        let (lines, guard) = LogWriter::start(Slow(sender), Counter::default()).unwrap();
        let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        for line in expected.split_inclusive('\n') {
            (&lines).write_all(line.as_bytes()).unwrap();
        }
        drop((guard, lines));
        assert_eq!(batches.iter().flatten().collect::<Vec<_>>(), expected.as_bytes());
    }

    #[test]
    fn lines_are_dropped_and_counted_instead_of_blocking() {
        let (sender, batches) = mpsc::sync_channel(0);
        let dropped = Counter::default();
        let (lines, guard) = LogWriter::start(Slow(sender), dropped.clone()).unwrap();
        let line = [b"x".repeat(1023), vec![b'\n']].concat();
        for _ in 0..3000 {
            (&lines).write_all(&line).unwrap();
        }
        let lost = dropped.get();
        assert!((3000 - 2 * 1024..=3000 - 1024).contains(&lost), "{lost}");
        let taken = std::thread::spawn(move || batches.iter().map(|batch| batch.len() as u64).sum::<u64>());
        drop((guard, lines));
        assert_eq!(taken.join().unwrap(), (3000 - lost) * 1024);
    }

    #[test]
    fn lines_that_fail_to_write_are_counted() {
        let (sender, batches) = mpsc::sync_channel(1);
        drop(batches);
        let dropped = Counter::default();
        let (lines, guard) = LogWriter::start(Slow(sender), dropped.clone()).unwrap();
        (&lines).write_all(b"one\n").unwrap();
        (&lines).write_all(b"two\n").unwrap();
        drop((guard, lines));
        assert_eq!(dropped.get(), 2);
    }
}
