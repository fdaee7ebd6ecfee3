//! Accounts that are added, changed and removed while the gateway runs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Client, Process, Setup, Signal, eventually};
use http::Method;
use rustix::process::{Pid, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::binary;
use crate::command::antiphon;

/// Waits until the metrics show this many reloads with this outcome, or more: a signal may reload a change again that was
/// already noticed.
async fn reloads(gateway: &Process, outcome: &str, at_least: u32) {
    let start = format!("antiphon_config_reloads_total{{outcome=\"{outcome}\"}} ");
    eventually(&format!("{at_least} configurations {outcome}"), async || {
        let metrics = gateway.client.metrics().await;
        let count = metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u32>().ok());
        count.unwrap_or(0) >= at_least
    })
    .await;
}

async fn served_by(client: &Client, upstream: &Simulator) -> bool {
    let before = upstream.counts().requests;
    client.created(json!({"model": "sim", "input": "x"})).await;
    upstream.counts().requests == before + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_applied_without_dropping_turns() {
    let (one, two) = (
        Simulator::bind(Options::default()).await.unwrap(),
        Simulator::bind(Options::default()).await.unwrap(),
    );
    let setup = Setup::with_accounts([("one", one.url().as_str()), ("two", two.url().as_str())]);
    let (only_one, only_two) = (setup.clone().without_account(1), setup.clone().without_account(0));
    let gateway = Process::start(binary(), &only_one).await;
    assert!(served_by(&gateway.client, &one).await);

    let (script, gate) = Script::answer("a b c").gated_after(3);
    one.script(script);
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    events.next().await.unwrap();
    gateway.reconfigure(&only_two);
    reloads(&gateway, "taken_over", 1).await;
    assert!(served_by(&gateway.client, &two).await);
    assert!(!gateway.client.metrics().await.contains("antiphon_account_in_flight{account=\"one\"}"));
    gate.open();
    events.until("response.completed").await;

    gateway.reconfigure(&only_two.clone().config("no_such_key = 1"));
    reloads(&gateway, "refused", 1).await;
    assert!(served_by(&gateway.client, &two).await);

    gateway.signal(Signal::HUP);
    reloads(&gateway, "refused", 2).await;
    gateway.reconfigure(&only_one.config("timeouts.idle = \"7s\""));
    gateway.signal(Signal::HUP);
    reloads(&gateway, "taken_over", 2).await;
    assert!(served_by(&gateway.client, &one).await);
    let (lines, success) = gateway.terminate().await;
    assert!(success);
    let says = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(says("no_such_key") && says("takes effect after a restart") && says("timeouts"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_limits_of_a_project_apply_without_a_restart() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::with_accounts([("one", upstream.url().as_str())]);
    let limited = |requests: u32| {
        let limits = format!("{{ requests_per_minute = {requests} }}");
        setup.clone().config(&format!("projects = {{ default = {{ limits = {limits} }} }}"))
    };
    let gateway = Process::start(binary(), &limited(1)).await;
    let status = async || gateway.client.create(json!({"model": "sim", "input": "x"})).await.status.as_u16();
    // A minute may end in between: then the next turn is the first of its minute.
    eventually("the limit is reached", async || status().await == 429).await;
    for (count, setup) in [(1, limited(1000)), (2, setup.clone())] {
        gateway.reconfigure(&setup);
        reloads(&gateway, "taken_over", count).await;
        assert_eq!([status().await, status().await, status().await], [200; 3]);
    }
    gateway.reconfigure(&limited(1));
    reloads(&gateway, "taken_over", 3).await;
    eventually("the limit is reached", async || status().await == 429).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_said_once_of_secrets_as_well_and_not_when_it_is_undone() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "one").unwrap();
    let setup = Setup::with_accounts([("one", "http://127.0.0.1:1/v1")]).config(&format!(
        "[oidc]\nissuer = \"https://id.example\"\nclient_id = \"antiphon\"\nclient_secret = {{ file = {secret:?} }}\n\
         public_url = \"https://gateway.example\"\nadmin_values = [\"ops\"]"
    ));
    let gateway = Process::start(binary(), &setup).await;
    std::fs::write(&secret, "two").unwrap();
    gateway.signal(Signal::HUP);
    reloads(&gateway, "taken_over", 1).await;
    for (count, setup) in [(2, setup.clone().config("[timeouts]\nidle = \"7s\"")), (3, setup)] {
        gateway.reconfigure(&setup);
        reloads(&gateway, "taken_over", count).await;
    }
    let (lines, success) = gateway.terminate().await;
    assert!(success);
    let warned = |section: &str| {
        let is_warning =
            |line: &&String| line.contains("takes effect after a restart") && line.contains(section);
        lines.iter().filter(is_warning).count()
    };
    assert_eq!((warned("oidc"), warned("timeouts")), (1, 1), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_wait_for_a_restart_are_not_shown_as_in_effect() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let (_, token, _) = antiphon(setup.folder(), &["--config", "process.toml", "admin", "token"], &[]).await;
    let operator = gateway.client.with_secret(token.trim());
    let origin = gateway.url.parse().unwrap();
    let form = "application/x-www-form-urlencoded".parse().unwrap();
    let headers = [("origin", origin), ("content-type", form)];
    let entered = operator.request(Method::POST, "/login", &headers, format!("token={}", token.trim())).await;
    let cookie = [("cookie", entered.header("set-cookie").unwrap().parse().unwrap())];
    let settings = async || {
        let page = operator.request(Method::GET, "/settings", &cookie, "").await;
        String::from_utf8(page.body.to_vec()).unwrap()
    };
    assert!(!settings().await.contains("restart needed"));

    gateway.reconfigure(
        &setup.clone().config("timeouts.turn = \"7m\"\nstore.retention = \"7d\"\nrouting.max_queued = 7"),
    );
    reloads(&gateway, "taken_over", 1).await;
    let config = operator.get("/api/config").await.ok();
    let value = |key: &str| {
        let mut values = config["values"].as_array().unwrap().iter();
        values
            .find(|value| value["key"] == key)
            .map(|value| (value["value"].clone(), value["source"].clone()))
    };
    assert_eq!(value("routing.max_queued"), Some((json!(7), json!("file"))));
    assert_eq!(value("store.retention"), Some((json!("30d"), json!("default"))));
    assert_ne!(value("timeouts.turn").unwrap().0, "7m");
    assert_eq!(config["needs_restart"], json!(["store", "timeouts"]));
    assert_eq!(operator.get("/api/store").await.ok()["retention"], "30d");
    let settings = settings().await;
    assert!(settings.contains("Changes of store, timeouts are not in effect yet"), "{settings}");

    gateway.reconfigure(&setup);
    reloads(&gateway, "taken_over", 2).await;
    assert_eq!(operator.get("/api/config").await.ok()["needs_restart"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_there_reloads_at_once_when_it_is_told_to() {
    let setup = Setup::with_accounts([("one", "http://127.0.0.1:1/v1")]);
    let gateway = Process::start(binary(), &setup).await;
    gateway.signal(Signal::HUP);
    reloads(&gateway, "taken_over", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_disappears_is_no_configuration() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("antiphon.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"").unwrap();
    let mut gateway = Gateway::start(dir.path(), &[], "http://127.0.0.1:1/v1");
    gateway.line_with("listening on").await;
    std::fs::remove_file(&file).unwrap();
    gateway.line_with("antiphon.toml\\\" is gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_has_become_empty_changes_nothing() {
    let (one, other) = (
        Simulator::bind(Options::default()).await.unwrap(),
        Simulator::bind(Options::default()).await.unwrap(),
    );
    let setup = Setup::over(&one);
    let (file, written) = (setup.folder().join("antiphon.toml"), text(&setup));
    std::fs::write(&file, &written).unwrap();
    let mut gateway = Gateway::start(setup.folder(), &[], other.url().as_str());
    let client = gateway.client().await;
    assert!(served_by(&client, &one).await);

    std::fs::write(&file, "\n").unwrap();
    let line = gateway.line_with("configuration reload").await;
    assert!(line.contains("ERROR") && line.contains("antiphon.toml\\\" has become empty"), "{line}");
    let metrics = client.metrics().await;
    assert!(metrics.contains("antiphon_config_reloads_total{outcome=\"refused\"} 1\n"), "{metrics}");
    gateway.signal(Signal::HUP);
    gateway.line_with("has become empty").await;
    assert!(served_by(&client, &one).await);

    std::fs::write(&file, written.replace(one.url().as_str(), other.url().as_str())).unwrap();
    gateway.line_with("configuration reloaded").await;
    assert!(served_by(&client, &other).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_always_empty_may_stay_so() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("antiphon.toml"), "").unwrap();
    let mut gateway = Gateway::start(dir.path(), &["--listen", "127.0.0.1:0"], "http://127.0.0.1:1/v1");
    gateway.line_with("listening on").await;
    gateway.signal(Signal::HUP);
    gateway.line_with("configuration reloaded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_from_a_pipe_stays_in_effect() {
    let (one, other) = (
        Simulator::bind(Options::default()).await.unwrap(),
        Simulator::bind(Options::default()).await.unwrap(),
    );
    let setup = Setup::over(&one);
    let mut gateway = Gateway::start(setup.folder(), &["--config", "/dev/stdin"], other.url().as_str());
    let mut pipe = gateway.child.stdin.take().unwrap();
    pipe.write_all(text(&setup).as_bytes()).await.unwrap();
    drop(pipe);
    let client = gateway.client().await;
    gateway.signal(Signal::HUP);
    let line = gateway.line_with("configuration reload").await;
    assert!(line.contains("ERROR") && line.contains("not a regular file"), "{line}");
    assert!(served_by(&client, &one).await);
    gateway.signal(Signal::TERM);
    assert!(gateway.child.wait().await.unwrap().success());
}

/// A gateway that takes the account of the variables of OpenAI's clients if its file has none.
struct Gateway {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Gateway {
    fn start(folder: &Path, arguments: &[&str], upstream: &str) -> Self {
        let variables = [("OPENAI_API_KEY", "k"), ("OPENAI_BASE_URL", upstream)];
        let mut child = Command::new(binary())
            .arg("serve")
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("HOME", folder)
            .envs(variables)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// The next line of the log with this text.
    async fn line_with(&mut self, text: &str) -> String {
        let reading = async {
            loop {
                let line = self.log.next_line().await.unwrap().expect("the gateway runs");
                if line.contains(text) {
                    return line;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap_or_else(|_| panic!("no {text:?}"))
    }

    /// Once it listens.
    async fn client(&mut self) -> Client {
        let line = self.line_with("listening on").await;
        Client::new(line.split_once("listening on ").unwrap().1)
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(id, signal).unwrap();
    }
}

fn text(setup: &Setup) -> String {
    format!("listen = \"127.0.0.1:0\"\n{}", setup.toml())
}
