//! Background responses: creating, polling and cancelling them. Their names are those of the facts that they test.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_store::{BackgroundRequest, Claimable, NewBackgroundTurn, QueueLimits, TurnLease};
use antiphon_testkit::{Client, Fault, Faults, Gateway, ManualClock, Reply, Setup, eventually, header};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::limits::{half_past, settled};
use crate::{gateway, simulator};

pub(crate) fn body(input: &str) -> Value {
    json!({"model": "sim", "input": input, "background": true})
}

/// Creates a background response, and returns its id.
pub(crate) async fn queue(gateway: &Gateway, body: &Value) -> String {
    gateway.client.create(body).await.ok_id()
}

pub(crate) fn path(id: &str) -> String {
    format!("/v1/responses/{id}")
}

pub(crate) async fn cancel(client: &Client, id: &str) -> Reply {
    client.request(Method::POST, &format!("/v1/responses/{id}/cancel"), &[], "").await
}

fn is_running(response: &Value) -> bool {
    ["queued", "in_progress"].map(Value::from).contains(&response["status"])
}

/// The response once it has ended.
pub(crate) async fn ended(client: &Client, id: &str) -> Value {
    eventually("the response has ended", async || {
        let response = client.get(&path(id)).await.ok();
        (!is_running(&response)).then_some(response)
    })
    .await
}

pub(crate) async fn in_progress(client: &Client, id: &str) {
    let is_in_progress = async || client.get(&path(id)).await.ok()["status"] == "in_progress";
    eventually("the response is in progress", is_in_progress).await;
}

pub(crate) async fn over(config: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(config).start().await;
    (upstream, gateway)
}

#[tokio::test]
async fn headers_that_connection_names_do_not_go_upstream() {
    let (upstream, gateway) = gateway().await;
    let headers = [
        header("connection", "session-id, x-codex-hop"),
        header("session-id", "s"),
        header("x-codex-hop", "1"),
        header("x-codex-window-id", "w"),
    ];
    let body = body("x").to_string();
    let id = gateway.client.request(Method::POST, "/v1/responses", &headers, body).await.ok_id();
    ended(&gateway.client, &id).await;
    let sent = upstream.last_request().unwrap();
    let found = ["session-id", "x-codex-hop", "x-codex-window-id"].map(|name| sent.header(name));
    assert_eq!(found, [None, None, Some("w")]);
}

#[tokio::test]
async fn responses_without_an_upstream_show_what_the_request_set() {
    let (_upstream, gateway) = gateway().await;
    let shown = json!({
        "instructions": "i", "max_output_tokens": 16, "metadata": {"k": "v"}, "parallel_tool_calls": false,
        "prompt_cache_key": "p", "reasoning": {"effort": "low"}, "safety_identifier": "s", "temperature": 0.5,
        "text": {"verbosity": "low"}, "tool_choice": "none", "tools": [{"type": "web_search"}], "top_p": 0.5,
        "truncation": "auto", "user": "u",
    });
    let with = |more: Value| {
        let mut request = shown.clone();
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    let queued =
        gateway.client.created(&with(json!({"model": "sim", "input": "x", "background": true}))).await;
    let mut socket = gateway.socket().await;
    let warm = socket.created(with(json!({"model": "sim", "input": [], "generate": false}))).await;
    for (name, value) in shown.as_object().unwrap() {
        assert_eq!([&queued[name], &warm[name]], [value; 2], "{name}");
    }
}

#[tokio::test]
async fn a1_the_reply_is_the_queued_response_at_once() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let request = json!({"model": "sim", "input": "x", "background": true, "instructions": "Be brief.",
        "metadata": {"k": "v"}, "stream": false});
    let queued = gateway.client.created(&request).await;
    for (name, value) in [
        ("status", json!("queued")),
        ("background", json!(true)),
        ("output", json!([])),
        ("usage", Value::Null),
        ("completed_at", Value::Null),
        ("error", Value::Null),
        ("instructions", json!("Be brief.")),
        ("metadata", json!({"k": "v"})),
        ("object", json!("response")),
        ("store", json!(true)),
        ("text", json!({"format": {"type": "text"}})),
    ] {
        assert_eq!(queued[name], value, "{name}");
    }
    let id = queued["id"].as_str().unwrap();
    in_progress(&gateway.client, id).await;
    let reply = gateway.client.get(&path(id)).await;
    assert_eq!(reply.header("openai-poll-after-ms"), Some("1000"));
    let running = reply.ok();
    assert_eq!((&running["output"], &running["background"]), (&json!([]), &json!(true)));
    assert_eq!((&running["id"], &running["created_at"]), (&queued["id"], &queued["created_at"]));
    gate.open();
    let completed = ended(&gateway.client, id).await;
    assert_eq!(completed["status"], "completed");
    assert_eq!(completed["output"][0]["content"][0]["text"], "done");
    assert_eq!((&completed["background"], &completed["id"]), (&json!(true), &queued["id"]));
    assert!(completed["usage"]["total_tokens"].as_u64() > Some(0));
    assert_eq!(gateway.client.get(&path(id)).await.header("openai-poll-after-ms"), None);
    // The upstream keeps nothing and is asked for a stream, as it may take long.
    let sent = upstream.last_request().unwrap().json();
    assert_eq!(
        (sent.get("background"), &sent["store"], &sent["stream"]),
        (None, &json!(false), &json!(true))
    );
    let row = gateway.logged(1).await.remove(0);
    assert_eq!((&*row.transport, &*row.outcome), ("background", "completed"));
}

#[tokio::test]
async fn a3_an_unstored_response_is_kept_for_ten_minutes_and_cannot_be_continued() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let mut request = body("x");
    request["store"] = json!(false);
    let queued = gateway.client.created(&request).await;
    assert_eq!(queued["store"], false);
    let id = queued["id"].as_str().unwrap();
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    let param = Some("previous_response_id".to_owned());
    let refusal = (400, Some("previous_response_not_found".to_owned()), param);
    assert_eq!(gateway.client.create(&on).await.refusal(), refusal);
    gate.open();
    let completed = ended(&gateway.client, id).await;
    assert_eq!(completed["output"][0]["content"][0]["text"], "done");
    assert_eq!((&completed["store"], &completed["background"]), (&json!(false), &json!(true)));
    assert_eq!(gateway.client.create(&on).await.refusal(), refusal);
    assert_eq!(cancel(&gateway.client, id).await.refusal().0, 400);
    let input = format!("{}/input_items", path(id));
    clock.advance(Duration::from_secs(599));
    gateway.client.get(&path(id)).await.ok();
    assert_eq!(gateway.client.get(&input).await.ok()["data"][0]["content"][0]["text"], "x");
    clock.advance(Duration::from_secs(2));
    for gone in [path(id), input] {
        assert_eq!(gateway.client.get(&gone).await.refusal(), (404, None, None));
    }
    assert_eq!(cancel(&gateway.client, id).await.refusal(), (404, None, None));
    let other = queue(&gateway, &request).await;
    ended(&gateway.client, &other).await;
    gateway.client.delete(&path(&other)).await.ok();
    for gone in [path(&other), format!("{}/input_items", path(&other))] {
        assert_eq!(gateway.client.get(&gone).await.refusal(), (404, None, None));
    }
    assert_eq!(gateway.client.delete(&path(&other)).await.refusal(), (404, None, None));
}

#[tokio::test]
async fn a4_background_of_a_wrong_type_is_refused() {
    let (_upstream, gateway) = gateway().await;
    let reply = gateway.client.create(json!({"model": "sim", "input": "x", "background": "yes"})).await;
    assert_eq!(reply.refusal(), (400, Some("invalid_type".to_owned()), Some("background".to_owned())));
    assert_eq!(
        reply.json()["error"]["message"],
        "Invalid type for 'background': expected a boolean, but got a string instead."
    );
}

#[tokio::test]
async fn a5_a_frame_cannot_ask_for_a_background_response() {
    let (_upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    let refused = socket.refused(body("x")).await;
    assert_eq!(refused, (400, "unsupported_value".to_owned(), Some("background".to_owned())));
    socket.created(json!({"model": "sim", "input": "x"})).await;
}

#[tokio::test]
async fn a6_what_can_be_refused_is_refused_before_anything_is_queued() {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).account(0, "models = [\"sim\"]");
    let gateway = setup.start().await;
    for (change, status, code) in [
        (json!({"model": "other"}), 404, "model_not_found"),
        (json!({"input": null}), 400, "missing_required_parameter"),
        (json!({"previous_response_id": "resp_unknown"}), 400, "previous_response_not_found"),
        (json!({"include": "all"}), 400, "invalid_type"),
    ] {
        for stream in [false, true] {
            let mut request = body("x");
            request["stream"] = json!(stream);
            request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let refusal = gateway.client.create(&request).await.refusal();
            assert_eq!((refusal.0, refusal.1.as_deref()), (status, Some(code)), "{request}");
        }
    }
    assert_eq!(upstream.counts().requests, 0);
    let store = gateway.app.chains.store();
    for row in gateway.logged(4).await {
        assert!(store.load_background(&row.project, row.response).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a7_the_reply_comes_once_the_turn_is_durable() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    faults.set(Fault::WritesFail);
    let refused = gateway.client.create(body("x")).await.refusal();
    assert_eq!((refused.0, refused.1.as_deref()), (503, Some("store_unavailable")));
    faults.set(Fault::None);
    assert_eq!(upstream.counts().requests, 0);
    // Stopped before it could run: the next start runs it.
    let (script, gate) = Script::answer("after the restart").gated();
    upstream.script(script.clone()).script(script);
    let id = queue(&gateway, &body("y")).await;
    let setup = gateway.stop().await;
    gate.open();
    let gateway = setup.start().await;
    let completed = ended(&gateway.client, &id).await;
    assert_eq!(completed["output"][0]["content"][0]["text"], "after the restart", "{completed}");
}

#[tokio::test]
async fn a_turn_that_was_claimed_just_before_the_store_failed_is_run_later() {
    let upstream = simulator().await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script.clone()).script(script);
    let config = "background.lease = \"3s\"\ntimeouts.shutdown = \"100ms\"";
    let gateway = Setup::over(&upstream).config(config).start().await;
    let id = queue(&gateway, &body("x")).await;
    gate.arrived(1).await;
    let lease = async |gateway: &Gateway| {
        let store = gateway.app.chains.store();
        let now = gateway.app.env.clock.now();
        store.list_claimable(Uuid::nil(), Claimable::NotOwn, now, 9).await.unwrap().pop()
    };
    let setup = gateway.stop().await;
    let faults = Faults::default();
    faults.set(Fault::Fails("load_background"));
    let gateway = setup.faults(&faults).start().await;
    let owner = gateway.app.background.owner;
    let is_claimed = async || lease(&gateway).await.is_some_and(|lease| lease.owner == owner);
    eventually("the turn is claimed", is_claimed).await;
    faults.set(Fault::None);
    gate.open();
    assert_eq!(ended(&gateway.client, &id).await["status"], "completed");
}

#[tokio::test]
async fn a_turn_whose_stored_request_is_damaged_fails() {
    let (upstream, gateway) = gateway().await;
    let now = gateway.app.env.clock.now();
    let id = ResponseId::from_uuid(Uuid::from_u128(7));
    let queued = json!({"id": id.to_string(), "object": "response", "status": "queued", "model": "sim"});
    let turn = NewBackgroundTurn {
        lease: TurnLease { project: ProjectId::new(ProjectId::DEFAULT), id, owner: Uuid::nil(), epoch: 1 },
        lease_until: now,
        is_streamed: false,
        hides_reasoning: false,
        is_stored: true,
        key: None,
        created_at: now,
        deadline: now.plus(Duration::from_hours(1)),
        request: BackgroundRequest {
            body: Bytes::from_static(b"{\"model\": \"s"),
            headers: "[]".to_owned(),
            input: None,
        },
        response: queued.to_string().into(),
        event: None,
        lock: None,
    };
    let limits = QueueLimits { turns: 1, bytes: u64::MAX };
    assert!(gateway.app.chains.store().queue_background(turn, limits).await.unwrap());
    let failed = ended(&gateway.client, &id.to_string()).await;
    assert_eq!((&failed["status"], &failed["model"]), (&json!("failed"), &json!("sim")));
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn turns_beyond_max_running_wait_and_beyond_max_queued_are_refused() {
    let (upstream, gateway) = over("background.max_running = 1\nbackground.max_queued = 2").await;
    let (script, gate) = Script::answer("done").gated();
    upstream.always(script);
    let first = queue(&gateway, &body("first")).await;
    gate.arrived(1).await;
    let mut waiting = Vec::new();
    for n in 0..2 {
        waiting.push(queue(&gateway, &body(&format!("{n}"))).await);
    }
    let refused = gateway.client.create(body("too many")).await;
    assert_eq!(refused.refusal(), (429, Some("rate_limit_exceeded".to_owned()), None));
    assert_eq!(refused.header("retry-after"), Some("10"));
    for id in &waiting {
        assert_eq!(gateway.client.get(&path(id)).await.ok()["status"], "queued");
    }
    assert_eq!(upstream.counts().requests, 1);
    assert_eq!(gateway.client.metric("antiphon_background_queued").await, 2);
    gate.open();
    for id in waiting.iter().chain([&first]) {
        assert_eq!(ended(&gateway.client, id).await["status"], "completed");
    }
}

#[tokio::test]
async fn a_failed_turn_shows_the_upstreams_error() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::refusal(400, "invalid_prompt", "The prompt is odd."));
    let id = queue(&gateway, &body("x")).await;
    let failed = ended(&gateway.client, &id).await;
    assert_eq!((&failed["status"], &failed["output"]), (&json!("failed"), &json!([])));
    assert_eq!(failed["error"], json!({"code": "invalid_prompt", "message": "The prompt is odd."}));
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    gateway.client.created(&on).await;
    let sent = upstream.last_request().unwrap().json();
    assert_eq!(sent["input"][0]["content"][0]["text"], "x", "it continues from its input");
}

#[tokio::test]
async fn a_polled_turn_that_is_cut_goes_to_another_account() {
    let (upstream, other) = (simulator().await, simulator().await);
    let accounts = [("one", upstream.url()), ("two", other.url())];
    let gateway =
        Setup::with_accounts(accounts.each_ref().map(|(name, url)| (*name, url.as_str()))).start().await;
    upstream.always(Script::answer("a b c d").cut_after(5));
    other.always(Script::answer("whole"));
    let id = queue(&gateway, &body("x")).await;
    let completed = ended(&gateway.client, &id).await;
    assert_eq!(completed["output"][0]["content"][0]["text"], "whole");
}

#[tokio::test]
async fn a_turn_that_is_cut_fails_with_the_same_code_polled_or_streamed() {
    let (upstream, gateway) = gateway().await;
    for (stream, events) in [(false, 0), (true, 0), (false, 4), (true, 4)] {
        upstream.script(Script::answer("a b c d").cut_after(events));
        let mut request = body("x");
        request["stream"] = json!(stream);
        let id = match stream {
            false => queue(&gateway, &request).await,
            true => gateway.client.stream(&request).await.until("response.failed").await.response_id(),
        };
        assert_eq!(ended(&gateway.client, &id).await["error"]["code"], "server_error", "{stream} {events}");
    }
}

#[tokio::test]
async fn a_turn_ends_at_its_deadline() {
    let (upstream, gateway) = over("background.max_duration = \"300ms\"").await;
    for (stream, events) in [(false, 4), (true, 4), (false, 0)] {
        upstream.always(Script::answer("a b c d").hang_after(events));
        let mut request = body("x");
        request["stream"] = json!(stream);
        let id = match stream {
            false => queue(&gateway, &request).await,
            true => gateway.client.stream(&request).await.until("response.failed").await.response_id(),
        };
        let failed = ended(&gateway.client, &id).await;
        assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("server_error")));
    }
}

#[tokio::test]
async fn input_items_are_available_at_once() {
    let (upstream, gateway) = gateway().await;
    let first = gateway
        .client
        .created(json!({"model": "sim", "input": [
        {"type": "message", "id": "msg_mine", "role": "user", "content": "mine"}]}))
        .await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let request = json!({"model": "sim", "background": true, "previous_response_id": first["id"], "input": [
        {"role": "user", "content": "new"}, {"type": "item_reference", "id": "msg_mine"}]});
    let id = queue(&gateway, &request).await;
    let items = async || gateway.client.get(&format!("{}/input_items?order=asc", path(&id))).await.ok();
    let running = items().await;
    assert_eq!(running["data"].as_array().unwrap().len(), 2);
    assert_eq!(running["data"][1]["content"][0]["text"], "mine");
    gate.open();
    ended(&gateway.client, &id).await;
    assert_eq!(items().await, running);
}

#[tokio::test]
async fn a_continuation_waits_for_its_parent_and_is_then_refused() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("first").gated();
    upstream.script(script);
    let id = queue(&gateway, &body("x")).await;
    let on = json!({"model": "sim", "input": "on", "previous_response_id": id});
    let refused = gateway.client.create(&on).await;
    let param = Some("previous_response_id".to_owned());
    assert_eq!(refused.refusal(), (409, Some("previous_response_not_completed".to_owned()), param));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let (continued, ()) = tokio::join!(gateway.client.create(&on), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.open();
    });
    // On a machine that stands still in between, the parent ends too late for it.
    if continued.status != 200 {
        assert_eq!(continued.refusal().0, 409);
        ended(&gateway.client, &id).await;
        gateway.client.created(&on).await;
    }
    assert_eq!(upstream.last_request().unwrap().json()["input"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn c1_c2_a_running_response_is_cancelled_and_stays_so() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer("a b c d").hang_after(6));
    let id = queue(&gateway, &body("x")).await;
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    let cancelled = cancel(&gateway.client, &id).await.ok();
    for (name, value) in [
        ("status", json!("cancelled")),
        ("output", json!([])),
        ("completed_at", Value::Null),
        ("background", json!(true)),
    ] {
        assert_eq!(cancelled[name], value, "{name}");
    }
    assert_eq!(cancel(&gateway.client, &id).await.ok(), cancelled);
    assert_eq!(gateway.client.get(&path(&id)).await.ok(), cancelled);
    // C9: the upstream's connection is closed.
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    let on = json!({"model": "sim", "input": "SAY{on}", "previous_response_id": id});
    upstream.script(Script::answer("on"));
    gateway.client.created(&on).await;
}

#[tokio::test]
async fn c1_a_queued_response_is_cancelled_without_an_upstream() {
    let (upstream, gateway) = over("background.max_running = 1").await;
    let (script, gate) = Script::answer("done").gated();
    upstream.always(script);
    let first = queue(&gateway, &body("first")).await;
    gate.arrived(1).await;
    let second = queue(&gateway, &body("second")).await;
    assert_eq!(cancel(&gateway.client, &second).await.ok()["status"], "cancelled");
    gate.open();
    ended(&gateway.client, &first).await;
    assert_eq!(upstream.counts().requests, 1);
}

#[tokio::test]
async fn c3_c4_a_response_that_has_ended_is_not_cancelled() {
    let (upstream, gateway) = gateway().await;
    for (script, text) in [
        (Script::answer("done"), "Cannot cancel a completed response."),
        (Script::answer("x").failed("server_error", "Odd."), "Cannot cancel a failed response."),
        (Script::answer("x").incomplete("max_output_tokens"), "Cannot cancel a response in terminal state."),
    ] {
        upstream.script(script);
        let id = queue(&gateway, &body("x")).await;
        ended(&gateway.client, &id).await;
        let reply = cancel(&gateway.client, &id).await;
        let (code, param) = ("invalid_request_error".to_owned(), "response_id".to_owned());
        assert_eq!(reply.refusal(), (400, Some(code), Some(param)));
        assert_eq!(reply.json()["error"]["message"], text);
    }
}

#[tokio::test]
async fn c6_a_response_that_is_not_in_background_or_unknown_is_not_found() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("done").gated_after(1);
    upstream.script(script);
    let request = json!({"model": "sim", "input": "x", "stream": true});
    let mut events = gateway.client.stream(request).await;
    let id = events.next().await.unwrap().response_id();
    assert_eq!(cancel(&gateway.client, &id).await.refusal(), (404, None, None));
    assert_eq!(gateway.client.get(&path(&id)).await.refusal(), (404, None, None));
    gate.open();
    events.rest().await;
    assert_eq!(cancel(&gateway.client, &id).await.refusal(), (400, None, None));
}

#[tokio::test]
async fn c8_the_store_decides_a_race_once() {
    let (upstream, gateway) = gateway().await;
    for _ in 0..10 {
        let (script, gate) = Script::answer("done").gated_after(3);
        upstream.script(script);
        let id = queue(&gateway, &body("x")).await;
        gate.arrived(1).await;
        let (reply, ()) = tokio::join!(cancel(&gateway.client, &id), async { gate.open() });
        let response = ended(&gateway.client, &id).await;
        match reply.status.as_u16() {
            200 => assert_eq!((reply.json(), &response["status"]), (response.clone(), &json!("cancelled"))),
            status => assert_eq!((status, &response["status"]), (400, &json!("completed"))),
        }
    }
}

#[tokio::test]
async fn deleting_a_running_response_cancels_it_first() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer("a b c d").hang_after(6));
    let id = queue(&gateway, &body("x")).await;
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    let deleted = gateway.client.delete(&path(&id)).await.ok();
    assert_eq!(deleted, json!({"id": id, "object": "response", "deleted": true}));
    for reply in [gateway.client.get(&path(&id)).await, cancel(&gateway.client, &id).await] {
        assert_eq!(reply.refusal(), (404, None, None));
    }
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    let row = gateway.logged(1).await.remove(0);
    assert_eq!((&*row.outcome, row.code), ("cancelled", None));
}

#[tokio::test]
async fn a_deletion_is_completed_when_its_client_leaves() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer("a b c d").hang_after(6));
    let id = queue(&gateway, &body("x")).await;
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    let request = format!("DELETE {} HTTP/1.1\r\nhost: localhost\r\n\r\n", path(&id));
    client.write_all(request.as_bytes()).await.unwrap();
    // The cancellation has begun, and the deletion comes after it.
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    drop(client);
    eventually("it is deleted", async || gateway.client.get(&path(&id)).await.status == 404).await;
}

#[tokio::test]
async fn a_background_turn_counts_as_a_concurrent_turn_from_its_creation_to_its_end() {
    let limits = "projects.default.limits = { concurrent_turns = 1, budgets = [{ tokens = 1000000, window = \"day\" }] }";
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(limits).clock(&half_past()).start().await;
    let (script, gate) = Script::answer("done").usage(10, 5).gated();
    upstream.script(script);
    let id = queue(&gateway, &body("x")).await;
    let refused = gateway.client.create(body("y")).await.refusal();
    assert_eq!((refused.0, refused.1.as_deref()), (429, Some("rate_limit_exceeded")));
    gate.open();
    ended(&gateway.client, &id).await;
    settled(&gateway).await;
    let store = gateway.app.chains.store();
    let counters = store.list_counters("project:default", gateway.app.env.clock.now()).await.unwrap();
    let tokens: Vec<_> = counters.iter().filter(|(_, count)| count.used > 0).collect();
    assert_eq!((tokens.len(), tokens[0].1.used, tokens[0].1.held), (1, 15, 0));
    gateway.client.created(json!({"model": "sim", "input": "z"})).await;
}
