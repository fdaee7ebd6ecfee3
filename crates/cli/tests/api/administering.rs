//! The admin API, as an operator's tools call it.

use std::slice;
use std::sync::Arc;

use antiphon_access::admin::{AdminToken, Role};
use antiphon_access::audit::Actor;
use antiphon_access::sessions::{Identity, Session};
use antiphon_simulator::upstream::Script;
use antiphon_store::SESSIONS_PER_OPERATOR;
use antiphon_testkit::{
    Client, Events, Fault, Faults, Gateway, ManualClock, Postgres, Reply, Setup, eventually, header,
};
use futures_util::future::{join_all, try_join_all};
use http::Method;
use serde_json::{Value, json};

use crate::signing_in::{cookies, text, value};
use crate::{gateway, simulator};

/// Calls with the admin token.
pub(crate) struct Operator {
    pub(crate) client: Client,
    pub(crate) token: String,
}

impl Operator {
    pub(crate) async fn of(gateway: &Gateway) -> Self {
        let token = {
            let (store, clock) = (&**gateway.app.chains.store(), &*gateway.app.env.clock);
            AdminToken::rotate(store, clock, Role::Admin, Actor::CommandLine).await.unwrap()
        };
        Self { client: gateway.client.clone(), token: token.expose().to_owned() }
    }

    pub(crate) async fn call(&self, method: Method, path: &str) -> Reply {
        self.send(method, path, "").await
    }

    /// As [`call`](Self::call), with a body.
    pub(crate) async fn send(&self, method: Method, path: &str, body: impl ToString) -> Reply {
        let token = header("authorization", &format!("Bearer {}", self.token));
        self.client.request(method, path, &[token], body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path).await.ok()
    }

    pub(crate) async fn post(&self, path: &str) -> Value {
        self.call(Method::POST, path).await.ok()
    }

    /// GET, read event by event.
    pub(crate) async fn follow(&self, path: &str) -> Events {
        self.client.with_secret(&self.token).follow(path).await
    }

    /// Creates a key and returns its secret.
    pub(crate) async fn key(&self, key: Value) -> String {
        let reply = self.send(Method::POST, "/api/keys", &key).await;
        assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
        reply.json()["secret"].as_str().unwrap().to_owned()
    }

    /// The same operator at another replica.
    pub(crate) fn at(&self, gateway: &Gateway) -> Self {
        Self { client: gateway.client.clone(), token: self.token.clone() }
    }
}

fn plain() -> Value {
    json!({"model": "sim", "input": "x"})
}

#[tokio::test]
async fn requests_without_the_admin_token_are_rejected() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    let operator = Operator::of(&gateway).await;
    let store = gateway.app.chains.store();
    assert!(
        AdminToken::create_first(&**store, &*gateway.app.env.clock).await.unwrap().is_none(),
        "it has one"
    );
    // The same token with another last digit.
    let last = if operator.token.ends_with('0') { '1' } else { '0' };
    let wrong = format!("Bearer {}{last}", &operator.token[..operator.token.len() - 1]);
    let right = format!("Bearer {}", operator.token);
    for path in ["/api/accounts", "/api/accounts/one", "/api/accounts/none"] {
        for headers in [
            vec![],
            vec![header("authorization", &wrong)],
            vec![header("authorization", &right.replace("Bearer", "Basic"))],
            vec![header("authorization", "Bearer ")],
            vec![header("x-api-key", &operator.token)],
        ] {
            let reply = gateway.client.request(Method::GET, path, &headers, "").await;
            assert_eq!(reply.refusal(), (401, Some("invalid_admin_token".into()), None), "{headers:?}");
        }
    }
    let earlier = operator.token.clone();
    let operator = Operator::of(&gateway).await;
    assert_ne!(operator.token, earlier);
    let reply =
        Operator { token: earlier, client: gateway.client.clone() }.call(Method::GET, "/api/accounts").await;
    assert_eq!(reply.status, 401, "another token ends the one before");
    operator.get("/api/accounts").await;
    faults.set(Fault::Down);
    let reply = operator.call(Method::GET, "/api/accounts").await;
    assert_eq!(reply.refusal(), (503, Some("store_unavailable".into()), None));
}

#[tokio::test]
async fn invalid_admin_tokens_are_counted() {
    // The clock stands still, so that no further attempt is allowed meanwhile.
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).clock(&Arc::new(ManualClock::default())).start().await;
    let same_site = header("sec-fetch-site", "same-origin");
    let sign_in = async || {
        let form = format!("token=apn-admin-{}", "0".repeat(64));
        gateway
            .client
            .request(Method::POST, "/login", slice::from_ref(&same_site), form)
            .await
            .status
            .as_u16()
    };
    let call = async || gateway.client.with_secret("apn-admin-0").get("/api/keys").await.status.as_u16();
    for _ in 0..15 {
        assert_eq!((call().await, sign_in().await), (401, 401));
    }
    assert_eq!((call().await, sign_in().await), (429, 429));
    let metrics = gateway.client.metrics().await;
    for (code, count) in [("invalid_admin_token", 30), ("rate_limit_exceeded", 2)] {
        let metric = format!("antiphon_failures_total{{fault=\"client\",code=\"{code}\"}} {count}\n");
        assert!(metrics.contains(&metric), "{metric}: {metrics}");
    }
}

/// The reply to a sign-in with a token.
pub(crate) async fn sign_in(gateway: &Gateway, token: &str) -> Reply {
    let same_site = [header("sec-fetch-site", "same-origin")];
    gateway.client.request(Method::POST, "/login", &same_site, format!("token={token}")).await
}

#[tokio::test]
async fn an_address_signs_in_so_often_at_most_with_the_token_of_a_role() {
    // The clock stands still, so that no further sign-in is allowed meanwhile.
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).clock(&Arc::new(ManualClock::default())).start().await;
    let operator = Operator::of(&gateway).await;
    let viewer = operator.post("/api/tokens/viewer").await["token"].as_str().unwrap().to_owned();
    for _ in 0..30 {
        assert_eq!(sign_in(&gateway, &viewer).await.status, 303);
    }
    let reply = sign_in(&gateway, &viewer).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, Some("2")));
    assert!(text(&reply).contains("Too many sign-ins from this address"), "{}", text(&reply));
    assert_eq!(operator.get("/api/sessions").await["sessions"].as_array().unwrap().len(), 30);
    assert_eq!(sign_in(&gateway, &operator.token).await.status, 303);
}

#[tokio::test]
async fn the_sessions_of_an_operator_hide_no_others() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    assert_eq!(sign_in(&gateway, &operator.token).await.status, 303);
    let eve = Identity { subject: "eve".to_owned(), name: "eve".to_owned() };
    let (store, clock) = (&**gateway.app.chains.store(), &*gateway.app.env.clock);
    let opened = (0..=SESSIONS_PER_OPERATOR).map(|_| Session::open(store, clock, (Role::Viewer, &eve), None));
    try_join_all(opened).await.unwrap();
    let sessions = operator.get("/api/sessions").await["sessions"].clone();
    let of_role = |role: &str| sessions.as_array().unwrap().iter().filter(|one| one["role"] == role).count();
    assert_eq!((of_role("viewer"), of_role("admin")), (100, 1));
}

#[tokio::test]
async fn an_operator_in_any_number_of_sessions_leaves_places_in_the_live_view_for_others() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let token = operator.post("/api/tokens/viewer").await["token"].as_str().unwrap().to_owned();
    let viewer = Operator { token, client: gateway.client.clone() };
    let _watching = join_all((0..64).map(|_| viewer.follow("/api/live"))).await;
    let told = "All 64 places of this operator in the live view are taken: close a page or client that uses one, or wait until \
                one is free.";
    let refused = viewer.call(Method::GET, "/api/live").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["message"]), (429, &json!(told)));
    for _ in 0..2 {
        let signed_in = sign_in(&gateway, &viewer.token).await;
        let cookie = [header("cookie", value(&cookies(&signed_in)[0]))];
        let refused = gateway.client.request(Method::GET, "/live", &cookie, "").await;
        assert_eq!(refused.status, 429);
        assert!(text(&refused).contains(told), "{}", text(&refused));
    }
    operator.follow("/api/live").await.next().await.unwrap();
}

#[tokio::test]
async fn no_session_outlives_the_admin_token_that_opened_it() {
    let (_upstream, gateway) = gateway().await;
    let same_site = header("sec-fetch-site", "same-origin");
    let mut operator = Operator::of(&gateway).await;
    for round in 0..10 {
        let form = format!("token={}", operator.token);
        let sign_in =
            || gateway.client.request(Method::POST, "/login", slice::from_ref(&same_site), form.clone());
        let (replies, replaced) = tokio::join!(join_all([sign_in(), sign_in()]), Operator::of(&gateway));
        for reply in replies {
            assert!(matches!(reply.status.as_u16(), 303 | 401), "{}", reply.status);
        }
        operator = replaced;
        assert_eq!(operator.get("/api/sessions").await["sessions"], json!([]), "round {round}");
    }
}

#[tokio::test]
async fn accounts_are_shown_with_configuration_and_state_but_without_secrets() {
    let (first, second) = (simulator().await, simulator().await);
    let gateway = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
        .account(0, "api_key = { value = \"sk-secret\" }\npriority = 1")
        .start()
        .await;
    let operator = Operator::of(&gateway).await;
    first.script(Script::http(429, "{}").header("retry-after", "100"));
    gateway.client.created(plain()).await;
    let accounts = operator.get("/api/accounts").await;
    let (a, b) = (&accounts["accounts"][0], &accounts["accounts"][1]);
    assert_eq!(
        (&a["name"], &a["state"], &a["cooling_reason"]),
        (&json!("a"), &json!("cooling"), &json!("rate_limit"))
    );
    assert!(a["cooling_until"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        (&b["state"], &b["cooling_until"], &b["in_flight"]),
        (&json!("ready"), &Value::Null, &json!(0))
    );
    assert_eq!(a["config"]["api_key"], json!({"value": "<redacted>"}));
    assert!(!accounts.to_string().contains("sk-secret"));
    // Quota windows end in between.
    let but_quota = |mut account: Value| {
        account.as_object_mut().unwrap().remove("quota");
        account
    };
    assert_eq!(but_quota(operator.get("/api/accounts/a").await), but_quota(a.clone()));
    let reply = operator.call(Method::GET, "/api/accounts/none").await;
    assert_eq!(reply.refusal(), (404, Some("account_not_found".into()), None));
}

#[tokio::test]
async fn an_operator_pauses_and_resumes_an_account_on_every_replica() {
    let (first, second) = (simulator().await, simulator().await);
    let url = Postgres::shared_database().await;
    let setup = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
        .config("routing.strategy = \"fill_first\"")
        .database_url(&url);
    let (one, two) = (setup.clone().start().await, setup.start().await);
    let operator = Operator::of(&one).await;
    assert_eq!(operator.post("/api/accounts/a/pause").await["state"], "paused");
    one.client.created(plain()).await;
    assert_eq!(first.counts().requests, 0);
    let other = operator.at(&two);
    let is = async |state: &str| other.get("/api/accounts/a").await["state"] == state;
    eventually("the other replica pauses it", async || is("paused").await).await;
    let chain = two.client.created(plain()).await;
    assert_eq!(operator.post("/api/accounts/a/resume").await["state"], "ready");
    one.client.created(plain()).await;
    assert_eq!(first.counts().requests, 1);
    eventually("the other replica resumes it", async || is("ready").await).await;
    let follow = json!({"model": "sim", "input": "y", "previous_response_id": chain["id"]});
    two.client.created(follow).await;
    assert_eq!(second.counts().requests, 3, "its chain stays where it went");
}

#[tokio::test]
async fn resuming_a_just_disabled_account_lasts() {
    let (first, second) = (simulator().await, simulator().await);
    let gateway = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
        .config("routing.strategy = \"fill_first\"")
        .start()
        .await;
    let operator = Operator::of(&gateway).await;
    for _ in 0..3 {
        first.revoke_credentials(true);
        gateway.client.created(plain()).await;
        let is_disabled = async || operator.get("/api/accounts/a").await["state"] == "disabled";
        eventually("the account is disabled", is_disabled).await;
        first.revoke_credentials(false);
        assert_eq!(operator.post("/api/accounts/a/resume").await["state"], "ready");
        gateway.client.created(plain()).await;
    }
    assert_eq!(second.counts().requests, 3, "each time, the resumed account serves the next turn");
}

#[tokio::test]
async fn routes_without_parameters_refuse_any() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let secret = operator.key(json!({"name": "laptop"})).await;
    let routes = [
        "GET /api/sessions",
        "DELETE /api/sessions",
        "DELETE /api/sessions/x",
        "GET /api/tokens",
        "POST /api/tokens/viewer",
        "GET /api/config",
        "GET /api/store",
        "GET /api/live",
        "POST /api/keys",
        "GET /api/keys/laptop",
        "GET /api/keys/laptop/limits",
        "GET /api/keys/laptop/clients",
        "PATCH /api/keys/laptop",
        "POST /api/keys/laptop/rotate",
        "POST /api/keys/laptop/revoke",
        "DELETE /api/keys/laptop",
        "GET /api/accounts/one",
        "POST /api/accounts/one/pause",
        "POST /api/accounts/one/resume",
        "POST /api/accounts/one/test",
    ];
    for (method, path) in routes.map(|route| route.split_once(' ').unwrap()) {
        let reply = operator.call(method.parse().unwrap(), &format!("{path}?overlap_seconds=60")).await;
        let refused = (400, Some("unknown_parameter".to_owned()), Some("overlap_seconds".to_owned()));
        assert_eq!(reply.refusal(), refused, "{method} {path}");
    }
    let client = gateway.client.with_secret(&secret);
    eventually("the key still works", async || client.get("/v1/models").await.status == 200).await;
    assert_eq!(operator.call(Method::GET, "/api/config?").await.status, 200);
}

#[tokio::test]
async fn an_account_is_tested_with_its_own_credential() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account_key("sk-one").start().await;
    let operator = Operator::of(&gateway).await;
    let tested = operator.post("/api/accounts/one/test").await;
    assert_eq!(tested, json!({"account": "one", "answers": true, "error": null, "api": "responses"}));
    drop(upstream);
    let tested = operator.post("/api/accounts/one/test").await;
    assert!(tested["answers"] == false && tested["error"].is_string(), "{tested}");
}

#[tokio::test]
async fn an_account_shows_how_much_of_its_upstreams_limits_is_used() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let operator = Operator::of(&gateway).await;
    upstream.script(
        Script::answer("x")
            .header("x-ratelimit-limit-tokens", "1000")
            .header("x-ratelimit-remaining-tokens", "250")
            .header("x-ratelimit-reset-tokens", "6m0s"),
    );
    assert_eq!(operator.get("/api/accounts/one").await["quota"], json!([]));
    gateway.client.created(plain()).await;
    let shown = operator.get("/api/accounts/one").await;
    let windows = shown["quota"].as_array().unwrap();
    let tokens = windows.iter().find(|window| window["name"] == "tokens").unwrap();
    assert_eq!(tokens["used"], 0.75);
    assert!(tokens["resets_at"].as_str().unwrap().ends_with('Z'), "{shown}");
}
