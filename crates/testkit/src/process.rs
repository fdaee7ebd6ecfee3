//! The gateway as its users run it: the real binary, that can be killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::{Client, Setup, repository};

/// Names another binary to test than the one that was built. Binaries take what begins with `ANTIPHON_` for configuration.
const BINARY_VARIABLE: &str = "BINARY_UNDER_TEST";

/// A running `antiphon serve`; killed when it is dropped.
pub struct Process {
    pub url: String,
    pub client: Client,
    child: Child,
    log: Log,
}

type Stderr = Lines<BufReader<ChildStderr>>;

type LogLines = Arc<Mutex<Vec<String>>>;

/// What becomes of the log.
enum Log {
    /// It is read as it comes.
    Read(LogLines, JoinHandle<()>),
    /// It stays in the pipe until the process is terminated.
    Left(Stderr),
}

impl Process {
    /// Starts the binary with the setup's configuration, and waits until it listens. The setup owns the folder of its
    /// database, and has to outlive the process.
    pub async fn start(binary: &Path, setup: &Setup) -> Self {
        Self::try_start(binary, setup).await.unwrap_or_else(|seen| panic!("it ended: {seen:?}"))
    }

    /// As [`start`](Self::start), for a gateway that may refuse to start; returns what it logged then.
    pub async fn try_start(binary: &Path, setup: &Setup) -> Result<Self, Vec<String>> {
        let (url, child, log) = spawn(binary, setup).await?;
        let lines = LogLines::default();
        let reading = tokio::spawn(read(log, Arc::clone(&lines)));
        Ok(Self { client: Client::new(&url), url, child, log: Log::Read(lines, reading) })
    }

    /// As [`start`](Self::start), but nobody reads the log: its pipe fills up.
    pub async fn start_unread(binary: &Path, setup: &Setup) -> Self {
        let spawned = spawn(binary, setup).await;
        let (url, child, log) = spawned.unwrap_or_else(|seen| panic!("it ended: {seen:?}"));
        Self { client: Client::new(&url), url, child, log: Log::Left(log) }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The most memory that it has held so far.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.memory_of("status", "VmHWM:")
    }

    /// The memory that it holds now.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_of("status", "VmRSS:")
    }

    /// How much of its memory is huge pages.
    pub fn huge_page_bytes(&self) -> u64 {
        self.memory_of("smaps_rollup", "AnonHugePages:")
    }

    /// How many files and sockets it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("Linux tells").count()
    }

    /// Lets it open no file beyond this number; `None` for as many as it may at most.
    pub fn limit_open_files(&self, number: Option<u64>) {
        let process = Some(pid(self.id()));
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: number.or(maximum), maximum };
        rustix::process::prlimit(process, Resource::Nofile, limit).expect("the process is ours");
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("Linux tells").count()
    }

    /// How large a file of it may grow; a write beyond that fails as on a full disk. `None` lifts
    /// the limit.
    pub fn limit_files(&self, max_bytes: Option<u64>) {
        let limit = Rlimit { current: max_bytes, maximum: None };
        rustix::process::prlimit(Some(pid(self.id())), Resource::Fsize, limit).expect("the process is ours");
    }

    fn memory_of(&self, file: &str, name: &str) -> u64 {
        let figures = format!("/proc/{}/{file}", self.id());
        let figures = std::fs::read_to_string(figures).expect("Linux tells");
        let figure = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        figure.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("a number of KiB") * 1024
    }

    /// Changes the file that the process was started with, to what another setup of the same folder says.
    pub fn reconfigure(&self, setup: &Setup) {
        write_config(setup);
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(pid(self.id()), signal).expect("the process is ours");
    }

    /// `kill -9`: nothing is flushed, nobody is told.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the process can be killed");
    }

    /// Whether a line of what it has logged by now contains this.
    pub fn has_logged(&self, text: &str) -> bool {
        self.times_logged(text) > 0
    }

    /// How many lines of what it has logged by now contain this.
    pub fn times_logged(&self, text: &str) -> usize {
        match &self.log {
            Log::Read(lines, _) => {
                lines.lock().expect("no panic").iter().filter(|line| line.contains(text)).count()
            }
            Log::Left(_) => 0,
        }
    }

    /// SIGTERM; returns what it logged and whether it ended with success.
    pub async fn terminate(mut self) -> (Vec<String>, bool) {
        self.signal(Signal::TERM);
        let (lines, reading) = match self.log {
            Log::Read(lines, reading) => (lines, reading),
            Log::Left(log) => {
                let lines = LogLines::default();
                (Arc::clone(&lines), tokio::spawn(read(log, lines)))
            }
        };
        reading.await.expect("reading does not panic");
        let lines = std::mem::take(&mut *lines.lock().expect("no panic"));
        (lines, self.child.wait().await.expect("it ends").success())
    }
}

/// Fails with what was logged if the process ends before it listens.
async fn spawn(binary: &Path, setup: &Setup) -> Result<(String, Child, Stderr), Vec<String>> {
    let file = write_config(setup);
    let mut child = Command::new(binary)
        .arg("serve")
        .arg("--config")
        .arg(&file)
        .env_remove("OPENAI_API_KEY")
        .env_remove("OPENAI_BASE_URL")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut log = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
    let mut seen = Vec::new();
    let url = loop {
        let Some(line) = log.next_line().await.expect("readable") else { return Err(seen) };
        if let Some(url) = listening_on(&line) {
            break url;
        }
        seen.push(line);
    };
    Ok((url, child, log))
}

/// The address in the line with which a gateway says that it listens, in text or in JSON.
fn listening_on(line: &str) -> Option<String> {
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
        return (line["message"] == "listening").then(|| line["url"].as_str().map(str::to_owned))?;
    }
    line.split_once("listening on ").map(|(_, url)| url.to_owned())
}

fn write_config(setup: &Setup) -> PathBuf {
    let file = setup.database().with_file_name("process.toml");
    // At once: a running gateway may look at the file at any time.
    let new = file.with_extension("new");
    std::fs::write(&new, format!("listen = \"127.0.0.1:0\"\n{}", setup.toml())).expect("a writable folder");
    std::fs::rename(new, &file).expect("a writable folder");
    file
}

async fn read(mut log: Stderr, lines: LogLines) {
    while let Ok(Some(line)) = log.next_line().await {
        lines.lock().expect("no panic").push(line);
    }
}

pub(crate) fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed()).expect("no process has the id 0")
}

/// The binary under test: the one that `BINARY_UNDER_TEST` names, or else the one that was built with the tests. A relative path
/// is one in the repository.
pub fn binary_under_test(built: &'static str) -> &'static Path {
    static NAMED: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os(BINARY_VARIABLE).map(|path| repository().join(path)));
    NAMED.as_deref().unwrap_or(Path::new(built))
}

/// A program that `scripts/test` installs: a missing one fails the test that needs it.
pub fn client_tool(path: &str) -> PathBuf {
    let tool = repository().join("target/clients").join(path);
    assert!(
        tool.exists(),
        "{} is missing: run the tests with `make test`, which installs it",
        tool.display()
    );
    tool
}
