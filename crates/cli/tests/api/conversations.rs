//! `/v1/conversations`: conversations and their items. The tests are named after the lines of the API's behaviour that they pin.

use std::collections::BTreeSet;

use antiphon_testkit::{Client, Gateway, Reply, Setup};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::{gateway, simulator};

const PATH: &str = "/v1/conversations";

pub(crate) async fn post(client: &Client, path: &str, body: &Value) -> Reply {
    client.request(Method::POST, path, &[], body.to_string()).await
}

/// A new conversation with these items; its id.
pub(crate) async fn begin(client: &Client, items: &Value) -> String {
    let made = post(client, PATH, &json!({ "items": items })).await.ok();
    made["id"].as_str().unwrap().to_owned()
}

pub(crate) fn items_path(conversation: &str) -> String {
    format!("{PATH}/{conversation}/items")
}

pub(crate) async fn add(client: &Client, conversation: &str, items: &Value) -> Value {
    post(client, &items_path(conversation), &json!({ "items": items })).await.ok()
}

/// All items, the oldest first, page by page.
pub(crate) async fn items(client: &Client, conversation: &str) -> Vec<Value> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("{}?order=asc&limit=100{after}", items_path(conversation));
        let page = client.get(&path).await.ok();
        items.extend(page["data"].as_array().unwrap().iter().cloned());
        if page["has_more"] == false {
            return items;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
}

/// The text of each message.
pub(crate) fn texts(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["content"][0]["text"].as_str()).collect()
}

pub(crate) fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn message(reply: &Reply) -> String {
    reply.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_not_found(reply: &Reply, expected: &str) {
    assert_eq!(reply.refusal(), (404, None, None));
    assert_eq!(message(reply), expected);
}

#[tokio::test]
async fn v1_a_conversation_needs_no_body() {
    let (_upstream, gateway) = gateway().await;
    for body in ["", "{}", r#"{"metadata":null,"items":null}"#, r#"{"items":[]}"#] {
        let made = gateway.client.request(Method::POST, PATH, &[], body).await.ok();
        let id = made["id"].as_str().unwrap();
        assert!(id.starts_with("conv_") && made["created_at"].as_i64().unwrap() > 1_700_000_000, "{made}");
        let expected =
            json!({"id": id, "object": "conversation", "created_at": made["created_at"], "metadata": {}});
        assert_eq!(made, expected);
    }
}

#[tokio::test]
async fn v2_items_are_stored_in_order_and_written_out() {
    let (_upstream, gateway) = gateway().await;
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "x"});
    let body =
        json!({"metadata": {"a": "b"}, "items": [user("hi"), call, output, {"type": "new_kind", "n": 1e30}]});
    let made = post(&gateway.client, PATH, &body).await.ok();
    assert_eq!(made["metadata"], json!({"a": "b"}));
    let items = items(&gateway.client, made["id"].as_str().unwrap()).await;
    let prefixes: Vec<_> =
        items.iter().map(|item| item["id"].as_str().unwrap().split('_').next().unwrap()).collect();
    assert_eq!(prefixes, ["msg", "fc", "fco", "item"]);
    let expected = json!({"id": items[0]["id"], "type": "message", "status": "completed", "role": "user",
        "content": [{"type": "input_text", "text": "hi"}]});
    assert_eq!(items[0], expected);
    assert_eq!(
        (&items[1]["name"], &items[2]["output"], &items[3]["n"]),
        (&json!("f"), &json!("x"), &json!(1e30))
    );
    assert_eq!(json!([items[1]["status"], items[2]["status"]]), json!(["completed", "completed"]));
    assert!(items[3].get("status").is_none());
}

#[tokio::test]
async fn v3_any_number_of_items_may_be_posted_at_once() {
    let (_upstream, gateway) = gateway().await;
    let many: Vec<Value> = (0..1_000).map(|n| user(&n.to_string())).collect();
    let id = begin(&gateway.client, &json!(many[..21])).await;
    assert_eq!(add(&gateway.client, &id, &json!(many[21..])).await["data"].as_array().unwrap().len(), 979);
    let items = items(&gateway.client, &id).await;
    let expected: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    assert_eq!(texts(&items), expected);
}

#[tokio::test]
async fn v4_metadata_follow_the_rules_of_the_api() {
    let (_upstream, gateway) = gateway().await;
    let many: serde_json::Map<String, Value> = (0..17).map(|n| (n.to_string(), json!("v"))).collect();
    let id = begin(&gateway.client, &json!([])).await;
    for (metadata, code, text) in [
        (
            json!(many),
            "object_above_max_properties",
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object with \
             17 properties instead.",
        ),
        (json!({"k".repeat(65): "v"}), "string_above_max_length", "Invalid 'metadata': string too long. "),
        (json!({"k": "v".repeat(513)}), "string_above_max_length", "Invalid 'metadata.k': string too long. "),
        (
            json!("text"),
            "invalid_type",
            "Invalid type for 'metadata': expected a metadata object, but got a string instead.",
        ),
    ] {
        for path in [PATH.to_owned(), format!("{PATH}/{id}")] {
            let reply = post(&gateway.client, &path, &json!({ "metadata": metadata })).await;
            assert_eq!((reply.refusal().0, reply.refusal().1.as_deref()), (400, Some(code)));
            assert!(message(&reply).starts_with(text), "{}", message(&reply));
        }
    }
}

#[tokio::test]
async fn v5_an_unknown_conversation_is_not_found() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([])).await;
    assert_eq!(gateway.client.get(&format!("{PATH}/{id}")).await.ok()["id"], id.as_str());
    let last = if id.ends_with('0') { '1' } else { '0' };
    for unknown in ["conv_0", &id.replace("conv_", "conv_0"), &format!("{}{last}", &id[..id.len() - 1])] {
        let expected = format!("Conversation with id '{unknown}' not found.");
        assert_not_found(&gateway.client.get(&format!("{PATH}/{unknown}")).await, &expected);
    }
}

#[tokio::test]
async fn v6_metadata_are_replaced() {
    let (_upstream, gateway) = gateway().await;
    let made = post(&gateway.client, PATH, &json!({"metadata": {"a": "1", "b": "2"}})).await.ok();
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    let updated = post(&gateway.client, &path, &json!({"metadata": {"c": "3"}})).await.ok();
    assert_eq!(updated["metadata"], json!({"c": "3"}));
    assert_eq!(gateway.client.get(&path).await.ok(), updated);
    let missing = post(&gateway.client, &path, &json!({})).await.refusal();
    assert_eq!(missing, (400, Some("missing_required_parameter".into()), Some("metadata".into())));
    let null = post(&gateway.client, &path, &json!({ "metadata": null })).await.refusal();
    assert_eq!(null, (400, Some("invalid_type".into()), Some("metadata".into())));
    let unknown = post(&gateway.client, &format!("{PATH}/conv_1"), &json!({"metadata": {}})).await;
    assert_not_found(&unknown, "Conversation with id 'conv_1' not found.");
}

#[tokio::test]
async fn v7_a_conversation_is_deleted_once() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("x")])).await;
    let path = format!("{PATH}/{id}");
    let deleted = gateway.client.delete(&path).await.ok();
    assert_eq!(deleted, json!({"id": id, "object": "conversation.deleted", "deleted": true}));
    let expected = format!("Conversation with id '{id}' not found.");
    assert_not_found(&gateway.client.delete(&path).await, &expected);
    assert_not_found(&gateway.client.get(&path).await, &expected);
    assert_not_found(&gateway.client.get(&items_path(&id)).await, &expected);
    assert_not_found(
        &post(&gateway.client, &items_path(&id), &json!({"items": [user("y")]})).await,
        &expected,
    );
}

#[tokio::test]
async fn v8_posted_items_come_back_with_their_ids() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([])).await;
    let own = json!({"type": "message", "role": "assistant", "id": "msg_own", "content": [{"type": "output_text", "text": "b"}]});
    let list = add(&gateway.client, &id, &json!([user("a"), own])).await;
    assert_eq!((&list["object"], &list["has_more"]), (&json!("list"), &json!(false)));
    let data = list["data"].as_array().unwrap();
    assert_eq!((texts(data), &data[1]["id"]), (vec!["a", "b"], &json!("msg_own")));
    assert_eq!((&list["first_id"], &list["last_id"]), (&data[0]["id"], &data[1]["id"]));
    assert_eq!(items(&gateway.client, &id).await, *data);
    let missing = post(&gateway.client, &items_path(&id), &json!({})).await.refusal();
    assert_eq!(missing, (400, Some("missing_required_parameter".into()), Some("items".into())));
}

#[tokio::test]
async fn an_item_that_comes_again_is_kept_once_and_another_one_with_its_id_is_refused() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([])).await;
    let own = |text: &str| json!({"type": "message", "role": "user", "id": "msg_own", "content": text});
    let first = add(&gateway.client, &id, &json!([own("a"), user("b")])).await;
    let again = add(&gateway.client, &id, &json!([own("a"), user("c")])).await;
    assert_eq!(again["data"][0], first["data"][0]);
    let listed = first["data"][0].clone();
    assert_eq!(add(&gateway.client, &id, &json!([listed])).await["data"][0], first["data"][0]);
    assert_eq!(texts(&items(&gateway.client, &id).await), ["a", "b", "c"]);
    for refused in [
        json!([own("x")]),
        json!([{"type": "message", "id": "n", "x": 1}, {"type": "message", "id": "n", "x": 2}]),
    ] {
        let refusal = post(&gateway.client, &items_path(&id), &json!({ "items": refused })).await.refusal();
        assert_eq!(refusal, (400, Some("duplicate_item".into()), Some("items".into())));
    }
    assert_eq!(items(&gateway.client, &id).await.len(), 3);
}

#[tokio::test]
async fn v9_items_are_listed_in_pages() {
    let (_upstream, gateway) = gateway().await;
    let empty = begin(&gateway.client, &json!([])).await;
    let list = gateway.client.get(&items_path(&empty)).await.ok();
    let expected =
        json!({"object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false});
    assert_eq!(list, expected);
    let many: Vec<Value> = (0..45).map(|n| user(&n.to_string())).collect();
    let id = begin(&gateway.client, &json!(many)).await;
    let mut seen = Vec::new();
    let mut after = String::new();
    for expected in [20, 20, 5] {
        let page = gateway.client.get(&format!("{}?{after}", items_path(&id))).await.ok();
        let data = page["data"].as_array().unwrap();
        assert_eq!((data.len(), &page["has_more"]), (expected, &json!(expected == 20)));
        seen.extend(texts(data).into_iter().map(str::to_owned));
        after = format!("after={}", page["last_id"].as_str().unwrap());
    }
    let newest_first: Vec<String> = (0..45).rev().map(|n| n.to_string()).collect();
    assert_eq!(seen, newest_first);
    assert_eq!(items(&gateway.client, &id).await.len(), 45);
}

#[tokio::test]
async fn v10_a_limit_out_of_range_is_refused() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([])).await;
    for (limit, code) in
        [("0", "integer_below_min_value"), ("101", "integer_above_max_value"), ("x", "invalid_type")]
    {
        let refusal = gateway.client.get(&format!("{}?limit={limit}", items_path(&id))).await.refusal();
        assert_eq!(refusal, (400, Some(code.to_owned()), Some("limit".to_owned())));
    }
    let order = gateway.client.get(&format!("{}?order=up", items_path(&id))).await.refusal();
    assert_eq!(order, (400, Some("invalid_value".to_owned()), Some("order".to_owned())));
}

#[tokio::test]
async fn v11_an_unknown_cursor_is_not_found() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("x")])).await;
    let reply = gateway.client.get(&format!("{}?after=msg_x", items_path(&id))).await;
    assert_not_found(&reply, "Item with id 'msg_x' not found.");
}

#[tokio::test]
async fn v12_an_item_is_found_in_its_own_conversation_alone() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("x")])).await;
    let other = begin(&gateway.client, &json!([user("y")])).await;
    let item = items(&gateway.client, &id).await.remove(0);
    let name = item["id"].as_str().unwrap();
    assert_eq!(gateway.client.get(&format!("{}/{name}", items_path(&id))).await.ok(), item);
    let expected = format!("Item with id '{name}' not found.");
    assert_not_found(&gateway.client.get(&format!("{}/{name}", items_path(&other))).await, &expected);
}

#[tokio::test]
async fn v13_deleting_an_item_returns_the_conversation() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("a"), user("b"), user("c")])).await;
    let name = items(&gateway.client, &id).await[1]["id"].as_str().unwrap().to_owned();
    let path = format!("{}/{name}", items_path(&id));
    assert_eq!(
        gateway.client.delete(&path).await.ok(),
        gateway.client.get(&format!("{PATH}/{id}")).await.ok()
    );
    assert_eq!(texts(&items(&gateway.client, &id).await), ["a", "c"]);
    let expected = format!("Item with id '{name}' not found.");
    assert_not_found(&gateway.client.delete(&path).await, &expected);
    assert_not_found(&gateway.client.get(&path).await, &expected);
}

#[tokio::test]
async fn v14_another_sub_path_is_an_invalid_url() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([])).await;
    let path = format!("{PATH}/{id}/messages");
    let reply = post(&gateway.client, &path, &json!({})).await;
    assert_eq!((reply.status.as_u16(), message(&reply)), (404, format!("Invalid URL (POST {path})")));
    assert_eq!(gateway.client.get(PATH).await.status, 405, "the API lists no conversations");
}

#[tokio::test]
async fn v15_an_item_of_any_form_is_accepted() {
    let (_upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([{"type": "reasoning", "summary": []}])).await;
    let item = items(&gateway.client, &id).await.remove(0);
    assert!(item["id"].as_str().unwrap().starts_with("rs_"), "{item}");
    let refusal = post(&gateway.client, &items_path(&id), &json!({"items": [user("x"), 7]})).await.refusal();
    assert_eq!(refusal, (400, Some("invalid_type".to_owned()), Some("items[1]".to_owned())));
}

#[tokio::test]
async fn encrypted_reasoning_is_kept_and_shown_when_asked_for() {
    let (_upstream, gateway) = gateway().await;
    let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret"});
    let id = begin(&gateway.client, &json!([reasoning])).await;
    let get = async |query: &str| gateway.client.get(&format!("{}/rs_1{query}", items_path(&id))).await.ok();
    assert!(get("").await.get("encrypted_content").is_none());
    for include in ["?include=reasoning.encrypted_content", "?include[]=reasoning.encrypted_content"] {
        assert_eq!(get(include).await, reasoning);
        let list = gateway.client.get(&format!("{}{include}", items_path(&id))).await.ok();
        assert_eq!(list["data"][0], reasoning);
    }
}

#[tokio::test]
async fn conversations_of_other_projects_are_indistinguishable_from_unknown_ones() {
    let (_upstream, gateway) = gateway().await;
    let operator = Operator::of(&gateway).await;
    let one = gateway.client.with_secret(&operator.key(json!({"name": "one"})).await);
    let two = gateway.client.with_secret(&operator.key(json!({"name": "two"})).await);
    let id = begin(&one, &json!([user("x")])).await;
    let deleted = begin(&two, &json!([user("x")])).await;
    two.delete(&format!("{PATH}/{deleted}")).await.ok();
    let item = items(&one, &id).await[0]["id"].as_str().unwrap().to_owned();
    let mut unknown = id.clone().into_bytes();
    let last = unknown.len() - 1;
    unknown[last] = if unknown[last] == b'0' { b'1' } else { b'0' };
    let unknown = String::from_utf8(unknown).unwrap();
    let requests = |id: &str| {
        let turn = json!({"model": "sim", "input": "x", "conversation": id});
        let naming = json!({"model": "sim", "input": [{"type": "item_reference", "id": item}]});
        [
            (Method::GET, format!("{PATH}/{id}"), Value::Null),
            (Method::POST, format!("{PATH}/{id}"), json!({"metadata": {}})),
            (Method::DELETE, format!("{PATH}/{id}"), Value::Null),
            (Method::GET, items_path(id), Value::Null),
            (Method::POST, items_path(id), json!({"items": [user("y")]})),
            (Method::GET, format!("{}/{item}", items_path(id)), Value::Null),
            (Method::DELETE, format!("{}/{item}", items_path(id)), Value::Null),
            (Method::POST, "/v1/responses".into(), turn.clone()),
            (Method::POST, "/v1/responses/compact".into(), turn.clone()),
            (Method::POST, "/v1/responses/input_tokens".into(), turn),
            (Method::POST, "/v1/responses".into(), naming),
        ]
    };
    for (n, (method, path, body)) in requests(&id).into_iter().enumerate() {
        let mut told = Vec::new();
        for name in [&id, &unknown, &deleted] {
            let (path, body) = (requests(name)[n].1.clone(), requests(name)[n].2.clone());
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let reply = two.request(method.clone(), &path, &[], body).await;
            told.push((reply.status, String::from_utf8(reply.body.to_vec()).unwrap().replace(name, "ID")));
        }
        assert_eq!(told[0].0.as_u16(), 404, "{method} {path} {body}");
        assert!(told.iter().all(|one| *one == told[0]), "{method} {path} {body}: {told:?}");
    }
    assert_eq!(items(&one, &id).await.len(), 1, "nothing has happened to it");
}

#[tokio::test]
async fn a_reference_among_posted_items_is_replaced_by_its_item() {
    let (_upstream, gateway) = gateway().await;
    let made = gateway.client.created(json!({"model": "sim", "input": "hi"})).await;
    let name = &made["output"][0]["id"];
    let id = begin(&gateway.client, &json!([user("a"), {"type": "item_reference", "id": name}])).await;
    let items = items(&gateway.client, &id).await;
    assert_eq!((&items[1]["id"], &items[1]["content"]), (name, &made["output"][0]["content"]));
    let unknown = json!({"items": [{"type": "item_reference", "id": "msg_nothing"}]});
    assert_not_found(
        &post(&gateway.client, &items_path(&id), &unknown).await,
        "Item with id 'msg_nothing' not found.",
    );
}

#[tokio::test]
async fn conversations_survive_a_restart() {
    let upstream = simulator().await;
    let gateway: Gateway = Setup::over(&upstream).start().await;
    let id = begin(&gateway.client, &json!([user("a")])).await;
    let turn = json!({"model": "sim", "input": "b", "conversation": id});
    gateway.client.created(turn.clone()).await;
    let before = items(&gateway.client, &id).await;
    let gateway = gateway.restart().await;
    assert_eq!(items(&gateway.client, &id).await, before);
    gateway.client.created(turn).await;
    assert_eq!(upstream.last_request().unwrap().input().len(), 4);
}

#[tokio::test]
async fn reasoning_that_is_not_stored_is_kept_as_it_was_posted() {
    let (_upstream, gateway) = gateway().await;
    let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": []});
    let conversation = begin(&gateway.client, &json!([])).await;
    let added = add(&gateway.client, &conversation, &json!([reasoning])).await;
    assert_eq!(added["data"][0], reasoning);
    assert_eq!(items(&gateway.client, &conversation).await, [reasoning]);
}

#[tokio::test]
async fn operators_list_the_conversations_of_a_project() {
    let (_upstream, gateway) = gateway().await;
    let mut made = BTreeSet::new();
    for _ in 0..3 {
        let body = json!({"metadata": {"of": "a test"}});
        made.insert(post(&gateway.client, PATH, &body).await.ok()["id"].as_str().unwrap().to_owned());
    }
    let operator = Operator::of(&gateway).await;
    let list = async |query: &str| operator.call(Method::GET, &format!("/api/conversations{query}")).await;
    let page = list("?project=default&limit=2").await.ok();
    let entries = page["conversations"].as_array().unwrap();
    assert_eq!((entries.len(), &page["has_more"]), (2, &json!(true)));
    assert_eq!(
        (&entries[0]["metadata"]["of"], &entries[0]["project"]),
        (&json!("a test"), &json!("default"))
    );
    let last = entries[1]["id"].as_str().unwrap();
    let rest = list(&format!("?project=default&after={last}")).await.ok();
    let rest = rest["conversations"].as_array().unwrap();
    assert_eq!(rest.len(), 1);
    // Those of one millisecond are in no particular order.
    let listed = entries.iter().chain(rest).map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(made, listed);
    assert_eq!(list("?project=other").await.ok()["conversations"], json!([]));
    assert_eq!(list("").await.refusal().2.as_deref(), Some("project"));
    assert_eq!(list("?project=default&after=x").await.refusal().2.as_deref(), Some("after"));
}
