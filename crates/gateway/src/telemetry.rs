//! Logging: structured lines on standard error, one per turn, never with payloads or secrets.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;
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
            registry.with(layer.fmt_fields(escaped_fields()).with_ansi(ansi)).try_init().ok()
        }
    };
    log_panics();
    Ok(guard)
}

/// Fields as `name=value`. What clients and upstreams write stands in them: control characters are escaped, so that it can't
/// forge lines or drive a terminal.
fn escaped_fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let fields = debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        let value = escape_control(&value);
        if field.name() == "message" { write!(writer, "{value}") } else { write!(writer, "{field}={value}") }
    });
    fields.delimited(" ")
}

fn escape_control(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_everything_else_stays() {
        assert_eq!(escape_control("gpt-5 é \u{1f600}"), "gpt-5 é \u{1f600}");
        assert_eq!(escape_control("a\n2026 ERROR\u{1b}[31m\u{9b}x\t"), r"a\n2026 ERROR\u{1b}[31m\u{9b}x\t");
    }
}
