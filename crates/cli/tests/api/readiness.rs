//! `/readyz` says yes only if a turn could be served and stored.

use std::time::{Duration, Instant};

use antiphon_testkit::{Fault, Faults, Gateway, Postgres, Setup, eventually};
use futures_util::future::join_all;
use http::Method;
use serde_json::json;

use crate::simulator;

/// Why it is not ready.
async fn reason(gateway: &Gateway) -> Option<String> {
    let reply = gateway.client.get("/readyz").await;
    (reply.status == 503).then(|| reply.json()["reason"].as_str().unwrap().to_owned())
}

async fn stored(gateway: &Gateway) -> u16 {
    gateway.client.create(json!({"model": "sim", "input": "x"})).await.status.as_u16()
}

#[tokio::test]
async fn a_gateway_that_does_not_know_its_keys_is_not_ready() {
    let upstream = simulator().await;
    let faults = Faults::default();
    faults.set(Fault::ReadsFail);
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    assert_eq!(reason(&gateway).await.as_deref(), Some("the keys could not be read yet"));
    assert_eq!(stored(&gateway).await, 503);
    let open = Setup::over(&upstream).faults(&faults).config("auth = \"none\"").start().await;
    assert_eq!(reason(&open).await, None, "it asks for no key");
    faults.set(Fault::None);
    eventually("it is ready", async || reason(&gateway).await.is_none()).await;
    assert_eq!(stored(&gateway).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_a_table_is_not_ready_until_it_is_back() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let execute = async |sql: &str| Postgres::shared().execute(url.rsplit('/').next().unwrap(), sql).await;
    let gateway = Setup::over(&upstream).database_url(&url).start().await;
    for table in ["responses", "items", "request_log", "counters", "reservations"] {
        eventually("it is ready", async || reason(&gateway).await.is_none()).await;
        execute(&format!("ALTER TABLE {table} RENAME TO away")).await;
        eventually(&format!("it misses {table}"), async || reason(&gateway).await.is_some()).await;
        // Only turns under limits need the others.
        let is_needed_by_all = !matches!(table, "counters" | "reservations");
        assert!(!is_needed_by_all || stored(&gateway).await == 503, "{table}");
        execute(&format!("ALTER TABLE away RENAME TO {table}")).await;
    }
    eventually("it is ready", async || reason(&gateway).await.is_none()).await;
    assert_eq!(stored(&gateway).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_to_a_table_that_turns_do_not_need_leaves_them_alone() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let name = url.rsplit('/').next().unwrap();
    let user = format!("user_of_{name}");
    let own = format!(
        "CREATE ROLE {user} LOGIN; ALTER DATABASE {name} OWNER TO {user}; GRANT ALL ON SCHEMA public TO {user}"
    );
    Postgres::shared().execute(name, &own).await;
    let url = url.replace("//postgres@", &format!("//{user}@"));
    let gateway = Setup::over(&upstream).database_url(&url).start().await;
    let begin = || gateway.client.request(Method::POST, "/v1/conversations", &[], "{}");
    assert_eq!(begin().await.status, 200);
    Postgres::shared().execute(name, &format!("REVOKE INSERT ON conversations FROM {user}")).await;
    for _ in 0..20 {
        let (refused, turn) = tokio::join!(begin(), stored(&gateway));
        assert_eq!(refused.refusal(), (503, Some("store_unavailable".to_owned()), None));
        assert_eq!(turn, 200);
    }
    assert_eq!(reason(&gateway).await, None);
    Postgres::shared().execute(name, &format!("GRANT INSERT ON conversations TO {user}")).await;
    assert_eq!(begin().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_share_one_check_of_the_store() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    faults.set(Fault::SlowWrites(Duration::from_millis(500)));
    let began = Instant::now();
    let replies = join_all((0..50).map(|_| gateway.client.get("/readyz"))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    // One after the other they would take 25 s.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
