//! Upstreams over WebSockets that send what they should not.

use antiphon_protocol::id::ProjectId;
use antiphon_simulator::upstream::Script;
use antiphon_store::Clock;
use antiphon_testkit::Message;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::upstream_sockets::{follow, over, turn};

fn message(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// The last event of a response of this upstream's id.
fn completed(upstream_id: &str, text: &str) -> Value {
    let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
    let item = json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content});
    let response = json!({"id": upstream_id, "object": "response", "status": "completed", "output": [item]});
    json!({"type": "response.completed", "sequence_number": 9, "response": response})
}

fn text(response: &Value) -> &Value {
    &response["output"][0]["content"][0]["text"]
}

#[tokio::test]
async fn a_continuation_goes_out_on_its_parents_socket_even_if_an_upstreams_ids_collide() {
    let (upstream, gateway, _) = over("websocket").await;
    let operator = Operator::of(&gateway).await;
    let alice = gateway.client.with_secret(&operator.key(json!({"name": "alice"})).await);
    let bob = gateway.client.with_secret(&operator.key(json!({"name": "bob"})).await);
    let mut parents = Vec::new();
    for client in [&alice, &bob] {
        upstream.script(Script::stream_bytes(message(&completed("resp_1", "a"))));
        parents.push(client.create(turn(None)).await.ok_id());
    }
    follow(&alice, &parents[0]).await.ok();
    let turns: Vec<usize> = upstream.sockets().iter().map(|socket| socket.turns).collect();
    assert_eq!(turns[..2], [2, 1], "of the sockets of Alice and Bob");
}

#[tokio::test]
async fn a_late_event_of_the_turn_before_is_not_the_answer_of_the_next() {
    let (upstream, gateway, clock) = over("websocket").await;
    let first = gateway.client.create(turn(None)).await.ok_id();
    let project = ProjectId::new(ProjectId::DEFAULT);
    let parent = gateway.app.chains.load(&project, first.parse().unwrap(), Clock::now(&*clock), 9);
    let upstream_id = parent.await.unwrap().unwrap().upstream_id.clone().unwrap();
    let late = completed(&upstream_id, "late").to_string();
    let limits = json!({"type": "codex.rate_limits"}).to_string();
    upstream.script(Script::answer("lost").inject(0, limits).inject(0, late));
    upstream.script(Script::answer("two"));
    let second = follow(&gateway.client, &first).await.ok();
    assert_eq!(text(&second), "two");
    let sockets = upstream.sockets();
    assert_eq!((sockets.len(), sockets[0].turns, sockets[1].turns), (2, 2, 1));
    assert_eq!(sockets[1].json()[0]["input"].as_array().unwrap().len(), 3, "all of the chain");
    assert_eq!(gateway.account_state("one").await, "ready");
}

#[tokio::test]
async fn an_event_of_another_response_ends_the_turn_and_its_socket() {
    for before in [1, 3] {
        let (upstream, gateway, _) = over("websocket").await;
        let strange = completed("resp_of_a_stranger", "strange").to_string();
        upstream.script(Script::answer("a b c").inject(before, strange));
        let body = json!({"model": "sim", "input": "x", "stream": true});
        let events = gateway.client.stream(body).await.rest().await;
        let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
        assert!(names.ends_with(&["error", "response.failed"]), "{names:?}");
        let failed = events.last().unwrap().json();
        assert!(!failed.to_string().contains("strange"), "{failed}");
        upstream.wait_until(|upstream| upstream.counts().open_sockets == 0).await;
    }
}

#[tokio::test]
async fn a_refused_handshake_is_passed_on_like_a_refused_turn() {
    let (upstream, gateway, _) = over("websocket").await;
    let body = r#"{"error":{"message":"Slow down.","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#;
    upstream
        .always_handshake(Script::http(429, body).header("retry-after", "120").header("x-request-id", "r1"));
    let refused = gateway.client.create(turn(None)).await;
    assert_eq!(refused.refusal(), (429, Some("rate_limit_exceeded".to_owned()), None));
    assert_eq!((refused.header("retry-after"), refused.header("x-request-id")), (Some("120"), Some("r1")));
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert_eq!(refused.json()["error"]["message"], "Slow down.");
    assert_eq!(gateway.account_state("one").await, "cooling");
}

#[tokio::test]
async fn an_event_before_an_error_does_not_hide_it() {
    let (upstream, gateway, _) = over("websocket").await;
    let first = gateway.client.create(turn(None)).await.ok_id();
    let limits = json!({"type": "codex.rate_limits", "rate_limits": {}});
    let error = json!({"type": "invalid_request_error", "code": "previous_response_not_found", "message": "m", "param": "previous_response_id"});
    let error = json!({"type": "error", "status": 400, "error": error});
    upstream.script(Script::stream_bytes(message(&limits) + &message(&error)));
    follow(&gateway.client, &first).await.ok();
    let last = upstream.last_request().unwrap();
    assert_eq!((last.json().get("previous_response_id"), last.input().len()), (None, 3));
    upstream.script(Script::answer("a").inject(0, limits.to_string()));
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    assert_eq!(events.next().await.unwrap().name, "codex.rate_limits", "it is passed on before the response");
}

#[tokio::test]
async fn a_malformed_error_reaches_clients_as_valid_json() {
    let malformed =
        r#"{"type":"error","status":400,"error":{"type":"x","code":"x","message":"m","param":nul}}"#;
    let (upstream, gateway, _) = over("websocket").await;
    upstream.script(Script::stream_bytes(format!("data: {malformed}\n\n")));
    let refused = gateway.client.create(turn(None)).await;
    assert_eq!(
        (refused.status.as_u16(), refused.json()["error"]["type"].as_str()),
        (502, Some("server_error"))
    );
    upstream.script(Script::answer("a b c").inject(2, malformed).no_terminal());
    let events =
        gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await.rest().await;
    let error = events.iter().find(|event| event.name == "error").unwrap().json();
    assert_eq!(error["message"], "The upstream sent a malformed error.");
}

#[tokio::test]
async fn an_upstreams_lane_is_not_passed_on() {
    let (upstream, gateway, _) = over("websocket").await;
    let mut event = completed("resp_1", "a");
    event["stream_id"] = json!("strange");
    for lane in [None, Some("own")] {
        upstream.script(Script::stream_bytes(message(&event)));
        let mut socket = gateway.socket().await;
        let mut request = json!({"model": "sim", "input": "x"});
        if let Some(lane) = lane {
            request["stream_id"] = json!(lane);
        }
        socket.create(request).await;
        let Some(Message::Text(frame)) = socket.message().await else { panic!("no event") };
        assert_eq!(frame.matches("stream_id").count(), usize::from(lane.is_some()), "{frame}");
        assert_eq!(frame.contains(r#""stream_id":"own""#), lane.is_some(), "{frame}");
    }
}
