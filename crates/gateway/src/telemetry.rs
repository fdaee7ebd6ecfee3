//! Logging: structured lines on standard error, one per turn, never with payloads or secrets.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::lines::LogGuard;
use self::lines::LogWriter;
use crate::config::{LogConfig, LogFormat};

/// LogWriter that were dropped or failed to write. A process has one log and so one count.
static DROPPED_LINES: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("cannot start the log writer thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Checks the configuration without starting to log.
pub fn validate(config: &LogConfig) -> Result<(), LogError> {
    EnvFilter::try_new(&config.filter)?;
    Ok(())
}

/// Starts logging for the whole process. The last lines are written when the guard is dropped.
pub fn init(config: &LogConfig) -> Result<LogGuard, LogError> {
    let filter = EnvFilter::try_new(&config.filter)?;
    let (lines, guard) = LogWriter::start(std::io::stderr(), dropped_lines())?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    // A second call in one process keeps the first subscriber, which cannot be replaced.
    match config.format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init().ok()
        }
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(ansi)).try_init().ok()
        }
    };
    log_panics();
    Ok(guard)
}

/// The number of log lines that were not written.
pub fn dropped_lines() -> Counter {
    DROPPED_LINES.clone()
}

/// Logs panics. The default hook writes to standard error directly and blocks if its reader is slow.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let captured = backtrace.status() == BacktraceStatus::Captured;
        tracing::error!(backtrace = captured.then(|| tracing::field::display(&backtrace)), "{panic}");
    }));
}
