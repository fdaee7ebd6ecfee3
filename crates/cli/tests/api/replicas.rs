//! Several gateways over one PostgreSQL database, and failures of that database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use antiphon_simulator::upstream::Simulator;
use antiphon_testkit::{Gateway, ManualClock, Postgres, PostgresOptions, Setup, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::simulator;

async fn two_replicas() -> (Simulator, [Gateway; 2]) {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let start = || Setup::over(&upstream).database_url(&url).start();
    let (one, two) = tokio::join!(start(), start());
    (upstream, [one, two])
}

fn turn(input: &str, parent: &Value) -> Value {
    json!({"model": "sim", "input": input, "previous_response_id": parent})
}

/// Repeats the request until the reply has this status.
async fn until(gateway: &Gateway, body: &Value, status: u16) {
    let what = format!("status {status}");
    eventually(&what, async || gateway.client.create(body).await.status == status).await;
}

/// Waits until the connections for reads and for writes are back: they are reopened independently.
async fn ready(gateway: &Gateway) {
    eventually("the gateway is ready", async || gateway.client.get("/readyz").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_turns_of_a_chain_alternate_between_replicas() {
    let (upstream, replicas) = two_replicas().await;
    let mut parent = Value::Null;
    for n in 0..10 {
        let response = replicas[n % 2].client.created(turn(&format!("turn {n}"), &parent)).await;
        parent = response["id"].clone();
    }
    assert_eq!(upstream.last_request().unwrap().json()["input"].as_array().unwrap().len(), 19);
    for replica in &replicas {
        replica.client.get(&format!("/v1/responses/{}", parent.as_str().unwrap())).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_replicas_can_continue_one_parent_concurrently() {
    let (_upstream, replicas) = two_replicas().await;
    let parent = replicas[0].client.created(turn("root", &Value::Null)).await["id"].clone();
    let children = (0..20).map(|n| {
        let body = turn(&format!("child {n}"), &parent);
        let client = &replicas[n % 2].client;
        async move { client.created(body).await }
    });
    for child in join_all(children).await {
        let id = child["id"].as_str().unwrap().to_owned();
        for replica in &replicas {
            assert_eq!(replica.client.get(&format!("/v1/responses/{id}")).await.ok(), child);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_on_one_replica_soon_applies_on_the_other() {
    let (_upstream, [one, two]) = two_replicas().await;
    let first = two.client.created(turn("one", &Value::Null)).await["id"].clone();
    let second = two.client.created(turn("two", &first)).await["id"].clone();
    let body = turn("again", &second);
    two.client.created(&body).await;
    let path = format!("/v1/responses/{}", second.as_str().unwrap());
    one.client.delete(&path).await.ok();
    assert_eq!(two.client.get(&path).await.status, 404, "reading goes to the database");
    until(&two, &body, 400).await;
    // The deletion lasts, and earlier responses are still there.
    assert_eq!(two.client.create(&body).await.status, 400);
    two.client.created(turn("fork", &first)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_is_slow_to_commit_applies_on_a_replica_whose_clock_is_ahead() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let setup = Setup::over(&upstream).database_url(&url);
    // Nine seconds apart, and six more until the deletion is committed.
    let clock = Arc::new(ManualClock::default());
    clock.go_back(Duration::from_secs(15));
    let (one, two) = tokio::join!(setup.clone().clock(&clock).start(), setup.start());
    let deleted = two.client.created(turn("one", &Value::Null)).await["id"].clone();
    let body = turn("again", &deleted);
    two.client.created(&body).await;
    one.client.delete(&format!("/v1/responses/{}", deleted.as_str().unwrap())).await.ok();
    until(&two, &body, 400).await;
    assert_eq!(two.client.create(&body).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_has_lost_is_not_continued() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let gateway = Setup::over(&upstream).database_url(&url).start().await;
    let client = &gateway.client;
    let first = client.created(turn("one", &Value::Null)).await["id"].clone();
    let not_found = || (400, Some("previous_response_not_found".into()), Some("previous_response_id".into()));
    for is_streamed in [false, true] {
        let lost = client.created(turn("two", &first)).await["id"].clone();
        let lose = "DELETE FROM responses WHERE depth = 2; \
                    DELETE FROM items WHERE response_id NOT IN (SELECT id FROM responses)";
        Postgres::shared().execute(url.rsplit('/').next().unwrap(), lose).await;
        let mut body = turn("three", &lost);
        if is_streamed {
            body["stream"] = true.into();
            // At the end of the stream, or before it if memory is not up to date.
            let said = client.create(&body).await;
            let text = String::from_utf8_lossy(&said.body).into_owned();
            assert!(text.contains("previous_response_not_found"), "{text}");
            assert!(!text.contains("response.completed"), "{text}");
        } else {
            assert_eq!(client.create(&body).await.refusal(), not_found());
        }
        body["stream"] = false.into();
        assert_eq!(client.create(&body).await.refusal(), not_found());
    }
    client.created(turn("two again", &first)).await;
    let report = antiphon_store::verify(&url.parse().unwrap(), &mut |_| ()).await.unwrap();
    assert!(report.is_intact(), "no chain is broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_its_database_and_waits_for_it() {
    let upstream = simulator().await;
    let mut server =
        tokio::task::spawn_blocking(|| Postgres::start(PostgresOptions::default())).await.unwrap();
    let url = server.create_database("late").await;
    server.kill9();
    let gateway = Setup::over(&upstream).database_url(&url).start().await;
    let stored = json!({"model": "sim", "input": "keep this"});
    let refused = gateway.client.create(&stored).await;
    assert_eq!(refused.refusal(), (503, Some("store_unavailable".to_owned()), None));
    assert!(refused.header("retry-after").is_some());
    let unstored = json!({"model": "sim", "input": "forget this", "store": false});
    assert_eq!(gateway.client.create(&unstored).await.status, 503, "there may be keys");
    let open = Setup::over(&upstream).database_url(&url).config("auth = \"none\"").start().await;
    open.client.create(&unstored).await.ok();
    assert_eq!(gateway.client.get("/readyz").await.status, 503);
    assert_eq!(upstream.requests().len(), 1, "what can't be stored did not go upstream");
    server.restart();
    until(&gateway, &stored, 200).await;
    ready(&gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_response_is_lost_when_the_database_is_killed() {
    let upstream = simulator().await;
    let mut server =
        tokio::task::spawn_blocking(|| Postgres::start(PostgresOptions::default())).await.unwrap();
    let url = server.create_database("killed").await;
    let start = || Setup::over(&upstream).database_url(&url).start();
    let (one, two) = tokio::join!(start(), start());
    let is_over = Arc::new(AtomicBool::new(false));
    let chains = (0..8).map(|n| {
        let replicas = [one.client.clone(), two.client.clone()];
        let is_over = Arc::clone(&is_over);
        tokio::spawn(async move {
            let (mut acknowledged, mut refused, mut parent) = (Vec::new(), 0, Value::Null);
            for turns in 0.. {
                if acknowledged.len() >= 2 && is_over.load(Ordering::Relaxed) {
                    break;
                }
                let body = turn(&format!("chain {n}, turn {turns}"), &parent);
                let reply = replicas[turns % 2].create(&body).await;
                if reply.status == 200 {
                    parent = reply.ok()["id"].clone();
                    acknowledged.push(reply.ok());
                } else {
                    assert_eq!(reply.status, 503, "{:?}", reply.json());
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            (acknowledged, refused)
        })
    });
    let chains: Vec<_> = chains.collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.kill9();
        server.restart();
    }
    is_over.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for chain in chains {
        let ended = timeout(Duration::from_secs(180), chain).await;
        let (responses, failures) = ended.expect("turns are served again").unwrap();
        acknowledged.extend(responses);
        refused += failures;
    }
    ready(&one).await;
    let mut lost = 0;
    for response in &acknowledged {
        let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
        lost += u32::from(one.client.get(&path).await.ok() != *response);
    }
    println!("{} acknowledged, {lost} lost, {refused} refused", acknowledged.len());
    assert_eq!(lost, 0);
}

/// A limit on file sizes that ends within a page: the last write is partial, as on a full disk.
const FULL: u64 = (20 << 20) + 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_database_disk_rejects_turns_until_space_is_freed() {
    let upstream = simulator().await;
    // The codes of errors are in the server's log.
    let options =
        PostgresOptions { conf: "log_error_verbosity = verbose".to_owned(), ..PostgresOptions::default() };
    let server = tokio::task::spawn_blocking(|| Postgres::start(options)).await.unwrap();
    let url = server.create_database("full").await;
    // Without a cache, all reads go to the database.
    let gateway = Setup::over(&upstream).config("store.cache = 0").database_url(&url).start().await;
    server.limit_files(Some(FULL));
    // It does not compress.
    let mut random = 88_172_645_463_325_252_u64;
    let mut letter = || {
        for shift in [13, -7, 17] {
            random ^= if shift > 0 { random << shift } else { random >> -shift };
        }
        char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(random >> 58) as usize],
        )
    };
    let text: String = (0..1 << 20).map(|_| letter()).collect();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let reply = gateway.client.create(turn(&format!("{}{text}", acknowledged.len()), &Value::Null)).await;
        if reply.status != 200 {
            break reply;
        }
        acknowledged.push(reply.ok());
        assert!(acknowledged.len() < 100, "the disk never was full");
    };
    assert_eq!(refused.refusal(), (503, Some("store_unavailable".to_owned()), None));
    assert!(acknowledged.len() > 5, "{}", acknowledged.len());
    assert!(server.log().contains("ERROR:  53100: could not extend file"), "{}", server.log());
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().unwrap());
    for response in &acknowledged {
        assert_eq!(gateway.client.get(&path(response)).await.ok(), *response, "reading works");
    }
    let last = acknowledged.last().unwrap();
    let unstored =
        json!({"model": "sim", "input": "forget this", "store": false, "previous_response_id": last["id"]});
    gateway.client.create(unstored).await.ok();
    let sent = upstream.last_request().unwrap().json()["input"].clone();
    assert_eq!(sent.as_array().unwrap().len(), 3, "the turn before, and this one");
    assert_eq!(sent[0]["content"][0]["text"], format!("{}{text}", acknowledged.len() - 1));
    assert_eq!(gateway.client.create(turn(&text, &Value::Null)).await.status, 503, "it is still full");
    server.limit_files(None);
    until(&gateway, &turn("there is room", &Value::Null), 200).await;
    ready(&gateway).await;
    for response in acknowledged {
        assert_eq!(gateway.client.get(&path(&response)).await.ok(), response);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_older_gateway_keeps_working_during_a_newer_migration() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let gateway = Setup::over(&upstream).database_url(&url).start().await;
    let first = gateway.client.created(turn("before", &Value::Null)).await;
    // A next release may add to the schema, and remove nothing.
    let next = "ALTER TABLE responses ADD COLUMN later bigint; CREATE TABLE later (n bigint); \
                INSERT INTO antiphon_schema (version, name, checksum) VALUES (1000, 'later', '00')";
    Postgres::shared().execute(url.rsplit('/').next().unwrap(), next).await;
    let second = gateway.client.created(turn("after", &first["id"])).await;
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path(&second)).await.ok(), second);
    gateway.client.delete(&path(&first)).await.ok();
    gateway.client.created(turn("and on", &second["id"])).await;
    ready(&gateway).await;
    let store = antiphon_store::open(&url.parse().unwrap(), antiphon_store::StoreOptions::default()).await;
    let refusal = store.err().expect("an older gateway does not start").to_string();
    assert!(refusal.contains("schema version 1000") && refusal.contains("run a newer build"), "{refusal}");
}
