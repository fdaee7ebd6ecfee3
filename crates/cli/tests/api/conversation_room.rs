//! What bounds conversations: limits of keys, the room for items, retention, and the history that is replayed.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::Script;
use antiphon_store::Clock;
use antiphon_testkit::{Client, ManualClock, Reply, Setup, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::conversations::{add, begin, items, items_path, post, user};
use crate::limits::{limited, of};
use crate::simulator;

const PATH: &str = "/v1/conversations";

fn turn(conversation: &str) -> Value {
    json!({"model": "sim", "input": "x", "conversation": conversation})
}

fn refusal(reply: &Reply) -> (u16, String, String) {
    let (status, code, param) = reply.refusal();
    (status, code.unwrap_or_default(), param.unwrap_or_default())
}

fn too_large(code: &str) -> (u16, String, String) {
    (400, code.to_owned(), "conversation".to_owned())
}

async fn try_add(client: &Client, conversation: &str, bytes: usize) -> Reply {
    post(client, &items_path(conversation), &json!({"items": [user(&"x".repeat(bytes))]})).await
}

fn remaining(reply: &Reply) -> Option<&str> {
    reply.header("x-ratelimit-remaining-requests")
}

#[tokio::test]
async fn changes_of_conversations_count_as_requests() {
    let limited =
        limited(json!({"requests_per_minute": 4, "concurrent_turns": 1, "tokens_per_minute": 9})).await;
    let client = &limited.client;
    let created = post(client, PATH, &json!({"items": [user("one")]})).await;
    assert_eq!(remaining(&created), Some("3"));
    let path = format!("{PATH}/{}", created.ok()["id"].as_str().unwrap());
    let items = format!("{path}/items");
    for (below, body, status) in [
        ("/items", json!({"items": [user("two")]}), 200),
        ("/items", json!({"items": "no array"}), 400),
        ("", json!({"metadata": {"a": "b"}}), 200),
        ("x/items", json!({"items": [user("two")]}), 404),
    ] {
        let reply = post(client, &format!("{path}{below}"), &body).await;
        assert_eq!(reply.status, status);
        assert_eq!(remaining(&reply).is_some(), status == 200);
    }
    // What failed is released soon.
    assert_eq!(limited.settled().await, of(&[("requests per minute", 3)]));
    let listed = client.get(&items).await.ok();
    let item = format!("{items}/{}", listed["first_id"].as_str().unwrap());
    assert_eq!(remaining(&client.delete(&item).await), Some("0"));
    assert_eq!(limited.settled().await, of(&[("requests per minute", 4)]));

    for reply in [
        post(client, PATH, &json!({})).await,
        post(client, &items, &json!({"items": [user("three")]})).await,
        post(client, &path, &json!({"metadata": {}})).await,
        client.delete(&format!("{items}/{}", listed["last_id"].as_str().unwrap())).await,
        client.create(json!({"model": "sim", "input": "x"})).await,
    ] {
        assert_eq!(reply.refusal(), (429, Some("rate_limit_exceeded".to_owned()), None));
        assert_eq!((reply.header("retry-after"), remaining(&reply)), (Some("30"), Some("0")));
    }
    // Reading is free, and so is what makes room.
    assert_eq!(client.get(&items).await.ok()["data"].as_array().unwrap().len(), 1);
    client.delete(&path).await.ok();
    assert_eq!(limited.settled().await, of(&[("requests per minute", 4)]));
}

#[tokio::test]
async fn a_full_conversation_takes_neither_items_nor_turns() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_conversation_items = 3").start().await;
    let client = &gateway.client;
    let id = begin(client, &json!([user("one"), user("two")])).await;
    client.created(turn(&id)).await;
    let full = too_large("conversation_too_large");
    let reply = try_add(client, &id, 1).await;
    assert_eq!(refusal(&reply), full);
    assert_eq!(
        reply.json()["error"]["message"],
        "The conversation would have 5 items, the limit is 3. Delete items, or continue in another conversation."
    );
    assert_eq!(refusal(&client.create(turn(&id)).await), full);
    assert_eq!(upstream.counts().requests, 1);
    let unstored = json!({"model": "sim", "input": "x", "conversation": id, "store": false});
    client.created(unstored).await;
    assert_eq!(refusal(&post(client, PATH, &json!({"items": vec![user("x"); 4]})).await), full);
    for item in &items(client, &id).await[..2] {
        client.delete(&format!("{}/{}", items_path(&id), item["id"].as_str().unwrap())).await.ok();
    }
    add(client, &id, &json!([user("again")])).await;
    assert_eq!(items(client, &id).await.len(), 3);
}

#[tokio::test]
async fn a_conversation_adds_so_many_bytes_to_the_store() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_conversation = \"64KiB\"").start().await;
    let client = &gateway.client;
    let id = begin(client, &json!([])).await;
    for _ in 0..2 {
        try_add(client, &id, 30 << 10).await.ok();
    }
    assert_eq!(refusal(&try_add(client, &id, 5 << 10).await), too_large("conversation_too_large"));
    client.created(turn(&id)).await;
    // What a deleted item takes on disk stays, for the responses that were made with it.
    let first = items(client, &id).await.swap_remove(0);
    client.delete(&format!("{}/{}", items_path(&id), first["id"].as_str().unwrap())).await.ok();
    assert_eq!(refusal(&try_add(client, &id, 5 << 10).await), too_large("conversation_too_large"));
    assert_eq!(refusal(&client.create(turn(&id)).await), too_large("conversation_too_large"));
}

#[tokio::test]
async fn the_conversations_of_a_project_share_their_room() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_project_conversations = \"64KiB\"").start().await;
    let client = &gateway.client;
    let (one, two) = (begin(client, &json!([])).await, begin(client, &json!([])).await);
    try_add(client, &one, 40 << 10).await.ok();
    let full = too_large("conversation_storage_exceeded");
    assert_eq!(refusal(&try_add(client, &two, 40 << 10).await), full);
    try_add(client, &two, 10 << 10).await.ok();
    client.created(turn(&two)).await;
    assert_eq!(refusal(&try_add(client, &one, 40 << 10).await), full);
    client.delete(&format!("{PATH}/{one}")).await.ok();
    eventually("there is room again", async || try_add(client, &two, 40 << 10).await.status == 200).await;
    assert_eq!(refusal(&post(client, PATH, &json!({"items": [user(&"x".repeat(20 << 10))]})).await), full);
}

#[tokio::test]
async fn what_waits_for_a_turn_takes_room_once() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_project_conversations = \"64KiB\"").start().await;
    let client = &gateway.client;
    let id = begin(client, &json!([])).await;
    try_add(client, &id, 40 << 10).await.ok();
    let (script, gate) = Script::answer("after a while").gated();
    upstream.script(script);
    let running = client.create(turn(&id));
    let waiting = async {
        gate.arrived(1).await;
        // It tries again and again for two seconds.
        let waited = try_add(client, &id, 10 << 10).await;
        gate.open();
        refusal(&waited)
    };
    let (ran, refused) = tokio::join!(running, waiting);
    ran.ok();
    assert_eq!(refused.1, "conversation_locked");
    try_add(client, &id, 10 << 10).await.ok();
}

#[tokio::test]
async fn a_conversation_that_nobody_changes_expires_if_the_operator_says_so() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let config =
        "store.retention = \"1d\"\nstore.conversation_retention = \"10d\"\nstore.purge_interval = \"20ms\"";
    let gateway = Setup::over(&upstream).config(config).clock(&clock).start().await;
    let client = &gateway.client;
    let (id, other) = (begin(client, &json!([user("zero")])).await, begin(client, &json!([])).await);
    let path = format!("{PATH}/{id}");
    for _ in 0..3 {
        clock.advance(Duration::from_hours(9 * 24));
        client.created(turn(&id)).await;
    }
    let is_gone = async |path: &str| client.get(path).await.status == 404;
    eventually("the other conversation is gone", async || is_gone(&format!("{PATH}/{other}")).await).await;
    assert_eq!(items(client, &id).await.len(), 7);
    // Reading does not keep it.
    clock.advance(Duration::from_hours(9 * 24));
    client.get(&path).await.ok();
    clock.advance(Duration::from_hours(2 * 24));
    eventually("the conversation is gone", async || is_gone(&path).await).await;
    assert_eq!(client.create(turn(&id)).await.refusal().0, 404);
    clock.advance(Duration::from_hours(24));
    let store = gateway.app.chains.store();
    eventually("its trunk is purged", async || store.stats(clock.now()).await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_conversation_outgrows_the_depth_of_chains() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_chain_depth = 3").start().await;
    let id = begin(&gateway.client, &json!([])).await;
    let mut last = Value::Null;
    for _ in 0..6 {
        last = gateway.client.created(turn(&id)).await;
    }
    let gateway = gateway.restart().await;
    gateway.client.created(turn(&id)).await;
    assert_eq!(upstream.last_request().unwrap().input().len(), 13);
    let outside = json!({"model": "sim", "input": "x", "previous_response_id": last["id"]});
    let refused = refusal(&gateway.client.create(outside).await);
    assert_eq!(refused, (400, "context_too_large".to_owned(), "previous_response_id".to_owned()));
}

#[tokio::test]
async fn a_history_that_is_too_large_names_the_conversation_and_a_compaction_begins_a_new_one() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_history = \"8KiB\"").start().await;
    let client = &gateway.client;
    let long = user(&"x".repeat(5 << 10));
    let id = begin(client, &json!([long, user("short")])).await;
    upstream.always(Script::answer("the answer"));
    client.created(turn(&id)).await;
    add(client, &id, &json!([long])).await;
    let reply = client.create(turn(&id)).await;
    assert_eq!(refusal(&reply), too_large("context_too_large"));
    let message = reply.json()["error"]["message"].to_string();
    assert!(message.contains("Delete items, or continue in another conversation."), "{message}");
    let compaction =
        json!({"type": "compaction", "id": "cmp_1", "encrypted_content": upstream.encrypted_content()});
    add(client, &id, &json!([compaction])).await;
    client.created(turn(&id)).await;
    let sent = upstream.last_request().unwrap().input();
    assert_eq!((sent.len(), &sent[0]["type"]), (2, &json!("compaction")));
    assert_eq!(items(client, &id).await.len(), 8);
}

#[tokio::test]
async fn operators_see_how_large_a_conversation_is() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let id = begin(&gateway.client, &json!([user("one"), user("two")])).await;
    gateway.client.created(turn(&id)).await;
    let operator = crate::administering::Operator::of(&gateway).await;
    let listed = operator.call(Method::GET, "/api/conversations?project=default").await.ok();
    let shown = &listed["conversations"][0];
    assert_eq!((&shown["items"], &shown["turns"]), (&json!(4), &json!(2)));
    assert!(shown["size_bytes"].as_u64().unwrap() > 3 * 1024, "{shown}");
    let time = |name: &str| shown[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("used_at") >= time("created_at"), "{shown}");
}
