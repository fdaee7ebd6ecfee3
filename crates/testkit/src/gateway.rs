//! The gateway in the test's own process: the real app on a real socket, over a real store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use antiphon_config::{Config, Environment, Overrides};
use antiphon_gateway::app::App;
use antiphon_simulator::upstream::Simulator;
use antiphon_store::{LogRow, Store, StoreOptions, SystemClock};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;

use crate::{Client, Faults, Faulty, ManualClock, ManualMemory, SharedDatabase, Socket, eventually};

/// How a gateway is started.
#[derive(Clone)]
pub struct Setup {
    accounts: Vec<String>,
    config: String,
    dir: Arc<TempDir>,
    faults: Option<Faults>,
    clock: Option<Arc<ManualClock>>,
    memory: Option<ManualMemory>,
    environment: Environment,
    database_url: Option<String>,
    /// The database on the shared server, where the tests are told to use that.
    on_server: Arc<OnceCell<SharedDatabase>>,
}

/// With `postgres` in it, gateways keep their responses on a PostgreSQL server unless a test says where.
const STORE_VARIABLE: &str = "ANTIPHON_TEST_STORE";

/// That the machine is busy is no failure of the store: only tests about deadlines have short ones.
const DEADLINES: [&str; 2] = ["store.commit_timeout", "store.read_timeout"];

/// A running gateway; stopped when it is dropped.
pub struct Gateway {
    pub client: Client,
    pub app: Arc<antiphon_gateway::turn::Turns>,
    pub setup: Setup,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "the gateway's own configuration is not read from it")]
fn tests_use_a_server() -> bool {
    std::env::var(STORE_VARIABLE).is_ok_and(|store| store == "postgres")
}

impl Setup {
    /// One account, at this upstream.
    pub fn over(upstream: &Simulator) -> Self {
        Self::with_accounts([("one", upstream.url().as_str())])
    }

    /// One account with these lines, which name it and its upstream.
    pub fn of_account(lines: &str) -> Self {
        let setup = Self::with_accounts([]);
        Self { accounts: vec![format!("[[accounts]]\n{lines}")], ..setup }
    }

    pub fn with_accounts<'a>(accounts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let account = |(name, url)| format!("[[accounts]]\nname = \"{name}\"\nbase_url = \"{url}\"\n");
        Self {
            accounts: accounts.into_iter().map(account).collect(),
            config: String::new(),
            dir: Arc::new(TempDir::new().expect("a temporary folder")),
            faults: None,
            clock: None,
            memory: None,
            environment: Environment::default(),
            database_url: None,
            on_server: Arc::default(),
        }
    }

    /// More lines of configuration; tables are given as dotted keys (`turns.on_disconnect = "cancel"`). `{address}` in
    /// them stands for the address of the gateway.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// The credential of the last account.
    #[must_use]
    pub fn account_key(self, secret: &str) -> Self {
        let last = self.accounts.len() - 1;
        self.account(last, &format!("api_key = {{ value = \"{secret}\" }}"))
    }

    /// More lines of configuration for one of the accounts.
    #[must_use]
    pub fn account(mut self, index: usize, lines: &str) -> Self {
        self.accounts[index].push_str(lines);
        self.accounts[index].push('\n');
        self
    }

    /// One more account.
    #[must_use]
    pub fn and_account(mut self, name: &str, url: &str) -> Self {
        self.accounts.push(format!("[[accounts]]\nname = \"{name}\"\nbase_url = \"{url}\"\n"));
        self
    }

    /// Leaves an account out from the next start on.
    #[must_use]
    pub fn without_account(mut self, index: usize) -> Self {
        self.accounts.remove(index);
        self
    }

    #[must_use]
    pub fn faults(mut self, faults: &Faults) -> Self {
        self.faults = Some(faults.clone());
        self
    }

    #[must_use]
    pub fn clock(mut self, clock: &Arc<ManualClock>) -> Self {
        self.clock = Some(Arc::clone(clock));
        self
    }

    /// What the gateway takes for its resident memory.
    #[must_use]
    pub fn memory(mut self, memory: &ManualMemory) -> Self {
        self.memory = Some(memory.clone());
        self
    }

    /// The environment variables that the configuration is read with.
    #[must_use]
    pub fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        self.environment = variables.iter().copied().collect();
        self
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Another database than an SQLite file of its own.
    #[must_use]
    pub fn database_url(mut self, url: &str) -> Self {
        self.database_url = Some(url.to_owned());
        self
    }

    /// Where the SQLite file is.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("antiphon.db")
    }

    /// The configuration as a file's text.
    pub fn toml(&self) -> String {
        let file = || format!("sqlite://{}", self.database().display());
        let url = self.database_url.clone().unwrap_or_else(file);
        let unset = DEADLINES.iter().filter(|key| !self.config.contains(**key));
        let patience: String = unset.map(|key| format!("{key} = \"3m\"\n")).collect();
        let accounts: String = self.accounts.iter().map(|lines| with_api(lines)).collect();
        format!("store.url = \"{url}\"\n{patience}{}\n{accounts}", self.config)
    }

    pub async fn start(mut self) -> Gateway {
        if self.database_url.is_none() && tests_use_a_server() {
            let database = self.on_server.get_or_init(SharedDatabase::create).await;
            self.database_url = Some(database.url().to_owned());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let file = self.dir.path().join("antiphon.toml");
        let toml = self.toml().replace("{address}", &address.to_string());
        std::fs::write(&file, toml).expect("the configuration can be written");
        let loaded = Config::load(Some(&file), self.dir.path(), &self.environment, Overrides::default());
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let url = config.store.target().expect("a valid store URL");
        let options = StoreOptions { serves: true, ..config.store.options().expect("a valid migration URL") };
        let mut store: Arc<dyn Store> = antiphon_store::open(&url, options).await.expect("the store opens");
        if let Some(faults) = &self.faults {
            store = Arc::new(Faulty::new(store, faults.clone()));
        }
        let clock: Arc<dyn antiphon_store::Clock> = match &self.clock {
            Some(clock) => Arc::clone(clock) as _,
            None => Arc::new(SystemClock),
        };
        let mut app = App::with_store(config, clock, store).await.expect("it can be started");
        if let Some(memory) = self.memory.clone() {
            app = app.with_memory(Arc::new(move || memory.read()));
        }
        let turns = Arc::clone(&app.turns);
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run(listener, None, async move { drop(stopped.await) }));
        Gateway {
            client: Client::new(&format!("http://{address}")),
            app: turns,
            setup: self,
            address,
            stop: Some(stop),
            running,
        }
    }
}

/// Names the API of an account that leaves it open, so that the gateway does not ask the upstream for it.
fn with_api(lines: &str) -> String {
    let has_api = lines.lines().any(|line| line.starts_with("api ="));
    if has_api { lines.to_owned() } else { format!("{lines}api = \"responses\"\n") }
}

impl Gateway {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A WebSocket to it.
    pub async fn socket(&self) -> Socket {
        Socket::connect(self.address, "/v1/responses", &[]).await.expect("an upgrade")
    }

    /// Stops as on SIGTERM, and waits until everything is on disk.
    pub async fn stop(mut self) -> Setup {
        drop(self.stop.take());
        (&mut self.running).await.expect("the gateway stops without a panic");
        self.setup.clone()
    }

    /// Stops and starts again over the same store.
    pub async fn restart(self) -> Self {
        self.stop().await.start().await
    }

    /// The request log, newest row first, once it has so many rows: those of turns that store nothing come a little later.
    pub async fn logged(&self, rows: usize) -> Vec<LogRow> {
        eventually(&format!("{rows} rows in the request log"), async || {
            let log = self.app.chains.store().list_log(1000).await.expect("the store works");
            (log.len() == rows).then_some(log)
        })
        .await
    }

    /// Waits until no turn is under way and no account is held.
    pub async fn idle(&self) {
        let is_busy = |line: &str| {
            let counts_turns = ["antiphon_turns_in_flight ", "antiphon_account_in_flight{"];
            counts_turns.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
        };
        let is_idle = async || !self.client.metrics().await.lines().any(is_busy);
        eventually("no turn is under way", is_idle).await;
    }

    /// `ready`, `cooling`, `disabled` or `paused`, as the metrics tell.
    pub async fn account_state(&self, account: &str) -> &'static str {
        let metrics = self.client.metrics().await;
        let is_in = |state: &&str| {
            let line = format!("antiphon_account_state{{account=\"{account}\",state=\"{state}\"}} 1\n");
            metrics.contains(&line)
        };
        let state = ["ready", "cooling", "disabled", "paused"].into_iter().find(is_in);
        state.unwrap_or_else(|| panic!("{account} is not in\n{metrics}"))
    }
}
