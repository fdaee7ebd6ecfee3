//! Accounts with chat completions: everything that holds for other accounts holds for them.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Reply, Setup};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::conversations::begin;
use crate::simulator;

/// Two upstreams, the first with chat completions only; turns go there first.
struct Pair {
    chat: Simulator,
    responses: Simulator,
    gateway: Gateway,
}

impl Pair {
    async fn new() -> Self {
        let (chat, responses) = (simulator().await, simulator().await);
        let accounts = [("chat", chat.url()), ("responses", responses.url())];
        let setup = Setup::with_accounts(accounts.iter().map(|(name, url)| (*name, url.as_str())));
        let setup = setup.account(0, "api = \"chat\"").config("routing.strategy = \"fill_first\"");
        Self { gateway: setup.start().await, chat, responses }
    }

    fn counts(&self) -> (u64, u64) {
        (self.chat.counts().requests, self.responses.counts().requests)
    }
}

async fn over_chat() -> (Simulator, Gateway) {
    over_chat_with("").await
}

async fn over_chat_with(lines: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).account(0, &format!("api = \"chat\"\n{lines}"));
    let gateway = setup.start().await;
    (upstream, gateway)
}

fn after(parent: &Value, input: impl Into<Value>) -> Value {
    json!({"model": "sim", "input": input.into(), "previous_response_id": parent["id"]})
}

fn text_of(response: &Value) -> &str {
    let output = response["output"].as_array().unwrap();
    let message = output.iter().find(|item| item["type"] == "message").unwrap();
    message["content"][0]["text"].as_str().unwrap()
}

fn messages(upstream: &Simulator) -> Value {
    upstream.last_request().unwrap().json()["messages"].clone()
}

#[tokio::test]
async fn a_chain_runs_over_all_three_doors_and_is_replayed_as_a_chat() {
    let (upstream, gateway) = over_chat().await;
    upstream.script(Script::new().reasoning("hm").text("one").usage(11, 7));
    let first =
        gateway.client.created(json!({"model": "sim", "input": "a", "instructions": "be brief"})).await;
    assert_eq!((text_of(&first), &first["status"]), ("one", &json!("completed")));
    assert_eq!((&first["usage"]["input_tokens"], &first["usage"]["output_tokens"]), (&json!(11), &json!(7)));
    assert_eq!(first["output"][0]["content"][0], json!({"type": "reasoning_text", "text": "hm"}));

    upstream.script(Script::answer("two"));
    let mut streamed = after(&first, "b");
    streamed["stream"] = true.into();
    let mut events = gateway.client.stream(streamed).await;
    let second = events.until("response.completed").await.json()["response"].clone();
    assert_eq!(second["previous_response_id"], first["id"]);
    assert_eq!(
        messages(&upstream),
        json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "one", "reasoning_content": "hm", "reasoning": "hm"},
            {"role": "user", "content": "b"},
        ])
    );

    upstream.script(Script::answer("three"));
    let mut socket = gateway.socket().await;
    let third = socket.created(after(&second, "c")).await;
    assert_eq!(text_of(&third), "three");
    assert_eq!(messages(&upstream).as_array().unwrap().len(), 5);
    for response in [&first, &second, &third] {
        let id = response["id"].as_str().unwrap();
        assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok(), *response);
    }
}

#[tokio::test]
async fn a_tool_is_called_and_its_output_continues_the_chain() {
    let (upstream, gateway) = over_chat().await;
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}, {"type": "custom", "name": "apply"}]);
    upstream.script(Script::new().text("wait").tool_call_as("call_1", "f", "{\"a\":1}").tool_call_as(
        "call_2",
        "apply",
        "{\"input\":\"x\"}",
    ));
    let first = gateway.client.created(json!({"model": "sim", "input": "a", "tools": tools})).await;
    let kinds: Vec<&str> =
        first["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "function_call", "custom_tool_call"]);
    let outputs = json!([
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "patched"},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
    ]);
    let second = gateway.client.created(after(&first, outputs)).await;
    assert_eq!(second["status"], "completed");
    let sent = messages(&upstream);
    assert_eq!(sent[1]["tool_calls"].as_array().unwrap().len(), 2);
    assert_eq!(json!([sent[2]["tool_call_id"], sent[3]["tool_call_id"]]), json!(["call_2", "call_1"]));

    let unknown = json!([{"type": "function_call_output", "call_id": "call_9", "output": "1"}]);
    let reply = gateway.client.create(after(&first, unknown)).await;
    assert_eq!(reply.refusal(), (400, None, Some("input".to_owned())));
    let reply = gateway.client.create(after(&first, "b")).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["message"], "No tool output found for function call call_1.");
}

#[tokio::test]
async fn a_chain_moves_between_a_chat_and_a_responses_account_in_the_middle() {
    let pair = Pair::new().await;
    pair.chat.script(Script::new().reasoning("hm").text("one"));
    let first = pair.gateway.client.created(json!({"model": "sim", "input": "a"})).await;
    assert_eq!(pair.counts(), (1, 0));

    pair.chat.script(Script::refusal(500, "server_error", "down"));
    pair.responses.script(Script::new().reasoning("secret").text("two"));
    let second = pair.gateway.client.create(after(&first, "b")).await;
    assert_eq!(second.header("x-antiphon-reasoning"), Some("stripped"));
    let second = second.ok();
    assert_eq!((text_of(&second), pair.counts()), ("two", (2, 1)));
    let input = pair.responses.last_request().unwrap().json()["input"].clone();
    let roles: Vec<&str> =
        input.as_array().unwrap().iter().map(|item| item["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);

    pair.responses.script(Script::refusal(500, "server_error", "down"));
    pair.chat.script(Script::answer("three"));
    let third = pair.gateway.client.created(after(&second, "c")).await;
    assert_eq!((text_of(&third), pair.counts()), ("three", (3, 2)));
    assert_eq!(
        messages(&pair.chat),
        json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "one", "reasoning_content": "hm", "reasoning": "hm"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "two", "reasoning_content": "secret", "reasoning": "secret"},
            {"role": "user", "content": "c"},
        ])
    );
}

#[tokio::test]
async fn what_a_chat_cannot_express_goes_to_another_account_or_is_rejected() {
    let forced = json!({"model": "sim", "input": "a", "tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}});
    let pair = Pair::new().await;
    pair.gateway.client.created(&forced).await;
    assert_eq!(pair.counts(), (0, 1));
    assert_eq!(pair.gateway.account_state("chat").await, "ready");

    let (upstream, gateway) = over_chat().await;
    let reply = gateway.client.create(&forced).await;
    assert_eq!(reply.refusal(), (400, Some("unsupported_parameter".to_owned()), Some("tools[0]".to_owned())));
    let compacting = gateway
        .client
        .request(Method::POST, "/v1/responses/compact", &[], r#"{"model":"sim","input":"a"}"#)
        .await;
    assert_eq!(compacting.refusal().0, 400);
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn allowed_tools_nested_in_their_own_mode_are_refused_however_deep() {
    let (upstream, gateway) = over_chat().await;
    let create = async |depth: usize, background: bool| {
        let (open, close) = (r#"{"type":"allowed_tools","mode":"#.repeat(depth), "}".repeat(depth));
        let body = format!(
            r#"{{"model":"sim","input":"a","background":{background},"tool_choice":{open}"auto"{close}}}"#
        );
        gateway.client.request(Method::POST, "/v1/responses", &[], body).await
    };
    for (depth, background) in [(2, false), (100_000, false), (2, true)] {
        let refused = create(depth, background).await.refusal();
        assert_eq!(refused, (400, Some("invalid_value".to_owned()), Some("tool_choice".to_owned())));
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn a_compaction_is_replaced_by_the_items_for_which_it_stands() {
    let (upstream, gateway) = over_chat().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "a"})).await;
    let compacted =
        json!([{"type": "compaction", "encrypted_content": "x"}, {"role": "user", "content": "b"}]);
    let reply = gateway.client.create(after(&first, compacted.clone())).await;
    assert_eq!(reply.header("x-antiphon-reasoning"), Some("rebuilt"));
    assert_eq!(reply.ok()["status"], "completed");
    let texts: Vec<Value> =
        messages(&upstream).as_array().unwrap().iter().map(|sent| sent["content"].clone()).collect();
    assert_eq!(texts, [json!("a"), json!(text_of(&first)), json!("b")]);
    let alone = gateway.client.create(json!({"model": "sim", "input": compacted})).await;
    assert_eq!(alone.refusal(), (400, Some("unsupported_parameter".to_owned()), Some("input".to_owned())));
    let asked = gateway.client.create(after(&first, json!([{"type": "compaction_trigger"}]))).await;
    assert_eq!(asked.refusal(), (400, Some("unsupported_parameter".to_owned()), Some("input".to_owned())));
}

#[tokio::test]
async fn a_request_for_a_compaction_is_no_part_of_the_history() {
    let trigger = json!([{"type": "compaction_trigger"}]);
    let pair = Pair::new().await;
    let conversation = begin(&pair.gateway.client, &trigger).await;
    pair.gateway.client.created(json!({"model": "sim", "input": "a", "conversation": conversation})).await;
    assert_eq!((pair.counts(), messages(&pair.chat)), ((1, 0), json!([{"role": "user", "content": "a"}])));

    pair.responses.script(Script::answer("one"));
    let compacted = pair.gateway.client.created(json!({"model": "sim", "input": trigger})).await;
    pair.responses.script(Script::refusal(500, "server_error", "down"));
    pair.gateway.client.created(after(&compacted, "b")).await;
    let expected = json!([{"role": "assistant", "content": "one"}, {"role": "user", "content": "b"}]);
    assert_eq!((pair.counts(), messages(&pair.chat)), ((2, 2), expected));
}

#[tokio::test]
async fn hosted_tools_are_left_out_and_named_unless_they_are_to_be_rejected() {
    let request = json!({"model": "sim", "input": "a", "tools": [{"type": "web_search"}, {"type": "function", "name": "f"}]});
    let (upstream, gateway) = over_chat().await;
    let reply = gateway.client.create(&request).await;
    assert_eq!(reply.header("x-antiphon-omitted"), Some("web_search"));
    let tools = reply.ok()["tools"].clone();
    assert_eq!((&tools[0], &tools[1]["name"]), (&request["tools"][0], &json!("f")));
    assert_eq!(upstream.last_request().unwrap().json()["tools"].as_array().unwrap().len(), 1);

    let (_upstream, gateway) = over_chat_with("chat.unsupported_tools = \"reject\"").await;
    assert_eq!(gateway.client.create(&request).await.refusal().2.as_deref(), Some("tools[0]"));
}

#[tokio::test]
async fn an_early_end_is_incomplete_and_a_cut_one_fails() {
    let (upstream, gateway) = over_chat().await;
    upstream.script(Script::answer("cut short").incomplete("max_output_tokens"));
    let response = gateway.client.created(json!({"model": "sim", "input": "a"})).await;
    assert_eq!(
        (&response["status"], &response["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );

    upstream.script(Script::answer("cut off").no_terminal());
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "a", "stream": true})).await;
    let failed = events.until("response.failed").await.json();
    assert_eq!(failed["response"]["error"]["code"], "server_error");
}

#[tokio::test]
async fn usage_that_is_not_reported_is_estimated_and_counted_as_such() {
    let (upstream, gateway) = over_chat().await;
    let delta = r#"{"choices":[{"index":0,"delta":{"content":"12345678"},"finish_reason":"stop"}]}"#;
    upstream.script(Script::stream_bytes(format!("data: {delta}\n\ndata: [DONE]\n\n")));
    let response = gateway.client.created(json!({"model": "sim", "input": "a"})).await;
    assert_eq!(json!([response["usage"]["estimated"], response["usage"]["output_tokens"]]), json!([true, 2]));
    gateway.idle().await;
    assert_eq!(gateway.client.metric("antiphon_turns_usage_estimated_total").await, 1);
    let logged = &gateway.logged(1).await[0];
    assert_eq!(logged.output_tokens, 2);
}

#[tokio::test]
async fn a_stream_that_begins_with_an_error_goes_to_another_account() {
    let pair = Pair::new().await;
    let operator = Operator::of(&pair.gateway).await;
    let limited = r#"{"error":{"message":"slow down","code":429}}"#;
    for script in [Script::stream_bytes(format!("data: {limited}\n\n")), Script::http(200, limited)] {
        pair.chat.script(script);
        let response = pair.gateway.client.created(json!({"model": "sim", "input": "a"})).await;
        assert_eq!(response["status"], "completed");
        operator.post("/api/accounts/chat/resume").await;
    }
    assert_eq!((pair.chat.counts().requests, pair.responses.counts().requests), (2, 2));
}

#[tokio::test]
async fn an_upstreams_error_is_one_of_the_responses_api() {
    let (upstream, gateway) = over_chat().await;
    let refused = |reply: &Reply| reply.refusal();
    upstream.script(Script::http(400, r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_ctx":256}}"#));
    let reply = gateway.client.create(json!({"model": "sim", "input": "a"})).await;
    assert_eq!(refused(&reply), (400, Some("context_length_exceeded".to_owned()), Some("input".to_owned())));
    upstream.script(Script::http(422, r#"{"detail":"odd"}"#));
    let reply = gateway.client.create(json!({"model": "sim", "input": "a", "stream": true})).await;
    assert_eq!(refused(&reply), (422, None, None));
}

#[tokio::test]
async fn requests_of_the_upstreams_own_api_pass_through() {
    let (upstream, gateway) = over_chat().await;
    let request = json!({"model": "sim", "messages": [{"role": "user", "content": "a"}]});
    let body = request.to_string();
    let reply = gateway.client.request(Method::POST, "/v1/chat/completions", &[], body).await;
    assert_eq!(reply.ok()["object"], "chat.completion");
    assert_eq!(upstream.last_request().unwrap().json(), request);
    upstream.script(Script::http(400, r#"{"error":"as it is"}"#));
    let reply = gateway.client.request(Method::POST, "/v1/chat/completions", &[], request.to_string()).await;
    assert_eq!(&reply.body[..], br#"{"error":"as it is"}"#);
}
