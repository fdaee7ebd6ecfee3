//! Upstreams: their errors, their models, and what the configuration says of them.

use std::io::Write;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Gateway, Setup};
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{gateway, simulator};

/// Accepts connections and never says anything on them.
async fn silent_peer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut accepted = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            accepted.push(stream);
        }
    });
    url
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_the_tls_handshake_is_replaced() {
    let (upstream, silent) = (simulator().await, silent_peer().await);
    let connect = "timeouts.connect = \"2s\"\nrouting.strategy = \"fill_first\"";
    for transport in ["http", "websocket", "auto"] {
        let accounts = [("silent", silent.as_str()), ("good", &upstream.url())];
        let setup = Setup::with_accounts(accounts).config(connect);
        let gateway = setup.account(0, &format!("transport = \"{transport}\"")).start().await;
        gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    }
    assert_eq!(upstream.counts().requests, 3);
    let gateway = Setup::with_accounts([("silent", silent.as_str())]).config(connect).start().await;
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(reply.refusal(), (504, Some("upstream_timeout".to_owned()), None));
}

#[tokio::test]
async fn upstream_errors_are_passed_on_with_status_body_and_headers() {
    let body = r#"{"error":{"message":"slow down","type":"x","param":null,"code":"odd", "more":1.0}}"#;
    for status in [400, 403, 404, 409, 422, 429, 500, 503] {
        for stream in [false, true] {
            // A rate limited account cools down for longer than a turn waits, so each case has a gateway of its own.
            let (upstream, gateway) = gateway().await;
            upstream.script(Script::http(status, body).header("retry-after", "70"));
            let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
            assert_eq!((reply.status.as_u16(), &reply.body[..]), (status, body.as_bytes()));
            assert_eq!(reply.header("retry-after"), Some("70"));
            assert_eq!(reply.header("content-type"), Some("application/json"));
            gateway.idle().await;
        }
    }
}

#[tokio::test]
async fn a_refused_upstream_credential_is_not_shown_to_the_client() {
    let options = Options { api_key: Some("sk-right".to_owned()), ..Options::default() };
    let upstream = Simulator::bind(options).await.unwrap();
    let gateway = Setup::over(&upstream).start().await;
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!((reply.refusal().0, reply.refusal().1.as_deref()), (503, Some("no_account_available")));
}

#[tokio::test]
async fn turns_are_balanced_and_a_chain_stays_with_its_account() {
    let (one, two) = (simulator().await, simulator().await);
    let gateway =
        Setup::with_accounts([("one", one.url().as_str()), ("two", two.url().as_str())]).start().await;
    let mut first = json!(null);
    for _ in 0..10 {
        first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    }
    assert_eq!((one.counts().requests, two.counts().requests), (5, 5));
    let (a, b) = (one.counts().requests, two.counts().requests);
    for _ in 0..6 {
        first = gateway
            .client
            .created(json!({"model": "sim", "input": "x", "previous_response_id": first["id"]}))
            .await;
    }
    assert!(
        (one.counts().requests, two.counts().requests) == (a + 6, b)
            || (one.counts().requests, two.counts().requests) == (a, b + 6)
    );
}

#[tokio::test]
async fn an_account_serves_only_the_models_that_it_offers() {
    let named = |model: &str| Options { models: vec![model.to_owned()], ..Options::default() };
    let one = Simulator::bind(named("alpha")).await.unwrap();
    let two = Simulator::bind(named("beta")).await.unwrap();
    let gateway =
        Setup::with_accounts([("one", one.url().as_str()), ("two", two.url().as_str())]).start().await;
    gateway.client.get("/v1/models").await.ok();
    for _ in 0..4 {
        gateway.client.created(json!({"model": "alpha", "input": "x"})).await;
    }
    let first = gateway.client.created(json!({"model": "beta", "input": "x"})).await;
    assert_eq!((one.counts().requests, two.counts().requests), (4, 1));
    gateway
        .client
        .created(json!({"model": "alpha", "input": "x", "previous_response_id": first["id"]}))
        .await;
    assert_eq!(one.counts().requests, 5);
}

#[tokio::test]
async fn a_model_that_refuses_encrypted_reasoning_is_retried_once_without_it() {
    let options = Options { no_encrypted_models: vec!["sim".to_owned()], ..Options::default() };
    let upstream = Simulator::bind(options).await.unwrap();
    let gateway = Setup::over(&upstream).start().await;
    gateway
        .client
        .created(json!({"model": "sim", "input": "x", "include": ["file_search_call.results"]}))
        .await;
    assert_eq!(upstream.counts().requests, 2);
    assert_eq!(upstream.last_request().unwrap().json()["include"], json!(["file_search_call.results"]));
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    events.until("response.completed").await;
    assert_eq!(upstream.counts().requests, 3, "the refusal was not remembered");
    let reply = gateway
        .client
        .create(json!({"model": "sim", "input": "x", "include": ["reasoning.encrypted_content"]}))
        .await;
    assert_eq!(
        reply.refusal().2.as_deref(),
        Some("include"),
        "an error about the client's own include is passed on"
    );
}

#[tokio::test]
async fn an_upstream_that_refuses_a_call_that_made_an_image_gets_the_image_as_a_message() {
    let call = json!({"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "eA==", "action": "generate"});
    for refusal in [
        json!({"message": "Unknown parameter: 'input[1].action'.", "param": "input[1].action", "code": "unknown_parameter"}),
        json!({"message": "Item with id 'ig_1' not found. Items are not persisted when `store` is set to false.", "param": "input", "code": null}),
    ] {
        let (upstream, gateway) = gateway().await;
        upstream.script(Script::new().item(call.to_string()).text("there"));
        let drawn = gateway.client.created(json!({"model": "sim", "input": "draw"})).await;
        let status = if refusal["code"].is_null() { 404 } else { 400 };
        upstream.script(Script::http(status, json!({"error": refusal}).to_string()));
        let on = json!({"model": "sim", "input": "on", "previous_response_id": drawn["id"]});
        for requests in [3, 4] {
            gateway.client.created(&on).await;
            assert_eq!(upstream.counts().requests, requests);
            let input = upstream.last_request().unwrap().input();
            assert_eq!(input.len(), 4, "{input:?}");
            assert_eq!(input[1]["content"][1]["image_url"], "data:image/png;base64,eA==");
            assert_eq!(input[2]["content"][0]["text"], "there");
        }
        let stored =
            gateway.client.get(&format!("/v1/responses/{}", drawn["id"].as_str().unwrap())).await.ok();
        assert_eq!(stored["output"][0]["action"], "generate", "what is stored stays whole");
    }
}

#[tokio::test]
async fn a_mistake_in_a_clients_include_changes_nothing_for_others() {
    let (upstream, gateway) = gateway().await;
    let message = "Invalid value: 'reasoning'. Supported values are: 'reasoning.encrypted_content'.";
    let error = json!({"error": {"message": message, "type": "invalid_request_error",
        "param": "include[0]", "code": "invalid_value"}});
    for _ in 0..2 {
        upstream.script(Script::http(400, error.to_string()));
    }
    let body = json!({"model": "sim", "input": "x", "include": ["reasoning"]});
    assert_eq!(gateway.client.create(body).await.refusal().2.as_deref(), Some("include[0]"));
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let sent = upstream.last_request().unwrap().json();
    assert_eq!(sent["include"], json!(["reasoning.encrypted_content"]));
}

/// Reasoning without encrypted content, with and without a summary, and a text.
fn bare_reasoning() -> Script {
    let items = [
        r#"{"type":"reasoning","id":"rs_1","summary":[]}"#,
        r#"{"type":"reasoning","id":"rs_2","summary":[{"type":"summary_text","text":"thought"}]}"#,
    ];
    items.iter().fold(Script::new(), |script, item| script.item(*item)).text("so")
}

#[tokio::test]
async fn reasoning_without_its_content_is_replayed_as_its_summary() {
    let (upstream, gateway) = gateway().await;
    upstream.script(bare_reasoning());
    let first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(first["output"].as_array().unwrap().len(), 3);
    let next = json!({"model": "sim", "input": "on", "previous_response_id": first["id"]});
    gateway.client.created(next).await;
    let sent = upstream.last_request().unwrap().input();
    assert_eq!((sent.len(), &sent[1]["content"]), (4, &json!("thought")), "{sent:?}");
}

#[tokio::test]
async fn a_reference_to_reasoning_without_its_content_stands_for_its_summary() {
    for state in ["replay", "native"] {
        let stateful = state == "native";
        let upstream = Simulator::bind(Options { stateful, ..Options::default() }).await.unwrap();
        let lines = format!("state = \"{state}\"");
        let gateway = Setup::over(&upstream).account(0, &lines).start().await;
        let other = gateway.client.created(json!({"model": "sim", "input": "other"})).await;
        upstream.script(bare_reasoning());
        let first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        let mut text = first["output"][2].clone();
        let reference = |n: usize| json!({"type": "item_reference", "id": first["output"][n]["id"]});
        let input = json!([reference(0), reference(1), text, {"role": "user", "content": "on"}]);
        // The upstream may have the text, and accepts its id only together with that of the reasoning.
        text.as_object_mut().unwrap().remove("id");
        let summary = json!({"type": "message", "role": "assistant", "content": "thought"});
        let expected = [summary, text, json!({"role": "user", "content": "on"})];
        for previous in [&Value::Null, &other["id"]] {
            let body = json!({"model": "sim", "input": input, "previous_response_id": previous});
            gateway.client.created(body).await;
            let sent = upstream.last_request().unwrap().input();
            assert!(sent.ends_with(&expected), "{state} {previous}: {sent:?}");
            assert!(sent.iter().all(|item| item["type"] != "reasoning"), "{state} {previous}: {sent:?}");
        }
    }
}

#[tokio::test]
async fn a_clients_own_reasoning_without_its_content_stands_for_its_summary_once_it_loses_its_id() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::new().reasoning("I thought."));
    let first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let reference = json!({"type": "item_reference", "id": first["output"][0]["id"]});
    let summary = json!([{"type": "summary_text", "text": "mine"}]);
    let own = json!({"type": "reasoning", "id": "rs_own", "summary": summary});
    let input = json!([reference, own, {"role": "user", "content": "on"}]);
    gateway.client.created(json!({"model": "sim", "input": input})).await;
    let sent = upstream.last_request().unwrap().input();
    assert!(sent[0]["encrypted_content"].is_string(), "{sent:?}");
    assert_eq!((&sent[1]["role"], &sent[1]["content"]), (&json!("assistant"), &json!("mine")));
}

#[tokio::test]
async fn reasoning_is_replayed_in_a_form_that_the_upstream_can_read() {
    let (upstream, gateway) = gateway().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "REASON about it"})).await;
    assert_eq!(first["output"][0]["type"], "reasoning");
    gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": first["id"]})).await;
    assert!(upstream.last_request().unwrap().json()["input"][1]["encrypted_content"].is_string());
}

#[tokio::test]
async fn configured_headers_and_parameters_are_sent_with_every_request() {
    let upstream = simulator().await;
    let lines = r#"headers = { "OpenAI-Organization" = "org-1", "api-key" = { value = "secret" } }
query = { "api-version" = "2026 preview" }"#;
    let gateway = Setup::over(&upstream).account(0, lines).start().await;
    let own = [antiphon_testkit::header("openai-organization", "the client's")];
    let body = json!({"model": "sim", "input": "x"}).to_string();
    gateway.client.request(http::Method::POST, "/v1/responses", &own, body).await.ok();
    gateway.client.get("/v1/models").await.ok();
    let requests = [upstream.last_request().unwrap(), upstream.other_requests().remove(0)];
    for request in requests {
        assert_eq!(request.header("openai-organization"), Some("org-1"), "{}", request.path);
        assert_eq!(request.header("api-key"), Some("secret"));
        assert_eq!(request.query.as_deref(), Some("api-version=2026+preview"));
    }
}

#[tokio::test]
async fn an_alias_renames_a_model_for_one_account() {
    let upstream = simulator().await;
    let lines = "aliases = { \"gpt-5\" = \"my-deployment\" }\nmodels = [\"other-*\"]";
    let gateway = Setup::over(&upstream).account(0, lines).start().await;
    gateway.client.created(json!({"model": "gpt-5", "input": "x"})).await;
    assert_eq!(upstream.last_request().unwrap().json()["model"], "my-deployment");
    gateway.client.created(json!({"model": "other-1", "input": "x"})).await;
    assert_eq!(upstream.last_request().unwrap().json()["model"], "other-1");
    let listed = gateway.client.get("/v1/models/gpt-5").await.ok();
    assert_eq!(listed["id"], "gpt-5");
    let unknown = gateway.client.create(json!({"model": "my-deployment", "input": "x"})).await;
    assert_eq!(unknown.refusal().1.as_deref(), Some("model_not_found"));
}

#[tokio::test]
async fn a_stream_only_upstream_serves_collected_turns() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "stream_only = true").start().await;
    upstream.script(Script::new().reasoning("Thinking.").text("a b c"));
    let first = gateway.client.created(json!({"model": "sim", "input": "x", "stream": false})).await;
    assert_eq!((upstream.last_request().unwrap().json()["stream"].clone()), json!(true));
    assert_eq!((&first["status"], first["output"].as_array().unwrap().len()), (&json!("completed"), 2));
    assert_eq!(first["output"][1]["content"][0]["text"], "a b c");
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok(), first);
    gateway.client.created(json!({"model": "sim", "input": "x", "previous_response_id": first["id"]})).await;

    for (script, status, code) in [
        (Script::answer("a b").cut_after(4), 502, "upstream_failed"),
        (Script::answer("a b").end_after(4), 502, "upstream_failed"),
    ] {
        upstream.script(script);
        let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
        assert_eq!((reply.refusal().0, reply.refusal().1.as_deref()), (status, Some(code)));
    }
    for code in ["invalid_prompt", "server_error"] {
        upstream.script(Script::answer("a b").failed(code, "m"));
        let failed = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!(code)));
    }
    gateway.idle().await;
}

/// An account whose upstream stores responses, and another one.
async fn native() -> (Simulator, Simulator, Gateway) {
    let one = Simulator::bind(Options { stateful: true, ..Options::default() }).await.unwrap();
    let two = simulator().await;
    let accounts = [("one", one.url()), ("two", two.url())];
    let setup = Setup::with_accounts(accounts.iter().map(|(name, url)| (*name, url.as_str())));
    let setup = setup.account(0, "state = \"native\"\npriority = 1\nboundary = \"both\"");
    let gateway = setup.account(1, "boundary = \"both\"").start().await;
    (one, two, gateway)
}

#[tokio::test]
async fn a_native_upstream_is_sent_only_new_items() {
    let (one, _two, gateway) = native().await;
    let mut parent = json!({"id": null});
    for turn in 0..4 {
        let body =
            json!({"model": "sim", "input": format!("turn {turn}"), "previous_response_id": parent["id"]});
        let own = parent["id"].clone();
        parent = gateway.client.created(body).await;
        assert_eq!((&parent["previous_response_id"], &parent["store"]), (&own, &json!(true)));
        let sent = one.last_request().unwrap().json();
        assert_eq!((&sent["store"], &sent["input"]), (&json!(true), &json!(format!("turn {turn}"))));
        assert_eq!(sent["previous_response_id"].is_string(), turn > 0);
        assert!(turn == 0 || sent["previous_response_id"] != own, "the upstream's own id is not ours");
    }
    let unstored =
        json!({"model": "sim", "input": "x", "store": false, "previous_response_id": parent["id"]});
    gateway.client.created(unstored).await;
    assert_eq!(one.last_request().unwrap().json()["store"], false);
}

#[tokio::test]
async fn a_native_chain_is_replayed_to_other_accounts_and_after_the_upstream_forgot_it() {
    let (one, two, gateway) = native().await;
    let next = async |parent: &Value, input: &str| {
        let body = json!({"model": "sim", "input": input, "previous_response_id": parent["id"]});
        gateway.client.created(body).await
    };
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    one.script(Script::http(500, "{}"));
    let second = next(&first, "two").await;
    assert_eq!(two.last_request().unwrap().input().len(), 3);
    // The other account served the parent.
    let third = next(&second, "three").await;
    assert_eq!(two.last_request().unwrap().input().len(), 5, "the chain stays where it is");
    two.script(Script::http(500, "{}"));
    let fourth = next(&third, "four").await;
    assert_eq!(one.last_request().unwrap().input().len(), 7);
    next(&fourth, "five").await;
    assert_eq!(one.last_request().unwrap().json()["input"], "five");

    let unknown = json!({"error": {"message": "Previous response with id 'x' not found.", "type": "invalid_request_error",
        "param": "previous_response_id", "code": "previous_response_not_found"}});
    let as_vllm = json!({"error": {"message": "Response with id 'x' not found.", "type": "invalid_request_error",
        "param": "response_id", "code": 404}});
    for (status, error) in [(400, unknown), (404, as_vllm)] {
        one.script(Script::http(status, error.to_string()));
        next(&fourth, "six").await;
        assert_eq!(one.last_request().unwrap().input().len(), 9);
    }
}

#[tokio::test]
async fn a_collected_reply_that_is_not_the_end_of_its_response_is_the_upstreams_failure() {
    for status in ["queued", "in_progress"] {
        let (upstream, gateway) = gateway().await;
        let reply = json!({"id": "up", "object": "response", "status": status, "output": []});
        upstream.always(Script::http(200, reply.to_string()));
        let refused = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
        assert_eq!(refused.refusal(), (502, Some("upstream_failed".to_owned()), None), "{status}");
    }
}

fn gzipped(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn an_error_reply_that_was_compressed_unasked_is_read() {
    let body = r#"{"error":{"message":"No.","type":"invalid_request_error","param":"x","code":"odd"}}"#;
    for api in ["responses", "chat"] {
        let upstream = simulator().await;
        let gateway = Setup::over(&upstream).account(0, &format!("api = \"{api}\"")).start().await;
        for stream in [false, true] {
            upstream.script(Script::http(400, gzipped(body)).header("content-encoding", "gzip"));
            let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
            assert_eq!((reply.status.as_u16(), String::from_utf8_lossy(&reply.body)), (400, body.into()));
            assert_eq!(upstream.last_request().unwrap().header("accept-encoding"), Some("identity"));
        }
    }
}

#[tokio::test]
async fn an_error_reply_without_a_body_that_can_be_read_comes_in_the_envelope_of_the_api() {
    let large = format!(r#"{{"error":{{"message":"{}"}}}}"#, "x".repeat(1 << 20));
    let cut = || gzipped(&large)[..500].to_vec();
    let (upstream, gateway) = gateway().await;
    for script in [
        Script::http(400, ""),
        Script::http(400, large.clone()),
        Script::http(400, gzipped(&large)).header("content-encoding", "gzip"),
        Script::http(400, cut()).header("content-encoding", "GZIP"),
        Script::http(400, "x").header("content-encoding", "br"),
    ] {
        let error = json!({"message": "The upstream replied with status 400.", "type": "invalid_request_error",
            "param": null, "code": null});
        for stream in [false, true] {
            upstream.script(script.clone());
            let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
            assert_eq!((reply.status.as_u16(), &reply.json()["error"]), (400, &error));
        }
        upstream.script(script.clone());
        let messages = json!([{"role": "user", "content": "x"}]);
        let request = json!({"model": "sim", "messages": messages}).to_string();
        let reply = gateway.client.request(Method::POST, "/v1/chat/completions", &[], request).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]), (400, &error));
        upstream.script(script);
        let mut socket = gateway.socket().await;
        socket.create(json!({"model": "sim", "input": "x"})).await;
        let frame = socket.frame().await;
        assert_eq!((&frame["status"], &frame["error"]), (&json!(400), &error));
    }
}

#[tokio::test]
async fn a_compressed_answer_is_the_upstreams_failure() {
    let (upstream, gateway) = gateway().await;
    for stream in [false, true] {
        upstream.script(Script::answer("x").header("content-encoding", "gzip"));
        let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
        assert_eq!(reply.refusal(), (502, Some("upstream_failed".to_owned()), None));
    }
}
