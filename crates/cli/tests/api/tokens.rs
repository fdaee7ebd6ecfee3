//! Accounts whose access tokens expire: when they are refreshed, and what happens to turns in the meantime.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{AuthorizationServer, Fault, Faults, ManualClock, Postgres, Setup, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{listed, simulator};

const REFUSED: &str =
    r#"{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"token_expired"}}"#;

/// The first account gets its tokens from an authorization server. The others have no credential.
struct Tokens {
    server: AuthorizationServer,
    upstreams: Vec<Simulator>,
    clock: Arc<ManualClock>,
    setup: Setup,
}

async fn tokens(upstreams: usize) -> Tokens {
    let server = AuthorizationServer::start().await;
    let upstreams = join_all((0..upstreams).map(|_| simulator())).await;
    let urls: Vec<String> = upstreams.iter().map(Simulator::url).collect();
    let clock = Arc::new(ManualClock::default());
    let accounts = ["a0", "a1"].into_iter().zip(urls.iter().map(String::as_str));
    let setup = Setup::with_accounts(accounts)
        .account(0, &server.account())
        .config("routing.strategy = \"fill_first\"")
        .clock(&clock);
    // A database on a server has no folder of its own for the key file.
    let key_file = setup.database().with_extension("key");
    let setup = setup.config(&format!("store.key_file = \"{}\"", key_file.display()));
    Tokens { server, upstreams, clock, setup }
}

fn plain() -> Value {
    json!({"model": "sim", "input": "x"})
}

impl Tokens {
    /// What each request to an upstream was authorized with.
    fn bearers(&self, index: usize) -> Vec<String> {
        let bearer = |received: &antiphon_simulator::upstream::Received| {
            received.header("authorization").unwrap_or("none").replace("Bearer ", "")
        };
        self.upstreams[index].requests().iter().map(bearer).collect()
    }
}

#[tokio::test]
async fn concurrent_first_turns_share_one_refresh() {
    let tokens = tokens(1).await;
    let gateway = tokens.setup.clone().start().await;
    let replies = join_all((0..64).map(|_| gateway.client.create(plain()))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    let requests = tokens.server.requests();
    assert_eq!(requests.len(), 1);
    let (headers, form) = &requests[0];
    assert_eq!(
        form, "grant_type=refresh_token&refresh_token=refresh-0&client_id=me&scope=a+b",
        "as RFC 6749 has it"
    );
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(headers["x-tenant"], "t");
    assert!(tokens.bearers(0).iter().all(|bearer| bearer == "access-1"));
    let metrics = gateway.client.metrics().await;
    assert!(metrics.contains(r#"token_refreshes_total{account="a0",outcome="refreshed"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_token_is_refreshed_before_it_expires_without_delaying_turns() {
    let tokens = tokens(1).await;
    let gateway = tokens.setup.clone().start().await;
    gateway.client.created(plain()).await;
    tokens.server.hold();
    tokens.clock.advance(Duration::from_secs(3600 - 200));
    let replies = join_all((0..32).map(|_| gateway.client.create(plain()))).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "the old token is valid for another 200 s");
    tokens.server.wait_for_requests(2).await;
    tokens.server.open();
    eventually("a turn has the new token", async || {
        gateway.client.created(plain()).await;
        tokens.bearers(0).last().unwrap() == "access-2"
    })
    .await;
    assert_eq!(tokens.server.requests().len(), 2, "one refresh for all");
    assert!(!tokens.server.was_reused());
    let bearers = tokens.bearers(0);
    assert!(bearers.iter().all(|bearer| bearer == "access-1" || bearer == "access-2"), "{bearers:?}");
}

#[tokio::test]
async fn turns_with_an_expired_token_wait_for_one_refresh() {
    let tokens = tokens(1).await;
    let gateway = tokens.setup.clone().start().await;
    gateway.client.created(plain()).await;
    tokens.clock.advance(Duration::from_secs(3700));
    tokens.server.hold();
    let client = gateway.client.clone();
    let turns = tokio::spawn(async move { join_all((0..16).map(|_| client.create(plain()))).await });
    tokens.server.wait_for_requests(2).await;
    tokens.server.open();
    assert!(turns.await.unwrap().iter().all(|reply| reply.status == 200));
    assert_eq!(tokens.server.requests().len(), 2);
    assert!(tokens.bearers(0)[1..].iter().all(|bearer| bearer == "access-2"));
}

#[tokio::test]
async fn rotated_tokens_survive_a_restart_and_are_stored_encrypted() {
    let tokens = tokens(1).await;
    let gateway = tokens.setup.clone().start().await;
    gateway.client.created(plain()).await;
    let gateway = gateway.restart().await;
    gateway.client.created(plain()).await;
    assert_eq!(tokens.server.requests().len(), 1, "the access token is still valid");
    tokens.clock.advance(Duration::from_secs(3700));
    let gateway = gateway.restart().await;
    gateway.client.created(plain()).await;
    assert_eq!(tokens.bearers(0), ["access-1", "access-1", "access-2"]);
    assert!(!tokens.server.was_reused());
    let setup = gateway.stop().await;
    if let Ok(database) = std::fs::read(setup.database()) {
        for secret in ["refresh-1", "access-1", "refresh-2", "access-2"] {
            let secret = secret.as_bytes();
            assert!(!database.windows(secret.len()).any(|window| window == secret));
        }
    }
}

#[tokio::test]
async fn a_refused_token_is_refreshed_once_and_the_account_is_retried() {
    let tokens = tokens(2).await;
    let gateway = tokens.setup.clone().start().await;
    gateway.client.created(plain()).await;
    let (refusals, gates): (Vec<_>, Vec<_>) = (0..8).map(|_| Script::http(401, REFUSED).gated()).unzip();
    for refusal in refusals {
        tokens.upstreams[0].script(refusal);
    }
    let turns = join_all((0..8).map(|_| gateway.client.create(plain())));
    let refused = async {
        // All turns have reached the upstream before the first one is refused.
        tokens.upstreams[0].wait_until(|upstream| upstream.counts().requests == 9).await;
        gates.iter().for_each(antiphon_simulator::upstream::Gate::open);
    };
    let (replies, ()) = futures_util::future::join(turns, refused).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(tokens.server.requests().len(), 2, "one refresh for all that were refused");
    assert_eq!((tokens.bearers(0).len(), tokens.bearers(1).len()), (17, 0));
    assert!(tokens.bearers(0)[9..].iter().all(|bearer| bearer == "access-2"));
    assert_eq!(gateway.account_state("a0").await, "ready");
}

#[tokio::test]
async fn a_refused_new_token_disables_the_account() {
    let tokens = tokens(2).await;
    let gateway = tokens.setup.clone().start().await;
    listed(&tokens.upstreams[0]).await;
    tokens.upstreams[0].revoke_credentials(true);
    assert_eq!(gateway.client.create(plain()).await.status, 200);
    assert_eq!(tokens.bearers(0), ["access-1", "access-2"]);
    eventually("the account is disabled", async || gateway.account_state("a0").await == "disabled").await;
    assert_eq!(tokens.bearers(1).len(), 1);
}

#[tokio::test]
async fn a_refused_refresh_disables_the_account_and_the_turn_fails_over() {
    for failure in [(400, r#"{"error":"invalid_grant"}"#), (401, r#"{"error":{"code":"invalid_client"}}"#)] {
        let tokens = tokens(2).await;
        let gateway = tokens.setup.clone().start().await;
        tokens.server.fails(Some(failure));
        assert_eq!(gateway.client.create(plain()).await.status, 200, "{failure:?}");
        assert_eq!((gateway.account_state("a0").await, tokens.bearers(0).len()), ("disabled", 0));
        assert_eq!(tokens.bearers(1), ["none"]);
        for _ in 0..3 {
            gateway.client.created(plain()).await;
        }
        // For the first turn, and perhaps for the list of models, but not for every turn.
        assert!(tokens.server.requests().len() <= 2, "{:?}", tokens.server.requests());
    }
}

#[tokio::test]
async fn turns_do_not_wait_forever_for_a_slow_refresh_and_use_its_token_later() {
    let mut tokens = tokens(2).await;
    tokens.setup = tokens.setup.config("timeouts.connect = \"2s\"");
    let gateway = tokens.setup.clone().start().await;
    tokens.server.hold();
    gateway.client.created(plain()).await;
    assert_eq!(
        (tokens.bearers(0).len(), tokens.bearers(1).len()),
        (0, 1),
        "the turn went to the other account"
    );
    tokens.server.open();
    eventually("a turn has the token", async || {
        gateway.client.created(plain()).await;
        !tokens.bearers(0).is_empty()
    })
    .await;
    assert_eq!((tokens.bearers(0), tokens.server.requests().len()), (vec!["access-1".to_owned()], 1));
}

#[tokio::test]
async fn a_refused_refresh_disables_the_account_even_while_its_token_is_valid() {
    let tokens = tokens(2).await;
    let gateway = tokens.setup.clone().start().await;
    gateway.client.created(plain()).await;
    tokens.clock.advance(Duration::from_secs(3600 - 200));
    tokens.server.fails(Some((400, r#"{"error":"invalid_grant"}"#)));
    eventually("the account is disabled", async || {
        gateway.client.created(plain()).await;
        gateway.account_state("a0").await == "disabled"
    })
    .await;
    assert_eq!(gateway.client.create(plain()).await.status, 200);
}

#[tokio::test]
async fn a_failing_authorization_server_does_not_disable_the_account() {
    for failure in [(500, ""), (429, "{}"), (200, "no JSON"), (400, r#"{"error":"temporarily_unavailable"}"#)]
    {
        let tokens = tokens(2).await;
        let gateway = tokens.setup.clone().start().await;
        tokens.server.fails(Some(failure));
        assert_eq!(gateway.client.create(plain()).await.status, 200, "{failure:?}");
        assert_eq!((gateway.account_state("a0").await, tokens.bearers(0).len()), ("ready", 0), "{failure:?}");
        tokens.server.fails(None);
        eventually("the account serves again", async || {
            gateway.client.created(plain()).await;
            !tokens.bearers(0).is_empty()
        })
        .await;
        assert_eq!(tokens.bearers(0), ["access-1"]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_interrupt_a_refresh() {
    let tokens = tokens(1).await;
    let gateway = tokens.setup.clone().start().await;
    tokens.server.hold();
    let client = gateway.client.clone();
    let turn = tokio::spawn(async move { client.create(plain()).await });
    tokens.server.wait_for_requests(1).await;
    turn.abort();
    tokens.server.open();
    gateway.client.created(plain()).await;
    gateway.restart().await.client.created(plain()).await;
    assert!(!tokens.server.was_reused());
    assert!(tokens.bearers(0).iter().all(|bearer| bearer == "access-1"));
}

#[tokio::test]
async fn tokens_that_cannot_be_saved_yet_are_used_and_saved_later() {
    let tokens = tokens(1).await;
    let faults = Faults::default();
    let gateway = tokens.setup.clone().faults(&faults).start().await;
    tokens.server.hold();
    let client = gateway.client.clone();
    let unstored = json!({"model": "sim", "input": "x", "store": false});
    let turn = tokio::spawn(async move { client.create(unstored).await });
    tokens.server.wait_for_requests(1).await;
    faults.set(Fault::WritesFail);
    tokens.server.open();
    assert_eq!(turn.await.unwrap().status, 200);
    faults.set(Fault::None);
    let setup = gateway.stop().await;
    tokens.clock.advance(Duration::from_secs(3700));
    setup.start().await.client.created(plain()).await;
    assert_eq!(tokens.bearers(0), ["access-1", "access-2"]);
    assert!(!tokens.server.was_reused());
}

#[tokio::test]
async fn a_new_refresh_token_in_the_configuration_replaces_stored_tokens() {
    let tokens = tokens(1).await;
    let gateway = tokens.setup.clone().start().await;
    gateway.client.created(plain()).await;
    let setup = gateway.stop().await;
    // After another login, the server knows this refresh token as its newest.
    let credential = tokens.server.account().replace("refresh-0", "refresh-1");
    let setup =
        setup.without_account(0).and_account("a0", &tokens.upstreams[0].url()).account(0, &credential);
    setup.start().await.client.created(plain()).await;
    assert_eq!(tokens.bearers(0), ["access-1", "access-2"]);
}

#[tokio::test]
async fn replicas_refresh_one_at_a_time_and_share_the_tokens() {
    let tokens = tokens(1).await;
    let url = Postgres::shared_database().await;
    let setup = tokens.setup.clone().database_url(&url);
    let replicas = join_all((0..3).map(|_| setup.clone().start())).await;
    for round in 1..=3 {
        tokens.server.hold();
        let clients: Vec<_> = replicas.iter().map(|replica| replica.client.clone()).collect();
        let turns = tokio::spawn(async move {
            join_all(clients.iter().flat_map(|client| (0..4).map(|_| client.create(plain())))).await
        });
        tokens.server.wait_for_requests(round).await;
        tokens.server.open();
        assert!(turns.await.unwrap().iter().all(|reply| reply.status == 200));
        tokens.clock.advance(Duration::from_secs(3700));
    }
    assert_eq!(tokens.server.requests().len(), 3, "one refresh for all replicas each time");
    assert!(!tokens.server.was_reused());
}
