//! Logs: structured lines on standard error, one for each turn, never with payloads or secrets.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// The filter in the configuration can't be read.
#[derive(Debug, thiserror::Error)]
#[error("log.filter: {0}")]
pub struct BadFilter(#[from] tracing_subscriber::filter::ParseError);

/// Whether [`init`] would accept this.
pub fn check(config: &LogConfig) -> Result<(), BadFilter> {
    EnvFilter::try_new(&config.filter)?;
    Ok(())
}

/// Starts logging for the whole process.
pub fn init(config: &LogConfig) -> Result<(), BadFilter> {
    let filter = EnvFilter::try_new(&config.filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A second call in one process keeps the first subscriber: there is nothing else it could do.
    match config.format {
        LogFormat::Json => {
            registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init().ok()
        }
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(ansi)).try_init().ok()
        }
    };
    Ok(())
}
