//! Every id of an item that a client ever got leads back to that item, wherever the API reads items by their ids.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Client, Event, Gateway, ManualClock, Setup};
use serde_json::{Value, json};

use crate::conversations::{add, begin, items, items_path, post, user};
use crate::{gateway, simulator};

const DAY: Duration = Duration::from_hours(24);
const IMAGE: &str = "data:image/png;base64,iVBORw0KGgo=";

/// A client that notes every id of an item that it gets.
struct Session {
    client: Client,
    conversation: String,
    responses: Vec<String>,
    ids: BTreeSet<String>,
}

/// Notes the ids of items in a reply or an event: members `id` of objects that are no response or conversation, and `item_id`.
fn note(value: &Value, ids: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| note(value, ids)),
        Value::Object(members) => {
            let is_item = !members.contains_key("object");
            let named = members.get("id").filter(|_| is_item).into_iter().chain(members.get("item_id"));
            ids.extend(named.filter_map(Value::as_str).map(str::to_owned));
            let inner = members.iter().filter(|(name, _)| *name != "conversation");
            inner.for_each(|(_, value)| note(value, ids));
        }
        _ => {}
    }
}

impl Session {
    fn seen(&mut self, value: Value) -> Value {
        note(&value, &mut self.ids);
        value
    }

    /// A turn in the conversation.
    async fn turn(&mut self, input: Value) -> Value {
        let body = json!({"model": "sim", "input": input, "conversation": self.conversation});
        let created = self.client.created(body).await;
        self.responses.push(created["id"].as_str().unwrap().to_owned());
        self.seen(created)
    }

    async fn streamed_turn(&mut self, input: Value) {
        let body = json!({"model": "sim", "input": input, "conversation": self.conversation, "stream": true});
        let events: Vec<Value> =
            self.client.stream(body).await.rest().await.iter().map(Event::json).collect();
        self.responses.push(events[0]["response"]["id"].as_str().unwrap().to_owned());
        self.seen(events.into());
    }

    async fn add(&mut self, new: Value) {
        let added = add(&self.client, &self.conversation, &new).await;
        self.seen(added);
    }

    /// Everything that the API lists of the session, each with its id.
    async fn listed(&mut self) -> Vec<Value> {
        let mut all = items(&self.client, &self.conversation).await;
        for id in &self.responses {
            let path = format!("/v1/responses/{id}");
            all.extend(self.client.get(&path).await.ok()["output"].as_array().unwrap().clone());
            let input = self.client.get(&format!("{path}/input_items?limit=100")).await.ok();
            all.extend(input["data"].as_array().unwrap().clone());
        }
        note(&json!(all), &mut self.ids);
        all
    }
}

/// Posts, tool calls, reasoning, images, streams, a chain that leaves the conversation, and a compaction.
async fn mixed_session(upstream: &Simulator, gateway: &Gateway) -> Session {
    let client = gateway.client.clone();
    let image = json!({"role": "user", "content": [
        {"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": IMAGE, "detail": "auto"}]});
    let call = json!({"type": "function_call", "call_id": "call_0", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "call_0", "output": "0"});
    let own = json!({"type": "message", "id": "msg_mine", "role": "user", "content": "mine"});
    let conversation = begin(&client, &json!([image, own, call, output])).await;
    let mut session = Session { client, conversation, responses: Vec::new(), ids: BTreeSet::new() };

    upstream.script(Script::new().reasoning("I thought.").tool_call_as("call_1", "f", "{}"));
    session.turn(json!([user("use the tool"), {"type": "new_thing", "data": [1, 2]}])).await;
    upstream.script(Script::new().reasoning("Again.").text("the answer"));
    session
        .streamed_turn(json!([{"type": "function_call_output", "call_id": "call_1", "output": "1"}]))
        .await;
    session.add(json!([user("posted")])).await;

    let last = session.responses.last().cloned();
    let chained = session.client.created(json!({"model": "sim", "previous_response_id": last, "input": [
        {"type": "item_reference", "id": "msg_mine"}, user("outside")]}));
    let chained = chained.await;
    session.responses.push(chained["id"].as_str().unwrap().to_owned());
    session.seen(chained);

    let compacting = json!({"model": "sim", "conversation": session.conversation});
    let compacted = post(&session.client, "/v1/responses/compact", &compacting).await.ok();
    session.add(compacted["output"].clone()).await;
    session.turn(json!("after the compaction")).await;
    session
}

#[tokio::test]
async fn every_id_that_a_client_got_leads_to_its_item() {
    let (upstream, gateway) = gateway().await;
    let mut session = mixed_session(&upstream, &gateway).await;
    let listed = session.listed().await;
    let of_listed: BTreeSet<String> =
        listed.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(session.ids, of_listed, "no id is shown that nothing has, and none is missing");
    for kind in ["message", "reasoning", "function_call", "function_call_output", "new_thing", "compaction"] {
        assert!(listed.iter().any(|item| item["type"] == kind), "{kind}");
    }

    let gateway = gateway.restart().await;
    session.client = gateway.client.clone();
    let of_conversation = items_path(&session.conversation);
    for item in items(&session.client, &session.conversation).await {
        let path = format!("{of_conversation}/{}", item["id"].as_str().unwrap());
        assert_eq!(session.client.get(&path).await.ok(), item);
    }
    for id in &session.responses {
        let path = format!("/v1/responses/{id}/input_items?order=asc&limit=100");
        let input = session.client.get(&path).await.ok()["data"].as_array().unwrap().clone();
        for (n, item) in input.iter().enumerate() {
            let after = format!("{path}&after={}", item["id"].as_str().unwrap());
            let rest = session.client.get(&after).await.ok();
            assert_eq!(rest["data"].as_array().unwrap()[..], input[n + 1..], "{item}");
        }
    }
    // A reference takes the item into another conversation, as it is.
    let other = begin(&session.client, &json!([])).await;
    for id in &session.ids {
        let reference = json!({"items": [{"type": "item_reference", "id": id}]});
        let posted = post(&session.client, &items_path(&other), &reference).await.ok();
        let posted = &posted["data"][0];
        let same: Vec<&Value> = listed.iter().filter(|item| item["id"] == **id).collect();
        assert!(same.iter().any(|item| item["type"] == posted["type"]), "{id}: {posted}");
    }
    assert_eq!(items(&session.client, &other).await.len(), session.ids.len());
    // In a turn, too: all of the conversation's items up to the compaction, by their ids alone.
    let references: Vec<Value> = items(&session.client, &session.conversation)
        .await
        .iter()
        .take_while(|item| item["type"] != "compaction")
        .map(|item| json!({"type": "item_reference", "id": item["id"]}))
        .collect();
    session.client.created(json!({"model": "sim", "input": references})).await;
    let sent = upstream.last_request().unwrap().input();
    assert_eq!(sent.len(), references.len());
    assert!(sent.iter().all(|item| item["type"] != "item_reference"));
}

/// Responses and conversations that are deleted take nothing with them that another one lists.
#[tokio::test]
async fn what_is_still_listed_is_still_read() {
    let (upstream, gateway) = gateway().await;
    let session = mixed_session(&upstream, &gateway).await;
    let before = items(&session.client, &session.conversation).await;
    for id in &session.responses {
        session.client.delete(&format!("/v1/responses/{id}")).await.ok();
    }
    for item in &before {
        let path = format!("{}/{}", items_path(&session.conversation), item["id"].as_str().unwrap());
        assert_eq!(session.client.get(&path).await.ok(), *item);
    }
    let mut session = mixed_session(&upstream, &gateway).await;
    let of_response = session.client.get(&format!("/v1/responses/{}", session.responses[0])).await.ok();
    session.client.delete(&format!("/v1/conversations/{}", session.conversation)).await.ok();
    session.conversation = begin(&session.client, &json!([])).await;
    for item in session.listed().await {
        let reference = json!({"items": [{"type": "item_reference", "id": item["id"]}]});
        post(&session.client, &items_path(&session.conversation), &reference).await.ok();
    }
    let again = session.client.get(&format!("/v1/responses/{}", session.responses[0])).await.ok();
    assert_eq!(again, of_response);
}

fn references(response: &Value) -> Vec<Value> {
    let output = response["output"].as_array().unwrap();
    output.iter().map(|item| json!({"type": "item_reference", "id": item["id"]})).collect()
}

fn with_input(input: impl Into<Value>) -> Value {
    json!({"model": "sim", "input": input.into()})
}

/// As the AI SDK of Vercel continues: no `previous_response_id`, and a reference for each item that it got.
#[tokio::test]
async fn ids_of_output_items_stay_here_however_often_they_are_referenced() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::new().reasoning("I thought.").text("the answer"));
    let mut input = Vec::new();
    for n in 0..4 {
        input.push(user("again"));
        let created = gateway.client.created(with_input(input.clone())).await;
        let sent = upstream.last_request().unwrap().input();
        assert_eq!(sent.len(), input.len());
        assert!(sent.iter().all(|item| item.get("id").is_none()), "turn {n}: {sent:?}");
        input.extend(references(&created));
    }
}

/// There is no `call_id`: the answer names the item itself.
#[tokio::test]
async fn a_request_for_approval_goes_upstream_with_the_id_that_its_answer_names() {
    let (upstream, gateway) = gateway().await;
    let request = json!({"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "s", "name": "f", "arguments": "{}"});
    let answer = json!({"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": true});
    upstream.script(Script::new().reasoning("I thought.").item(request.to_string()));
    let first = gateway.client.created(with_input("x")).await;
    let conversation = begin(&gateway.client, &json!([request])).await;
    let joined = begin(&gateway.client, &json!([])).await;
    upstream.script(Script::new().item(request.to_string()));
    gateway.client.created(json!({"model": "sim", "input": "x", "conversation": joined})).await;
    let by_reference = [references(&first), vec![answer.clone()]].concat();
    for continued in [
        json!({"previous_response_id": first["id"], "input": [answer]}),
        json!({"conversation": conversation, "input": [answer]}),
        json!({"conversation": joined, "input": [answer]}),
        json!({"input": by_reference}),
        json!({"input": [request, answer]}),
    ] {
        let mut body = continued.clone();
        body["model"] = json!("sim");
        gateway.client.created(body).await;
        let sent = upstream.last_request().unwrap().input();
        assert!(sent.contains(&request) && sent.contains(&answer), "{continued}: {sent:?}");
        let others = sent.iter().filter(|item| item["type"] != "mcp_approval_request");
        assert!(others.into_iter().all(|item| item.get("id").is_none()), "{continued}: {sent:?}");
    }
}

#[tokio::test]
async fn tools_that_an_item_adds_are_listed_without_the_credentials_for_their_servers() {
    let (upstream, gateway) = gateway().await;
    let mcp = json!({"type": "mcp", "server_label": "s", "server_url": "https://a", "authorization": "t0ken", "headers": {"x": "s3cret"}});
    let added = json!({"type": "additional_tools", "role": "developer", "tools": [mcp]});
    let body = json!({"model": "sim", "input": [added, {"role": "user", "content": "x"}]});
    let first = gateway.client.created(body).await;
    let path = format!("/v1/responses/{}/input_items", first["id"].as_str().unwrap());
    let listed = gateway.client.get(&path).await.ok().to_string();
    assert!(
        listed.contains("https://a") && !listed.contains("t0ken") && !listed.contains("s3cret"),
        "{listed}"
    );
    gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": first["id"]})).await;
    assert_eq!(upstream.last_request().unwrap().input()[0]["tools"], added["tools"]);
}

/// The API requires their ids.
#[tokio::test]
async fn a_program_and_its_output_go_upstream_with_their_ids() {
    let (upstream, gateway) = gateway().await;
    let program =
        json!({"type": "program", "id": "prog_1", "call_id": "call_1", "code": "f()", "fingerprint": "x"});
    let output = json!({"type": "program_output", "id": "po_1", "call_id": "call_1", "result": "a", "status": "completed"});
    upstream.script(Script::new().item(program.to_string()).item(output.to_string()));
    let first = gateway.client.created(with_input("x")).await;
    gateway.client.created(json!({"model": "sim", "input": "y", "previous_response_id": first["id"]})).await;
    let sent = upstream.last_request().unwrap().input();
    assert!(sent.contains(&program) && sent.contains(&output), "{sent:?}");
}

/// Its `id` is that of the call, unless it has a `call_id` beside it.
#[tokio::test]
async fn the_output_of_a_local_shell_goes_upstream_with_the_id_of_its_call() {
    let (upstream, gateway) = gateway().await;
    let call = json!({"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1", "status": "completed", "action": {"type": "exec", "command": ["ls"], "env": {}}});
    let output = json!({"type": "local_shell_call_output", "id": "call_1", "output": "a"});
    let own = json!({"type": "local_shell_call_output", "id": "lsho_2", "call_id": "call_2", "output": "b"});
    let conversation = begin(&gateway.client, &json!([call, output, own])).await;
    let body = json!({"model": "sim", "input": "next", "conversation": conversation});
    gateway.client.created(body).await;
    let sent = upstream.last_request().unwrap().input();
    let ids: Vec<_> = sent.iter().map(|item| item.get("id")).collect();
    assert_eq!(ids, [None, Some(&json!("call_1")), None, None], "{sent:?}");
}

#[tokio::test]
async fn an_item_outlives_the_responses_that_only_reference_it() {
    let (_upstream, gateway) = gateway().await;
    let client = &gateway.client;
    let of_output = references(&client.created(with_input("x")).await);
    let own = json!({"type": "message", "id": "msg_own", "role": "user", "content": "own"});
    let original = client.created(with_input(json!([own]))).await;
    let of_input = json!({"type": "item_reference", "id": "msg_own"});
    let all = with_input([of_output, vec![of_input]].concat());
    for _ in 0..2 {
        let later = client.created(&all).await;
        client.delete(&format!("/v1/responses/{}", later["id"].as_str().unwrap())).await.ok();
    }
    client.created(&all).await;
    client.delete(&format!("/v1/responses/{}", original["id"].as_str().unwrap())).await.ok();
    assert_eq!(client.create(&all).await.refusal(), (404, None, Some("input".to_owned())));
}

#[tokio::test]
async fn an_item_that_is_used_does_not_expire() {
    let (upstream, clock) = (simulator().await, Arc::new(ManualClock::default()));
    let gateway = Setup::over(&upstream).config("store.retention = \"30d\"").clock(&clock).start().await;
    let first = gateway.client.created(with_input("x")).await;
    let again = with_input(references(&first));
    let mut last = Value::Null;
    for _ in 0..6 {
        clock.advance(14 * DAY);
        last = gateway.client.created(&again).await;
        let sent = upstream.last_request().unwrap().input();
        assert_eq!(sent[0]["content"][0]["text"], first["output"][0]["content"][0]["text"]);
        assert!(sent[0].get("id").is_none(), "{sent:?}");
    }
    let items = format!("/v1/responses/{}/input_items", last["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&items).await.ok()["data"][0]["id"], first["output"][0]["id"]);
    clock.advance(31 * DAY);
    assert_eq!(gateway.client.create(&again).await.refusal().0, 404);
}
