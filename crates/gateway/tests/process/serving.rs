//! Who serves a database: one gateway a file, and what a gateway that was killed held.

use std::path::Path;

use antiphon_simulator::upstream::{Gate, Options, Script, Simulator};
use antiphon_testkit::{Process, Reply, Setup, eventually};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::binary;
use crate::command::antiphon;

/// Makes a key for two concurrent turns, beside the gateway, and waits until that knows it.
async fn limited_key(gateway: &Process, directory: &Path) -> String {
    let create = ["--config", "process.toml", "keys", "create", "one", "--limits"];
    let limits = r#"{"concurrent_turns": 2}"#;
    let (code, secret, error) = antiphon(directory, &[&create[..], &[limits]].concat(), &[]).await;
    assert_eq!(code, 0, "{error}");
    let is_known = async || status(gateway, "none").await == 401;
    eventually("the gateway asks for keys", is_known).await;
    secret.trim().to_owned()
}

/// A turn that runs until the gate is opened.
async fn held_turn(upstream: &Simulator, gateway: &Process, secret: &str) -> (Gate, JoinHandle<Reply>) {
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let client = gateway.client.with_secret(secret);
    let in_flight = upstream.in_flight();
    let running = tokio::spawn(async move { client.create(json!({"model": "sim", "input": "wait"})).await });
    upstream.wait_until(|upstream| upstream.in_flight() > in_flight).await;
    (gate, running)
}

async fn status(gateway: &Process, secret: &str) -> u16 {
    gateway.client.with_secret(secret).create(json!({"model": "sim", "input": "x"})).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_gateway_on_a_file_is_refused_and_leaves_the_first_its_reservations() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let directory = setup.database().parent().unwrap().to_owned();
    let gateway = Process::start(binary(), &setup).await;
    let secret = limited_key(&gateway, &directory).await;
    let (first, second) =
        (held_turn(&upstream, &gateway, &secret).await, held_turn(&upstream, &gateway, &secret).await);
    let (code, _, error) = antiphon(&directory, &["--config", "process.toml", "serve"], &[]).await;
    assert_eq!(code, 1);
    for part in ["antiphon.db", &format!("(process {})", gateway.id()), "antiphon.db.lock"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(status(&gateway, &secret).await, 429, "two turns run");
    for (gate, running) in [first, second] {
        gate.open();
        running.await.unwrap().ok();
    }
    gateway.kill().await;
    let gateway = Process::start(binary(), &setup).await;
    assert_eq!(status(&gateway, &secret).await, 200, "the lock ends with its process");
}
