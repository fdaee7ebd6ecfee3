//! Who serves a database: one gateway a file, and what a gateway that was killed held.

use std::path::Path;
use std::time::{Duration, Instant};

use antiphon_simulator::upstream::{Gate, Options, Script, Simulator};
use antiphon_store::{Clock, StoreOptions, SystemClock};
use antiphon_testkit::{Postgres, Process, Reply, Setup, Signal, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::binary;
use crate::command::antiphon;

/// Makes a key for two concurrent turns, beside the gateway, and waits until that knows it.
async fn limited_key(gateway: &Process, directory: &Path) -> String {
    let create = ["--config", "process.toml", "keys", "create", "one", "--limits"];
    let limits = r#"{"concurrent_turns": 2, "budgets": [{"tokens": 1000000, "window": "month"}]}"#;
    let (code, secret, error) = antiphon(directory, &[&create[..], &[limits]].concat(), &[]).await;
    assert_eq!(code, 0, "{error}");
    let is_known = async || status(gateway, "none").await == 401;
    eventually("the gateway asks for keys", is_known).await;
    secret.trim().to_owned()
}

/// A turn that runs until the gate is opened.
async fn held_turn(upstream: &Simulator, gateway: &Process, secret: &str) -> (Gate, JoinHandle<Reply>) {
    let (script, gate) = Script::answer("done").usage(100, 20).gated();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_releases_what_was_held_before_it_whatever_its_timeouts_are() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup.clone().config("timeouts.turn = \"10h\"")).await;
    let secret = limited_key(&gateway, setup.database().parent().unwrap()).await;
    for _ in 0..2 {
        held_turn(&upstream, &gateway, &secret).await;
    }
    gateway.kill().await;
    let shorter = setup.config("timeouts.turn = \"1m\"");
    let gateway = Process::start(binary(), &shorter).await;
    let started = Instant::now();
    eventually("there is room", async || status(&gateway, &secret).await == 200).await;
    assert!(started.elapsed() < Duration::from_secs(45), "the shorter timeout is not waited for");
}

/// The tokens used and held by the only key.
async fn tokens(url: &str, key: &str) -> (u64, u64) {
    let store = antiphon_store::open(&url.parse().unwrap(), StoreOptions::default()).await.unwrap();
    let counters = store.list_counters(key, SystemClock.now()).await.unwrap();
    store.close().await;
    let (_, count) = counters.into_iter().find(|(id, _)| &*id.rule == "tokens per month").unwrap();
    (count.used, count.held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_releases_what_dead_ones_held_and_one_that_comes_back_counts_once() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let url = Postgres::shared_database().await;
    let setup = || Setup::over(&upstream).database_url(&url);
    let setups = [setup(), setup(), setup()];
    let [survivor, killed, frozen] = [
        Process::start(binary(), &setups[0]).await,
        Process::start(binary(), &setups[1]).await,
        Process::start(binary(), &setups[2]).await,
    ];
    let directory = setups[0].database().parent().unwrap().to_owned();
    let secret = limited_key(&survivor, &directory).await;
    for replica in [&killed, &frozen] {
        eventually("it knows the key", async || status(replica, "none").await == 401).await;
    }
    let _lost = held_turn(&upstream, &killed, &secret).await;
    let (gate, running) = held_turn(&upstream, &frozen, &secret).await;
    assert_eq!(status(&survivor, &secret).await, 429, "two turns run");
    killed.kill().await;
    frozen.signal(Signal::STOP);
    let died = Instant::now();
    let mut used = 0;
    let client = survivor.client.with_secret(&secret);
    for what in ["one of the dead is found", "both of the dead are found"] {
        let served = eventually(what, async || {
            let replies = [(); 2].map(|()| client.create(json!({"model": "sim", "input": "DELAY{50} x"})));
            let replies = futures_util::future::join_all(replies).await;
            let served: Vec<Value> =
                replies.iter().filter(|reply| reply.status == 200).map(Reply::json).collect();
            used += served.iter().map(|reply| reply["usage"]["total_tokens"].as_u64().unwrap()).sum::<u64>();
            let needed = if what.starts_with("one") { 1 } else { 2 };
            (served.len() >= needed).then_some(served.len())
        });
        served.await;
    }
    let took = died.elapsed();
    assert!(took >= Duration::from_secs(12), "who may still live is not taken for dead: {took:?}");
    frozen.signal(Signal::CONT);
    gate.open();
    running.await.unwrap().ok();
    let (_, shown, _) =
        antiphon(&directory, &["--config", "process.toml", "keys", "show", "one", "--json"], &[]).await;
    let key = serde_json::from_str::<Value>(&shown).unwrap()["id"].as_str().unwrap().to_owned();
    let settled = async || tokens(&url, &key).await == (used + 120, 0);
    eventually("the turn of the frozen replica counts once", settled).await;
    assert_eq!(status(&frozen, &secret).await, 200, "it serves as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_database_does_not_grant_are_counted_and_logged_once() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let url = Postgres::shared_database().await;
    let name = url.rsplit('/').next().unwrap();
    let user = format!("user_of_{name}");
    let execute = async |sql: String| Postgres::shared().execute(name, &sql).await;
    execute(format!(
        "CREATE ROLE {user} LOGIN CONNECTION LIMIT 4; ALTER DATABASE {name} OWNER TO {user}; GRANT ALL ON SCHEMA public TO {user}"
    ))
    .await;
    let setup = Setup::over(&upstream).database_url(&url.replace("//postgres@", &format!("//{user}@")));
    let gateway = Process::start(binary(), &setup).await;
    let are_missing = async |missing: u32| {
        let line = format!("antiphon_store_missing_connections {missing}\n");
        gateway.client.metrics().await.contains(&line)
    };
    eventually("two of six connections are missing", async || are_missing(2).await).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    execute(format!("ALTER ROLE {user} CONNECTION LIMIT -1")).await;
    eventually("none is missing", async || are_missing(0).await).await;
    let open_again = "all connections to the database are open again";
    eventually("the log says so", async || gateway.has_logged(open_again)).await;
    execute(format!("ALTER ROLE {user} CONNECTION LIMIT 4")).await;
    let own = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{user}' LIMIT 2");
    execute(format!("SELECT pg_terminate_backend(pid) FROM ({own}) AS own")).await;
    let refused = "not all connections to the database can be opened";
    eventually("the log says so", async || gateway.has_logged(refused)).await;
    eventually("two are missing again", async || are_missing(2).await).await;
    execute(format!("ALTER ROLE {user} CONNECTION LIMIT -1")).await;
    eventually("none is missing again", async || are_missing(0).await).await;
    let (lines, _) = gateway.terminate().await;
    let told: Vec<&String> = lines.iter().filter(|line| line.contains(refused)).collect();
    assert!(told.len() == 1 && told[0].contains("too many connections for role"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_file_is_noticed_without_any_request_and_not_made_again() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    std::fs::remove_file(setup.database()).unwrap();
    let noticed = async || gateway.client.metrics().await.contains("antiphon_store_available 0");
    eventually("the store is unavailable", noticed).await;
    assert_eq!(gateway.client.get("/readyz").await.status, 503);
    let asked = upstream.counts().requests;
    let refused = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(refused.refusal().1.as_deref(), Some("store_unavailable"));
    assert_eq!(upstream.counts().requests, asked, "nothing went upstream");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(!setup.database().exists());
    let (lines, _) = gateway.terminate().await;
    let told: Vec<&String> = lines.iter().filter(|line| line.contains("antiphon.db was deleted")).collect();
    assert!(!told.is_empty() && told.len() < 10, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deleted_write_ahead_log_held_is_saved_when_the_gateway_stops() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let response = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    std::fs::remove_file(setup.database().with_extension("db-wal")).unwrap();
    let noticed = async || gateway.client.metrics().await.contains("antiphon_store_available 0");
    eventually("the store is unavailable", noticed).await;
    let refused = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(refused.refusal().1.as_deref(), Some("store_unavailable"));
    eventually("the log says why", async || gateway.has_logged("antiphon.db-wal was deleted")).await;
    gateway.terminate().await;
    let gateway = Process::start(binary(), &setup).await;
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok()["id"], response["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_without_a_file_for_its_connection_is_no_failure_of_the_account() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    for transport in ["http", "websocket"] {
        without_a_file(&upstream, transport).await;
    }
}

async fn without_a_file(upstream: &Simulator, transport: &str) {
    let setup = Setup::over(upstream).account(0, &format!("transport = \"{transport}\""));
    let gateway = Process::start(binary(), &setup).await;
    // A connection that the gateway has accepted before.
    let mut stream = TcpStream::connect(gateway.url.strip_prefix("http://").unwrap()).await.unwrap();
    let mut ask = async |request: &str, end: &str| {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut reply).await.unwrap() > 0, "the connection was closed");
        }
        String::from_utf8(reply).unwrap()
    };
    ask("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "}").await;
    gateway.limit_open_files(Some(0));
    let body = r#"{"model":"sim","input":"x"}"#;
    let turn = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let refused = ask(&turn, "}}").await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("server_is_overloaded"), "{refused}");
    gateway.limit_open_files(None);
    assert_eq!(status(&gateway, "any").await, 200);
    let metrics = gateway.client.get("/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(
        metrics.contains("antiphon_account_attempts") && !metrics.contains(r#"outcome="failed""#),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_sockets_leave_files_for_connections() {
    const FILES: u64 = 256;
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).account(0, "transport = \"websocket\"");
    let gateway = Process::start(binary(), &setup).await;
    gateway.limit_open_files(Some(FILES));
    for _ in 0..FILES {
        gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    }
    let sockets = async || gateway.client.metric("antiphon_upstream_sockets").await;
    eventually("an eighth of the files are sockets", async || sockets().await <= FILES / 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_first_request_that_has_not_arrived() {
    let setup = Setup::with_accounts([("one", "http://127.0.0.1:1/v1")]).config("timeouts.shutdown = \"1s\"");
    let gateway = Process::start(binary(), &setup).await;
    let mut stream = TcpStream::connect(gateway.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(b"GET / HT").await.unwrap();
    let is_open = async || gateway.client.metric("antiphon_connections").await >= 2;
    eventually("the connection is open", is_open).await;
    let (lines, success) = gateway.terminate().await;
    assert!(success && !lines.iter().any(|line| line.contains("aborted")), "{lines:#?}");
}
