//! The gateway as a whole: built from a configuration, run on listeners.

mod settings;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::{Access, Keys};
use antiphon_access::limits::Limits;
use antiphon_config::{AccountConfig, Auth, Config, MemoryLimit, OidcConfig};
use antiphon_operations::oidc::Provider;
use antiphon_operations::{Operations, Process};
use antiphon_runtime::workers::Workers;
use antiphon_runtime::{Clock, Env, Tasks, files, memory};
use antiphon_store::chain::Chains;
use antiphon_store::{Store, StoreError, StoreOptions, StoreUrlError};
use antiphon_upstream::account::{Account, AccountError};
use antiphon_upstream::pool::Pool;
use antiphon_upstream::transport::Upstream;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::settings::{background_settings, body_limits, socket_settings, turn_settings, upstream_settings};
use crate::body_memory::BodyMemory;
use crate::http::app_state::AppState;
use crate::http::origin::LocalOnly;
use crate::http::server::Server;
use crate::http::socket::metrics::SocketMetrics;
use crate::http::{Endpoints, router};
use crate::jobs;
use crate::jobs::memory::MemoryWatch;
use crate::jobs::metrics::JobMetrics;
use crate::jobs::store::PurgeRules;
use crate::jobs::usage::RollupRules;
use crate::memory::{MemoryCeiling, ReadMemory};
use crate::metrics::Metrics;
use crate::reload::{self, ReloadMetrics, Reloader};
use crate::telemetry::traces::{Exporter, Traces};
use crate::tls::{Tls, TlsError};
use crate::turn::{TurnSettings, Turns};

/// How long the start waits for the stored account state.
const ACCOUNT_STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The memory for replies to clients that need no key; an address can have a quarter of it.
const OPEN_REPLIES_BYTES: usize = 32 << 20;

/// A gateway that is ready to serve.
pub struct App {
    pub turns: Arc<Turns>,
    state: AppState,
    workers: Arc<Workers>,
    connections: Gauge,
    tls: Option<Arc<Tls>>,
    job_metrics: JobMetrics,
    reload_metrics: ReloadMetrics,
    trace_exporter: Option<Exporter>,
    read_memory: ReadMemory,
    config: Config,
    reload: Option<reload::Source>,
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("store.url")]
    StoreUrl(#[from] StoreUrlError),
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "refusing to listen on {0} without a key, as other machines can reach this address: create a key with \
         `antiphon keys create`, or set auth = \"none\" if something in front of Antiphon authenticates clients"
    )]
    KeyRequired(SocketAddr),
    #[error("cannot start worker threads: {0}")]
    Workers(#[from] std::io::Error),
}

impl App {
    /// Opens the store and builds the gateway. Binds no address.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let url = config.store.target()?;
        let accounts = accounts(&config)?;
        let store =
            antiphon_store::open(&url, StoreOptions { serves: true, ..config.store.options()? }).await?;
        Self::with_parts(config, clock, accounts, store).await
    }

    /// Like [`build`](Self::build), with a store that is already open.
    pub async fn with_store(
        config: Config,
        clock: Arc<dyn Clock>,
        store: Arc<dyn Store>,
    ) -> Result<Self, BuildError> {
        let accounts = accounts(&config)?;
        Self::with_parts(config, clock, accounts, store).await
    }

    async fn with_parts(
        config: Config,
        clock: Arc<dyn Clock>,
        accounts: Vec<Account>,
        store: Arc<dyn Store>,
    ) -> Result<Self, BuildError> {
        let tls =
            config.tls.clone().map(|files| Tls::load(files, Arc::clone(&clock))).transpose()?.map(Arc::new);
        let keys = load_keys(&config, &*store, &clock).await?;
        let env = Env { clock, tasks: Tasks::default() };
        let mut operations = operations(&config, accounts, store, keys, &env);
        let body_limits = Arc::new(body_limits(&config));
        let (turns, trace_exporter) = turns(&config, &operations, &body_limits.memory, env);
        let connections = Gauge::default();
        let (job_metrics, reload_metrics) = (JobMetrics::default(), ReloadMetrics::default());
        let socket_metrics = Arc::new(SocketMetrics::default());
        let memory = Arc::new(MemoryCeiling::default());
        let metrics = Metrics::gather(Arc::clone(&turns.chains), |registry: &mut Registry| {
            turns.register_metrics(registry);
            registry.register("connections", "Open client connections", connections.clone());
            socket_metrics.register(registry);
            body_limits.memory.register(registry);
            turns.limits.register_metrics(registry);
            turns.upstream.metrics().register(registry);
            turns.pool.register_metrics(registry);
            memory.register(registry);
            if let Some(traces) = &turns.settings.traces {
                traces.register_metrics(registry);
            }
            if let Some(tls) = &tls {
                tls.register_metrics(registry);
            }
            job_metrics.register(registry);
            reload_metrics.register(registry);
        });
        let process = &mut operations.process;
        process.turns = turns.metrics.in_flight.clone();
        process.sockets = socket_metrics.open.clone();
        process.background = turns.background.metrics.running.clone();
        process.ended_turns = turns.metrics.ended.clone();
        process.purged_at = Arc::clone(&job_metrics.purged_at);
        let operations = Arc::new(operations);
        let state = AppState {
            turns: Arc::clone(&turns),
            keys: Arc::clone(&operations.keys),
            local_only: Arc::new(LocalOnly::new(&config.allowed_hosts)),
            lets_everybody_in: config.auth.is_some(),
            operations,
            memory,
            body_limits,
            sockets: Arc::new(socket_settings(&config)),
            metrics: Arc::new(metrics),
            open_replies: Arc::new(BodyMemory::new(OPEN_REPLIES_BYTES, OPEN_REPLIES_BYTES / 4)),
            readiness: Arc::default(),
            socket_metrics,
            serves_dashboard: config.dashboard,
        };
        let workers = Arc::new(Workers::start()?);
        Ok(Self {
            turns,
            state,
            workers,
            connections,
            tls,
            job_metrics,
            reload_metrics,
            trace_exporter,
            read_memory: Arc::new(memory::resident_bytes),
            config,
            reload: None,
        })
    }

    /// Takes the resident memory from elsewhere than the system.
    #[must_use]
    pub fn with_memory(mut self, read: ReadMemory) -> Self {
        self.read_memory = read;
        self
    }

    /// The operations of operators on this gateway.
    pub fn operations(&self) -> &Operations {
        &self.state.operations
    }

    /// Reloads the configuration when its file changes, and on SIGHUP.
    #[must_use]
    pub fn with_reload(mut self, source: reload::Source) -> Self {
        self.reload = Some(source);
        self
    }

    /// Serves until `shutdown` resolves. Then finishes running turns within `timeouts.shutdown`, and closes the store.
    pub async fn run(
        mut self,
        listener: TcpListener,
        admin: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) {
        let store = Arc::clone(self.turns.chains.store());
        let tasks = self.turns.env.tasks.clone();
        // Cooldowns survive a restart.
        let syncing = self.turns.pool.sync(&*store);
        let is_synced = matches!(tokio::time::timeout(ACCOUNT_STATE_TIMEOUT, syncing).await, Ok(Ok(())));
        // An unavailable store has logged that already.
        if !is_synced && store.is_available() {
            tracing::warn!("account state could not be loaded; assuming all accounts are ready");
        }
        self.start_jobs(&store);
        let main = if admin.is_some() { Endpoints::Api } else { Endpoints::All };
        tasks.spawn_background(self.server(main).serve(listener));
        if let Some(admin) = admin {
            tasks.spawn_background(self.server(Endpoints::Operations).serve(admin));
        }
        let limit = self.config.timeouts.shutdown;
        let serving = async {
            shutdown.await;
            if !tasks.shut_down(limit).await {
                tracing::warn!(
                    limit_s = limit.as_secs(),
                    "shutdown timeout reached; aborted the remaining turns"
                );
            }
        };
        let (trace_exporter, stop_export) = (self.trace_exporter.take(), CancellationToken::new());
        let mut exporting = pin!(async {
            match trace_exporter {
                Some(exporter) => exporter.run(&stop_export).await,
                None => stop_export.cancelled().await,
            }
        });
        // These go on until the last turn has ended: without heartbeats other replicas would release its reservations, and without
        // renewals they would take over its lease or its conversation.
        tokio::select! {
            () = serving => {}
            () = self.send_heartbeats(&store) => {}
            () = jobs::background::renew_leases(Arc::clone(&self.turns)) => {}
            () = jobs::conversations::renew_locks(Arc::clone(&self.turns.conversations)) => {}
            () = &mut exporting => {}
        }
        stop_export.cancel();
        tokio::join!(store.close(), exporting);
        tracing::info!("stopped");
    }

    /// Never returns.
    async fn send_heartbeats(&self, store: &Arc<dyn Store>) {
        if store.is_shared() {
            let (limits, clock) = (Arc::clone(&self.turns.limits), Arc::clone(&self.turns.env.clock));
            jobs::replicas::watch(limits, Arc::clone(store), clock).await;
        }
        std::future::pending::<()>().await;
    }

    /// Starts the background jobs. Must be called before the first turn.
    fn start_jobs(&mut self, store: &Arc<dyn Store>) {
        let Turns { chains, pool, upstream, limits, settings, env, .. } = &*self.turns;
        let (store, clock) = (|| Arc::clone(store), || Arc::clone(&env.clock));
        let tasks = &env.tasks;
        tasks.spawn_background(jobs::limits::sweep(Arc::clone(limits), store(), clock()));
        let longest_turn = settings.turn_timeout.max(settings.background.max_duration);
        let purge = PurgeRules {
            interval: self.config.store.purge_interval,
            longest_turn,
            log_retention: self.config.usage.raw_retention.as_duration(),
            conversation_retention: self.config.store.conversation_retention.as_duration(),
            retention: self.config.store.retention.as_duration(),
        };
        tasks.spawn_background(jobs::store::maintain(store(), clock(), purge, self.job_metrics.clone()));
        tasks.spawn_background(jobs::background::take_over(Arc::clone(&self.turns)));
        tasks.spawn_background(jobs::background::purge(store(), clock(), self.config.store.purge_interval));
        if store().is_shared() {
            tasks.spawn_background(jobs::background::obey_cancellations(Arc::clone(&self.turns)));
            let commit_timeout = self.config.store.commit_timeout;
            tasks.spawn_background(jobs::deletions::watch(Arc::clone(chains), clock(), commit_timeout));
        }
        let memory = MemoryWatch {
            memory: Arc::clone(&self.state.memory),
            chains: Arc::clone(chains),
            read: Arc::clone(&self.read_memory),
            cache_bytes: self.config.store.cache,
        };
        let ceiling_bytes = match self.config.limits.memory {
            MemoryLimit::Auto => memory::available_bytes(),
            MemoryLimit::Bytes(bytes) => Some(bytes as u64),
        };
        tasks.spawn_background(memory.run(ceiling_bytes));
        tasks.spawn_background(jobs::keys::watch(Arc::clone(&self.state.keys), store()));
        tasks.spawn_background(jobs::keys::write_last_uses(Arc::clone(&self.state.keys), store()));
        let rollup = RollupRules {
            longest_turn,
            hour_retention: self.config.usage.hour_retention.as_duration(),
            day_retention: self.config.usage.day_retention.as_duration(),
        };
        tasks.spawn_background(jobs::usage::roll_up(store(), clock(), rollup));
        tasks.spawn_background(jobs::accounts::probe(Arc::clone(pool), upstream.clone()));
        tasks.spawn_background(jobs::accounts::verify(Arc::clone(pool), upstream.clone()));
        tasks.spawn_background(jobs::accounts::share(Arc::clone(pool), store()));
        tasks.spawn_background(jobs::accounts::load_catalogs(Arc::clone(pool), upstream.clone(), clock()));
        if let Some(interval) = sd_notify::watchdog_enabled() {
            tasks.spawn_background(jobs::watchdog::notify(Arc::clone(&self.workers), interval));
        }
        if let Some(tls) = &self.tls {
            tasks.spawn_background(jobs::tls::watch(Arc::clone(tls)));
        }
        if let Some(source) = self.reload.take() {
            let (pool, config) = (Arc::clone(pool), self.config.clone());
            let (limits, shown) = (Arc::clone(limits), Arc::clone(&self.state.operations.process.config));
            let metrics = self.reload_metrics.clone();
            let started = config.clone();
            let reloader = Reloader { pool, limits, shown, metrics, started, config, source };
            tasks.spawn_background(reloader.run());
        }
    }

    fn server(&self, endpoints: Endpoints) -> Server {
        Server {
            router: router(&self.state, endpoints),
            tls: self.tls.clone(),
            max_connections: files::fitting(self.config.limits.max_connections),
            header_read_timeout: self.config.timeouts.header_read,
            write_stall_timeout: self.config.timeouts.write_stall,
            connections: self.connections.clone(),
            tasks: self.turns.env.tasks.clone(),
            workers: Arc::clone(&self.workers),
        }
    }
}

/// The turns, and what sends their traces.
fn turns(
    config: &Config,
    operations: &Operations,
    request_memory: &Arc<BodyMemory>,
    env: Env,
) -> (Arc<Turns>, Option<Exporter>) {
    let tracing = config
        .traces
        .as_ref()
        .map(|traces| Traces::new(traces, operations.upstream.clone(), operations.limits.replica()));
    let (traces, exporter) = tracing.unzip();
    let background = background_settings(config, &operations.keys, request_memory);
    let turns = Turns::new(
        Arc::new(Chains::new(Arc::clone(&operations.store), config.store.cache)),
        Arc::clone(&operations.pool),
        operations.upstream.clone(),
        Arc::clone(&operations.limits),
        TurnSettings { traces, ..turn_settings(config, background) },
        env,
    );
    (Arc::new(turns), exporter)
}

/// The operations of operators with this store.
pub fn operations(
    config: &Config,
    accounts: Vec<Account>,
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    env: &Env,
) -> Operations {
    let upstream = Upstream::new(upstream_settings(config), Arc::clone(&store), env);
    let provider = |oidc: &OidcConfig| Provider::new(oidc.clone(), upstream.clone(), Arc::clone(&env.clock));
    Operations {
        pool: Arc::new(Pool::new(accounts, config.routing.settings(), Arc::clone(&env.clock))),
        provider: config.oidc.as_ref().map(provider).map(Arc::new),
        proxy_sign_in: config.proxy_sign_in.clone().map(Arc::new),
        upstream,
        keys,
        limits: Arc::new(Limits::new(config.project_limits(), Arc::clone(&store))),
        clock: Arc::clone(&env.clock),
        hour_retention: config.usage.hour_retention.as_duration(),
        process: Process::new(config.clone()),
        store,
    }
}

pub fn accounts(config: &Config) -> Result<Vec<Account>, AccountError> {
    config.accounts.iter().map(AccountConfig::settings).map(Account::new).collect()
}

/// The keys and the rule for clients without one. An address that other machines can reach requires a key.
async fn load_keys(
    config: &Config,
    store: &dyn Store,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Keys>, BuildError> {
    let is_public = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let access = match config.auth {
        Some(Auth::None) => Access::Open,
        None if is_public(&config.listen) => Access::KeysRequired,
        None => Access::OpenUntilFirstKey,
    };
    let keys = Keys::new(access, Arc::clone(clock));
    if access != Access::Open {
        let addresses = [Some(config.listen), config.admin_listen];
        let public = addresses.into_iter().flatten().find(is_public);
        match (keys.refresh(store).await, public) {
            (Ok(()), Some(public)) if !keys.has_keys() => return Err(BuildError::KeyRequired(public)),
            (Ok(()), _) => {}
            // All clients are refused until the store is available.
            (Err(error @ (StoreError::Unavailable(_) | StoreError::Deadline(_))), _) => {
                tracing::warn!(%error, "keys could not be loaded; refusing clients until they are");
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    Ok(Arc::new(keys))
}
