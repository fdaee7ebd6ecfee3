//! Chat completions together with everything that keeps a context: mixed chains, sockets, background, conversations.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Setup, said};
use http::Method;
use serde_json::{Value, json};

use crate::background::{ended, path, queue};
use crate::conversations::begin;
use crate::simulator;

/// Two accounts; the model decides which one serves a turn.
struct Mixed {
    responses: Simulator,
    chat: Simulator,
    gateway: Gateway,
}

impl Mixed {
    async fn start() -> Self {
        let (responses, chat) = (simulator().await, simulator().await);
        let accounts = [("responses", responses.url()), ("chat", chat.url())];
        let setup = Setup::with_accounts(accounts.iter().map(|(name, url)| (*name, url.as_str())))
            .account(0, "models = [\"gpt-*\"]")
            .account(1, "models = [\"local\"]\napi = \"chat\"");
        Self { gateway: setup.start().await, responses, chat }
    }

    fn upstream(&self, is_chat: bool) -> (&Simulator, &'static str) {
        if is_chat { (&self.chat, "local") } else { (&self.responses, "gpt-5.4") }
    }
}

async fn over_chat() -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "api = \"chat\"").start().await;
    (upstream, gateway)
}

fn last_said(upstream: &Simulator) -> Vec<String> {
    said(&upstream.last_request().unwrap())
}

/// Reasoning of the responses account is text for the chat account as far as it has a summary. The other way round, nobody
/// can read it: the API takes no reasoning that it has not encrypted.
#[tokio::test]
async fn a_chain_of_twenty_turns_alternates_between_the_two_apis() {
    let mixed = Mixed::start().await;
    let tools = json!([{"type": "function", "name": "look", "parameters": {"type": "object"}}]);
    // What was said, and whether an account of the Responses API can read it.
    let mut history: Vec<(String, bool)> = Vec::new();
    let mut parent = Value::Null;
    let mut input = json!("begin");
    history.push(("user: begin".to_owned(), true));
    for turn in 0..20 {
        let is_chat = turn % 2 == 1;
        let (upstream, model) = mixed.upstream(is_chat);
        let calls = turn % 3 == 0;
        let mut script = Script::new().reasoning(format!("thought {turn}")).text(format!("answer {turn}"));
        let arguments = format!("{{\"n\":{turn}}}");
        if calls {
            script = script.tool_call_as(format!("call_{turn}"), "look", &arguments);
        }
        upstream.script(script);
        let request = json!({"model": model, "input": input, "tools": tools, "previous_response_id": parent});
        let response = mixed.gateway.client.created(request).await;
        parent = response["id"].clone();
        let expected: Vec<&String> =
            history.iter().filter(|(_, is_for_all)| is_chat || *is_for_all).map(|(line, _)| line).collect();
        assert_eq!(last_said(upstream).iter().collect::<Vec<_>>(), expected, "turn {turn}");

        history.push((format!("thought: thought {turn}"), !is_chat));
        history.push((format!("assistant: answer {turn}"), true));
        if calls {
            history.push((format!("call call_{turn}: look({arguments})"), true));
            history.push((format!("output of call_{turn}: seen {turn}"), true));
            input = json!([{"type": "function_call_output", "call_id": format!("call_{turn}"), "output": format!("seen {turn}")}]);
        } else {
            history.push((format!("user: go on {turn}"), true));
            input = json!(format!("go on {turn}"));
        }
    }
    assert_eq!((mixed.responses.counts().requests, mixed.chat.counts().requests), (10, 10));
}

#[tokio::test]
async fn reasoning_of_a_chat_that_is_sent_again_is_left_out_for_the_other_api() {
    let mixed = Mixed::start().await;
    mixed.chat.script(Script::new().reasoning("hm").text("one"));
    let first = mixed.gateway.client.created(json!({"model": "local", "input": "a"})).await;
    let output = first["output"].as_array().unwrap();
    let user = |text: &str| json!({"role": "user", "content": text});
    let around = |items: Vec<Value>| Value::from([vec![user("a")], items, vec![user("b")]].concat());
    let references =
        output.iter().map(|item| json!({"type": "item_reference", "id": item["id"]})).collect::<Vec<_>>();
    let conversation = begin(&mixed.gateway.client, &json!([user("a"), output[0], output[1]])).await;
    for request in [
        json!({"input": around(references)}),
        json!({"input": around(output.clone())}),
        json!({"input": "b", "conversation": conversation}),
    ] {
        for (is_chat, thoughts) in [(false, &[][..]), (true, &["thought: hm"])] {
            let (upstream, model) = mixed.upstream(is_chat);
            let mut request = request.clone();
            request["model"] = json!(model);
            request["store"] = json!(false);
            let reply = mixed.gateway.client.create(&request).await;
            assert_eq!(reply.status, 200, "{request}: {}", reply.json());
            assert_eq!(
                last_said(upstream),
                [&["user: a"], thoughts, &["assistant: one", "user: b"]].concat()
            );
            let reasoning = if is_chat { "full" } else { "stripped" };
            assert_eq!(reply.header("x-antiphon-reasoning"), Some(reasoning), "{request}");
        }
    }
}

#[tokio::test]
async fn a_compaction_in_the_middle_of_a_mixed_chain_is_for_the_account_that_can_read_it() {
    let mixed = Mixed::start().await;
    let turn = |model: &str, input: &str, parent: &Value| json!({"model": model, "input": input, "previous_response_id": parent["id"]});
    mixed.chat.script(Script::answer("one"));
    let first = mixed.gateway.client.created(turn("local", "a", &Value::Null)).await;
    let compaction = json!({"type": "compaction", "id": "cmp_1", "encrypted_content": mixed.responses.encrypted_content()});
    mixed.responses.script(Script::new().item(compaction.to_string()).text("two"));
    let second = mixed.gateway.client.created(turn("gpt-5.4", "b", &first)).await;

    let reply = mixed.gateway.client.create(turn("local", "c", &second)).await;
    assert_eq!(reply.header("x-antiphon-reasoning"), Some("rebuilt"));
    let third = reply.ok();
    let whole = ["user: a", "assistant: one", "user: b", "assistant: two", "user: c"];
    assert_eq!(last_said(&mixed.chat), whole);
    mixed.gateway.client.created(turn("gpt-5.4", "d", &third)).await;
    let input = mixed.responses.last_request().unwrap().input();
    assert_eq!((&input[0]["type"], input.len()), (&json!("compaction"), 5));
}

/// Codex sends its tools in an item of the first turn, and none beside the input.
#[tokio::test]
async fn tools_that_an_item_added_are_there_in_later_turns_of_a_chain_as_well() {
    let (upstream, gateway) = over_chat().await;
    let tools = json!([{"type": "namespace", "name": "functions", "description": "d", "tools": [{"type": "custom", "name": "exec"}]}]);
    let input = json!([
        {"type": "additional_tools", "role": "developer", "tools": tools},
        {"role": "user", "content": "a"},
    ]);
    upstream.script(Script::new().tool_call_as("c", "functions__exec", r#"{"input":"1+1"}"#));
    let reply = gateway.client.create(&json!({"model": "sim", "input": input})).await;
    assert_eq!(reply.header("x-antiphon-omitted"), None);
    let first = reply.ok();
    let call = &first["output"][0];
    assert_eq!(
        json!([call["type"], call["namespace"], call["name"], call["input"]]),
        json!(["custom_tool_call", "functions", "exec", "1+1"])
    );

    let output = json!([{"type": "custom_tool_call_output", "call_id": "c", "output": "2"}]);
    let request = json!({"model": "sim", "input": output, "previous_response_id": first["id"]});
    assert_eq!(gateway.client.create(&request).await.header("x-antiphon-omitted"), None);
    let sent = upstream.last_request().unwrap().json();
    assert_eq!(sent["tools"][0]["function"]["name"], "functions__exec");
    assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["name"], "functions__exec");
    assert_eq!(
        (&sent["messages"][0]["content"], &sent["messages"][2]["content"]),
        (&json!("a"), &json!("2"))
    );
}

#[tokio::test]
async fn a_socket_continues_chains_that_are_stored_and_those_that_are_not() {
    let (upstream, gateway) = over_chat().await;
    let mut socket = gateway.socket().await;
    for is_stored in [true, false] {
        let turn = |input: &str, parent: &Value| json!({"model": "sim", "input": input, "store": is_stored, "previous_response_id": parent});
        let warm = socket
            .created(json!({"model": "sim", "input": "a", "store": is_stored, "generate": false}))
            .await;
        upstream.script(Script::new().reasoning("hm").text("one"));
        let first = socket.created(turn("b", &warm["id"])).await;
        socket.created(turn("c", &first["id"])).await;
        assert_eq!(last_said(&upstream), ["user: a", "user: b", "thought: hm", "assistant: one", "user: c"]);
        let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
        assert_eq!(gateway.client.get(&path).await.status, if is_stored { 200 } else { 404 });
    }
    assert_eq!(upstream.counts().requests, 4);
}

#[tokio::test]
async fn background_turns_are_polled_streamed_and_continued() {
    let (upstream, gateway) = over_chat().await;
    upstream.script(Script::new().reasoning("hm").text("one"));
    let polled = queue(&gateway, &json!({"model": "sim", "input": "a", "background": true})).await;
    let first = ended(&gateway.client, &polled).await;
    assert_eq!(
        (&first["status"], &first["output"][1]["content"][0]["text"]),
        (&json!("completed"), &json!("one"))
    );

    upstream.script(Script::answer("two").deltas(3));
    let request = json!({"model": "sim", "input": "b", "background": true, "stream": true, "previous_response_id": polled});
    let live = gateway.client.stream(request).await.rest().await;
    let id = live.last().unwrap().json()["response"]["id"].as_str().unwrap().to_owned();
    let again =
        gateway.client.follow(&format!("{}?stream=true&starting_after=2", path(&id))).await.rest().await;
    let names = |events: &[antiphon_testkit::Event]| -> Vec<String> {
        events.iter().map(|event| event.name.clone()).collect()
    };
    assert_eq!(names(&again), names(&live)[3..]);
    assert_eq!(last_said(&upstream), ["user: a", "thought: hm", "assistant: one", "user: b"]);

    upstream.script(Script::answer("never").hang_after(2));
    let running = queue(&gateway, &json!({"model": "sim", "input": "c", "background": true})).await;
    upstream.wait_until(|upstream| upstream.counts().requests == 3).await;
    let cancelled =
        gateway.client.request(Method::POST, &format!("{}/cancel", path(&running)), &[], "").await.ok();
    assert_eq!(cancelled["status"], "cancelled");
    upstream.wait_until(|upstream| upstream.in_flight() == 0).await;
}

#[tokio::test]
async fn a_conversation_is_a_chat_that_may_move_to_the_other_api() {
    let mixed = Mixed::start().await;
    let client = &mixed.gateway.client;
    let id = begin(client, &json!([{"role": "developer", "content": "be brief"}])).await;
    let turn = |model: &str, input: &str| json!({"model": model, "input": input, "conversation": id});
    mixed.chat.script(Script::new().reasoning("hm").text("one"));
    client.created(turn("local", "a")).await;
    mixed.responses.script(Script::answer("two"));
    client.created(turn("gpt-5.4", "b")).await;
    assert_eq!(last_said(&mixed.responses), ["system: be brief", "user: a", "assistant: one", "user: b"]);
    client.created(turn("local", "c")).await;
    let whole = [
        "system: be brief",
        "user: a",
        "thought: hm",
        "assistant: one",
        "user: b",
        "assistant: two",
        "user: c",
    ];
    assert_eq!(last_said(&mixed.chat), whole);
}
