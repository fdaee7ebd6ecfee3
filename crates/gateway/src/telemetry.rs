//! Logging: structured lines on standard error, one per turn, never with payloads or secrets. Traces are
//! [`traces`]'.

mod format;
mod lines;
pub mod traces;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::sync::LazyLock;

use antiphon_config::{LogConfig, LogFormat};
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::format::LineFormat;
pub use self::lines::LogGuard;
use self::lines::LogWriter;

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
        format @ LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            registry.with(layer.map_event_format(|usual| LineFormat { format, usual })).try_init().ok()
        }
        format @ LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let layer = layer.fmt_fields(escaped_fields()).with_ansi(ansi);
            registry.with(layer.map_event_format(|usual| LineFormat { format, usual })).try_init().ok()
        }
    };
    log_panics();
    Ok(guard)
}

/// Fields as `name=value`. What clients and upstreams write stands in them: it can't forge lines or fields, nor drive a
/// terminal.
fn escaped_fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    let fields = debug_fn(|writer, field, value| {
        let text = format!("{value:?}");
        if field.name() == "message" {
            return write!(writer, "{}", escape_control(&text));
        }
        write!(writer, "{field}={}", escape_control(&quote(&text)))
    });
    fields.delimited(" ")
}

/// Escapes what ends a line, or changes how a terminal shows the text after it.
pub fn escape_control(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| {
        let reorders = matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}')
    };
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_control(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Quotes a value that could be read as several fields, unless it is quoted already, as strings are.
fn quote(value: &str) -> Cow<'_, str> {
    if is_quoted(value) || !value.contains([' ', '"']) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\"")))
}

/// Whether a value is in quotes and has none inside that are not escaped.
fn is_quoted(value: &str) -> bool {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut is_escaped = false;
    let ends_early = inner.chars().any(|c| {
        let was_escaped = is_escaped;
        is_escaped = c == '\\' && !was_escaped;
        c == '"' && !was_escaped
    });
    !ends_early && !is_escaped
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
        assert_eq!(escape_control("a\u{202e}b\u{2028}c"), r"a\u{202e}b\u{2028}c");
        assert_eq!(escape_control("a\n2026 ERROR\u{1b}[31m\u{9b}x\t"), r"a\n2026 ERROR\u{1b}[31m\u{9b}x\t");
    }

    #[test]
    fn a_value_cannot_be_read_as_several_fields() {
        assert_eq!(quote("gpt-5"), "gpt-5");
        assert_eq!(quote(r#""as \"strings\" are""#), r#""as \"strings\" are""#);
        assert_eq!(quote("x http.status=200"), r#""x http.status=200""#);
        assert_eq!(quote(r#""x" http.status="200""#), r#""\"x\" http.status=\"200\"""#);
        assert_eq!(quote(r#""x\""#), r#""\"x\\\"""#);
        assert_eq!(quote(r"a \"), r#""a \\""#);
    }
}
