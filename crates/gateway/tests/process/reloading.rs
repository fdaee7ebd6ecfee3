//! Accounts that are added, changed and removed while the gateway runs.

use std::process::Stdio;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Process, Setup, Signal, eventually};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::binary;

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

async fn served_by(gateway: &Process, upstream: &Simulator) -> bool {
    let before = upstream.counts().requests;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
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
    assert!(served_by(&gateway, &one).await);

    let (script, gate) = Script::answer("a b c").gated_after(3);
    one.script(script);
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    events.next().await.unwrap();
    gateway.reconfigure(&only_two);
    reloads(&gateway, "taken_over", 1).await;
    assert!(served_by(&gateway, &two).await);
    assert!(!gateway.client.metrics().await.contains("antiphon_account_in_flight{account=\"one\"}"));
    gate.open();
    events.until("response.completed").await;

    gateway.reconfigure(&only_two.clone().config("no_such_key = 1"));
    reloads(&gateway, "refused", 1).await;
    assert!(served_by(&gateway, &two).await);

    gateway.signal(Signal::HUP);
    reloads(&gateway, "refused", 2).await;
    gateway.reconfigure(&only_one.config("timeouts.idle = \"7s\""));
    gateway.signal(Signal::HUP);
    reloads(&gateway, "taken_over", 2).await;
    assert!(served_by(&gateway, &one).await);
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
    let mut gateway = Command::new(binary())
        .arg("serve")
        .current_dir(dir.path())
        .env_clear()
        .envs([("HOME", dir.path().to_str().unwrap()), ("OPENAI_API_KEY", "k")])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let mut until = async |text: &str| {
        while !lines.next_line().await.unwrap().expect("the gateway runs").contains(text) {}
    };
    until("listening on").await;
    std::fs::remove_file(&file).unwrap();
    until("antiphon.toml\\\" is gone").await;
}
