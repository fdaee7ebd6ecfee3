//! The gateway put together: from a configuration to something that serves listeners.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::ProjectId;
use antiphon_store::chain::Chains;
use antiphon_store::{Clock, Store, StoreError, StoreUrlError};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config::{Auth, Config, OnDisconnect};
use crate::credential::Credentials;
use crate::credential::seal::Sealer;
use crate::http::server::Server;
use crate::http::socket::SocketRules;
use crate::http::{BodyLimits, Doors, operations_router, router};
use crate::keys::{Access, Keys};
use crate::lifecycle::Tasks;
use crate::limits::{self, keep_limits};
use crate::metrics::Metrics;
use crate::pool::{Account, AccountError, Pool};
use crate::prices::Prices;
use crate::reload::{Reload, Reloader};
use crate::turn::{Rules, Turns};
use crate::upstream::socket::Handshake;
use crate::upstream::{Clients, Upstream};
use crate::usage::keep_usage;
use crate::workers::{self, Workers};

/// How often to ask what other replicas have deleted: well within what the cache allows.
const DELETIONS_POLL: Duration = Duration::from_secs(1);
/// How far the clocks of replicas may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(10);
/// How often a store that failed is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How often to look whether accounts are to be probed.
const PROBE_LOOK: Duration = Duration::from_secs(5);
/// How often to ask what other replicas, or an operator, made of accounts; and the least time between two looks.
const ACCOUNTS_POLL: Duration = Duration::from_secs(1);
const ACCOUNTS_PAUSE: Duration = Duration::from_millis(100);
/// How long the start may take to hear how accounts did before it.
const ACCOUNTS_PATIENCE: Duration = Duration::from_secs(5);
/// How often to ask whether keys have changed, and how often to write down when they were used.
const KEYS_POLL: Duration = Duration::from_secs(1);
const KEY_USES_INTERVAL: Duration = Duration::from_mins(1);
/// How many rows one step of a purge removes: writers wait no longer than that takes.
const PURGE_ROWS: u32 = 500;

/// A gateway that is ready to serve.
pub struct App {
    pub turns: Arc<Turns>,
    doors: Doors,
    tasks: Tasks,
    workers: Arc<Workers>,
    config: Config,
    reload: Option<(Option<PathBuf>, Reload)>,
}

/// The gateway can't be started like this.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("store.url: {0}")]
    StoreUrl(#[from] StoreUrlError),
    #[error("the store can't be opened: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(
        "{0} can be reached from other machines, and clients are not asked who they are: make a key with \
         `antiphon keys create`, or put Antiphon behind something that authenticates and write auth = \"none\""
    )]
    NoKeys(SocketAddr),
    #[error("no threads can be started: {0}")]
    Workers(#[from] std::io::Error),
}

impl App {
    /// Opens the store and builds everything from the configuration. Binds nothing.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let url = config.store.target()?;
        let accounts = config.accounts.iter().map(Account::new).collect::<Result<Vec<_>, _>>()?;
        let store = antiphon_store::open(&url, config.store.options()?).await?;
        Self::with_store(config, clock, accounts, store).await
    }

    /// As [`build`](Self::build), over a store that is already open.
    pub async fn with_store(
        config: Config,
        clock: Arc<dyn Clock>,
        accounts: Vec<Account>,
        store: Arc<dyn Store>,
    ) -> Result<Self, BuildError> {
        let keys = keys(&config, &*store, &clock).await?;
        let tasks = Tasks::default();
        let metrics = Metrics::new();
        let turns = Turns::new(
            Chains::new(Arc::clone(&store), config.store.cache),
            Arc::new(Pool::new(accounts, &config.routing, Arc::clone(&clock))),
            upstream(&config, store, (Arc::clone(&clock), Arc::clone(&metrics), tasks.clone())),
            rules(&config),
            (clock, metrics, tasks.clone()),
        );
        let turns = Arc::new(turns);
        let body_limits = BodyLimits {
            max_bytes: config.limits.max_body,
            read_timeout: config.timeouts.body_read,
            memory: Arc::new(Semaphore::new(config.limits.body_memory / 1024)),
        };
        let sockets = SocketRules {
            is_enabled: config.sockets.enabled,
            max_age: config.sockets.max_age,
            ping_interval: config.sockets.ping_interval,
            memory: Arc::new(Semaphore::new(config.sockets.memory / 1024)),
        };
        let (body_limits, sockets) = (Arc::new(body_limits), Arc::new(sockets));
        let doors = Doors { turns: Arc::clone(&turns), body_limits, sockets, keys };
        Ok(Self { turns, doors, tasks, workers: Arc::new(Workers::start()?), config, reload: None })
    }

    /// Follows the configuration's file, and reads it again on SIGHUP.
    #[must_use]
    pub fn reloading(mut self, file: Option<PathBuf>, reload: Reload) -> Self {
        self.reload = Some((file, reload));
        self
    }

    /// Serves until `shutdown` resolves; then finishes the turns in flight, within the limit, and closes the store.
    pub async fn run(
        mut self,
        listener: TcpListener,
        admin: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) {
        // Whatever accounts were left alone for before the restart still holds.
        let known = self.turns.pool.share(&**self.turns.chains.store());
        if !matches!(tokio::time::timeout(ACCOUNTS_PATIENCE, known).await, Ok(Ok(()))) {
            tracing::warn!("how accounts did before is not known yet: every account is taken for ready");
        }
        // From before the first turn: what is held by then is held by none of this process.
        let limits = keep_limits(Arc::clone(&self.turns));
        let main = self.server(router(&self.doors, admin.is_none()));
        self.tasks.spawn_background(main.serve(listener));
        if let Some(admin) = admin {
            let operations = self.server(operations_router(&self.doors));
            self.tasks.spawn_background(operations.serve(admin));
        }
        self.tasks.spawn_background(limits);
        self.tasks.spawn_background(keep_store(Arc::clone(&self.turns), self.config.store.purge_interval));
        if self.turns.chains.store().is_shared() {
            self.tasks.spawn_background(watch_deletions(Arc::clone(&self.turns)));
        }
        if let Some((file, reload)) = self.reload.take() {
            let (pool, metrics) = (Arc::clone(&self.turns.pool), Arc::clone(&self.turns.metrics));
            let reloader = Reloader { pool, metrics, config: self.config.clone(), file, reload };
            self.tasks.spawn_background(reloader.run());
        }
        self.tasks.spawn_background(watch_keys(Arc::clone(&self.turns), Arc::clone(&self.doors.keys)));
        self.tasks.spawn_background(note_key_uses(Arc::clone(&self.turns), Arc::clone(&self.doors.keys)));
        self.tasks.spawn_background(keep_usage(Arc::clone(&self.turns)));
        self.tasks.spawn_background(probe_accounts(Arc::clone(&self.turns)));
        self.tasks.spawn_background(share_accounts(Arc::clone(&self.turns)));
        let turns = Arc::clone(&self.turns);
        self.tasks.spawn_background(async move {
            turns.pool.refresh_catalogs(&turns.upstream, turns.clock.now()).await;
        });
        shutdown.await;
        let limit = self.config.timeouts.shutdown;
        if !self.tasks.shut_down(limit).await {
            tracing::warn!(limit_s = limit.as_secs(), "turns in flight were cut off at the shutdown limit");
        }
        self.turns.chains.store().close().await;
        tracing::info!("stopped");
    }

    fn server(&self, router: axum::Router) -> Server {
        Server {
            router,
            max_connections: self.config.limits.max_connections,
            header_read: self.config.timeouts.header_read,
            write_stall: self.config.timeouts.write_stall,
            metrics: Arc::clone(&self.turns.metrics),
            tasks: self.tasks.clone(),
            workers: Arc::clone(&self.workers),
        }
    }
}

/// Who is let in. Where everybody can connect, somebody has to be asked for a key.
async fn keys(config: &Config, store: &dyn Store, clock: &Arc<dyn Clock>) -> Result<Arc<Keys>, BuildError> {
    let is_public = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let access = match config.auth {
        Some(Auth::None) => Access::Anybody,
        None if is_public(&config.listen) => Access::Keys,
        None => Access::AnybodyUntilThereAreKeys,
    };
    let keys = Keys::new(access, Arc::clone(clock));
    if access != Access::Anybody {
        let addresses = [Some(config.listen), config.admin_listen];
        let public = addresses.into_iter().flatten().find(is_public);
        match (keys.refresh(store).await, public) {
            (Ok(()), Some(public)) if !keys.has_keys() => return Err(BuildError::NoKeys(public)),
            (Ok(()), _) => {}
            // A server that is down is waited for, and nobody is let in meanwhile.
            (Err(error @ (StoreError::Unavailable(_) | StoreError::Deadline(_))), _) => {
                tracing::warn!(%error, "whether there are keys is not known yet");
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    Ok(Arc::new(keys))
}

/// Connections to upstreams, and the credentials that go with them.
pub fn upstream(
    config: &Config,
    store: Arc<dyn Store>,
    (clock, metrics, tasks): (Arc<dyn Clock>, Arc<Metrics>, Tasks),
) -> Upstream {
    let clients = Clients::new(config.timeouts.connect, workers::count() + 1, workers::place);
    let sealer = Sealer::new(config.store.key_file().unwrap_or_default());
    let handshake = Handshake::new(
        clients.http1_connector(),
        config.timeouts.connect,
        config.limits.max_body,
        Arc::clone(&metrics),
    );
    let reaching = (clients.clone(), config.timeouts.connect);
    let credentials = Credentials::new(store, sealer, reaching, (clock, metrics, tasks.clone()));
    Upstream::new(clients, Arc::new(credentials), handshake, tasks)
}

fn rules(config: &Config) -> Rules {
    Rules {
        retention: config.store.retention.limit(),
        max_chain_depth: config.limits.max_chain_depth,
        max_history_bytes: config.limits.max_history,
        max_reply_bytes: config.limits.max_body,
        first_byte: config.timeouts.first_byte,
        idle: config.timeouts.idle,
        keep_alive: config.timeouts.keep_alive,
        turn: config.timeouts.turn,
        finish_within: match config.turns.on_disconnect {
            OnDisconnect::Finish => Some(config.turns.finish_timeout),
            OnDisconnect::Cancel => None,
        },
        prices: Arc::new(Prices::new(&config.prices)),
        assumed_output_tokens: config.limits.assumed_output_tokens,
        projects: projects(config),
        usage: config.usage.clone(),
    }
}

/// Limits of the projects that have any.
fn projects(config: &Config) -> HashMap<ProjectId, limits::Rules> {
    let with_limits = config.projects.iter().filter(|(_, project)| !project.limits.is_empty());
    with_limits.map(|(name, project)| (ProjectId::new(name), project.limits.rules().clone())).collect()
}

/// Removes what is deleted or expired, and tries a store that has failed until it works again.
async fn keep_store(turns: Arc<Turns>, purge_interval: Duration) {
    let mut since_purge = Duration::ZERO;
    loop {
        tokio::time::sleep(STORE_RETRY.min(purge_interval)).await;
        since_purge += STORE_RETRY.min(purge_interval);
        if !turns.chains.store().is_available() {
            match turns.chains.store().check().await {
                Ok(()) => tracing::info!("the store is available again"),
                Err(error) => tracing::warn!(%error, "the store is still unavailable"),
            }
        } else if since_purge >= purge_interval {
            since_purge = Duration::ZERO;
            purge(&turns).await;
        }
    }
}

/// Brings accounts back early that have failed, if that is configured; whether it is may change.
async fn probe_accounts(turns: Arc<Turns>) {
    loop {
        let interval = turns.pool.probe_interval();
        tokio::time::sleep(interval.unwrap_or(PROBE_LOOK)).await;
        if interval.is_some() {
            turns.pool.probe(&turns.upstream).await;
        }
    }
}

/// Tells other replicas how accounts do, and hears it from them.
async fn share_accounts(turns: Arc<Turns>) {
    loop {
        if let Err(error) = turns.pool.share(&**turns.chains.store()).await {
            tracing::debug!(%error, "how accounts do could not be shared");
        }
        tokio::time::sleep(ACCOUNTS_PAUSE).await;
        tokio::time::timeout(ACCOUNTS_POLL, turns.pool.changed()).await.ok();
    }
}

/// Hears of keys that were made or ended elsewhere.
async fn watch_keys(turns: Arc<Turns>, keys: Arc<Keys>) {
    loop {
        tokio::time::sleep(KEYS_POLL).await;
        if let Err(error) = keys.refresh(&**turns.chains.store()).await {
            tracing::debug!(%error, "whether keys have changed is not known");
        }
    }
}

/// Apart from what watches them: with many keys it takes a while.
async fn note_key_uses(turns: Arc<Turns>, keys: Arc<Keys>) {
    let mut noted = HashMap::new();
    loop {
        tokio::time::sleep(KEY_USES_INTERVAL).await;
        if let Err(error) = keys.note_uses(&**turns.chains.store(), &mut noted).await {
            tracing::debug!(%error, "when keys were used could not be written down");
        }
    }
}

/// Keeps the cache from showing what other replicas have deleted.
async fn watch_deletions(turns: Arc<Turns>) {
    let mut learnt_at = turns.clock.now();
    loop {
        let now = turns.clock.now();
        match turns.chains.learn_deletions(learnt_at.minus(CLOCK_SKEW)).await {
            Ok(()) => learnt_at = now,
            Err(error) => tracing::debug!(%error, "the deletions of other replicas are not known"),
        }
        tokio::time::sleep(DELETIONS_POLL).await;
    }
}

async fn purge(turns: &Turns) {
    loop {
        let now = turns.clock.now();
        let log_before = turns.rules.usage.raw_retention.limit().map(|retention| now.minus(retention));
        // A turn that began before its parent was deleted or expired may still be under way, and will need it.
        let no_longer_needed = now.minus(turns.rules.turn);
        match turns.chains.store().purge(no_longer_needed, log_before, PURGE_ROWS).await {
            Ok(purged) => {
                turns.metrics.purged_responses.inc_by(purged.responses);
                if purged.responses + purged.log_rows == 0 {
                    return;
                }
                tracing::info!(responses = purged.responses, log_rows = purged.log_rows, "purged");
            }
            Err(error) => return tracing::warn!(%error, "the purge failed, and is tried again later"),
        }
    }
}
