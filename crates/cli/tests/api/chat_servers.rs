//! Chat completions as the servers that people run send them, quirk by quirk.

use antiphon_simulator::upstream::{ChatServer, Options, Script, Simulator};
use antiphon_testkit::{Gateway, Setup};
use serde_json::{Value, json};

const ALL: [ChatServer; 11] = [
    ChatServer::OpenAi,
    ChatServer::Ollama,
    ChatServer::OldOllama,
    ChatServer::LlamaCpp,
    ChatServer::OldLlamaCpp,
    ChatServer::Vllm,
    ChatServer::OldVllm,
    ChatServer::LmStudio,
    ChatServer::DeepSeek,
    ChatServer::Gemini,
    ChatServer::Mistral,
];

async fn over(server: ChatServer) -> (Simulator, Gateway) {
    let upstream = Simulator::bind(Options { chat_server: server, ..Options::default() }).await.unwrap();
    let tags = server == ChatServer::LmStudio;
    let setup = Setup::over(&upstream).account(0, &format!("api = \"chat\"\nchat.think_tags = {tags}"));
    let gateway = setup.start().await;
    (upstream, gateway)
}

fn request(input: impl Into<Value>) -> Value {
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}, {"type": "function", "name": "g"}]);
    json!({"model": "sim", "input": input.into(), "tools": tools})
}

fn after(parent: &Value, input: impl Into<Value>) -> Value {
    let mut request = request(input);
    request["previous_response_id"] = parent["id"].clone();
    request
}

fn working() -> Script {
    let script = Script::new().reasoning("hm").text("wait a little");
    script.tool_call_as("call_1", "f", "{\"a\":1}").tool_call_as("call_2", "f", "{\"a\":2}")
}

/// What an output says, without the ids that differ from run to run.
fn said(output: &Value) -> Vec<Value> {
    let items = output.as_array().unwrap().iter();
    items
        .map(|item| match item["type"].as_str().unwrap() {
            "function_call" => json!([item["name"], item["arguments"]]),
            _ => item["content"][0]["text"].clone(),
        })
        .collect()
}

fn outputs(response: &Value) -> Value {
    let calls = response["output"].as_array().unwrap().iter().filter(|item| item["type"] == "function_call");
    calls.map(|call| json!({"type": "function_call_output", "call_id": call["call_id"], "output": call["arguments"]})).collect()
}

/// No event may speak of an item that was not announced or is finished, and all have the item's one id.
fn check_order(events: &[Value]) {
    let mut open = Value::Null;
    let mut done = Vec::new();
    for event in events {
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert!(open.is_null() && event["output_index"] == done.len(), "{event}");
                open = event["item"]["id"].clone();
            }
            "response.output_item.done" => {
                assert_eq!(event["item"]["id"], open.take());
                done.push(event["item"].clone());
            }
            _ if event.get("item_id").is_some() => assert_eq!(event["item_id"], open, "{event}"),
            _ => {}
        }
    }
    assert_eq!(events.last().unwrap()["response"]["output"], json!(done));
}

#[tokio::test]
async fn a_chain_with_reasoning_and_parallel_calls_works_with_every_server_over_every_door() {
    for server in ALL {
        let (upstream, gateway) = over(server).await;
        let expected =
            [json!("hm"), json!("wait a little"), json!(["f", "{\"a\":1}"]), json!(["f", "{\"a\":2}"])];
        upstream.script(working());
        let first = gateway.client.created(request("a")).await;
        assert_eq!(said(&first["output"]), expected, "{server:?}");
        let ids: Vec<&str> = (2..4).map(|at| first["output"][at]["call_id"].as_str().unwrap()).collect();
        match server {
            ChatServer::OldLlamaCpp | ChatServer::Gemini => {
                assert!(ids[0] != ids[1] && ids[0].starts_with("call_"));
            }
            _ => assert_eq!(ids, ["call_1", "call_2"], "{server:?}"),
        }
        let is_estimated = first["usage"]["estimated"] == true;
        assert_eq!(is_estimated, server == ChatServer::OldLlamaCpp, "{server:?}: {}", first["usage"]);
        assert_eq!(first["status"], "completed");

        upstream.script(working());
        let mut streamed = after(&first, outputs(&first));
        streamed["stream"] = true.into();
        let events = gateway.client.stream(streamed).await.rest().await;
        let events: Vec<Value> = events.iter().map(antiphon_testkit::Event::json).collect();
        check_order(&events);
        let second = &events.last().unwrap()["response"];
        assert_eq!(said(&second["output"]), expected, "{server:?}");
        let sent = upstream.last_request().unwrap().json()["messages"].clone();
        let reasoning = (server != ChatServer::Mistral).then_some("hm");
        let calls = sent[1]["tool_calls"].as_array().unwrap();
        let sent_ids: Vec<&str> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
        if server == ChatServer::Mistral {
            assert!(sent_ids.iter().all(|id| id.len() == 9) && sent_ids[0] != sent_ids[1]);
        } else {
            assert_eq!(sent_ids, ids, "{server:?}");
        }
        assert_eq!(
            json!([
                sent[1]["content"],
                sent[1]["reasoning_content"],
                sent[2]["tool_call_id"],
                sent[3]["content"]
            ]),
            json!(["wait a little", reasoning, sent_ids[0], "{\"a\":2}"]),
            "{server:?}"
        );

        // What the server refuses is sent in another form, once.
        let refused = match server {
            ChatServer::Gemini => 1,
            ChatServer::Mistral => 3,
            _ => 0,
        };
        assert_eq!(upstream.counts().requests, 2 + refused, "{server:?}");
        upstream.script(Script::answer("done").usage(12, 3));
        let mut socket = gateway.socket().await;
        let third = socket.created(after(second, outputs(second))).await;
        assert_eq!(said(&third["output"]), ["done"], "{server:?}");
        if !is_estimated {
            assert_eq!(
                json!([third["usage"]["input_tokens"], third["usage"]["output_tokens"]]),
                json!([12, 3]),
                "{server:?}"
            );
        }
        assert_eq!(upstream.counts().requests, 3 + refused, "{server:?}");
    }
}

#[tokio::test]
async fn calls_that_came_without_reasoning_go_back_to_a_server_that_demands_it() {
    let (upstream, gateway) = over(ChatServer::DeepSeek).await;
    let without_thought = || Script::new().tool_call_as("call_1", "f", "{}");
    upstream.script(without_thought());
    upstream.script(without_thought());
    upstream.script(working());
    let first = gateway.client.created(request("a")).await;
    let second = gateway.client.created(after(&first, outputs(&first))).await;
    assert_eq!(upstream.counts().requests, 3);
    let third = gateway.client.created(after(&second, outputs(&second))).await;
    assert_eq!(upstream.counts().requests, 4);
    gateway.client.created(after(&third, outputs(&third))).await;
    assert_eq!(upstream.counts().requests, 5);
    let sent = upstream.last_request().unwrap().json();
    let messages = sent["messages"].as_array().unwrap().iter();
    let reasoning: Vec<&Value> = messages
        .filter(|message| message["role"] == "assistant")
        .map(|message| &message["reasoning_content"])
        .collect();
    assert_eq!(reasoning, [" ", " ", "hm"]);
}

#[tokio::test]
async fn calls_from_elsewhere_get_ids_that_the_server_takes_and_its_own_keep_theirs() {
    let (upstream, gateway) = over(ChatServer::Mistral).await;
    let (foreign, own) = ("call_PTLP8xhu3uwZk4l3nlnrrJha", "a1B2c3D4e");
    let call = json!({"type": "function_call", "call_id": foreign, "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": foreign, "output": "x"});
    upstream.script(Script::new().tool_call_as(own, "f", "{}"));
    let first = gateway.client.created(request(json!([call, output]))).await;
    assert_eq!(first["output"][0]["call_id"], own);
    assert_eq!(upstream.counts().requests, 2);
    gateway.client.created(after(&first, outputs(&first))).await;
    assert_eq!(upstream.counts().requests, 3);
    let sent = upstream.last_request().unwrap().json()["messages"].clone();
    assert_eq!(json!([sent[2]["tool_calls"][0]["id"], sent[3]["tool_call_id"]]), json!([own, own]));
    assert_eq!(sent[0]["tool_calls"][0]["id"], sent[1]["tool_call_id"]);
    let stored = gateway
        .client
        .get(&format!("/v1/responses/{}/input_items", first["id"].as_str().unwrap()))
        .await
        .ok();
    assert!(stored["data"].as_array().unwrap().iter().all(|item| item["call_id"] == foreign), "{stored}");
}

#[tokio::test]
async fn one_tool_can_be_forced_where_only_words_are_accepted_as_the_choice() {
    let (upstream, gateway) = over(ChatServer::LmStudio).await;
    let mut forced = request("a");
    forced["tool_choice"] = json!({"type": "function", "name": "g"});
    upstream.script(Script::call("g", "{}"));
    let response = gateway.client.created(&forced).await;
    assert_eq!(
        (&response["output"][0]["name"], &response["tool_choice"]),
        (&json!("g"), &forced["tool_choice"])
    );
    assert_eq!(upstream.last_request().unwrap().json()["tools"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_chain_continues_after_a_call_that_was_cut_where_arguments_are_decoded() {
    for server in [ChatServer::LlamaCpp, ChatServer::Ollama] {
        let (upstream, gateway) = over(server).await;
        upstream
            .script(Script::new().tool_call_as("call_1", "f", "{\"a\": \"b").incomplete("max_output_tokens"));
        let first = gateway.client.created(request("a")).await;
        assert_eq!(
            json!([first["status"], first["output"][0]["status"]]),
            json!(["incomplete", "incomplete"])
        );
        assert_eq!(first["output"][0]["arguments"], "{\"a\": \"b");
        let second = gateway.client.created(after(&first, outputs(&first))).await;
        assert_eq!(second["status"], "completed");
    }
}

#[tokio::test]
async fn the_reason_for_the_end_decides_the_status_whoever_sends_it() {
    let (upstream, gateway) = over(ChatServer::OpenAi).await;
    let text = r#"data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":""}]}"#;
    for (reason, status, why) in [
        ("\"stop\"", "completed", Value::Null),
        ("\"tool_calls\"", "completed", Value::Null),
        ("\"function_call\"", "completed", Value::Null),
        ("\"eos\"", "completed", Value::Null),
        ("\"load\"", "completed", Value::Null),
        ("null", "completed", Value::Null),
        ("\"length\"", "incomplete", json!("max_output_tokens")),
        ("\"max_tokens\"", "incomplete", json!("max_output_tokens")),
        ("\"content_filter\"", "incomplete", json!("content_filter")),
    ] {
        let last = format!(r#"data: {{"choices":[{{"index":0,"delta":{{}},"finish_reason":{reason}}}]}}"#);
        upstream.script(Script::stream_bytes(format!("{text}\n\n{last}\n\ndata: [DONE]\n\n")));
        let response = gateway.client.created(request("a")).await;
        assert_eq!(
            (&response["status"], &response["incomplete_details"]["reason"]),
            (&json!(status), &why),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn the_errors_of_every_server_reach_the_client_in_one_form() {
    let overflow = (400, Some("context_length_exceeded"), Some("input"));
    let rows = [
        // llama.cpp
        (
            400,
            json!({"error": {"code": 400, "message": "request (300 tokens) exceeds the available context size (256 tokens)", "type": "exceed_context_size_error", "n_prompt_tokens": 300, "n_ctx": 256}}),
            overflow,
        ),
        // vLLM, of today and of 2024
        (
            400,
            json!({"error": {"message": "This model's maximum context length is 10 tokens. However, you requested 20.", "type": "BadRequestError", "param": "input_tokens", "code": 400}}),
            overflow,
        ),
        (
            400,
            json!({"object": "error", "message": "This model's maximum context length is 10 tokens.", "type": "BadRequestError", "param": null, "code": 400}),
            overflow,
        ),
        // Ollama
        (
            400,
            json!({"error": {"message": "registry.ollama.ai/library/phi:latest does not support tools", "type": "api_error", "param": null, "code": null}}),
            (400, None, None),
        ),
        // LM Studio
        (
            400,
            json!({"error": "Invalid tool_choice type: 'object'. Supported string values: none, auto, required"}),
            (400, None, None),
        ),
    ];
    for (status, body, (expected, code, param)) in rows {
        let (upstream, gateway) = over(ChatServer::OpenAi).await;
        upstream.script(Script::http(status, body.to_string()));
        let reply = gateway.client.create(request("a")).await;
        let expected = (expected, code.map(str::to_owned), param.map(str::to_owned));
        let message = body.pointer("/error/message").or(body.get("message")).or(body.get("error"));
        assert_eq!(reply.refusal(), expected, "{body}");
        assert_eq!(reply.json()["error"]["message"], *message.unwrap());
        assert_eq!(gateway.account_state("one").await, "ready", "{body}");
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_fails_the_response_with_its_code() {
    let text = r#"data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}"#;
    for (error, code) in [
        (json!({"error": {"code": 500, "message": "out of slots", "type": "server_error"}}), "server_error"),
        (json!({"error": {"message": "slow down", "type": "rate_limit_error"}}), "rate_limit_exceeded"),
        (
            json!({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}),
            "invalid_prompt",
        ),
        (json!({"error": "CUDA error"}), "server_error"),
    ] {
        let (upstream, gateway) = over(ChatServer::OpenAi).await;
        upstream.script(Script::stream_bytes(format!("{text}\n\ndata: {error}\n\n")));
        let mut asked = request("a");
        asked["stream"] = true.into();
        let events = gateway.client.stream(asked).await.rest().await;
        let events: Vec<Value> = events.iter().map(antiphon_testkit::Event::json).collect();
        let [event, failed] = &events[events.len() - 2..] else { panic!("{events:?}") };
        assert_eq!(json!([event["type"], event["code"]]), json!(["error", code]), "{error}");
        assert_eq!(
            json!([failed["type"], failed["response"]["error"]["code"]]),
            json!(["response.failed", code]),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_signature_of_a_call_goes_back_in_the_turns_of_its_chain() {
    let (upstream, gateway) = over(ChatServer::Gemini).await;
    let extra = json!({"google": {"thought_signature": "c2lnbg=="}});
    let function = json!({"name": "f", "arguments": "{}"});
    let call = json!({"id": "", "type": "function", "function": function, "extra_content": extra});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let choice = json!({"index": 0, "message": message, "finish_reason": "tool_calls"});
    let completion = json!({"id": "x", "object": "chat.completion", "model": "sim", "choices": [choice]});
    upstream.script(Script::http(200, completion.to_string()));
    let first = gateway.client.created(request("a")).await;
    let second = gateway.client.created(after(&first, outputs(&first))).await;
    gateway.client.created(after(&second, "b")).await;
    for sent in &upstream.requests()[2..] {
        assert_eq!(sent.json()["messages"][1]["tool_calls"][0]["extra_content"], extra);
    }
    assert_eq!(upstream.requests().len(), 4, "its first request without one was refused");
}
