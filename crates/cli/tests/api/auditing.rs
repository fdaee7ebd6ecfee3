//! The audit log, and the OpenAPI document of the admin API.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use antiphon_store::SESSIONS_PER_OPERATOR;
use antiphon_testkit::{ManualClock, Setup};
use http::Method;
use serde_json::{Value, json};

use crate::administering::{Operator, sign_in};
use crate::{gateway, simulator};

#[tokio::test]
async fn the_audit_log_has_every_change_and_no_failed_ones() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let operator = Operator::of(&gateway).await;
    // Entries of one millisecond are in no particular order.
    let next = || {
        clock.advance(Duration::from_millis(1));
        &operator
    };
    let secret = next().key(json!({"name": "one"})).await;
    next().send(Method::POST, "/api/keys", json!({"name": "one"})).await;
    let rotated = next().post("/api/keys/one/rotate").await;
    next().post("/api/keys/one/revoke").await;
    next().post("/api/keys/one/revoke").await;
    next().call(Method::DELETE, "/api/keys/one").await;
    next().call(Method::DELETE, "/api/keys/one").await;
    next().post("/api/accounts/one/pause").await;
    next().post("/api/accounts/one/resume").await;
    let log = operator.get("/api/audit").await;
    let entries = log["entries"].as_array().unwrap();
    let told: Vec<[&str; 3]> = entries
        .iter()
        .rev()
        .map(|entry| ["actor", "action", "target"].map(|key| entry[key].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ["command_line", "admin_token.replaced", "admin"],
            ["admin_api", "key.created", "one"],
            ["admin_api", "key.rotated", "one"],
            ["admin_api", "key.revoked", "one"],
            ["admin_api", "key.deleted", "one"],
            ["admin_api", "account.paused", "one"],
            ["admin_api", "account.resumed", "one"],
        ]
    );
    assert_eq!(entries[5]["detail"]["key"], rotated["id"]);
    for secret in [secret.as_str(), rotated["secret"].as_str().unwrap()] {
        assert!(!log.to_string().contains(&secret[4..]), "it holds no secrets");
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("/api/audit?limit=3{after}")).await;
        seen.extend(page["entries"].as_array().unwrap().iter().cloned());
        after = format!("&after={}", seen.last().unwrap()["id"].as_str().unwrap());
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(&seen, entries);
}

#[tokio::test]
async fn the_audit_log_is_searched_by_actor_action_target_and_time() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let operator = Operator::of(&gateway).await;
    // Entries of one millisecond are in no particular order.
    let next = || {
        clock.advance(Duration::from_millis(1));
        &operator
    };
    next().key(json!({"name": "one"})).await;
    next().key(json!({"name": "two"})).await;
    next().post("/api/keys/one/revoke").await;
    next().post("/api/accounts/one/pause").await;
    let list = async |query: &str| operator.get(&format!("/api/audit?{query}")).await;
    let found = async |query: &str| -> Vec<String> {
        let list = list(query).await;
        let entries = list["entries"].as_array().unwrap().iter();
        entries.map(|entry| format!("{} {}", entry["action"], entry["target"]).replace('"', "")).collect()
    };
    let keys = ["key.revoked one", "key.created two", "key.created one"];
    assert_eq!(found("action=key").await, keys);
    assert_eq!(found("action=key.created").await, keys[1..]);
    assert_eq!(found("target=one").await, ["account.paused one", keys[0], keys[2]]);
    assert_eq!(found("target=one&action=key&actor=admin_api").await, [keys[0], keys[2]]);
    assert_eq!(found("actor=command_line").await, ["admin_token.replaced admin"]);
    assert!(found("actor=gateway").await.is_empty());
    let page = list("action=key&limit=2").await;
    assert_eq!(page["has_more"], true);
    let last = page["entries"][1]["id"].as_str().unwrap();
    assert_eq!(found(&format!("action=key&limit=2&after={last}")).await, keys[2..]);
    let revoked = page["entries"][0]["at"].as_str().unwrap();
    assert_eq!(found(&format!("from={revoked}")).await, ["account.paused one", keys[0]]);
    assert_eq!(found(&format!("to={revoked}&action=key")).await, keys[1..], "the end is exclusive");
    for parameter in ["from", "to"] {
        let reply = operator.call(Method::GET, &format!("/api/audit?{parameter}=yesterday")).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!(parameter)));
    }
}

#[tokio::test]
async fn a_session_that_a_newer_one_pushes_out_is_in_the_audit_log() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let operator = Operator::of(&gateway).await;
    let newest_session = async || operator.get("/api/sessions").await["sessions"][0]["id"].clone();
    let ended = async || operator.get("/api/audit?action=session.ended").await["entries"].clone();
    sign_in(&gateway, &operator.token).await;
    let oldest = newest_session().await;
    for _ in 1..SESSIONS_PER_OPERATOR {
        // So that the address may sign in again.
        clock.advance(Duration::from_secs(2));
        sign_in(&gateway, &operator.token).await;
    }
    assert_eq!(ended().await, json!([]));
    clock.advance(Duration::from_secs(2));
    sign_in(&gateway, &operator.token).await;
    let ended = ended().await;
    assert_eq!(ended.as_array().unwrap().len(), 1, "{ended}");
    assert_eq!(ended[0]["target"], oldest);
    assert_eq!(ended[0]["actor"], newest_session().await);
    assert_eq!(ended[0]["detail"], json!({"reason": "too_many_sessions"}));
}

/// Every `$ref` in the document, as a pointer.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.insert(reference.trim_start_matches('#').to_owned());
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_admin_api_describes_itself() {
    let (_upstream, gateway) = gateway().await;
    let document = gateway.client.get("/api/openapi.json").await.ok();
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    let (mut operations, mut ids) = (Vec::new(), BTreeSet::new());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{} {path}", method.to_uppercase());
            assert!(ids.insert(operation["operationId"].to_string()), "{name}: its id is another's too");
            let error = &operation["responses"]["default"]["content"]["application/json"]["schema"];
            assert_eq!(error["$ref"], "#/components/schemas/Error", "{name}");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{name} says nothing");
            operations.push(name);
        }
    }
    operations.sort();
    assert_eq!(
        operations,
        [
            "DELETE /api/keys/{name}",
            "DELETE /api/sessions",
            "DELETE /api/sessions/{id}",
            "GET /api/accounts",
            "GET /api/accounts/{name}",
            "GET /api/audit",
            "GET /api/background",
            "GET /api/config",
            "GET /api/conversations",
            "GET /api/conversations/{id}/turns",
            "GET /api/keys",
            "GET /api/keys/{name}",
            "GET /api/keys/{name}/clients",
            "GET /api/keys/{name}/limits",
            "GET /api/live",
            "GET /api/log",
            "GET /api/openapi.json",
            "GET /api/overview",
            "GET /api/overview/accounts",
            "GET /api/responses/{id}",
            "GET /api/responses/{id}/chain",
            "GET /api/sessions",
            "GET /api/store",
            "GET /api/tokens",
            "GET /api/usage",
            "PATCH /api/keys/{name}",
            "POST /api/accounts/{name}/pause",
            "POST /api/accounts/{name}/resume",
            "POST /api/accounts/{name}/test",
            "POST /api/keys",
            "POST /api/keys/{name}/revoke",
            "POST /api/keys/{name}/rotate",
            "POST /api/tokens/viewer",
        ]
    );
    assert_eq!(document["security"], json!([{"admin_token": []}]));
    assert_eq!(document["components"]["securitySchemes"]["admin_token"]["scheme"], "bearer");
}
