//! Reload: what a changed configuration file, or a SIGHUP, changes in a gateway that runs.
//!
//! Accounts and routing are taken over; everything else needs a restart, and is named in the log. A file that can't be
//! used changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{AccountConfig, Config, ConfigError, Loaded};
use antiphon_upstream::account::AccountError;
use antiphon_upstream::pool::Pool;

/// How often the file is looked at. It is read once two looks in a row find the same: a file may be seen half written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the configuration again, from wherever it came.
pub type Reload = Box<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>;

/// Keeps the accounts of a running gateway as the configuration says.
pub struct Reloader {
    pub pool: Arc<Pool>,
    pub metrics: ReloadMetrics,
    /// As it was read last.
    pub config: Config,
    pub file: Option<PathBuf>,
    pub reload: Reload,
}

/// Counts reloads. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct ReloadMetrics(Family<ReloadLabels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

/// Why a configuration is not taken over.
#[derive(Debug, thiserror::Error)]
enum NotReloaded {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Account(#[from] AccountError),
}

// === impl ReloadMetrics ===

impl ReloadMetrics {
    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&ReloadLabels { outcome }).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "config_reloads",
            "Reloads of the configuration, by outcome: taken_over or refused",
            self.0.clone(),
        );
    }
}

// === impl Reloader ===

impl Reloader {
    /// Runs for as long as the gateway does.
    pub async fn run(mut self) {
        let mut hangup = signal(SignalKind::hangup()).expect("signal handlers can be installed");
        let mut known = self.read();
        loop {
            let is_asked = wait(&mut hangup).await;
            let now = self.read();
            if !is_asked && (now == known || !self.is_settled(now.as_ref()).await) {
                continue;
            }
            known = now;
            self.take_over();
        }
    }

    async fn is_settled(&self, seen: Option<&Vec<u8>>) -> bool {
        tokio::time::sleep(LOOK_INTERVAL).await;
        self.read().as_ref() == seen
    }

    /// The file's bytes; `None` if there is no file, or none that can be read.
    fn read(&self) -> Option<Vec<u8>> {
        std::fs::read(self.file.as_ref()?).ok()
    }

    fn take_over(&mut self) {
        match self.try_take_over() {
            Ok(()) => {
                self.metrics.count("taken_over");
                tracing::info!(accounts = self.config.accounts.len(), "the configuration was read again");
            }
            Err(error) => {
                self.metrics.count("refused");
                tracing::error!(%error, "the configuration was read again and can't be used: nothing changes");
            }
        }
    }

    fn try_take_over(&mut self) -> Result<(), NotReloaded> {
        let config = (self.reload)()?.config;
        config.require_accounts()?;
        let accounts = config.accounts.iter().map(AccountConfig::settings).collect();
        self.pool.replace(accounts, config.routing.settings())?;
        for section in changed_sections(&self.config, &config) {
            tracing::warn!(section, "a change in the configuration needs a restart");
        }
        self.config = config;
        Ok(())
    }
}

/// `true` after a signal, `false` when it is time to look.
async fn wait(hangup: &mut Signal) -> bool {
    tokio::time::timeout(LOOK_INTERVAL, hangup.recv()).await.is_ok()
}

/// What differs and is not taken over.
fn changed_sections(old: &Config, new: &Config) -> Vec<String> {
    let sections = |config: &Config| -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(&config.show_json()).expect("it was written as an object")
    };
    let (old, new) = (sections(old), sections(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let is_live = |name: &str| name == "accounts" || name == "routing";
    let differs = |name: &&String| !is_live(name) && old.get(*name) != new.get(*name);
    names.into_iter().filter(differs).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = Config::default();
        let mut new = Config::default();
        assert!(changed_sections(&old, &new).is_empty());
        new.listen = "127.0.0.1:1".parse().unwrap();
        new.timeouts.idle = Duration::from_secs(1);
        new.routing.max_queued = 7;
        assert_eq!(changed_sections(&old, &new), ["listen", "timeouts"]);
    }
}
