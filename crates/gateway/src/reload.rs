//! Reloads the configuration of a running gateway when its file changes, and on SIGHUP.
//!
//! Accounts, routing and the limits of projects take effect at once. Changes of other sections need a restart, which the log says. An invalid file
//! changes nothing, nor does one that has become empty.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use antiphon_config::{AccountConfig, Config, ConfigError, Loaded};
use antiphon_operations::CurrentConfig;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use antiphon_access::limits::Limits;
use antiphon_upstream::account::AccountError;
use antiphon_upstream::pool::Pool;

/// How often the file is read. A change is applied once two reads in a row agree, as a file may be only half written.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Loads the configuration again from the same sources.
pub type ConfigLoader = Box<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>;

/// Applies changes of the configuration to a running gateway.
pub struct Reloader {
    pub pool: Arc<Pool>,
    pub limits: Arc<Limits>,
    /// The configuration as operators see it.
    pub shown: Arc<RwLock<CurrentConfig>>,
    pub metrics: ReloadMetrics,
    /// The configuration that the gateway has started with.
    pub started: Config,
    /// The configuration that was loaded last.
    pub config: Config,
    pub source: Source,
}

/// Where the configuration comes from, and what asks to load it again.
pub struct Source {
    file: Option<PathBuf>,
    /// What the file said when it was loaded last; `None` for one that can be read only once.
    text: Option<Vec<u8>>,
    /// Whether the file was empty when its configuration was applied.
    is_empty: bool,
    loader: ConfigLoader,
    hangups: Signal,
}

/// Counts reloads. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct ReloadMetrics(Family<ReloadLabels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

/// Why a configuration was not applied.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("the configuration file {0:?} is gone")]
    FileGone(PathBuf),
    #[error("the configuration file {0:?} has become empty")]
    FileEmpty(PathBuf),
    #[error(
        "{0:?} is not a regular file, so its configuration can't be read again; restart the gateway to change it"
    )]
    NotRegular(PathBuf),
}

// === impl ReloadMetrics ===

impl ReloadMetrics {
    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&ReloadLabels { outcome }).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        // An alert sees the first reload only if there was a zero before.
        for outcome in ["taken_over", "refused"] {
            drop(self.0.get_or_create(&ReloadLabels { outcome }));
        }
        registry.register(
            "config_reloads",
            "Reloads of the configuration, by outcome: taken_over or refused",
            self.0.clone(),
        );
    }
}

// === impl Source ===

impl Source {
    /// From now on a SIGHUP asks for a reload. Before it ends the process.
    pub fn new(loaded: &Loaded, loader: ConfigLoader) -> Self {
        let Loaded { source, text, .. } = loaded;
        let can_be_read_again = !source.as_deref().is_some_and(is_special);
        Self {
            file: source.clone(),
            text: text.clone().filter(|_| can_be_read_again).map(String::into_bytes),
            is_empty: is_empty(text.as_deref()),
            loader,
            hangups: signal(SignalKind::hangup()).expect("signal handlers can be installed"),
        }
    }

    /// The file's bytes; `None` if there is no readable file.
    fn read(&self) -> Option<Vec<u8>> {
        let file = self.file.as_deref().filter(|file| !is_special(file))?;
        std::fs::read(file).ok()
    }

    /// Loads the configuration, unless something has happened to its file that nobody means as a change.
    fn load(&self) -> Result<Loaded, ReloadError> {
        let Some(file) = &self.file else { return Ok((self.loader)()?) };
        if is_special(file) {
            return Err(ReloadError::NotRegular(file.clone()));
        }
        let loaded = (self.loader)()?;
        if loaded.source.is_none() {
            return Err(ReloadError::FileGone(file.clone()));
        }
        // A full disk leaves this of a file that is written anew.
        if is_empty(loaded.text.as_deref()) && !self.is_empty {
            return Err(ReloadError::FileEmpty(file.clone()));
        }
        Ok(loaded)
    }
}

// === impl Reloader ===

impl Reloader {
    /// Runs for as long as the gateway does.
    pub async fn run(mut self) {
        loop {
            let is_signalled = wait_for_signal(&mut self.source.hangups).await;
            let now = self.source.read();
            if !is_signalled && (now == self.source.text || !self.is_stable(now.as_ref()).await) {
                continue;
            }
            self.source.text = now;
            self.reload();
        }
    }

    /// Whether the file still reads the same after a pause.
    async fn is_stable(&self, seen: Option<&Vec<u8>>) -> bool {
        tokio::time::sleep(POLL_INTERVAL).await;
        self.source.read().as_ref() == seen
    }

    fn reload(&mut self) {
        match self.try_reload() {
            Ok(()) => {
                self.metrics.count("taken_over");
                tracing::info!(accounts = self.config.accounts.len(), "configuration reloaded");
            }
            Err(error) => {
                self.metrics.count("refused");
                tracing::error!(%error, "configuration reload failed; keeping the current configuration");
            }
        }
    }

    fn try_reload(&mut self) -> Result<(), ReloadError> {
        let Loaded { config, text, .. } = self.source.load()?;
        config.require_accounts()?;
        let accounts = config.accounts.iter().map(AccountConfig::settings).collect();
        self.pool.replace(accounts, config.routing.settings())?;
        self.limits.set_projects(config.project_limits());
        let latest = config.changed_since(&self.config);
        let needs_restart = config.changed_since(&self.started);
        for section in needs_restart.iter().filter(|name| latest.contains(name)) {
            tracing::warn!(section, "configuration change takes effect after a restart");
        }
        let current = CurrentConfig { in_effect: config.over(&self.started), needs_restart };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = current;
        self.config = config;
        self.source.is_empty = is_empty(text.as_deref());
        Ok(())
    }
}

/// Whether this is a pipe, a device or a directory. What a pipe said is gone, and opening one may wait for ever.
fn is_special(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|metadata| !metadata.is_file())
}

fn is_empty(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.trim().is_empty())
}

/// `true` after a signal, `false` when it is time to read the file.
async fn wait_for_signal(hangup: &mut Signal) -> bool {
    tokio::time::timeout(POLL_INTERVAL, hangup.recv()).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_can_be_read_only_once_is_never_seen_to_change() {
        let loaded = Loaded {
            config: Config::default(),
            source: Some("/dev/null".into()),
            text: Some("listen = \"127.0.0.1:0\"".into()),
        };
        let source = Source::new(&loaded, Box::new(|| panic!("it is not loaded again")));
        assert_eq!((source.read(), &source.text), (None, &None));
        assert!(matches!(source.load(), Err(ReloadError::NotRegular(_))));
    }
}
