//! Reloads the configuration of a running gateway when its file changes, and on SIGHUP.
//!
//! Accounts, routing and the limits of projects take effect at once. Changes of other sections need a restart, which the log says. An invalid file
//! changes nothing.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{AccountConfig, Config, ConfigError, Loaded};
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
    pub shown: Arc<RwLock<Config>>,
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
    /// What the file said when it was loaded last.
    text: Option<Vec<u8>>,
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
        Self {
            file: loaded.source.clone(),
            text: loaded.text.clone().map(String::into_bytes),
            loader,
            hangups: signal(SignalKind::hangup()).expect("signal handlers can be installed"),
        }
    }
}

// === impl Reloader ===

impl Reloader {
    /// Runs for as long as the gateway does.
    pub async fn run(mut self) {
        loop {
            let is_signalled = wait_for_signal(&mut self.source.hangups).await;
            let now = self.read();
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
        self.read().as_ref() == seen
    }

    /// The file's bytes; `None` if there is no readable file.
    fn read(&self) -> Option<Vec<u8>> {
        std::fs::read(self.source.file.as_ref()?).ok()
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
        let Loaded { config, source, .. } = (self.source.loader)()?;
        if let (Some(file), None) = (&self.source.file, source) {
            return Err(ReloadError::FileGone(file.clone()));
        }
        config.require_accounts()?;
        let accounts = config.accounts.iter().map(AccountConfig::settings).collect();
        self.pool.replace(accounts, config.routing.settings())?;
        self.limits.set_projects(config.project_limits());
        let latest = config.changed_since(&self.config);
        let pending = config.changed_since(&self.started);
        for section in pending.into_iter().filter(|name| latest.contains(name)) {
            tracing::warn!(section, "configuration change takes effect after a restart");
        }
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = config.clone();
        self.config = config;
        Ok(())
    }
}

/// `true` after a signal, `false` when it is time to read the file.
async fn wait_for_signal(hangup: &mut Signal) -> bool {
    tokio::time::timeout(POLL_INTERVAL, hangup.recv()).await.is_ok()
}
