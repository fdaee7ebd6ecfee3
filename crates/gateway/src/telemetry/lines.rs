//! Lines on their way to standard error, written by a thread of their own: a reader that is slow or gone stops no turn.
//!
//! `tracing-appender` does the same with a channel: it wakes its thread for each line, bounds lines and not bytes, and
//! counts no line that can't be written. Here lines gather in one buffer and are written many at a time.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait may take so much memory, and those that are being written as much again; then lines are dropped.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// After it has written, the thread lets lines gather for so long: waking it for each one would cost more than the line.
const GATHERING: Duration = Duration::from_millis(20);
/// How long the end of the process waits for the last lines to be taken.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes lines from any thread, and never waits for who reads them.
#[derive(Debug, Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

/// Dropping it writes what is waiting and ends the thread, unless nobody takes the lines.
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
    waiting: Vec<u8>,
    /// The thread waits for the first line of a new batch.
    is_idle: bool,
    is_closing: bool,
    has_ended: bool,
}

// === impl Lines ===

impl Lines {
    /// Starts the thread that writes to `out`; lines that it can't take are counted.
    pub fn start(out: impl Write + Send + 'static, dropped: Counter) -> io::Result<(Self, LogGuard)> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), dropped });
        let writing = Arc::clone(&shared);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_all(out))?;
        Ok((Self { shared: Arc::clone(&shared) }, LogGuard { shared }))
    }
}

impl Write for &Lines {
    /// A line comes whole: it is taken whole or dropped whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        if state.has_ended || state.waiting.len() + line.len() > MAX_WAITING_BYTES {
            self.shared.dropped.inc();
            return Ok(line.len());
        }
        state.waiting.extend_from_slice(line);
        if std::mem::take(&mut state.is_idle) {
            self.shared.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

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
        while self.take(&mut lines) {
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                self.dropped.inc_by(lines.iter().filter(|byte| **byte == b'\n').count() as u64);
            }
            lines.clear();
            let gathering =
                self.changed.wait_timeout_while(self.lock(), GATHERING, |state| !state.is_closing);
            drop(gathering);
        }
        self.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// Waits for lines; `false` if there will be no more.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        while state.waiting.is_empty() && !state.is_closing {
            state.is_idle = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_idle = false;
        std::mem::swap(&mut state.waiting, lines);
        !lines.is_empty()
    }
}

// === impl LogGuard ===

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closing = true;
        self.shared.changed.notify_all();
        drop(self.shared.changed.wait_timeout_while(state, LAST_WORDS, |state| !state.has_ended));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a batch only when the test asks for it.
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
    fn lines_come_out_whole_and_in_order_and_the_last_ones_at_the_end() {
        let (sender, batches) = mpsc::sync_channel(1024);
        let (lines, guard) = Lines::start(Slow(sender), Counter::default()).unwrap();
        let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        for line in expected.split_inclusive('\n') {
            (&lines).write_all(line.as_bytes()).unwrap();
        }
        drop((guard, lines));
        assert_eq!(batches.iter().flatten().collect::<Vec<_>>(), expected.as_bytes());
    }

    #[test]
    fn lines_that_nobody_takes_are_dropped_and_counted_and_nobody_waits() {
        let (sender, batches) = mpsc::sync_channel(0);
        let dropped = Counter::default();
        let (lines, guard) = Lines::start(Slow(sender), dropped.clone()).unwrap();
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
    fn lines_that_can_not_be_written_are_counted() {
        let (sender, batches) = mpsc::sync_channel(1);
        drop(batches);
        let dropped = Counter::default();
        let (lines, guard) = Lines::start(Slow(sender), dropped.clone()).unwrap();
        (&lines).write_all(b"one\n").unwrap();
        (&lines).write_all(b"two\n").unwrap();
        drop((guard, lines));
        assert_eq!(dropped.get(), 2);
    }
}
