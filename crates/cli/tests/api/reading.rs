//! Reading back: GET, DELETE, input items, references, models.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Setup, header};
use http::Method;
use serde_json::{Value, json};

use crate::{gateway, simulator};

#[tokio::test]
async fn a_stored_response_equals_the_one_returned() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::new().item(r#"{"type":"odd","id":"o_1","n":1.50e+400,"s":"\u00e9"}"#));
    let reply = gateway.client.create(json!({"model": "sim", "input": "x", "metadata": {"k": "v"}})).await;
    let created = String::from_utf8(reply.body.to_vec()).unwrap();
    let id = reply.ok_id();
    let read = gateway.client.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(String::from_utf8(read.body.to_vec()).unwrap(), created);
    gateway.client.get(&format!("/v1/responses/{id}/?include[]=x")).await.ok_id();
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}?stream=true")).await.refusal().0, 400);
}

#[tokio::test]
async fn a_deleted_response_is_hidden_but_still_replayed_by_descendants() {
    let (upstream, gateway) = gateway().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    let second = gateway
        .client
        .created(json!({"model": "sim", "input": "two", "previous_response_id": first["id"]}))
        .await;
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    let deleted = gateway.client.delete(&path).await.ok();
    assert_eq!(deleted, json!({"id": first["id"], "object": "response", "deleted": true}));
    for gateway in [&gateway] {
        assert_eq!(gateway.client.get(&path).await.refusal(), (404, None, None));
        assert_eq!(gateway.client.delete(&path).await.refusal(), (404, None, None));
        assert_eq!(gateway.client.get(&format!("{path}/input_items")).await.refusal(), (404, None, None));
    }
    let on_first = json!({"model": "sim", "input": "x", "previous_response_id": first["id"]});
    assert_eq!(
        gateway.client.create(&on_first).await.refusal().1.as_deref(),
        Some("previous_response_not_found")
    );
    let gateway = gateway.restart().await;
    assert_eq!(
        gateway.client.create(&on_first).await.refusal().1.as_deref(),
        Some("previous_response_not_found")
    );
    gateway
        .client
        .created(json!({"model": "sim", "input": "three", "previous_response_id": second["id"]}))
        .await;
    assert_eq!(upstream.last_request().unwrap().json()["input"][0]["content"][0]["text"], "one");
}

#[tokio::test]
async fn only_background_responses_can_be_cancelled() {
    let (_upstream, gateway) = gateway().await;
    let id = gateway.client.create(json!({"model": "sim", "input": "x"})).await.ok_id();
    let cancel = async |id: &str| {
        gateway.client.request(Method::POST, &format!("/v1/responses/{id}/cancel"), &[], "").await
    };
    let reply = cancel(&id).await;
    assert_eq!(reply.refusal(), (400, None, None));
    assert_eq!(reply.json()["error"]["message"], "Cannot cancel a synchronous response.");
    assert_eq!(cancel("resp_unknown").await.refusal(), (404, None, None));
}

#[tokio::test]
async fn input_items_page_in_both_orders() {
    let (_upstream, gateway) = gateway().await;
    let items: Vec<Value> = (0..25).map(|n| json!({"role": "user", "content": format!("p{n}")})).collect();
    let id = gateway.client.create(json!({"model": "sim", "input": items})).await.ok_id();
    let path = format!("/v1/responses/{id}/input_items");
    let text = |item: &Value| item["content"][0]["text"].as_str().unwrap().to_owned();
    let page = gateway.client.get(&path).await.ok();
    assert_eq!((page["data"].as_array().unwrap().len(), text(&page["data"][0])), (20, "p24".to_owned()));
    assert_eq!((&page["has_more"], &page["object"]), (&json!(true), &json!("list")));
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = gateway.client.get(&format!("{path}?order=asc&limit=10&after={after}")).await.ok();
        seen.extend(page["data"].as_array().unwrap().iter().map(text));
        assert_eq!(page["last_id"], page["data"].as_array().unwrap().last().unwrap()["id"]);
        after = page["last_id"].as_str().unwrap().to_owned();
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|n| format!("p{n}")).collect::<Vec<_>>());
    for (bad, code) in [
        ("limit=0", "integer_below_min_value"),
        ("limit=101", "integer_above_max_value"),
        ("limit=x", "invalid_type"),
        ("order=up", "invalid_value"),
        ("after=msg_unknown", "invalid_value"),
    ] {
        let refusal = gateway.client.get(&format!("{path}?{bad}")).await.refusal();
        let param = bad.split('=').next().map(str::to_owned);
        assert_eq!(refusal, (400, Some(code.to_owned()), param), "{bad}");
    }
}

#[tokio::test]
async fn input_items_with_the_same_id_are_listed_once_each() {
    // The simulator's Responses API refuses them, as OpenAI's does.
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "api = \"chat\"").start().await;
    let items: Vec<Value> =
        (0..4).map(|n| json!({"role": "user", "content": format!("p{n}"), "id": "msg_same"})).collect();
    let id = gateway.client.create(json!({"model": "sim", "input": items})).await.ok_id();
    for (order, expected) in [("asc", ["p0", "p1", "p2", "p3"]), ("desc", ["p3", "p2", "p1", "p0"])] {
        let path = format!("/v1/responses/{id}/input_items?limit=1&order={order}&after=");
        let (mut seen, mut after, mut has_more) = (Vec::new(), String::new(), true);
        while has_more && seen.len() < items.len() {
            let page = gateway.client.get(&format!("{path}{after}")).await.ok();
            seen.push(page["data"][0]["content"][0]["text"].as_str().unwrap().to_owned());
            after = page["last_id"].as_str().unwrap().to_owned();
            has_more = page["has_more"] == true;
        }
        assert_eq!((seen, has_more), (expected.map(str::to_owned).to_vec(), false));
    }
    let path = format!("/v1/responses/{id}/input_items?order=asc");
    let page = gateway.client.get(&path).await.ok();
    assert_eq!(page["data"][0]["id"], "msg_same");
    let third = json!([{"type": "item_reference", "id": page["data"][2]["id"]}]);
    let referring = gateway.client.create(json!({"model": "sim", "input": third})).await.ok_id();
    let page = gateway.client.get(&format!("/v1/responses/{referring}/input_items")).await.ok();
    assert_eq!(page["data"][0]["content"][0]["text"], "p2");
}

#[tokio::test]
async fn calls_and_their_outputs_are_listed_with_a_status() {
    let (_upstream, gateway) = gateway().await;
    let items = json!([
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "incomplete"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ]);
    let id = gateway.client.create(json!({"model": "sim", "input": items})).await.ok_id();
    let page = gateway.client.get(&format!("/v1/responses/{id}/input_items?order=asc")).await.ok();
    assert_eq!(
        json!([page["data"][0]["status"], page["data"][1]["status"]]),
        json!(["incomplete", "completed"])
    );
}

#[tokio::test]
async fn item_references_are_replaced_by_their_items() {
    let (upstream, gateway) = gateway().await;
    let first = gateway.client.created(json!({"model": "sim", "input": [
        {"role": "user", "content": "no id"}, {"type": "message", "id": "msg_mine", "role": "user", "content": "mine"},
    ]})).await;
    let path = format!("/v1/responses/{}/input_items?order=asc", first["id"].as_str().unwrap());
    let derived = gateway.client.get(&path).await.ok()["data"][0]["id"].clone();
    let output = &first["output"][0]["id"];
    let body = json!({"model": "sim", "input": [
        {"type": "item_reference", "id": derived}, {"id": "msg_mine"}, {"type": "item_reference", "id": output},
        {"role": "user", "content": "new"},
    ]});
    let second = gateway.client.created(&body).await;
    let input = upstream.last_request().unwrap().json()["input"].clone();
    assert_eq!(input[0], json!({"role": "user", "content": "no id"}));
    assert_eq!(input[1]["id"], "msg_mine");
    assert!(input[2].get("id").is_none() && input[2]["content"] == first["output"][0]["content"]);
    assert_eq!(input[3]["content"], "new");
    let third = json!({"model": "sim", "input": "on", "previous_response_id": second["id"]});
    let gateway = gateway.restart().await;
    gateway.client.created(&third).await;
    let replayed = upstream.last_request().unwrap().json()["input"].clone();
    assert_eq!(replayed.as_array().unwrap()[..4], input.as_array().unwrap()[..]);
}

#[tokio::test]
async fn codex_gets_its_list_of_models_with_a_tag() {
    let entry = json!({"slug": "gpt-5.4", "display_name": "GPT", "n": 1.5});
    let options = Options { codex_models: vec![entry.to_string()], ..Options::default() };
    let upstream = Simulator::bind(options).await.unwrap();
    let gateway = Setup::over(&upstream).start().await;
    for path in ["/v1/models", "/backend-api/codex/models", "/v1/models/"] {
        let path = format!("{path}?client_version=0.169.0");
        let reply = gateway.client.get(&path).await;
        let list = reply.ok();
        assert_eq!((&list["object"], &list["models"]), (&json!("list"), &json!([entry])));
        assert!(list["data"].as_array().unwrap().iter().any(|model| model["id"] == "sim"));
        let tag = reply.headers["etag"].clone();
        let again = gateway.client.request(Method::GET, &path, &[("if-none-match", tag.clone())], "").await;
        assert_eq!((again.status.as_u16(), &again.body[..], &again.headers["etag"]), (304, &b""[..], &tag));
        let other = gateway.client.request(Method::GET, &path, &[header("if-none-match", "\"x\"")], "").await;
        assert_eq!(other.ok(), list);
    }
    let plain = gateway.client.get("/v1/models").await.ok();
    assert_eq!(plain.get("models"), None);
}

#[tokio::test]
async fn models_are_those_of_the_upstream() {
    let (_upstream, gateway) = gateway().await;
    let list = gateway.client.get("/v1/models").await.ok();
    let ids: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"sim") && ids.contains(&"gpt-5.4"), "{ids:?}");
    assert_eq!(gateway.client.get("/v1/models/sim").await.ok()["object"], "model");
    assert_eq!(
        gateway.client.get("/v1/models/org/none").await.refusal().1.as_deref(),
        Some("model_not_found")
    );
}
