//! What chat upstreams refuse, break off, or answer in a form of their own.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Event, Gateway, Setup};
use serde_json::{Value, json};

use crate::background::{ended, queue};
use crate::simulator;

const COMPLETION: &str = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
const TEXT: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}"#;

async fn over_chat(lines: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).account(0, "api = \"chat\"").config(lines);
    (upstream, setup.start().await)
}

fn turn(input: &str, parent: &Value) -> Value {
    json!({"model": "sim", "input": input, "previous_response_id": parent["id"]})
}

fn refused(message: &str) -> Script {
    let error = json!({"error": {"message": message, "type": "invalid_request_error"}});
    Script::http(400, error.to_string())
}

fn sent_reasoning(upstream: &Simulator) -> Value {
    let sent = upstream.last_request().unwrap().json();
    json!([sent["messages"][1]["reasoning_content"], sent["messages"][1]["reasoning"]])
}

async fn streamed(gateway: &Gateway) -> Value {
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    events.rest().await.last().map(Event::json).unwrap()["response"].take()
}

#[tokio::test]
async fn reasoning_is_left_out_for_a_server_that_refuses_it_and_that_is_remembered() {
    let (upstream, gateway) = over_chat("").await;
    upstream.script(Script::new().reasoning("hm").text("one"));
    let first = gateway.client.created(turn("a", &Value::Null)).await;
    upstream.script(refused(
        "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property 'reasoning_content' is unsupported)]",
    ));
    let second = gateway.client.created(turn("b", &first)).await;
    assert_eq!(sent_reasoning(&upstream), json!([null, null]));
    assert_eq!(upstream.counts().requests, 3);
    gateway.client.created(turn("c", &second)).await;
    assert_eq!(sent_reasoning(&upstream), json!([null, null]));
    assert_eq!(upstream.counts().requests, 4);
}

#[tokio::test]
async fn a_server_that_refuses_the_other_form_as_well_gets_the_usual_one_next_time() {
    for message in [
        "messages[1].reasoning: Extra inputs are not permitted",
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
    ] {
        let (upstream, gateway) = over_chat("").await;
        upstream.script(Script::new().reasoning("hm").text("one"));
        let first = gateway.client.created(turn("a", &Value::Null)).await;
        upstream.script(refused(message));
        upstream.script(refused(message));
        let reply = gateway.client.create(turn("b", &first)).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["message"]), (400, &json!(message)));
        assert_eq!(upstream.counts().requests, 3);
        gateway.client.created(turn("b", &first)).await;
        assert_eq!(sent_reasoning(&upstream), json!(["hm", "hm"]));
        assert_eq!(upstream.counts().requests, 4);
    }
}

#[tokio::test]
async fn a_server_that_refuses_to_be_asked_for_usage_is_not_asked_again() {
    let extra = json!([{"type": "extra_forbidden", "loc": ["body", "stream_options", "include_usage"], "msg": "Extra inputs are not permitted", "input": true}]);
    for (status, body) in [
        // Mistral
        (
            422,
            json!({"object": "error", "message": {"detail": extra}, "type": "invalid_request_error", "param": null, "code": null}),
        ),
        // FastAPI
        (422, json!({"detail": extra})),
        (
            400,
            json!({"error": {"message": "Unknown parameter: 'stream_options'.", "param": "stream_options"}}),
        ),
    ] {
        let (upstream, gateway) = over_chat("").await;
        upstream.script(Script::http(status, body.to_string()));
        for requests in [2, 3] {
            assert_eq!(streamed(&gateway).await["status"], "completed", "{body}");
            assert_eq!(upstream.last_request().unwrap().json()["stream_options"], Value::Null);
            assert_eq!(upstream.counts().requests, requests);
        }
        assert_eq!(gateway.account_state("one").await, "ready");
    }
}

#[tokio::test]
async fn tokens_count_whatever_form_the_upstream_reports_them_in() {
    for tokens in [json!(50), json!(50.0), json!("50")] {
        let (upstream, gateway) = over_chat("").await;
        let usage = json!({"prompt_tokens": tokens, "completion_tokens": tokens});
        let mut completion: Value = serde_json::from_str(COMPLETION).unwrap();
        completion["usage"] = usage;
        upstream.script(Script::http(200, completion.to_string()));
        let response = gateway.client.created(turn("a", &Value::Null)).await;
        assert_eq!(response["usage"]["total_tokens"], 100, "{tokens}");
    }
}

#[tokio::test]
async fn an_answer_that_has_come_whole_counts_however_its_connection_ends() {
    for (reason, status) in [("stop", "completed"), ("length", "incomplete")] {
        let last = format!(r#"data: {{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#);
        let script = || Script::stream_bytes(format!("{TEXT}\n\n{last}\n\n"));
        for script in [script().cut_after(1), script().hang_after(1)] {
            let upstream = simulator().await;
            let lines = "api = \"chat\"\nstream_only = true\nmax_in_flight = 1";
            let setup = Setup::over(&upstream).account(0, lines).config("timeouts.idle = \"200ms\"");
            let gateway = setup.start().await;
            upstream.always(script);
            let said = |response: &Value| {
                let text = response["output"][0]["content"][0]["text"].clone();
                json!([response["status"], text, response["usage"]["estimated"]])
            };
            let expected = json!([status, "hi", true]);
            assert_eq!(said(&streamed(&gateway).await), expected);
            assert_eq!(said(&gateway.client.created(turn("a", &Value::Null)).await), expected);
            let mut socket = gateway.socket().await;
            socket.create(turn("a", &Value::Null)).await;
            assert_eq!(said(&socket.turn().await.last().unwrap()["response"]), expected);
            let id = queue(&gateway, &json!({"model": "sim", "input": "x", "background": true})).await;
            assert_eq!(said(&ended(&gateway.client, &id).await), expected);
            assert_eq!(gateway.account_state("one").await, "ready");
            assert_eq!(upstream.counts().requests, 4);
        }
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_before_the_model_has_ended_fails() {
    let (upstream, gateway) = over_chat("").await;
    upstream.script(Script::stream_bytes(format!("{TEXT}\n\n")).cut_after(1));
    assert_eq!(streamed(&gateway).await["status"], "failed");
}

#[tokio::test]
async fn a_whole_completion_is_the_answer_where_a_stream_was_asked_for() {
    let (upstream, gateway) = over_chat("").await;
    upstream.always(Script::http(200, COMPLETION));
    let said = |response: &Value| {
        let text = response["output"][0]["content"][0]["text"].clone();
        json!([response["status"], text, response["usage"]["output_tokens"]])
    };
    let expected = json!(["completed", "hi", 2]);
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    let events = events.rest().await;
    assert!(events.iter().any(|event| event.name == "response.output_text.delta"), "{events:?}");
    assert_eq!(said(&events.last().unwrap().json()["response"]), expected);
    let mut socket = gateway.socket().await;
    assert_eq!(said(&socket.created(turn("a", &Value::Null)).await), expected);
    let id = queue(&gateway, &json!({"model": "sim", "input": "x", "background": true})).await;
    assert_eq!(said(&ended(&gateway.client, &id).await), expected);
    assert_eq!(upstream.counts().requests, 3);
}

#[tokio::test]
async fn the_credentials_for_an_mcp_server_are_neither_shown_nor_kept() {
    let (upstream, gateway) = over_chat("").await;
    upstream.always(Script::answer("hi"));
    let tool = json!({"type": "mcp", "server_label": "wren", "server_url": "https://a.test", "authorization": "t0ken", "headers": {"x": "s3cret"}, "require_approval": "never"});
    let request = json!({"model": "sim", "input": "x", "tools": [tool]});
    let created = gateway.client.created(&request).await;
    let path = format!("/v1/responses/{}", created["id"].as_str().unwrap());
    let mut queued = request.clone();
    queued["background"] = true.into();
    let queued = gateway.client.create(&queued).await.ok();
    let done = ended(&gateway.client, queued["id"].as_str().unwrap()).await;
    let mut warm = request;
    warm["generate"] = false.into();
    let warm = gateway.socket().await.created(warm).await;
    for shown in [created, gateway.client.get(&path).await.ok(), queued, done, warm] {
        assert_eq!(shown["tools"][0]["server_label"], "wren");
        let text = shown.to_string();
        assert!(!text.contains("t0ken") && !text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn errors_of_every_form_come_in_the_envelope_of_the_api() {
    let listed =
        json!({"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]});
    for (status, body, message) in [
        (422, listed.to_string(), "body.messages: Field required"),
        (400, json!([{"error": {"code": 400, "message": "bad", "status": "INVALID"}}]).to_string(), "bad"),
        (413, "<html><title>413</title></html>".to_owned(), "The upstream replied with status 413."),
        (400, "no such luck\n".to_owned(), "no such luck"),
    ] {
        let (upstream, gateway) = over_chat("").await;
        upstream.always(Script::http(status, body.clone()).content_type("text/html"));
        let reply = gateway.client.create(turn("a", &Value::Null)).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (status, Some("application/json")));
        let error = &reply.json()["error"];
        assert_eq!(json!([error["message"], error["type"]]), json!([message, "invalid_request_error"]));
        let id = queue(&gateway, &json!({"model": "sim", "input": "x", "background": true})).await;
        assert_eq!(ended(&gateway.client, &id).await["error"]["message"], message);
    }
}

#[tokio::test]
async fn a_context_that_is_too_long_is_the_requests_fault_whatever_the_status() {
    let error = json!({"error": {"code": 400, "message": "maximum context length is 10 tokens"}}).to_string();
    for script in [Script::http(200, error.clone()), Script::http(400, error)] {
        let (upstream, gateway) = over_chat("").await;
        upstream.always(script);
        let expected = (400, Some("context_length_exceeded".to_owned()), Some("input".to_owned()));
        assert_eq!(gateway.client.create(turn("a", &Value::Null)).await.refusal(), expected);
        let stream = json!({"model": "sim", "input": "x", "stream": true});
        assert_eq!(gateway.client.create(stream).await.refusal(), expected);
    }
}

#[tokio::test]
async fn a_missing_path_is_named_as_it_was_asked_for() {
    let (upstream, gateway) = over_chat("").await;
    upstream.always(Script::http(404, "<html>"));
    let reply = gateway.client.create(turn("a", &Value::Null)).await;
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("'/chat/completions'"), "{message}");
}

#[tokio::test]
async fn a_background_turn_that_no_chat_can_express_is_refused_before_it_is_queued() {
    let (upstream, other) = (simulator().await, simulator().await);
    let setup = Setup::over(&upstream).account(0, "api = \"chat\"");
    let gateway = setup.start().await;
    let with_responses =
        Setup::over(&upstream).account(0, "api = \"chat\"").and_account("two", &other.url()).start().await;
    let search = json!({"type": "web_search"});
    for (name, value) in [
        ("tools", json!([{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}])),
        ("prompt", json!({"id": "pmpt_1"})),
        ("input", json!([{"type": "function_call_output", "call_id": "c", "output": "x"}])),
        ("input", json!([{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}])),
        ("tool_choice", search.clone()),
    ] {
        let mut body = json!({"model": "sim", "input": "x", "tools": [search]});
        body[name] = value;
        let refused = gateway.client.create(&body).await;
        body["background"] = true.into();
        let queued = gateway.client.create(&body).await;
        assert_eq!((queued.status.as_u16(), queued.json()), (400, refused.json()), "{body}");
        assert_eq!(with_responses.client.create(&body).await.status, 200, "{body}");
    }
    assert_eq!(upstream.counts().requests, 0);
}
