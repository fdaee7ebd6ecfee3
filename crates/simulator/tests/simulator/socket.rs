//! WebSocket mode, compared with the real API.

use crate::support::{ask, post, scripted, simulator, soon, user};
use crate::wire::{Came, assert_error, connect, create, kinds, refused, shake, text, with};
use antiphon_simulator::upstream::{Options, ReceivedSocket, Script, SocketEnd};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Whether everything that was recorded is there. Ids keep their prefix only; tokens were not recorded.
#[track_caller]
fn assert_covers(ours: &Value, recorded: &Value) {
    match recorded {
        Value::Object(fields) => {
            for (key, recorded) in fields {
                let ours = ours.get(key).unwrap_or_else(|| panic!("no {key} in {ours}"));
                match key.as_str() {
                    "id" | "item_id" => {
                        let prefix = |id: &Value| id.as_str().unwrap().split('_').next().map(str::to_owned);
                        assert_eq!(prefix(ours), prefix(recorded));
                    }
                    "usage" => assert!(ours["total_tokens"].is_u64()),
                    _ => assert_covers(ours, recorded),
                }
            }
        }
        Value::Array(values) => {
            assert_eq!(ours.as_array().unwrap().len(), values.len());
            values.iter().zip(ours.as_array().unwrap()).for_each(|(value, ours)| assert_covers(ours, value));
        }
        other => assert_eq!(ours, other),
    }
}

#[tokio::test]
async fn a_turn_has_the_events_of_the_recorded_one() {
    let recording: Value = serde_json::from_str(include_str!("../../fixtures/websocket-turn.json")).unwrap();
    let simulator = scripted(Script::answer("PONG").deltas(1)).await;
    let events = connect(&simulator).await.turn(&create("Reply with exactly PONG.")).await;
    assert_covers(&json!(events), &recording["server_messages"]);
}

#[tokio::test]
async fn a_turn_has_the_events_of_a_stream() {
    let simulator = simulator(Options::default()).await;
    let input = "REASON SAY{hello}";
    let streamed =
        post(&simulator, &json!({"model": "sim", "store": false, "stream": true, "input": input})).await;
    let events = connect(&simulator).await.turn(&create(input)).await;
    assert_eq!(kinds(&events), streamed.kinds());
    for (event, (_, streamed)) in events.iter().zip(streamed.events()) {
        let keys = |event: &Value| event.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(event), keys(&streamed));
    }
}

#[tokio::test]
async fn an_unstored_response_is_continued_on_its_own_socket_only() {
    let simulator = simulator(Options { stateful: true, ..Options::default() }).await;
    simulator.script(Script::new().tool_call_as("call_1", "f", "{}"));
    let (mut here, mut there) = (connect(&simulator).await, connect(&simulator).await);
    let first = here.turn(&create("x")).await.pop().unwrap()["response"]["id"].clone();
    let output = json!([{"type": "function_call_output", "call_id": "call_1", "output": "done"}]);
    let next = with(create(output), "previous_response_id", first.clone());
    assert_error(
        &there.turn(&next).await[0],
        400,
        "previous_response_not_found",
        Some("previous_response_id"),
    );
    let http = post(&simulator, &with(ask("y"), "previous_response_id", first.clone())).await;
    assert_eq!(http.json()["error"]["code"], "previous_response_not_found");
    let second = here.turn(&next).await;
    assert_eq!(second[0]["response"]["previous_response_id"], first);
    assert_eq!(kinds(&second).last(), Some(&"response.completed"));
}

#[tokio::test]
async fn only_the_newest_response_of_a_lane_is_continued() {
    let simulator = simulator(Options::default()).await;
    let mut wire = connect(&simulator).await;
    let first = wire.turn(&create("one")).await.pop().unwrap()["response"]["id"].clone();
    let next = with(create("two"), "previous_response_id", first.clone());
    let second = wire.turn(&next).await.pop().unwrap()["response"]["id"].clone();
    let refusal = wire.turn(&next).await.remove(0);
    assert_error(&refusal, 400, "previous_response_not_found", Some("previous_response_id"));
    let message = format!("Previous response with id '{}' not found.", first.as_str().unwrap());
    assert_eq!(refusal["error"]["message"], message);
    assert_eq!(refusal.as_object().unwrap().len(), 3);
    let third = wire.turn(&with(create("three"), "previous_response_id", second)).await;
    assert_eq!(kinds(&third).last(), Some(&"response.completed"));
}

#[tokio::test]
async fn a_failed_continuation_is_forgotten_but_a_failed_fork_is_not() {
    let simulator = simulator(Options::default()).await;
    let mut wire = connect(&simulator).await;
    let first = wire.turn(&create("one")).await.pop().unwrap()["response"]["id"].clone();
    let failing = with(create("ERROR{500,server_error}"), "previous_response_id", first.clone());
    let forked = wire.turn(&with(failing.clone(), "stream_id", "fork")).await;
    assert_error(&forked[0], 500, "server_error", None);
    assert_eq!(forked[0]["stream_id"], "fork");
    let fork = with(with(create("on"), "previous_response_id", first.clone()), "stream_id", "fork");
    assert_eq!(kinds(&wire.turn(&fork).await).last(), Some(&"response.completed"));
    assert_error(&wire.turn(&failing).await[0], 500, "server_error", None);
    let refused = wire.turn(&with(create("two"), "previous_response_id", first)).await;
    assert_error(&refused[0], 400, "previous_response_not_found", Some("previous_response_id"));
}

#[tokio::test]
async fn a_warm_up_has_no_output_and_takes_no_script_and_can_be_continued() {
    let simulator = scripted(Script::answer("scripted")).await;
    let mut wire = connect(&simulator).await;
    let warm_up = with(create(json!([{"role": "developer", "content": "Be brief."}])), "generate", false);
    let events = wire.turn(&warm_up).await;
    assert_eq!(kinds(&events), ["response.created", "response.in_progress", "response.completed"]);
    let response = &events[2]["response"];
    assert_eq!((&response["output"], &response["status"]), (&json!([]), &json!("completed")));
    assert_eq!(response["usage"]["output_tokens"], 0);
    let next = with(create("hello"), "previous_response_id", response["id"].clone());
    assert_eq!(text(&wire.turn(&next).await), "scripted");
}

#[tokio::test]
async fn stored_responses_are_continued_from_any_socket_and_over_http() {
    let simulator = simulator(Options { stateful: true, ..Options::default() }).await;
    let (mut here, mut there) = (connect(&simulator).await, connect(&simulator).await);
    let unstored = here.turn(&create("one")).await.pop().unwrap()["response"]["id"].clone();
    let next = with(with(create("two"), "store", true), "previous_response_id", unstored);
    let stored = here.turn(&next).await.pop().unwrap()["response"]["id"].clone();
    let there = there.turn(&with(create("three"), "previous_response_id", stored.clone())).await;
    assert_eq!(kinds(&there).last(), Some(&"response.completed"));
    let http = post(&simulator, &with(ask("three"), "previous_response_id", stored)).await;
    assert_eq!(http.status, 200);
    let first = post(&simulator, &json!({"model": "sim", "input": "x"})).await.json();
    let over = here.turn(&with(create("y"), "previous_response_id", first["id"].clone())).await;
    assert_eq!(over[0]["response"]["previous_response_id"], first["id"]);
}

#[tokio::test]
async fn turns_of_a_lane_wait_for_each_other_and_other_lanes_do_not() {
    let simulator = simulator(Options::default()).await;
    let (held, gate) = Script::answer("held").gated_after(2);
    simulator.script(held);
    let mut wire = connect(&simulator).await;
    for _ in 0..2 {
        wire.send(&with(create("x"), "stream_id", "a")).await;
    }
    soon(gate.arrived(1)).await;
    wire.send(&with(create("x"), "stream_id", "b")).await;
    wire.send(&create("x")).await;
    let mut others = [wire.ended_lane().await, wire.ended_lane().await];
    others.sort();
    assert_eq!(others, [None, Some("b".to_owned())]);
    soon(simulator.wait_until(|simulator| simulator.in_flight() == 2)).await;
    gate.open();
    for _ in 0..2 {
        assert_eq!(wire.ended_lane().await.as_deref(), Some("a"));
    }
}

#[tokio::test]
async fn at_most_sixteen_turns_of_a_socket_run_at_once() {
    let simulator = simulator(Options::default()).await;
    let (held, gate) = Script::answer("held").gated();
    simulator.always(held);
    let mut wire = connect(&simulator).await;
    for lane in 0..17 {
        wire.send(&with(create("x"), "stream_id", format!("lane-{lane}"))).await;
    }
    soon(simulator.wait_until(|simulator| simulator.in_flight() == 17)).await;
    soon(gate.arrived(16)).await;
    let cut = Script::new().hang();
    simulator.always(cut);
    gate.open();
    for _ in 0..16 {
        wire.events().await;
    }
    soon(simulator.wait_until(|simulator| simulator.in_flight() == 1)).await;
}

#[tokio::test]
async fn every_event_names_its_lane() {
    let simulator = simulator(Options::default()).await;
    let mut wire = connect(&simulator).await;
    let events = wire.turn(&with(create("x"), "stream_id", "a.B_c-1")).await;
    assert!(events.iter().all(|event| event["stream_id"] == "a.B_c-1"));
    let unnamed = wire.turn(&create("x")).await;
    assert!(unnamed.iter().all(|event| event.get("stream_id").is_none()));
    for bad in [json!(""), json!("a b"), json!(7), json!("x".repeat(257))] {
        let refused = wire.turn(&with(create("x"), "stream_id", bad)).await.remove(0);
        assert_error(&refused, 400, "invalid_stream_id", Some("stream_id"));
        assert!(refused.get("stream_id").is_none());
    }
    for lane in 1..32 {
        wire.turn(&with(create("x"), "stream_id", format!("lane-{lane}"))).await;
    }
    let one_more = wire.turn(&with(create("x"), "stream_id", "one-more")).await.remove(0);
    assert_error(&one_more, 400, "websocket_stream_limit_reached", Some("stream_id"));
    assert_eq!(one_more["stream_id"], "one-more");
}

#[tokio::test]
async fn a_socket_rejects_what_http_rejects_and_stays_open() {
    let simulator = simulator(Options::default()).await;
    let mut wire = connect(&simulator).await;
    let output = json!([{"type": "function_call_output", "call_id": "call_x", "output": "done"}]);
    let reasoning =
        json!([{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAAbad"}]);
    for input in [output, reasoning, json!(7)] {
        let over_http = post(&simulator, &ask(input.clone())).await;
        let refused = wire.turn(&create(input)).await.remove(0);
        assert_eq!(refused["status"], over_http.status.as_u16());
        assert_eq!(refused["error"], over_http.json()["error"]);
    }
    let missing = wire.turn(&json!({"type": "response.create", "input": "x"})).await.remove(0);
    assert_error(&missing, 400, "missing_required_parameter", Some("model"));
    let unknown = wire.turn(&json!({"type": "response.destroy"})).await.remove(0);
    assert_error(&unknown, 400, "invalid_value", Some("type"));
    wire.send_text("{").await;
    assert_eq!(wire.event().await["status"], 400);
    wire.send_message(Message::binary(b"{}".to_vec())).await;
    assert_eq!(wire.event().await["status"], 400);
    assert_eq!(kinds(&wire.turn(&create("x")).await).last(), Some(&"response.completed"));
}

#[tokio::test]
async fn unsupported_members_that_clients_send_are_accepted() {
    let simulator = simulator(Options::default()).await;
    let mut wire = shake(
        &simulator,
        &[
            ("openai-beta", "responses_websockets=2026-02-06"),
            ("sec-websocket-extensions", "permessage-deflate"),
        ],
    )
    .await
    .unwrap();
    assert!(wire.handshake.headers().get("sec-websocket-extensions").is_none());
    assert!(wire.handshake.headers().contains_key("x-request-id"));
    wire.send(&json!({"type": "response.processed", "response_id": "resp_x"})).await;
    let frame = with(with(create("x"), "stream", true), "client_metadata", json!({"a": "b"}));
    assert_eq!(kinds(&wire.turn(&frame).await).last(), Some(&"response.completed"));
    assert_eq!(simulator.counts().requests, 1);
}

#[tokio::test]
async fn what_a_socket_received_is_recorded() {
    let simulator = simulator(Options::default()).await;
    let mut first = shake(&simulator, &[("x-client-request-id", "thread-1")]).await.unwrap();
    let mut second = connect(&simulator).await;
    first.turn(&create("one")).await;
    first.ping().await;
    first.send(&json!({"type": "response.processed"})).await;
    first.turn(&create(json!([user("two")]))).await;
    second.turn(&create("three")).await;
    let requests = simulator.requests();
    assert_eq!(
        requests.iter().map(|request| request.socket).collect::<Vec<_>>(),
        [Some(0), Some(0), Some(1)]
    );
    assert_eq!(requests[1].input(), [user("two")]);
    assert_eq!(
        (requests[0].path.as_str(), requests[0].header("x-client-request-id")),
        ("/v1/responses", Some("thread-1"))
    );
    let sockets = simulator.sockets();
    assert_eq!((sockets[0].turns, sockets[0].messages.len(), sockets[0].pings), (2, 3, 1));
    assert_eq!(sockets[0].json()[1], json!({"type": "response.processed"}));
    assert_eq!((sockets[0].status, sockets[0].header("x-client-request-id")), (Some(101), Some("thread-1")));
    assert!(sockets.iter().all(ReceivedSocket::is_open));
    assert_eq!((simulator.counts().sockets, simulator.counts().open_sockets), (2, 2));
    first.close(1001).await;
    drop(second);
    soon(simulator.wait_until(|simulator| simulator.counts().open_sockets == 0)).await;
    let ends: Vec<_> = simulator.sockets().into_iter().map(|socket| socket.end).collect();
    assert_eq!(ends, [Some(SocketEnd::Closed(Some(1001))), Some(SocketEnd::Gone)]);
    soon(simulator.wait_until(|simulator| simulator.counts().finished == 3)).await;
}

#[tokio::test]
async fn a_message_may_follow_the_handshake_immediately() {
    let simulator = simulator(Options::default()).await;
    let mut tcp = TcpStream::connect(simulator.address()).await.unwrap();
    let handshake = "GET /v1/responses HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let message = create("x").to_string();
    let length = u8::try_from(message.len()).unwrap();
    assert!(length < 126);
    // Masked with zeros, the message stays as it is.
    let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], message.as_bytes()].concat();
    tcp.write_all(&[handshake.as_bytes(), &frame].concat()).await.unwrap();
    soon(simulator.wait_until(|simulator| simulator.counts().finished == 1)).await;
    let mut reply = vec![0; 64 << 10];
    let read = soon(tcp.read(&mut reply)).await.unwrap();
    let reply = String::from_utf8_lossy(&reply[..read]).into_owned();
    assert!(reply.starts_with("HTTP/1.1 101 "), "{reply}");
    assert!(reply.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{reply}");
    assert!(!reply.contains("content-length") && !reply.contains("transfer-encoding"), "{reply}");
}

#[tokio::test]
async fn a_handshake_requires_the_key_and_the_right_path() {
    let simulator = simulator(Options { api_key: Some("sk-right".to_owned()), ..Options::default() }).await;
    let reply = refused(&simulator, &[("authorization", "Bearer sk-wrong")]).await;
    assert_eq!(reply.status(), 401);
    assert_eq!(simulator.last_socket().unwrap().status, Some(401));
    let reply =
        refused(&simulator, &[("authorization", "Bearer sk-right"), ("sec-websocket-version", "8")]).await;
    assert_eq!(reply.status(), 400);
    shake(&simulator, &[("authorization", "Bearer sk-right")]).await.unwrap();
    assert_eq!((simulator.counts().sockets, simulator.sockets().len()), (1, 3));
    let plain = crate::support::get(format!("{}/responses", simulator.url())).await;
    assert_eq!(plain.status, 401);
}

#[tokio::test]
async fn a_turn_whose_client_leaves_is_aborted() {
    let simulator = scripted(Script::answer("x").hang_after(1)).await;
    let mut wire = connect(&simulator).await;
    wire.send(&create("x")).await;
    assert!(matches!(wire.next().await, Came::Event(_)));
    drop(wire);
    soon(simulator.wait_until(|simulator| simulator.aborted() == 1)).await;
    assert_eq!((simulator.in_flight(), simulator.last_socket().unwrap().end), (0, Some(SocketEnd::Gone)));
}
