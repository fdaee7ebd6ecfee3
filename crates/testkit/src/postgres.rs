//! Throw-away PostgreSQL: a cluster of its own on a random port, that can be killed and restarted, and that leaves
//! nothing behind however the test process ends.

mod database;
mod pooler;
mod port;
mod server;

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_postgres::NoTls;

pub use self::database::SharedDatabase;
use self::port::Port;
use self::server::Server;

/// Recovery after a kill included, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// How a cluster is made. Everybody who comes from this machine is trusted, unless told otherwise.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Whether commits wait for the disk. Without it tests are faster; nothing but a power cut can tell.
    pub fsync: bool,
    /// The size of a file of its write-ahead log. Limits of files must be above it.
    pub wal_segment_mib: u32,
    /// Lines of `postgresql.conf`.
    pub conf: String,
    /// `pg_hba.conf`, without a line for the cluster's own administrator.
    pub hba: Option<String>,
    /// Of the user `postgres`; part of the URLs then.
    pub password: Option<String>,
    /// Names and contents of files in the data directory, such as certificates, readable for the server alone.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A running cluster with the superuser `postgres`; stopped and removed when it is dropped, or when the process ends.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    folder: PathBuf,
    port: Port,
    options: PostgresOptions,
    running: Option<Child>,
    watchdog: Child,
    /// The watchdog ends the server when this closes, which it does even if the process is killed.
    life: Option<ChildStdin>,
}

// === impl PostgresOptions ===

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            fsync: true,
            wal_segment_mib: 16,
            conf: String::new(),
            hba: None,
            password: None,
            files: Vec::new(),
        }
    }
}

// === impl Postgres ===

impl Postgres {
    /// Makes a cluster and waits until it accepts connections.
    pub fn start(options: PostgresOptions) -> Self {
        let server = Server::find();
        let folder = server.folder();
        let mut watchdog = server.watch(&folder);
        let life = watchdog.stdin.take();
        server.initialise(&folder, &options);
        let port = Port::reserve();
        let mut cluster = Self { server, folder, port, options, running: None, watchdog, life };
        cluster.run();
        cluster
    }

    /// The cluster that the tests of one process share. It does not wait for the disk.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(PostgresOptions { fsync: false, ..PostgresOptions::default() }))
    }

    /// The URL of a new, empty database in the [shared](Self::shared) cluster.
    pub async fn shared_database() -> String {
        static DATABASES: AtomicU32 = AtomicU32::new(1);
        let n = DATABASES.fetch_add(1, Ordering::Relaxed);
        Self::shared().create_database(&format!("test_{n}")).await
    }

    /// Makes an empty database, and returns its URL.
    pub async fn create_database(&self, name: &str) -> String {
        self.execute("postgres", &format!("CREATE DATABASE \"{name}\" TEMPLATE template0")).await;
        self.url(name)
    }

    /// Runs statements in a database as its administrator, whatever the cluster asks of others.
    pub async fn execute(&self, database: &str, sql: &str) {
        let mut config = tokio_postgres::Config::new();
        config.user("postgres").dbname(database).host_path(self.socket_folder()).port(self.port());
        let (client, connection) =
            config.connect(NoTls).await.expect("the cluster accepts its administrator");
        let driven = tokio::spawn(connection);
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        driven.await.expect("driving does not panic").expect("the connection ends well");
    }

    /// A database by its name, over TCP.
    pub fn url(&self, database: &str) -> String {
        let password = self.options.password.as_ref().map(|password| format!(":{password}"));
        format!("postgres://postgres{}@127.0.0.1:{}/{database}", password.unwrap_or_default(), self.port())
    }

    /// A database by its name, over the Unix socket.
    pub fn socket_url(&self, database: &str) -> String {
        let folder = self.socket_folder().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}:{}/{database}", self.port())
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The cluster's folder. Files that a test writes here are removed with the cluster.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn socket_folder(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// `kill -9` for every process of the cluster: nothing is flushed, no client is told.
    pub fn kill9(&mut self) {
        if let Some(running) = &mut self.running {
            server::kill9(running);
        }
        self.running = None;
    }

    /// Freezes every process of the cluster (SIGSTOP), or lets them go on (SIGCONT).
    pub fn signal_all(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        server::signal_all(running, signal);
    }

    /// How large a file of the server may grow; a write beyond that fails as on a full disk. `None` lifts the limit.
    pub fn limit_files(&self, max_bytes: Option<u64>) {
        let running = self.running.as_ref().expect("the server runs");
        self.server.limit_files(running, max_bytes);
    }

    /// Stops the server without waiting for its clients, but in good order.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            server::signal(Signal::INT, running.id());
            running.wait().expect("the server can be waited for");
        }
    }

    /// Starts what was killed or stopped, or else stops it first, on the same port; waits until it accepts connections.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    fn run(&mut self) {
        let started = Instant::now();
        let mut child = self.server.run(&self.folder, self.port(), &self.options);
        while started.elapsed() < START_TIMEOUT {
            if let Some(status) = child.try_wait().expect("the server can be waited for") {
                panic!("PostgreSQL ended with {status}: {}", self.log());
            }
            if server::is_ready(&self.folder, child.id()) {
                self.running = Some(child);
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        server::kill9(&mut child);
        panic!("PostgreSQL does not start within {START_TIMEOUT:?}: {}", self.log());
    }
}

/// The watchdog does it, in the same way as after the end of the process.
impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.life.take());
        let _ = self.watchdog.wait();
        if let Some(mut running) = self.running.take() {
            let _ = running.wait();
        }
    }
}
