//! However a stored stream fails, its terminal event and a later GET say the same.

use antiphon_protocol::json;
use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Came, Client, Gateway, Setup, Socket, eventually};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::background::{body, ended, queue};
use crate::simulator;
use crate::upstream_sockets::over;

const ITEM: &str = r#"{"id": "msg_1","type":"message","status":"completed","role":"assistant","content":[]}"#;

fn asked() -> Value {
    json!({"model": "sim", "input": "question", "store": true, "stream": true})
}

/// A gateway, and an upstream whose streams fail.
struct Failing {
    upstream: Simulator,
    gateway: Gateway,
}

impl Failing {
    async fn start(config: &str) -> Self {
        let upstream = simulator().await;
        let gateway = Setup::over(&upstream).config(config).start().await;
        Self { upstream, gateway }
    }

    /// The terminal event of this script over each door.
    async fn terminal_events(&self, script: &Script) -> [Bytes; 2] {
        // Too many failures in a row would make the account cool down.
        self.gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        self.upstream.script(script.clone());
        let over_sse = failed_over_sse(&self.gateway.client).await;
        self.gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        self.upstream.script(script.clone());
        [over_sse, failed_over(self.gateway.socket().await).await]
    }

    /// Returns the response.
    async fn check(&self, script: &Script) -> Value {
        let [over_sse, over_socket] = self.terminal_events(script).await;
        let case = format!("{script:?}");
        stored_as(&self.gateway, &over_socket, &case).await;
        stored_as(&self.gateway, &over_sse, &case).await
    }
}

async fn failed_over_sse(client: &Client) -> Bytes {
    client.stream(asked()).await.until("response.failed").await.data
}

async fn failed_over(mut socket: Socket) -> Bytes {
    let mut frame = asked();
    frame["stream_id"] = "lane".into();
    socket.create(frame).await;
    loop {
        match socket.next().await {
            Came::Frame(frame)
                if json::string_member(&frame, "type").as_deref() == Some("response.failed") =>
            {
                return frame;
            }
            Came::Frame(_) => {}
            other => panic!("instead of a frame: {other:?}"),
        }
    }
}

/// Compares the response of a terminal event with GET, and returns it.
async fn stored_as(gateway: &Gateway, terminal: &[u8], case: &str) -> Value {
    let response = json::member(terminal, "response").expect("a response");
    let id = json::string_member(response, "id").expect("an id");
    let stored = gateway.client.get(&format!("/v1/responses/{id}")).await;
    let status = json::string_member(&stored.body, "status");
    assert_eq!(status.as_deref(), Some("failed"), "{case}: {}", String::from_utf8_lossy(&stored.body));
    for name in ["output", "usage", "error"] {
        let [sent, kept] =
            [response, &stored.body].map(|text| json::member(text, name).map(String::from_utf8_lossy));
        assert_eq!(sent, kept, "{name} after {case}");
    }
    let response: Value = serde_json::from_slice(response).unwrap();
    assert_eq!(response, stored.json(), "{case}");
    response
}

fn long_answer() -> Script {
    Script::new().reasoning("Thinking.").text("a b").item(ITEM).tool_call("look", "{}").usage(7, 9)
}

#[tokio::test]
async fn a_stream_that_is_cut_off_at_any_event() {
    let failing = Failing::start("").await;
    failing.upstream.script(long_answer());
    let events = failing.gateway.client.stream(asked()).await.rest().await.len();
    let mut most_items = 0;
    for n in 1..events {
        for script in [long_answer().cut_after(n), long_answer().cut_inside(n), long_answer().end_after(n)] {
            let response = failing.check(&script).await;
            most_items = most_items.max(response["output"].as_array().unwrap().len());
        }
    }
    assert_eq!(most_items, 4);
}

#[tokio::test]
async fn a_stream_that_the_upstream_fails() {
    let failing = Failing::start("").await;
    for script in [
        long_answer().failed("server_error", "No."),
        long_answer().error_event("server_error", "No."),
        long_answer().error_event("server_error", "No.").failed("server_error", "No, no."),
        long_answer().no_terminal(),
    ] {
        let response = failing.check(&script).await;
        assert!(response["error"]["message"].is_string(), "{script:?}");
    }
}

#[tokio::test]
async fn a_failed_response_of_the_upstream_with_any_output_of_its_own() {
    let failing = Failing::start("").await;
    let done = format!("{{\"type\":\"response.output_item.done\",\"sequence_number\":1,\"item\":{ITEM}}}");
    let other = r#"[ {"id":"msg_2" , "x":1.50, "y":"\u00e9"} ]"#;
    let own = format!("[{ITEM}]");
    for (output, expected) in [
        (r#","output":[]"#, own.as_str()),
        (r#","output": [ ] "#, &own),
        (r#","output":null"#, &own),
        ("", &own),
        (&format!(r#","output":{other}"#), other),
        (&format!(r#","output":[],"output":{other}"#), other),
    ] {
        let usage = r#""usage":{"input_tokens": 3,"output_tokens":5}"#;
        let response = format!(
            r#"{{"id":"resp_up","object":"response","status":"failed","error":{{"code":"server_error","message":"No."}}{output},{usage}}}"#
        );
        let created = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_up","object":"response","status":"in_progress","output":[]}}"#;
        let failed = format!(r#"{{"type":"response.failed","sequence_number":2,"response":{response}}}"#);
        let stream: String = [("created", created), ("output_item.done", &done), ("failed", &failed)]
            .map(|(name, data)| format!("event: response.{name}\ndata: {data}\n\n"))
            .concat();
        for terminal in failing.terminal_events(&Script::stream_bytes(stream.clone())).await {
            stored_as(&failing.gateway, &terminal, output).await;
            let response = json::member(&terminal, "response").unwrap();
            let sent = String::from_utf8_lossy(json::member(response, "output").unwrap());
            assert_eq!(sent, expected, "{output}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_becomes_silent_or_takes_too_long() {
    // Long enough for the turns that do not fail, and for what comes before the silence.
    let cases = ["timeouts.idle = \"10s\"", "timeouts.turn = \"10s\""]
        .into_iter()
        .flat_map(|config| [1, 5, 9].map(|n| (config, n)));
    join_all(cases.map(async |(config, n)| {
        let failing = Failing::start(config).await;
        failing.check(&long_answer().hang_after(n)).await;
    }))
    .await;
}

#[tokio::test]
async fn a_stream_that_is_too_large() {
    let failing = Failing::start("limits.max_body = \"256KiB\"").await;
    let data = json!({"type": "response.output_item.done", "item": {"id": "x", "x": "x".repeat(100_000)}});
    let items = format!("event: response.output_item.done\ndata: {data}\n\n").repeat(4);
    let response = failing.check(&long_answer().inject(9, items)).await;
    assert_eq!(response["output"].as_array().unwrap().len(), 2, "there was no room for more");
    let event = format!("event: response.new_thing\ndata: {{\"x\":\"{}\"}}\n\n", "x".repeat(300_000));
    failing.check(&long_answer().inject(9, event)).await;
}

#[tokio::test]
async fn a_stream_that_the_shutdown_cuts_off() {
    let Failing { upstream, gateway } = Failing::start("timeouts.shutdown = \"200ms\"").await;
    upstream.always(long_answer().hang_after(9));
    let (client, socket) = (gateway.client.clone(), gateway.socket().await);
    let over_sse = tokio::spawn(async move { failed_over_sse(&client).await });
    let over_socket = tokio::spawn(failed_over(socket));
    let answered = "antiphon_account_attempts_total{account=\"one\",outcome=\"answered\"} 2";
    eventually("both have begun", async || gateway.client.metrics().await.contains(answered)).await;
    let gateway = gateway.restart().await;
    for terminal in [over_sse.await.unwrap(), over_socket.await.unwrap()] {
        let response = stored_as(&gateway, &terminal, "a shutdown").await;
        assert_eq!(response["error"]["code"], "server_error");
    }
}

#[tokio::test]
async fn a_collected_response_however_the_upstream_sends_it() {
    let script = Script::new().item(ITEM).usage(7, 9).failed("server_error", "No.");
    for transport in ["http", "websocket"] {
        let (upstream, gateway, _) = over(transport).await;
        upstream.script(script.clone());
        let response = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        assert_eq!(
            (&response["status"], &response["error"]["code"]),
            (&json!("failed"), &json!("server_error"))
        );
        let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
        let stored = gateway.client.get(&path).await.ok();
        assert_eq!(stored, response, "over {transport}");
        assert_eq!([&stored["usage"]["input_tokens"], &stored["usage"]["output_tokens"]], [7, 9]);
        assert_eq!(stored["output"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_polled_response_without_items_keeps_its_usage() {
    let Failing { upstream, gateway } = Failing::start("").await;
    upstream.script(Script::new().usage(7, 9).failed("server_error", "No."));
    let response = ended(&gateway.client, &queue(&gateway, &body("question")).await).await;
    assert_eq!(response["error"], json!({"code": "server_error", "message": "No."}));
    assert_eq!([&response["usage"]["input_tokens"], &response["usage"]["output_tokens"]], [7, 9]);
}

#[tokio::test]
async fn a_polled_response_keeps_the_items_that_were_finished() {
    let Failing { upstream, gateway } = Failing::start("").await;
    let failed = async |script| {
        gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        upstream.script(script);
        let response = ended(&gateway.client, &queue(&gateway, &body("question")).await).await;
        assert_eq!(response["status"], "failed");
        assert_eq!(response["output"].as_array().unwrap().len(), 4, "{response}");
        response
    };
    let response = failed(long_answer().failed("server_error", "No.")).await;
    assert_eq!(response["error"], json!({"code": "server_error", "message": "No."}));
    assert_eq!([&response["usage"]["input_tokens"], &response["usage"]["output_tokens"]], [7, 9]);
    let response = failed(long_answer().error_event("server_error", "No.")).await;
    assert_eq!(response["error"], json!({"code": "server_error", "message": "No."}));
    failed(long_answer().no_terminal()).await;

    let texts = ["a", "b", "c", "d"].into_iter().fold(Script::new(), Script::text);
    let id = failed(texts.no_terminal()).await["id"].clone();
    gateway.client.created(json!({"model": "sim", "input": "next", "previous_response_id": id})).await;
    assert_eq!(upstream.last_request().unwrap().input().len(), 6);
}
