//! GET /v1/responses with an Upgrade: what every client of WebSocket mode relies on.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Came, Message, Setup, Socket, header};
use http::Method;
use serde_json::{Value, json};

use crate::{gateway, simulator};

fn create(input: &str) -> Value {
    json!({"model": "sim", "input": input})
}

fn unstored(input: &str) -> Value {
    json!({"model": "sim", "input": input, "store": false})
}

fn after(mut frame: Value, parent: &Value) -> Value {
    frame["previous_response_id"] = parent["id"].clone();
    frame
}

fn on(mut frame: Value, lane: &str) -> Value {
    frame["stream_id"] = lane.into();
    frame
}

fn types(frames: &[Value]) -> Vec<&str> {
    frames.iter().filter_map(|frame| frame["type"].as_str()).collect()
}

/// The texts of the input that the upstream got last.
fn asked(upstream: &antiphon_simulator::upstream::Simulator) -> Vec<String> {
    let input = upstream.last_request().unwrap().input();
    input.iter().filter_map(|item| item["content"][0]["text"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_socket_turn_sends_one_event_per_frame() {
    let (upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    socket.create(create("hi")).await;
    let frames = socket.turn().await;
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
    let events: Vec<Value> = events.rest().await.iter().map(antiphon_testkit::Event::json).collect();
    assert_eq!(types(&frames), types(&events));
    let ids: Vec<_> = frames.iter().filter_map(|frame| frame["response"]["id"].as_str()).collect();
    assert!(ids.len() > 1 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(frames.iter().all(|frame| frame.get("stream_id").is_none()));
    let sent = upstream.requests()[0].json();
    assert_eq!((&sent["stream"], sent.get("type")), (&json!(true), None));
}

#[tokio::test]
async fn both_paths_accept_sockets_and_other_requests_are_unaffected() {
    let (_upstream, gateway) = gateway().await;
    for path in ["/v1/responses", "/v1/responses/", "/backend-api/codex/responses"] {
        let mut socket = Socket::connect(gateway.address(), path, &[]).await.unwrap();
        socket.created(create("hi")).await;
    }
    let reply = gateway.client.get("/v1/responses").await;
    assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, Some("POST")));
    assert_eq!(reply.refusal().1.as_deref(), Some("method_not_allowed"));
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
}

#[tokio::test]
async fn invalid_and_disabled_handshakes_are_rejected() {
    let (_upstream, gateway) = gateway().await;
    let upgrade = [header("connection", "upgrade"), header("upgrade", "websocket")];
    let reply = gateway.client.request(Method::GET, "/v1/responses", &upgrade, "").await;
    assert_eq!(reply.refusal(), (400, Some("invalid_handshake".to_owned()), None));
    for (origin, may) in [
        ("https://elsewhere.example".to_owned(), false),
        ("null".to_owned(), false),
        (format!("http://{}", gateway.address()), true),
    ] {
        let opened = Socket::connect(gateway.address(), "/v1/responses", &[header("origin", &origin)]).await;
        assert_eq!(opened.map_err(|(status, _)| status).err(), (!may).then_some(403), "{origin}");
    }
    let gateway = gateway.stop().await.config("sockets.enabled = false").start().await;
    let (status, body) = Socket::connect(gateway.address(), "/v1/responses", &[]).await.unwrap_err();
    assert_eq!(status, 426);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["code"], "websocket_disabled");
    let handshake = [
        header("connection", "upgrade"),
        header("upgrade", "websocket"),
        header("sec-websocket-version", "13"),
        header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let reply = gateway.client.request(Method::GET, "/v1/responses", &handshake, "").await;
    assert_eq!((reply.status.as_u16(), reply.header("connection")), (426, Some("close")));
}

#[tokio::test]
async fn events_are_relayed_byte_for_byte_with_their_lane_prepended() {
    let (upstream, gateway) = gateway().await;
    let odd = "event: response.brand_new\r\ndata: {\"n\":1.50e+400,\"s\":\"\\u00e9\"}\r\n\r\n: a comment\n\ndata: [DONE]\n\n";
    for chunk in [1, 7, 1 << 20] {
        for (lane, expected) in [
            (None, r#"{"n":1.50e+400,"s":"\u00e9"}"#),
            (Some("a"), r#"{"stream_id":"a","n":1.50e+400,"s":"\u00e9"}"#),
        ] {
            upstream.script(Script::answer("a b c").inject(3, odd).writes_of(chunk));
            let mut socket = gateway.socket().await;
            socket.create(lane.map_or(create("hi"), |lane| on(create("hi"), lane))).await;
            let mut frames = Vec::new();
            loop {
                let Came::Frame(text) = socket.next().await else { panic!("it ended: {frames:?}") };
                frames.push(String::from_utf8(text.to_vec()).unwrap());
                if frames.last().unwrap().contains("response.completed") {
                    break;
                }
            }
            assert!(frames.iter().any(|frame| frame == expected), "{frames:#?}");
            assert!(frames.iter().all(|frame| frame.starts_with('{')), "{frames:#?}");
        }
    }
}

#[tokio::test]
async fn a_chain_continues_over_any_transport() {
    let (upstream, gateway) = gateway().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    let mut socket = gateway.socket().await;
    let second = socket.created(after(create("two"), &first)).await;
    assert_eq!(second["previous_response_id"], first["id"]);
    assert_eq!(second["store"], true);
    let third = gateway.client.created(after(create("three"), &second)).await;
    let mut other = gateway.socket().await;
    other.created(after(create("four"), &third)).await;
    let asked = asked(&upstream);
    let own: Vec<_> = asked.iter().filter(|text| !text.starts_with("Hello")).collect();
    assert_eq!(own, ["one", "two", "three", "four"]);
    let rows = gateway.logged(4).await;
    assert_eq!(rows.iter().filter(|row| row.transport == "websocket").count(), 2);
}

#[tokio::test]
async fn only_its_socket_remembers_an_unstored_response() {
    let (upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    let first = socket.created(unstored("one")).await;
    assert_eq!(first["store"], false);
    let second = socket.created(after(unstored("two"), &first)).await;
    let third = socket.created(after(unstored("three"), &second)).await;
    assert_eq!(asked(&upstream).iter().filter(|text| !text.starts_with("Hello")).count(), 3);
    let not_found = (400, "previous_response_not_found".to_owned(), Some("previous_response_id".to_owned()));
    let mut other = gateway.socket().await;
    assert_eq!(other.refused(after(unstored("x"), &third)).await, not_found);
    assert_eq!(other.refused(after(create("x"), &third)).await, not_found);
    assert_eq!(gateway.client.create(after(create("x"), &third)).await.status, 400);
    assert_eq!(socket.refused(after(unstored("x"), &second)).await, not_found, "it is not the latest");
    // A stored response cannot continue one that is not stored.
    assert_eq!(socket.refused(after(create("x"), &third)).await, not_found);
    let id = third["id"].as_str().unwrap();
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.status, 404);
}

#[tokio::test]
async fn unstored_responses_can_be_continued_only_on_their_socket() {
    let (_upstream, gateway) = gateway().await;
    let elsewhere = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    let mut socket = gateway.socket().await;
    assert_eq!(socket.refused(after(unstored("x"), &elsewhere)).await.1, "previous_response_not_found");
    let here = socket.created(create("two")).await;
    let beside = socket.created(after(unstored("three"), &here)).await;
    let stored = socket.created(after(create("four"), &here)).await;
    let id = stored["id"].as_str().unwrap();
    gateway.client.delete(&format!("/v1/responses/{id}")).await.ok();
    assert_eq!(socket.refused(after(unstored("x"), &stored)).await.1, "previous_response_not_found");
    assert_eq!(socket.refused(after(unstored("x"), &beside)).await.1, "previous_response_not_found");
}

#[tokio::test]
async fn a_warm_up_calls_no_upstream_and_can_be_continued() {
    let (upstream, gateway) = gateway().await;
    for store in [false, true] {
        let mut socket = gateway.socket().await;
        let before = upstream.counts().requests;
        let warm = json!({"model": "sim", "input": "context", "generate": false, "store": store});
        socket.create(warm).await;
        let frames = socket.turn().await;
        assert_eq!(types(&frames), ["response.created", "response.completed"]);
        let response = &frames[1]["response"];
        assert_eq!((&response["status"], &response["output"]), (&json!("completed"), &json!([])));
        assert_eq!((&frames[0]["sequence_number"], &frames[1]["sequence_number"]), (&json!(0), &json!(1)));
        assert_eq!(upstream.counts().requests, before);
        let mut next = after(unstored("question"), response);
        next["store"] = store.into();
        socket.created(next).await;
        assert_eq!(asked(&upstream), ["context", "question"]);
        let id = response["id"].as_str().unwrap();
        let stored = gateway.client.get(&format!("/v1/responses/{id}")).await;
        assert_eq!(stored.status.as_u16(), if store { 200 } else { 404 });
        if store {
            assert_eq!(&stored.ok(), response);
            gateway.client.created(after(create("over HTTP"), response)).await;
            assert_eq!(asked(&upstream), ["context", "over HTTP"]);
        }
    }
}

#[tokio::test]
async fn an_error_leaves_the_socket_open() {
    let (upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    for (text, code, param) in [
        ("{", "invalid_json", None),
        ("{}", "missing_required_parameter", Some("type")),
        (r#"{"type":"response.create","input":"x"}"#, "missing_required_parameter", Some("model")),
        (
            r#"{"type":"response.create","model":"sim","input":"x","stream_id":"a b"}"#,
            "invalid_stream_id",
            Some("stream_id"),
        ),
        (
            r#"{"type":"response.create","model":"sim","input":"x","background":true}"#,
            "unsupported_value",
            Some("background"),
        ),
        (
            r#"{"type":"response.create","model":"sim","input":"x","previous_response_id":"resp_zz"}"#,
            "previous_response_not_found",
            Some("previous_response_id"),
        ),
    ] {
        socket.send(text).await;
        assert_eq!(socket.refusal().await, (400, code.to_owned(), param.map(str::to_owned)), "{text}");
    }
    socket.send_message(Message::binary(vec![0; 10])).await;
    assert_eq!(socket.refusal().await.1, "unsupported_message");
    socket.send(r#"{"type":"response.steer","previous_response_id":"resp_1","input":[{"role":"user","content":"x"}]}"#).await;
    let failed = socket.frame().await;
    assert_eq!(
        (&failed["type"], &failed["error"]["code"]),
        (&json!("response.steer.failed"), &json!("steering_not_supported"))
    );
    let steer = json!({"previous_response_id": "resp_1", "input": [{"role": "user", "content": "x"}]});
    assert_eq!(failed["steer"], steer);
    socket.send(r#"{"type":"response.steer","input":"x"}"#).await;
    assert_eq!(socket.refusal().await.2.as_deref(), Some("previous_response_id"));
    for ignored in [r#"{"type":"response.processed","response_id":"r"}"#, r#"{"type":"session.brand_new"}"#] {
        socket.send(ignored).await;
    }
    upstream.script(
        Script::http(429, r#"{"error":{"message":"m","type":"t","param":null,"code":"c","x":1.50}}"#)
            .header("retry-after", "70")
            .header("x-ratelimit-limit-requests", "9"),
    );
    socket.create(on(create("x"), "lane")).await;
    let frame = socket.frame().await;
    assert_eq!((&frame["status"], &frame["stream_id"]), (&json!(429), &json!("lane")));
    assert_eq!(frame["error"]["x"], json!(1.5));
    assert_eq!(frame["headers"]["x-ratelimit-limit-requests"], "9");
    assert!(frame["headers"]["retry-after"].is_string(), "{frame}");
}

#[tokio::test]
async fn lanes_run_side_by_side_and_each_one_in_order() {
    let (upstream, gateway) = gateway().await;
    let (slow, gate) = Script::answer("slow").gated_after(1);
    upstream.script(slow);
    let mut socket = gateway.socket().await;
    socket.create(on(unstored("first"), "a")).await;
    let begun = socket.frame().await;
    assert_eq!((&begun["stream_id"], &begun["type"]), (&json!("a"), &json!("response.created")));
    socket.create(on(after(unstored("second"), &begun["response"]), "a")).await;
    socket.create(on(unstored("beside"), "b")).await;
    let beside = socket.turn().await;
    assert!(beside.iter().all(|frame| frame["stream_id"] == "b"), "{beside:#?}");
    assert_eq!(upstream.counts().requests, 2, "the second turn of lane a waits for the first");
    gate.open();
    assert_eq!(socket.turn().await.last().unwrap()["response"]["id"], begun["response"]["id"]);
    let second = socket.turn().await.pop().unwrap();
    assert_eq!(second["response"]["previous_response_id"], begun["response"]["id"]);
    assert_eq!(asked(&upstream), ["first", "slow", "second"]);
}

#[tokio::test]
async fn a_new_lane_can_continue_another_lane() {
    let (upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    let trunk = socket.created(unstored("trunk")).await;
    let left = socket.created(on(after(unstored("left"), &trunk), "left")).await;
    let right = socket.created(on(after(unstored("right"), &trunk), "right")).await;
    assert!(!asked(&upstream).contains(&"left".to_owned()));
    socket.created(after(unstored("on the trunk"), &trunk)).await;
    socket.created(on(after(unstored("more left"), &left), "left")).await;
    assert!(!asked(&upstream).contains(&"right".to_owned()));
    socket.created(on(after(unstored("more right"), &right), "right")).await;
}

#[tokio::test]
async fn a_failed_continuation_is_forgotten_only_by_its_lane() {
    let (upstream, gateway) = gateway().await;
    let refusal = r#"{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"c"}}"#;
    let mut socket = gateway.socket().await;
    let trunk = socket.created(unstored("trunk")).await;
    upstream.script(Script::http(400, refusal));
    assert_eq!(socket.refused(on(after(unstored("fork"), &trunk), "fork")).await.0, 400);
    let trunk = socket.created(after(unstored("the trunk is still there"), &trunk)).await;
    upstream.script(Script::http(400, refusal));
    assert_eq!(socket.refused(after(unstored("x"), &trunk)).await.1, "c");
    assert_eq!(socket.refused(after(unstored("x"), &trunk)).await.1, "previous_response_not_found");
    let stored = socket.created(create("stored")).await;
    upstream.script(Script::http(400, refusal));
    assert_eq!(socket.refused(after(create("x"), &stored)).await.1, "c");
    socket.created(after(create("a stored one can be read again"), &stored)).await;
}

#[tokio::test]
async fn lanes_of_a_connection_are_limited() {
    let (_upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    socket.created(unstored("the lane without a name does not count")).await;
    for lane in 0..32 {
        socket.created(on(unstored("x"), &format!("lane-{lane}"))).await;
    }
    let refused = socket.refused(on(unstored("x"), "one-too-many")).await;
    assert_eq!(refused, (400, "websocket_stream_limit_reached".to_owned(), Some("stream_id".to_owned())));
    socket.created(on(unstored("x"), "lane-31")).await;
    socket.created(unstored("x")).await;
}

#[tokio::test]
async fn headers_of_the_handshake_go_upstream_with_each_turn() {
    let (upstream, gateway) = gateway().await;
    let headers = [
        header("session-id", "s-1"),
        header("x-codex-window-id", "w-1"),
        header("openai-beta", "responses_websockets=2026-02-06"),
        header("authorization", "Bearer secret"),
        header("cookie", "a=b"),
        header("connection", "Upgrade, x-codex-hop"),
        header("x-codex-hop", "1"),
    ];
    let mut socket = Socket::connect(gateway.address(), "/v1/responses", &headers).await.unwrap();
    socket.created(unstored("one")).await;
    let mut frame = unstored("two");
    frame["client_metadata"] =
        json!({"x-codex-window-id": "w-2", "x-codex-turn-state": "t", "session_id": "no", "cookie": "no"});
    socket.created(frame).await;
    let requests = upstream.requests();
    let sent = |n: usize, name: &str| requests[n].header(name).map(str::to_owned);
    for n in 0..2 {
        assert_eq!(sent(n, "session-id").as_deref(), Some("s-1"));
        for name in ["openai-beta", "authorization", "cookie", "upgrade", "sec-websocket-key", "x-codex-hop"]
        {
            assert_eq!(sent(n, name), None, "{name}");
        }
    }
    assert_eq!(
        (sent(0, "x-codex-window-id").as_deref(), sent(1, "x-codex-window-id").as_deref()),
        (Some("w-1"), Some("w-2"))
    );
    assert_eq!(sent(1, "x-codex-turn-state").as_deref(), Some("t"));
}

#[tokio::test]
async fn headers_that_codex_reads_become_events() {
    let (upstream, gateway) = gateway().await;
    upstream.script(
        Script::answer("x")
            .header("x-codex-turn-state", "s-1")
            .header("x-codex-primary-used-percent", "12.5")
            .header("set-cookie", "a=b"),
    );
    let codex = [header("originator", "codex_exec")];
    let mut socket = Socket::connect(gateway.address(), "/v1/responses", &codex).await.unwrap();
    socket.create(on(unstored("x"), "a")).await;
    let frames = socket.turn().await;
    assert_eq!(types(&frames)[..3], ["codex.rate_limits", "response.metadata", "response.created"]);
    assert!(frames.iter().all(|frame| frame["stream_id"] == "a"));
    assert_eq!(frames[0]["rate_limits"]["primary"]["used_percent"], 12.5);
    assert_eq!(
        (&frames[1]["headers"]["x-codex-turn-state"], frames[1]["headers"].get("set-cookie")),
        (&json!("s-1"), None)
    );
    let numbers: Vec<_> = frames.iter().map(|frame| frame["sequence_number"].as_u64()).collect();
    assert_eq!(numbers[..3], [None, None, Some(0)]);
}

#[tokio::test]
async fn only_codex_gets_its_headers_as_events() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer("x").header("x-codex-turn-state", "s-1"));
    let first_types = async |name: &'static str, value: &'static str| {
        let headers = [header(name, value)];
        let mut socket = Socket::connect(gateway.address(), "/v1/responses", &headers).await.unwrap();
        socket.create(unstored("x")).await;
        types(&socket.turn().await)[0].to_owned()
    };
    assert_eq!(first_types("user-agent", "OpenAI/Python 3.52.0").await, "response.created");
    assert_eq!(first_types("originator", "opencode").await, "response.created");
    assert_eq!(first_types("user-agent", "codex_cli_rs/0.169.0 (Debian)").await, "response.metadata");
    assert_eq!(first_types("x-codex-window-id", "w").await, "response.metadata");
    // Over HTTP the headers are headers.
    let body = json!({"model": "sim", "input": "x", "stream": true}).to_string();
    let headers = [header("originator", "codex_exec")];
    let reply = gateway.client.request(Method::POST, "/v1/responses", &headers, body).await;
    assert_eq!(reply.header("x-codex-turn-state"), Some("s-1"));
    assert!(!String::from_utf8_lossy(&reply.body).contains("response.metadata"));
}

#[tokio::test]
async fn a_chain_that_only_the_socket_remembers_keeps_its_upstreams_socket() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "transport = \"websocket\"").start().await;
    let mut socket = gateway.socket().await;
    let mut parent = socket.created(unstored("one")).await;
    for n in 0..3 {
        parent = socket.created(after(unstored(&format!("more {n}")), &parent)).await;
    }
    let sockets = upstream.sockets();
    assert_eq!((sockets.len(), sockets[0].turns), (1, 4));
    assert_eq!(sockets[0].json()[3]["input"].as_array().map_or(1, Vec::len), 1, "{:?}", sockets[0].json()[3]);
}

#[tokio::test]
async fn a_native_upstream_is_not_asked_for_responses_it_did_not_store() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "state = \"native\"").start().await;
    let mut socket = gateway.socket().await;
    let one = socket.created(unstored("one")).await;
    socket.created(after(unstored("two"), &one)).await;
    assert_eq!((asked(&upstream).len(), upstream.counts().requests), (3, 2));
}

#[tokio::test]
async fn exhausted_socket_memory_prevents_only_continuation() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("sockets.memory = \"8KiB\"").start().await;
    let mut socket = gateway.socket().await;
    let large = socket.created(unstored(&"x".repeat(20_000))).await;
    assert_eq!(socket.refused(after(unstored("x"), &large)).await.1, "previous_response_not_found");
    let small = socket.created(unstored("small")).await;
    socket.created(after(unstored("x"), &small)).await;
    drop(socket);
    let mut socket = gateway.socket().await;
    for _ in 0..4 {
        let one = socket.created(unstored(&"x".repeat(1_000))).await;
        socket.created(after(unstored("what was remembered before is given back"), &one)).await;
    }
}
