//! Upstreams that quote their account's credential in an error.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Setup};
use http::Method;
use serde_json::{Value, json};

use crate::background::{body, ended, queue};
use crate::simulator;

const KEY: &str = "sk-secret/0123456789";
const WORDS: &str = "Incorrect API key provided: sk-secret/0123456789.";

async fn over(lines: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, lines).account_key(KEY).start().await;
    (upstream, gateway)
}

fn asked(stream: bool) -> Value {
    json!({"model": "sim", "input": "x", "stream": stream})
}

fn check(shown: &[u8], case: &str) {
    let shown = String::from_utf8_lossy(shown);
    assert!(!shown.contains("0123456789"), "{case}: {shown}");
    assert!(shown.contains("Incorrect API key provided: [redacted]."), "{case}: {shown}");
}

/// What each door shows of a turn, and GET of it afterwards if it was stored.
async fn check_doors(upstream: &Simulator, gateway: &Gateway, script: &Script) {
    let case = format!("{script:?}");
    for stream in [false, true] {
        upstream.script(script.clone());
        let reply = gateway.client.create(asked(stream)).await;
        check(&reply.body, &case);
        let id = reply.body.windows(37).find(|id| id.starts_with(b"resp_"));
        if let Some(id) = id.filter(|_| reply.status == 200) {
            let id = String::from_utf8_lossy(id);
            check(&gateway.client.get(&format!("/v1/responses/{id}")).await.body, &case);
        }
    }
    upstream.script(script.clone());
    let mut socket = gateway.socket().await;
    socket.create(json!({"model": "sim", "input": "x"})).await;
    check(json!(socket.turn().await).to_string().as_bytes(), &case);
}

fn error_event(words: &str) -> String {
    let data =
        format!(r#"{{"type":"error","sequence_number":0,"code":"odd","message":"{words}","param":null}}"#);
    format!("event: error\ndata: {data}\n\n")
}

#[tokio::test]
async fn a_failed_response_does_not_show_the_credential() {
    for transport in ["http", "websocket"] {
        let (upstream, gateway) = over(&format!("transport = \"{transport}\"")).await;
        for code in ["odd", "server_error"] {
            let answer = || Script::answer("a b c");
            check_doors(&upstream, &gateway, &Script::new().failed(code, WORDS)).await;
            check_doors(&upstream, &gateway, &answer().failed(code, WORDS)).await;
            check_doors(&upstream, &gateway, &answer().error_event(code, WORDS).failed(code, WORDS)).await;
        }
    }
}

#[tokio::test]
async fn an_error_event_does_not_show_the_credential_however_it_is_written() {
    let escaped = WORDS.replace('/', "\\/").replace('-', "\\u002d");
    for words in [WORDS, &escaped] {
        let (upstream, gateway) = over("stream_only = true").await;
        for before in ["", ": a comment\n\n", "data: {\"type\":\"response.new_thing\"}\n\n"] {
            let stream = format!("{before}{}", error_event(words));
            check_doors(&upstream, &gateway, &Script::stream_bytes(stream)).await;
        }
    }
}

#[tokio::test]
async fn a_failed_response_is_searched_wherever_it_says_why() {
    let response = json!({"id": "up", "object": "response", "status": "failed", "error": null, "output": [],
        "status_details": {"message": WORDS}});
    let (upstream, gateway) = over("stream_only = true").await;
    let event = json!({"type": "response.failed", "sequence_number": 0, "response": response});
    let stream = format!("event: response.failed\ndata: {event}\n\n");
    check_doors(&upstream, &gateway, &Script::stream_bytes(stream)).await;
    upstream.script(Script::http(200, json!({"error": WORDS}).to_string()));
    let embed = json!({"model": "sim", "input": "x"}).to_string();
    let reply = gateway.client.request(Method::POST, "/v1/embeddings", &[], embed).await;
    check(&reply.body, "an embedding");
}

#[tokio::test]
async fn a_background_turn_does_not_keep_the_credential() {
    let (upstream, gateway) = over("").await;
    for script in [
        Script::answer("a b").error_event("odd", WORDS).no_terminal(),
        Script::answer("a b").failed("odd", WORDS),
    ] {
        upstream.script(script.clone());
        let mut request = body("x");
        request["stream"] = json!(true);
        let live = gateway.client.stream(&request).await.rest().await;
        let id = live.last().unwrap().response_id();
        let log = gateway.client.get(&format!("/v1/responses/{id}?stream=true")).await;
        check(&log.body, "the log");
        upstream.script(script);
        let polled = queue(&gateway, &body("x")).await;
        check(ended(&gateway.client, &polled).await.to_string().as_bytes(), "a polled response");
    }
}

#[tokio::test]
async fn errors_of_chat_completions_do_not_show_the_credential() {
    let error = json!({"error": {"message": WORDS, "code": "odd"}}).to_string();
    let named = format!("event: error\ndata: {{\"message\":\"{WORDS}\"}}\n\n");
    let scripts = [
        Script::http(200, error.clone()),
        Script::stream_bytes(format!("data: {error}\n\n")),
        Script::stream_bytes(format!("data: {{\"choices\":[]}}\n\ndata: {error}\n\n")),
        Script::stream_bytes(format!("data: {{\"choices\":[]}}\n\n{named}")),
    ];
    let (upstream, gateway) = over("api = \"chat\"").await;
    for script in &scripts[..3] {
        gateway.client.created(asked(false)).await;
        check_doors(&upstream, &gateway, script).await;
    }
    for (n, script) in scripts.iter().enumerate() {
        upstream.script(script.clone());
        let messages = json!([{"role": "user", "content": "x"}]);
        let request = json!({"model": "sim", "messages": messages, "stream": n > 0}).to_string();
        let reply = gateway.client.request(Method::POST, "/v1/chat/completions", &[], request).await;
        check(&reply.body, &format!("{script:?}"));
    }
}

#[tokio::test]
async fn what_a_response_says_is_not_searched() {
    let (upstream, gateway) = over("").await;
    upstream.script(Script::answer(WORDS));
    let response = gateway.client.created(asked(false)).await;
    assert_eq!(response["output"][0]["content"][0]["text"], WORDS);
}
