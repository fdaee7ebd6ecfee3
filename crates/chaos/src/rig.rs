//! What is tested: gateways over one database, in front of two accounts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use antiphon_testkit::{Client, Postgres, PostgresOptions, Process, Setup};
use http::Method;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::process::Command;

use crate::upstream::Upstream;
use crate::violations::{Promise, Violations};

pub const PROJECTS: usize = 3;
const DATABASE: &str = "chaos";
/// A gateway that does not get ready again in this time has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Short timeouts, so that what hostile clients and upstreams hold is given back soon; low bounds, so that memory stays low.
const CONFIG: &str = r#"log.filter = "warn"
store.cache = "8MiB"
store.commit_timeout = "3s"
store.read_timeout = "3s"
limits.max_body = "4MiB"
limits.body_memory = "32MiB"
limits.max_history = "16MiB"
limits.max_connections = 1000
timeouts.connect = "2s"
timeouts.first_byte = "3s"
timeouts.idle = "3s"
timeouts.turn = "10s"
timeouts.header_read = "3s"
timeouts.body_read = "2s"
timeouts.write_stall = "3s"
timeouts.shutdown = "5s"
background.lease = "5s"
background.max_duration = "20s"
turns.finish_timeout = "10s"
"#;
/// Large enough that no turn is refused, so that every turn has a reservation.
const LIMITS: &str =
    r#"{"concurrent_turns": 10000, "budgets": [{"tokens": 1000000000000, "window": "month"}]}"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// Where clients find the gateways.
#[derive(Clone, Default)]
pub struct Targets(Arc<RwLock<Vec<String>>>);

pub struct Rig {
    pub engine: Engine,
    pub targets: Targets,
    /// One secret for each project.
    pub secrets: Vec<String>,
    pub upstreams: [Upstream; 2],
    pub gateways: Vec<Gateway>,
    pub postgres: Option<Postgres>,
    pub violations: Violations,
    pub max_memory_bytes: u64,
    /// They own the folders of their databases.
    stopped: Vec<Setup>,
    wrapper: PathBuf,
    binary: PathBuf,
}

/// A gateway, and how it is started.
pub struct Gateway {
    pub setup: Setup,
    pub process: Process,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }
}

impl Targets {
    pub fn list(&self) -> Vec<String> {
        self.0.read().expect("nobody panics while holding it").clone()
    }

    fn set(&self, urls: Vec<String>) {
        *self.0.write().expect("nobody panics while holding it") = urls;
    }
}

impl Rig {
    /// Starts everything: one gateway on SQLite, two on PostgreSQL.
    pub async fn start(binary: &Path, engine: Engine, seed: u64) -> Self {
        let violations = Violations::default();
        let upstream = |n| {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(n));
            let violations = violations.clone();
            let start = move || Upstream::start(&violations, rng).expect("an upstream");
            std::thread::spawn(start).join().expect("starting does not panic")
        };
        let upstreams = [upstream(1), upstream(2)];
        let setup = || setup_over(&upstreams);
        let mut postgres = None;
        let setups = match engine {
            Engine::Sqlite => vec![setup()],
            Engine::Postgres => {
                let server =
                    Postgres::start(PostgresOptions { wal_segment_mib: 1, ..PostgresOptions::default() });
                let url = server.create_database(DATABASE).await;
                postgres = Some(server);
                vec![setup().database_url(&url), setup().database_url(&url)]
            }
        };
        let wrapper = write_wrapper(binary, &setups[0]);
        let mut gateways = Vec::new();
        for setup in setups {
            let process = Process::start(&wrapper, &setup).await;
            gateways.push(Gateway { setup, process });
        }
        let mut rig = Self {
            engine,
            targets: Targets::default(),
            secrets: Vec::new(),
            upstreams,
            gateways,
            postgres,
            violations,
            max_memory_bytes: 0,
            stopped: Vec::new(),
            wrapper,
            binary: binary.to_owned(),
        };
        rig.announce();
        for project in 0..PROJECTS {
            let (name, project) = (key_name(project), format!("project-{project}"));
            let args = ["keys", "create", &name, "--project", &project, "--limits", LIMITS];
            let (_, secret) = rig.command(&args).await;
            rig.secrets.push(secret.trim().to_owned());
        }
        rig.ready().await;
        rig
    }

    /// Runs a command of the binary on the same database; returns its exit code and what it printed.
    pub async fn command(&self, args: &[&str]) -> (i32, String) {
        self.command_at(&self.gateways[0].setup, args).await
    }

    /// As [`command`](Self::command), on the database of another gateway.
    pub async fn command_at(&self, setup: &Setup, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(setup.database().with_file_name("process.toml")).args(args);
        let output = command.output().await.expect("the binary runs");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where the first gateway has its configuration, and SQLite its database.
    pub fn folder(&self) -> PathBuf {
        self.gateways[0].setup.database().parent().map(Path::to_owned).unwrap_or_default()
    }

    /// `kill -9` for a gateway, or else SIGTERM; then it is started again.
    pub async fn restart_gateway(&mut self, index: usize, is_killed: bool) {
        let gateway = self.gateways.swap_remove(index);
        self.max_memory_bytes = self.max_memory_bytes.max(gateway.process.peak_memory_bytes());
        let Gateway { setup, process } = gateway;
        if is_killed {
            process.kill().await;
        } else {
            self.terminate(process).await;
        }
        let started = tokio::time::timeout(PATIENCE, Process::start(&self.wrapper, &setup));
        let process = started.await.expect("a gateway starts in time");
        self.gateways.push(Gateway { setup, process });
        self.announce();
    }

    /// From now on, commands and new gateways are of this binary.
    pub fn upgrade_commands(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
        self.wrapper = write_wrapper(binary, &self.gateways[0].setup);
    }

    /// Starts one more replica, and when it is there, stops the first one in good order.
    pub async fn replace_oldest_gateway(&mut self) {
        let setup = self.another_replica();
        let started = tokio::time::timeout(PATIENCE, Process::start(&self.wrapper, &setup));
        let process = started.await.expect("a gateway starts in time");
        self.gateways.push(Gateway { setup, process });
        self.announce();
        self.ready().await;
        let oldest = self.gateways.remove(0);
        self.announce();
        self.terminate(oldest.process).await;
        self.stopped.push(oldest.setup);
    }

    /// For one more gateway over the database on the server.
    pub fn another_replica(&self) -> Setup {
        let server = self.postgres.as_ref().expect("replicas share a server");
        self.setup().database_url(&server.url(DATABASE))
    }

    fn announce(&self) {
        self.targets.set(self.gateways.iter().map(|gateway| gateway.process.url.clone()).collect());
    }

    /// Waits until all gateways say that they can serve and store a turn, and know the keys.
    pub async fn ready(&self) {
        for gateway in &self.gateways {
            let client = gateway.process.client.with_secret(self.secrets.last().map_or("", String::as_str));
            let is_ready = async || {
                let status = async |path| {
                    let reply = client.try_request(Method::GET, path, &[], "").await;
                    reply.is_some_and(|reply| reply.status == 200)
                };
                let stranger = gateway.process.client.try_request(Method::GET, "/v1/models", &[], "").await;
                let asks_for_keys = stranger.is_some_and(|reply| [401, 429].contains(&reply.status.as_u16()));
                asks_for_keys && status("/readyz").await && status("/v1/models").await
            };
            if !within(PATIENCE, is_ready).await {
                let reply = client.try_request(Method::GET, "/readyz", &[], "").await;
                let said = reply.map(|reply| String::from_utf8_lossy(&reply.body).into_owned());
                self.violations
                    .add(Promise::Recovery, format!("a gateway was not ready after {PATIENCE:?}: {said:?}"));
            }
        }
    }

    /// Stops all gateways in good order. Returns where SQLite has its database.
    pub async fn stop_gateways(&mut self) -> PathBuf {
        let database = self.folder().join("antiphon.db");
        for gateway in std::mem::take(&mut self.gateways) {
            self.terminate(gateway.process).await;
            self.stopped.push(gateway.setup);
        }
        database
    }

    async fn terminate(&self, process: Process) {
        let (lines, is_success) = process.terminate().await;
        if !is_success {
            self.violations
                .add(Promise::Recovery, format!("a gateway did not stop in good order: {lines:?}"));
        }
    }

    /// For one more gateway in front of the same upstreams, over a file of its own.
    pub fn setup(&self) -> Setup {
        setup_over(&self.upstreams)
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Takes note of the memory that gateways have held.
    pub fn measure(&mut self) {
        let peaks = self.gateways.iter().map(|gateway| gateway.process.peak_memory_bytes());
        self.max_memory_bytes = peaks.fold(self.max_memory_bytes, u64::max);
    }
}

/// Nothing may be held when nothing runs.
pub async fn idle(rig: &Rig) -> Vec<(String, u64)> {
    let mut last = Vec::new();
    for gateway in &rig.gateways {
        let is_idle = within(PATIENCE, async || {
            last = gauges(&gateway.process.client).await;
            !last.is_empty() && last.iter().all(|(_, value)| *value == 0)
        });
        if !is_idle.await {
            rig.violations.add(Promise::Bounds, format!("{} still holds {last:?}", rig.engine.name()));
        }
    }
    last
}

/// Asks until it is so, or the time is over.
pub async fn within(time: Duration, mut ask: impl AsyncFnMut() -> bool) -> bool {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(time, asking).await.is_ok()
}

pub fn key_name(project: usize) -> String {
    format!("key-{project}")
}

fn setup_over(upstreams: &[Upstream; 2]) -> Setup {
    let [one, two] = upstreams.each_ref().map(|upstream| format!("http://{}/v1", upstream.address));
    let setup = Setup::with_accounts([("one", one.as_str()), ("two", two.as_str())]).config(CONFIG);
    let both = |setup: Setup, account| setup.account(account, "boundary = \"same\"\nmodels = [\"sim\"]");
    (0..2).fold(setup, both)
}

/// A program that starts the gateway so that a write beyond a file's largest size fails, instead of ending the process.
fn write_wrapper(binary: &Path, setup: &Setup) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let file = setup.database().with_file_name("gateway");
    let text = format!("#!/bin/sh\ntrap '' XFSZ\nexec '{}' \"$@\"\n", binary.display());
    std::fs::write(&file, text).expect("a writable folder");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    file
}

/// A gateway's gauges of what it holds, by their names, and what they say.
pub async fn gauges(client: &Client) -> Vec<(String, u64)> {
    const NAMES: [&str; 9] = [
        "antiphon_turns_in_flight",
        "antiphon_turns_queued",
        "antiphon_account_in_flight",
        "antiphon_reservations",
        "antiphon_connections",
        "antiphon_sockets",
        "antiphon_socket_lanes",
        "antiphon_background_queued",
        "antiphon_background_running",
    ];
    let Some(reply) = client.try_request(Method::GET, "/metrics", &[], "").await else { return Vec::new() };
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let mut sums: Vec<(String, u64)> = Vec::new();
    for line in text.lines() {
        let Some((metric, value)) = line.rsplit_once(' ') else { continue };
        let name = metric.split('{').next().unwrap_or_default();
        if NAMES.contains(&name) {
            let value = value.parse().unwrap_or(u64::MAX);
            match sums.last_mut() {
                Some((last, sum)) if last == name => *sum += value,
                _ => sums.push((name.to_owned(), value)),
            }
        }
    }
    // The connection that asks is one of them.
    for (name, value) in &mut sums {
        if name == "antiphon_connections" {
            *value = value.saturating_sub(1);
        }
    }
    sums
}

/// What a gateway said in JSON.
pub fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}
