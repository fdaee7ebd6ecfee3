//! Authentication at every endpoint.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::Simulator;
use antiphon_store::Clock;
use antiphon_testkit::{
    Client, Fault, Faults, Gateway, ManualClock, Postgres, Reply, Setup, Socket, eventually, header,
};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::{gateway, simulator};

/// Every endpoint that needs a key.
const DOORS: [(Method, &str); 14] = [
    (Method::POST, "/v1/responses"),
    (Method::POST, "/v1/responses/compact"),
    (Method::POST, "/v1/responses/input_tokens"),
    (Method::GET, "/v1/responses/resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"),
    (Method::DELETE, "/v1/responses/resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"),
    (Method::POST, "/v1/responses/resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b/cancel"),
    (Method::GET, "/v1/responses/resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b/input_items"),
    (Method::POST, "/v1/chat/completions"),
    (Method::POST, "/v1/embeddings"),
    (Method::GET, "/v1/models"),
    (Method::GET, "/v1/models/sim"),
    (Method::POST, "/backend-api/codex/responses"),
    (Method::POST, "/backend-api/codex/responses/compact"),
    (Method::GET, "/backend-api/codex/models"),
];

fn plain() -> Value {
    json!({"model": "sim", "input": "x"})
}

fn is_refused(reply: &Reply) {
    assert_eq!(reply.refusal(), (401, Some("invalid_api_key".into()), None));
    assert_eq!(reply.json()["error"]["type"], "authentication_error");
}

async fn with_key() -> (Simulator, Gateway, Operator, String) {
    let (upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let secret = operator.key(json!({"name": "one"})).await;
    (upstream, gateway, operator, secret)
}

#[tokio::test]
async fn without_keys_loopback_is_open_until_the_first_key() {
    let (_upstream, gateway) = gateway().await;
    let id = gateway.client.create(plain()).await.ok_id();
    let path = format!("/v1/responses/{id}");
    gateway.client.with_secret("sk-any").get(&path).await.ok();
    let operator = Operator::of(&gateway).await;
    let secret = operator.key(json!({"name": "one"})).await;
    is_refused(&gateway.client.get(&path).await);
    let own = gateway.client.with_secret(&secret);
    assert_eq!(own.get(&path).await.status, 404, "a key has a project of its own");
    let heir = operator.key(json!({"name": "heir", "project": "default"})).await;
    gateway.client.with_secret(&heir).get(&path).await.ok();
    for name in ["one", "heir"] {
        operator.call(Method::POST, &format!("/api/keys/{name}/revoke")).await.ok();
    }
    is_refused(&gateway.client.get(&path).await);
    for name in ["one", "heir"] {
        operator.call(Method::DELETE, &format!("/api/keys/{name}")).await.ok();
    }
    gateway.client.get(&path).await.ok();
}

#[tokio::test]
async fn every_endpoint_requires_a_key_and_rejects_with_the_same_message() {
    let (upstream, gateway, operator, secret) = with_key().await;
    let ended = operator.key(json!({"name": "ended"})).await;
    operator.post("/api/keys/ended/revoke").await;
    let unknown = format!("apn-{}", "0".repeat(64));
    let secrets = ["", "sk-any", "apn-", &secret[..67], &unknown, &ended];
    let mut bodies = Vec::new();
    for (method, path) in DOORS {
        let good = gateway.client.with_secret(&secret);
        let reply = good.request(method.clone(), path, &[], plain().to_string()).await;
        assert!(![401, 403].contains(&reply.status.as_u16()), "{method} {path}: {}", reply.status);
    }
    for (n, (method, path)) in DOORS.into_iter().enumerate() {
        let wrong = gateway.client.with_secret(secrets[n % secrets.len()]);
        let reply = wrong.request(method.clone(), path, &[], plain().to_string()).await;
        is_refused(&reply);
        let reply = gateway.client.request(method, path, &[], "no JSON").await;
        is_refused(&reply);
        bodies.push(reply.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "missing, malformed, unknown and revoked are told apart");
    assert!(upstream.counts().requests <= 7, "only the good ones went on");
    // Unknown routes need no key.
    assert_eq!(gateway.client.get("/v1/nothing").await.status, 404);
    gateway.client.get("/healthz").await.ok();
}

#[tokio::test]
async fn a_key_is_accepted_in_three_headers_and_never_sent_upstream() {
    let (upstream, gateway, _, secret) = with_key().await;
    let bearer = format!("Bearer {secret}");
    for headers in [
        vec![header("authorization", &bearer)],
        vec![header("x-api-key", &secret)],
        vec![header("api-key", &secret)],
        vec![header("authorization", "Basic eDp5"), header("api-key", &secret)],
    ] {
        let body = plain().to_string();
        gateway.client.request(Method::POST, "/v1/responses", &headers, body).await.ok();
        let sent = upstream.last_request().unwrap();
        for name in ["authorization", "x-api-key", "api-key"] {
            assert_eq!(sent.header(name), None, "{headers:?}");
        }
    }
    let wrong = [header("authorization", "Bearer sk-other"), header("x-api-key", &secret)];
    is_refused(&gateway.client.request(Method::POST, "/v1/responses", &wrong, plain().to_string()).await);
}

#[tokio::test]
async fn auth_none_accepts_all_clients_and_ignores_keys() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("auth = \"none\"").start().await;
    let secret = Operator::of(&gateway).await.key(json!({"name": "one"})).await;
    let id = gateway.client.create(plain()).await.ok_id();
    let path = format!("/v1/responses/{id}");
    gateway.client.with_secret(&secret).get(&path).await.ok();
    gateway.client.with_secret("apn-wrong").get(&path).await.ok();
}

#[tokio::test]
async fn a_key_expires_to_the_millisecond() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let operator = Operator::of(&gateway).await;
    operator.key(json!({"name": "other"})).await;
    let now = clock.now();
    let end = jiff::Timestamp::from_millisecond(now.unix_ms() + 10_000).unwrap();
    // The same instant in another time zone.
    let text = end.display_with_offset(jiff::tz::offset(-9)).to_string();
    assert!(text.ends_with("-09:00"), "{text}");
    let secret = operator.key(json!({"name": "short", "expires_at": text})).await;
    let client = gateway.client.with_secret(&secret);
    clock.advance(Duration::from_millis(9_999));
    client.created(plain()).await;
    clock.advance(Duration::from_millis(1));
    is_refused(&client.create(plain()).await);
    let shown = operator.get("/api/keys/short").await;
    assert_eq!((&shown["state"], &shown["expires_at"]), (&json!("expired"), &json!(end.to_string())));
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_until_the_overlap_ends() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let operator = Operator::of(&gateway).await;
    let first = operator.key(json!({"name": "one"})).await;
    let works = async |secret: &str| {
        let reply = gateway.client.with_secret(secret).create(plain()).await;
        assert!([200, 401].contains(&reply.status.as_u16()), "{}", reply.status);
        reply.status == 200
    };
    let id = gateway.client.with_secret(&first).create(plain()).await.ok_id();
    let rotated =
        operator.send(Method::POST, "/api/keys/one/rotate", json!({"overlap_seconds": 3600})).await.ok();
    let second = rotated["secret"].as_str().unwrap().to_owned();
    assert!(rotated["previous_secret_until"].is_string() && second != first);
    assert!(works(&first).await && works(&second).await);
    gateway.client.with_secret(&second).get(&format!("/v1/responses/{id}")).await.ok();
    clock.advance(Duration::from_secs(3600));
    assert!(!works(&first).await && works(&second).await);
    assert_eq!(operator.get("/api/keys/one").await["previous_secret_until"], Value::Null);
    let third = operator.post("/api/keys/one/rotate").await["secret"].as_str().unwrap().to_owned();
    assert!(!works(&second).await && works(&third).await, "without an overlap the one before ends at once");
    operator.post("/api/keys/one/revoke").await;
    assert!(!works(&third).await);
}

#[tokio::test]
async fn a_key_can_use_only_its_models() {
    let (upstream, gateway, operator, _) = with_key().await;
    let secret = operator.key(json!({"name": "narrow", "models": ["si?", "llama-*"]})).await;
    let other = operator.key(json!({"name": "other", "models": ["llama-*"]})).await;
    let (client, other) = (gateway.client.with_secret(&secret), gateway.client.with_secret(&other));
    client.created(plain()).await;
    let before = upstream.counts().requests;
    let (narrow, unnamed) = (json!({"model": "gpt-5", "input": "x"}), json!({"input": "x"}));
    for path in ["/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens"] {
        let reply = client.request(Method::POST, path, &[], unnamed.to_string()).await;
        assert_eq!(reply.refusal(), (400, Some("missing_required_parameter".into()), Some("model".into())));
        let reply = client.request(Method::POST, path, &[], narrow.to_string()).await;
        assert_eq!(reply.refusal(), (403, Some("model_not_allowed".into()), Some("model".into())));
        assert_eq!(reply.json()["error"]["type"], "permission_error");
    }
    assert_eq!(upstream.counts().requests, before);
    let listed = |models: Value| models["data"].as_array().unwrap().iter().any(|model| model["id"] == "sim");
    assert!(listed(client.get("/v1/models").await.ok()));
    assert!(!listed(other.get("/v1/models").await.ok()));
    client.get("/v1/models/sim").await.ok();
    let hidden = other.get("/v1/models/sim").await;
    assert_eq!(hidden.refusal(), (404, Some("model_not_found".into()), Some("model".into())));
}

#[tokio::test]
async fn failed_authentication_is_rate_limited_and_valid_keys_are_not() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let secret = Operator::of(&gateway).await.key(json!({"name": "one"})).await;
    let attempt = async || gateway.client.get("/v1/models").await;
    for _ in 0..30 {
        is_refused(&attempt().await);
    }
    let refused = attempt().await;
    assert_eq!(refused.refusal(), (429, Some("rate_limit_exceeded".into()), None));
    assert_eq!(refused.header("retry-after"), Some("2"));
    let admin = gateway.client.with_secret("apn-admin-wrong").get("/api/keys").await;
    assert_eq!(admin.status, 429, "the admin token can't be guessed at another pace");
    gateway.client.with_secret(&secret).created(plain()).await;
    clock.advance(Duration::from_secs(2));
    is_refused(&attempt().await);
    assert_eq!(attempt().await.status, 429);
}

#[tokio::test]
async fn loaded_keys_work_while_the_store_is_down_and_no_secret_costs_a_read() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    let secret = Operator::of(&gateway).await.key(json!({"name": "one"})).await;
    faults.set(Fault::Down);
    let turn = json!({"model": "sim", "input": "x", "store": false});
    gateway.client.with_secret(&secret).created(turn.clone()).await;
    is_refused(&gateway.client.with_secret(&format!("apn-{}", "0".repeat(64))).create(turn).await);
}

#[tokio::test]
async fn keys_survive_a_restart() {
    let (_upstream, gateway, _, secret) = with_key().await;
    let id = gateway.client.with_secret(&secret).create(plain()).await.ok_id();
    let gateway = gateway.restart().await;
    is_refused(&gateway.client.create(plain()).await);
    gateway.client.with_secret(&secret).get(&format!("/v1/responses/{id}")).await.ok();
}

#[tokio::test]
async fn a_socket_requires_a_key_and_ends_with_it() {
    let (upstream, gateway, operator, secret) = with_key().await;
    let open = async |secret: &str| {
        let headers = [header("authorization", &format!("Bearer {secret}")), header("x-api-key", "stays")];
        Socket::connect(gateway.address(), "/v1/responses", &headers).await
    };
    let (status, body) = Socket::connect(gateway.address(), "/v1/responses", &[]).await.unwrap_err();
    assert_eq!(status, 401);
    assert_eq!(body, gateway.client.create(plain()).await.body, "in the same words");
    assert_eq!(open("apn-wrong").await.unwrap_err().0, 401);
    let other = operator.key(json!({"name": "other", "models": ["sim"]})).await;
    let (mut socket, mut others) = (open(&secret).await.unwrap(), open(&other).await.unwrap());
    let response = socket.created(plain()).await;
    let sent = upstream.last_request().unwrap();
    assert_eq!((sent.header("authorization"), sent.header("x-api-key")), (None, None));
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    gateway.client.with_secret(&secret).get(&path).await.ok();
    let following = json!({"model": "sim", "input": "x", "previous_response_id": response["id"]});
    let (status, code, _) = others.refused(following).await;
    assert_eq!((status, code.as_str()), (400, "previous_response_not_found"));
    let (status, code, param) = others.refused(json!({"model": "gpt-5", "input": "x"})).await;
    assert_eq!((status, code.as_str(), param.as_deref()), (403, "model_not_allowed", Some("model")));
    others.created(plain()).await;
    operator.post("/api/keys/one/revoke").await;
    let before = upstream.counts().requests;
    let (status, code, _) = socket.refused(plain()).await;
    assert_eq!((status, code.as_str()), (401, "invalid_api_key"));
    others.created(plain()).await;
    assert_eq!(upstream.counts().requests, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_soon_stops_on_the_other_replica() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let setup = Setup::over(&upstream).database_url(&url);
    let (one, two) = (setup.clone().start().await, setup.start().await);
    let operator = Operator::of(&one).await;
    let keeper = operator.key(json!({"name": "keeper"})).await;
    let secret = operator.key(json!({"name": "one", "project": "p"})).await;
    let until = async |client: &Client, status: u16| {
        eventually(&format!("status {status}"), async || {
            // Failed attempts are limited.
            tokio::time::sleep(Duration::from_millis(50)).await;
            client.get("/v1/models").await.status == status
        })
        .await;
    };
    let client = two.client.with_secret(&secret);
    // Until it knows of the first key, it asks for none.
    until(&two.client.with_secret("unknown"), 401).await;
    until(&client, 200).await;
    operator.post("/api/keys/one/revoke").await;
    is_refused(&one.client.with_secret(&secret).get("/v1/models").await);
    until(&client, 401).await;
    two.client.with_secret(&keeper).get("/v1/models").await.ok();
}
