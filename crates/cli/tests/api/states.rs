//! Account state, shared by replicas and kept over restarts.

use std::sync::Arc;
use std::time::Duration;

use antiphon_config::Config;
use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_store::{AuditEntry, Clock, Timestamp};
use antiphon_testkit::{Fault, Faults, Gateway, ManualClock, Postgres, Setup, eventually};
use serde_json::{Value, json};

use crate::simulator;

fn plain() -> Value {
    json!({"model": "sim", "input": "x"})
}

fn entry(now: Timestamp) -> AuditEntry {
    AuditEntry::new(now, &rand::random(), "a test", "tested", "a")
}

fn error(code: &str) -> String {
    json!({"error": {"message": "m", "type": "t", "param": null, "code": code}}).to_string()
}

/// Returns once account state is loaded: the gateway replies only after that.
async fn started(gateway: &Gateway) {
    gateway.client.get("/healthz").await;
}

async fn state(gateway: &Gateway) -> &'static str {
    gateway.account_state("a").await
}

async fn wait_for(gateway: &Gateway, wanted: &str) {
    eventually(&format!("the account is {wanted}"), async || state(gateway).await == wanted).await;
}

/// Waits until the gateway has written account state to the store.
async fn wait_until_stored(gateway: &Gateway, is_there: impl Fn(&antiphon_store::StoredAccount) -> bool) {
    eventually("the account state is stored", async || {
        let accounts = gateway.app.chains.store().list_accounts().await.unwrap_or_default();
        accounts.iter().any(&is_there)
    })
    .await;
}

/// An account with a key, and another one that takes over.
async fn two_accounts() -> (Simulator, Simulator, Arc<ManualClock>, Setup) {
    let (first, second) = (simulator().await, simulator().await);
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
        .account(0, "api_key = { value = \"sk-first\" }")
        .config("routing.strategy = \"fill_first\"")
        .clock(&clock);
    (first, second, clock, setup)
}

#[tokio::test]
async fn a_cooldown_and_a_disabled_account_survive_a_restart() {
    for wanted in ["cooling", "disabled"] {
        let (first, _second, clock, setup) = two_accounts().await;
        let gateway = setup.start().await;
        match wanted {
            "cooling" => drop(first.script(Script::http(429, error("insufficient_quota")))),
            _ => first.revoke_credentials(true),
        }
        gateway.client.created(plain()).await;
        wait_for(&gateway, wanted).await;
        wait_until_stored(&gateway, |account| account.name == "a").await;
        let gateway = gateway.restart().await;
        started(&gateway).await;
        assert_eq!(state(&gateway).await, wanted, "known before the first turn");
        gateway.client.created(plain()).await;
        // The credential may have been found to be refused before any turn.
        assert!(first.counts().requests <= 1, "the account gets no turn");
        clock.advance(Duration::from_secs(3601));
        let later = if wanted == "cooling" { "ready" } else { "disabled" };
        assert_eq!(state(&gateway).await, later);
    }
}

#[tokio::test]
async fn a_new_credential_or_upstream_resets_the_state_except_a_pause() {
    let (first, _second, clock, setup) = two_accounts().await;
    let gateway = setup.start().await;
    first.revoke_credentials(true);
    gateway.client.created(plain()).await;
    wait_until_stored(&gateway, |account| account.disabled_at.is_some()).await;
    let setup = gateway.stop().await;
    first.revoke_credentials(false);
    let with_new_key = |setup: &Setup| {
        setup
            .clone()
            .without_account(0)
            .and_account("a", &first.url())
            .account(1, "api_key = { value = \"sk-new\" }")
    };
    let gateway = with_new_key(&setup).start().await;
    started(&gateway).await;
    assert_eq!(state(&gateway).await, "ready");
    let now = clock.now();
    gateway.app.chains.store().pause_account("a", entry(now)).await.unwrap();
    let gateway = gateway.restart().await;
    started(&gateway).await;
    assert_eq!(state(&gateway).await, "paused");
    let gateway = {
        gateway.stop().await;
        setup.start().await
    };
    started(&gateway).await;
    assert_eq!(state(&gateway).await, "paused", "whatever its credential");
}

#[tokio::test]
async fn a_paused_account_gets_no_turns_until_it_is_resumed() {
    let (first, second, clock, setup) = two_accounts().await;
    let gateway = setup.start().await;
    let store = Arc::clone(gateway.app.chains.store());
    let now = clock.now();
    store.pause_account("a", entry(now)).await.unwrap();
    wait_for(&gateway, "paused").await;
    gateway.client.created(plain()).await;
    assert_eq!((first.counts().requests, second.counts().requests), (0, 1));
    assert!(store.resume_account("a", entry(now.plus(Duration::from_millis(1)))).await.unwrap());
    wait_for(&gateway, "ready").await;
    gateway.client.created(plain()).await;
    assert_eq!((first.counts().requests, second.counts().requests), (1, 1));
}

#[tokio::test]
async fn a_paused_account_that_leaves_the_configuration_and_comes_back_is_still_paused() {
    let (first, _second, clock, setup) = two_accounts().await;
    let gateway = setup.start().await;
    gateway.app.chains.store().pause_account("a", entry(clock.now())).await.unwrap();
    wait_for(&gateway, "paused").await;
    let pool = &gateway.app.pool;
    let all: Vec<_> = pool.accounts().iter().map(|account| account.settings.clone()).collect();
    let routing = || Config::default().routing.settings();
    pool.replace(vec![all[1].clone()], routing()).unwrap();
    pool.replace(all, routing()).unwrap();
    // At once: the state in the store is read again only after some time.
    assert_eq!(pool.view()[0].state.label(clock.now()), "paused");
    gateway.client.created(plain()).await;
    assert_eq!(first.counts().requests, 0);
}

#[tokio::test]
async fn resuming_makes_a_disabled_or_cooling_account_ready() {
    let (first, _second, clock, setup) = two_accounts().await;
    let gateway = setup.start().await;
    let store = Arc::clone(gateway.app.chains.store());
    for wanted in ["disabled", "cooling"] {
        match wanted {
            "cooling" => drop(first.script(Script::http(429, error("x")).header("retry-after", "500"))),
            _ => first.revoke_credentials(true),
        }
        gateway.client.created(plain()).await;
        wait_for(&gateway, wanted).await;
        first.revoke_credentials(false);
        wait_until_stored(&gateway, |account| account.disabled_at.is_some() || account.cooling.is_some())
            .await;
        assert!(store.resume_account("a", entry(clock.now())).await.unwrap());
        wait_for(&gateway, "ready").await;
    }
}

#[tokio::test]
async fn replicas_share_account_state() {
    let (first, _second, clock, setup) = two_accounts().await;
    let url = Postgres::shared_database().await;
    let setup = setup.database_url(&url);
    let (one, two) = (setup.clone().start().await, setup.start().await);
    first.script(Script::http(429, error("rate_limit_exceeded")).header("retry-after", "600"));
    one.client.created(plain()).await;
    wait_for(&two, "cooling").await;
    two.client.created(plain()).await;
    assert_eq!(first.counts().requests, 1);
    clock.advance(Duration::from_secs(601));
    first.revoke_credentials(true);
    two.client.created(plain()).await;
    wait_for(&one, "disabled").await;
    first.revoke_credentials(false);
    assert!(one.app.chains.store().resume_account("a", entry(clock.now())).await.unwrap());
    wait_for(&one, "ready").await;
    wait_for(&two, "ready").await;
}

#[tokio::test]
async fn account_state_is_written_when_the_store_recovers() {
    let (first, _second, _clock, setup) = two_accounts().await;
    let faults = Faults::default();
    let gateway = setup.faults(&faults).start().await;
    faults.set(Fault::Down);
    first.revoke_credentials(true);
    let reply = gateway.client.create(json!({"model": "sim", "input": "x", "store": false})).await;
    assert_eq!(reply.status, 200);
    wait_for(&gateway, "disabled").await;
    faults.set(Fault::None);
    wait_until_stored(&gateway, |account| account.disabled_at.is_some()).await;
    assert_eq!(state(&gateway).await, "disabled", "the older state in the store is not taken over");
}
