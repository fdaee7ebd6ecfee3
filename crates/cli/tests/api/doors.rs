//! What a turn does at every door: each case runs as a collected reply, as a stream of server-sent events, and on a
//! WebSocket.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Fault, Faults, Gateway, Setup, Socket, header};
use http::Method;
use serde_json::{Value, json};

use crate::simulator;

/// The door that the client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Collected,
    Sse,
    Socket,
}

/// The outcome of a turn, in the same form for every door.
#[derive(Debug, Default)]
struct Outcome {
    /// 200 if there is a response of any status.
    status: u16,
    /// The code of the error, or of the failed response.
    code: Option<String>,
    param: Option<String>,
    retry_after: Option<String>,
    response: Value,
}

/// A client at one door of a gateway of its own.
struct Visit {
    door: Door,
    upstreams: Vec<Simulator>,
    gateway: Gateway,
    socket: Option<Socket>,
}

/// Turns each case into three tests.
macro_rules! at_every_door {
    ($($case:ident)*) => {$(
        mod $case {
            use super::Door;

            #[tokio::test]
            async fn collected() {
                super::$case(Door::Collected).await;
            }

            #[tokio::test]
            async fn as_events() {
                super::$case(Door::Sse).await;
            }

            #[tokio::test]
            async fn on_a_socket() {
                super::$case(Door::Socket).await;
            }
        }
    )*};
}

at_every_door! {
    a_stored_response_equals_the_one_returned
    a_chain_is_replayed_in_order_and_forks_share_their_trunk
    an_unstored_turn_can_be_neither_read_nor_continued
    an_invalid_request_gets_the_same_error
    unknown_responses_items_and_conversations_are_rejected
    a_turn_in_a_conversation_is_appended_to_it
    a_chain_that_is_too_long_is_rejected
    an_item_reference_is_replaced_by_its_item
    an_upstream_error_is_passed_on_unchanged
    a_turn_moves_from_a_failing_account_to_the_next
    when_all_accounts_cool_down_the_client_gets_retry_after
    a_response_that_ended_early_can_be_continued
    a_cut_off_reply_is_reported
    without_the_store_no_upstream_is_called
    a_commit_that_fails_is_never_acknowledged
    unknown_members_pass_both_ways
    reasoning_comes_in_a_form_that_can_be_replayed
    headers_that_belong_to_the_turn_go_upstream
}

impl Visit {
    async fn begin(door: Door) -> Self {
        Self::with(door, 1, |setup| setup).await
    }

    /// With this many accounts, each at its own upstream.
    async fn with(door: Door, accounts: usize, configure: impl FnOnce(Setup) -> Setup) -> Self {
        let mut upstreams = Vec::new();
        for _ in 0..accounts {
            upstreams.push(simulator().await);
        }
        let urls: Vec<String> = upstreams.iter().map(Simulator::url).collect();
        let names = ["one", "two", "three"];
        let setup = Setup::with_accounts(names.into_iter().zip(urls.iter().map(String::as_str)));
        let setup = setup.config("routing.strategy = \"fill_first\"");
        let gateway = configure(setup).start().await;
        Self { door, upstreams, gateway, socket: None }
    }

    fn upstream(&self) -> &Simulator {
        &self.upstreams[0]
    }

    async fn ask(&mut self, body: Value) -> Outcome {
        let outcome = match self.door {
            Door::Collected => self.collect(body).await,
            Door::Sse => self.stream(body).await,
            Door::Socket => self.frames(body).await,
        };
        // Whatever the outcome, nothing leaks.
        self.gateway.idle().await;
        outcome
    }

    /// A turn that succeeds.
    async fn created(&mut self, body: Value) -> Value {
        let outcome = self.ask(body).await;
        assert_eq!((outcome.status, &outcome.response["status"]), (200, &json!("completed")), "{outcome:?}");
        outcome.response
    }

    async fn refused(&mut self, body: Value) -> (u16, Option<String>, Option<String>) {
        let outcome = self.ask(body).await;
        (outcome.status, outcome.code, outcome.param)
    }

    async fn collect(&self, body: Value) -> Outcome {
        let reply =
            self.gateway.client.request(Method::POST, "/v1/responses", &headers(), body.to_string()).await;
        let retry_after = reply.header("retry-after").map(str::to_owned);
        match reply.status.as_u16() {
            200 => Outcome::of_response(reply.json()),
            status => Outcome { retry_after, ..Outcome::of_error(status, &reply.json()["error"]) },
        }
    }

    async fn stream(&self, mut body: Value) -> Outcome {
        body["stream"] = true.into();
        let reply =
            self.gateway.client.request(Method::POST, "/v1/responses", &headers(), body.to_string()).await;
        let retry_after = reply.header("retry-after").map(str::to_owned);
        if reply.status != 200 {
            let status = reply.status.as_u16();
            return Outcome { retry_after, ..Outcome::of_error(status, &reply.json()["error"]) };
        }
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        let last = text.lines().rfind(|line| line.starts_with("data: ")).unwrap();
        Outcome::of_last_event(&serde_json::from_str(&last["data: ".len()..]).unwrap())
    }

    async fn frames(&mut self, body: Value) -> Outcome {
        if self.socket.is_none() {
            let socket = Socket::connect(self.gateway.address(), "/v1/responses", &headers()).await;
            self.socket = Some(socket.unwrap());
        }
        let socket = self.socket.as_mut().unwrap();
        socket.create(body).await;
        let last = socket.turn().await.pop().unwrap();
        match last["status"].as_u64() {
            None => Outcome::of_last_event(&last),
            Some(status) => Outcome {
                retry_after: last["headers"]["retry-after"].as_str().map(str::to_owned),
                ..Outcome::of_error(u16::try_from(status).unwrap(), &last["error"])
            },
        }
    }

    /// The texts of the input that an upstream got last, without the model's.
    fn asked(&self) -> Vec<String> {
        let input = self.upstream().last_request().unwrap().json()["input"].clone();
        let Value::Array(items) = input else { return vec![input.as_str().unwrap().to_owned()] };
        let text = |item: &Value| {
            item["content"][0]["text"].as_str().or(item["content"].as_str()).map(str::to_owned)
        };
        items.iter().filter(|item| item["role"] == "user").filter_map(text).collect()
    }

    async fn get(&self, response: &Value) -> antiphon_testkit::Reply {
        self.gateway.client.get(&format!("/v1/responses/{}", response["id"].as_str().unwrap())).await
    }
}

impl Outcome {
    fn of_response(response: Value) -> Self {
        let code = response["error"]["code"].as_str().map(str::to_owned);
        Self { status: 200, code, response, ..Self::default() }
    }

    fn of_last_event(event: &Value) -> Self {
        Self::of_response(event["response"].clone())
    }

    fn of_error(status: u16, error: &Value) -> Self {
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        assert!(error["message"].is_string() && error.get("param").is_some(), "{error}");
        Self { status, code: text("code"), param: text("param"), ..Self::default() }
    }
}

fn headers() -> [(&'static str, http::HeaderValue); 3] {
    [header("session-id", "s-1"), header("x-codex-window-id", "w-1"), header("cookie", "a=b")]
}

fn create(input: &str) -> Value {
    json!({"model": "sim", "input": input})
}

fn after(parent: &Value, input: &str) -> Value {
    json!({"model": "sim", "input": input, "previous_response_id": parent["id"]})
}

// === the cases ===

async fn a_stored_response_equals_the_one_returned(door: Door) {
    let mut visit = Visit::begin(door).await;
    let response = visit.created(json!({"model": "sim", "input": "hi", "metadata": {"a": "b"}})).await;
    assert_eq!((&response["store"], &response["metadata"]["a"]), (&json!(true), &json!("b")));
    assert_eq!((&response["background"], &response["previous_response_id"]), (&json!(false), &Value::Null));
    assert_eq!(visit.get(&response).await.ok(), response);
    let rows = visit.gateway.logged(1).await;
    let transport = match door {
        Door::Collected => "http",
        Door::Sse => "sse",
        Door::Socket => "websocket",
    };
    assert_eq!((rows[0].transport.as_ref(), rows[0].outcome.as_ref()), (transport, "completed"));
}

async fn a_chain_is_replayed_in_order_and_forks_share_their_trunk(door: Door) {
    let mut visit = Visit::begin(door).await;
    let trunk = visit.created(create("trunk")).await;
    let left = visit.created(after(&trunk, "left")).await;
    assert_eq!(left["previous_response_id"], trunk["id"]);
    visit.created(after(&trunk, "right")).await;
    assert_eq!(visit.asked(), ["trunk", "right"]);
    visit.created(after(&left, "more")).await;
    assert_eq!(visit.asked(), ["trunk", "left", "more"]);
    let input = visit.upstream().last_request().unwrap().input();
    assert_eq!(input[1]["content"], trunk["output"][0]["content"]);
    assert!(input[1].get("id").is_none(), "the id of an output item went upstream");
}

async fn a_turn_in_a_conversation_is_appended_to_it(door: Door) {
    let mut visit = Visit::begin(door).await;
    let conversation = crate::conversations::begin(&visit.gateway.client, &json!([])).await;
    let within = |input: &str| json!({"model": "sim", "input": input, "conversation": conversation});
    visit.created(within("one")).await;
    let response = visit.created(within("two")).await;
    assert_eq!(visit.asked(), ["one", "two"]);
    assert_eq!(response["conversation"], json!({ "id": conversation }));
    assert_eq!(visit.get(&response).await.ok(), response);
    let items = crate::conversations::items(&visit.gateway.client, &conversation).await;
    assert_eq!((items.len(), &items[3]), (4, &response["output"][0]));
}

async fn an_unstored_turn_can_be_neither_read_nor_continued(door: Door) {
    let mut visit = Visit::begin(door).await;
    let response = visit.created(json!({"model": "sim", "input": "hi", "store": false})).await;
    assert_eq!(response["store"], false);
    assert_eq!(visit.get(&response).await.status, 404);
    let refused = visit.refused(after(&response, "on")).await;
    assert_eq!((refused.0, refused.1.as_deref()), (400, Some("previous_response_not_found")));
    let stored = visit.created(create("stored")).await;
    let mut body = json!({"model": "sim", "input": "x", "store": false});
    body["previous_response_id"] = stored["id"].clone();
    visit.created(body).await;
    assert_eq!(visit.asked(), ["stored", "x"]);
}

async fn an_invalid_request_gets_the_same_error(door: Door) {
    let mut visit = Visit::begin(door).await;
    for (body, code, param) in [
        (json!({"input": "x"}), "missing_required_parameter", Some("model")),
        (json!({"model": "sim"}), "missing_required_parameter", Some("input")),
        (json!({"model": "sim", "input": 7}), "invalid_type", Some("input")),
        (json!({"model": "sim", "input": "x", "store": "no"}), "invalid_type", Some("store")),
        (json!({"model": "sim", "input": "x", "background": 1}), "invalid_type", Some("background")),
        (
            json!({"model": "sim", "input": "x", "previous_response_id": 7}),
            "invalid_type",
            Some("previous_response_id"),
        ),
        (
            json!({"model": "sim", "input": "x", "previous_response_id": "a", "conversation": "c"}),
            "mutually_exclusive_parameters",
            None,
        ),
    ] {
        let refused = visit.refused(body.clone()).await;
        assert_eq!(refused, (400, Some(code.to_owned()), param.map(str::to_owned)), "{body}");
    }
    assert_eq!(visit.upstream().counts().requests, 0);
}

async fn unknown_responses_items_and_conversations_are_rejected(door: Door) {
    let mut visit = Visit::with(door, 1, |setup| setup.account(0, "models = [\"sim\"]")).await;
    let unknown = json!({"id": format!("resp_{}", "0".repeat(32))});
    let not_found =
        (400, Some("previous_response_not_found".to_owned()), Some("previous_response_id".to_owned()));
    assert_eq!(visit.refused(after(&unknown, "x")).await, not_found);
    assert_eq!(visit.refused(after(&json!({"id": "resp_zz"}), "x")).await, not_found);
    let deleted = visit.created(create("x")).await;
    visit.gateway.client.delete(&format!("/v1/responses/{}", deleted["id"].as_str().unwrap())).await.ok();
    assert_eq!(visit.refused(after(&deleted, "x")).await, not_found);
    let refused = visit.refused(json!({"model": "nobody", "input": "x"})).await;
    assert_eq!(refused, (404, Some("model_not_found".to_owned()), Some("model".to_owned())));
    let refused = visit.refused(json!({"model": "sim", "input": "x", "conversation": "conv_1"})).await;
    assert_eq!(refused, (404, None, None));
    let item = json!({"model": "sim", "input": [{"type": "item_reference", "id": "msg_none"}]});
    assert_eq!(visit.refused(item).await, (404, None, Some("input".to_owned())));
}

async fn a_chain_that_is_too_long_is_rejected(door: Door) {
    let limits = "limits.max_chain_depth = 2\nlimits.max_history = \"4KiB\"";
    let mut visit = Visit::with(door, 1, |setup| setup.config(limits)).await;
    let large = visit.created(create(&"x".repeat(5_000))).await;
    let too_large = (400, Some("context_too_large".to_owned()), Some("previous_response_id".to_owned()));
    assert_eq!(visit.refused(after(&large, "x")).await, too_large);
    let one = visit.created(create("one")).await;
    let two = visit.created(after(&one, "two")).await;
    assert_eq!(visit.refused(after(&two, "three")).await, too_large);
}

async fn an_item_reference_is_replaced_by_its_item(door: Door) {
    let mut visit = Visit::begin(door).await;
    let first = visit.created(create("one")).await;
    let reference = json!({"type": "item_reference", "id": first["output"][0]["id"]});
    let own = json!({"type": "message", "role": "user", "content": "two"});
    visit.created(json!({"model": "sim", "input": [reference, own]})).await;
    let input = visit.upstream().last_request().unwrap().input();
    assert_eq!((&input[0]["content"], &input[1]["content"]), (&first["output"][0]["content"], &json!("two")));
}

async fn an_upstream_error_is_passed_on_unchanged(door: Door) {
    let mut visit = Visit::begin(door).await;
    let body =
        r#"{"error":{"message":"no","type":"invalid_request_error","param":"tools","code":"bad_tools"}}"#;
    visit.upstream().script(Script::http(422, body));
    assert_eq!(
        visit.refused(create("x")).await,
        (422, Some("bad_tools".to_owned()), Some("tools".to_owned()))
    );
    visit.created(create("x")).await;
}

async fn a_turn_moves_from_a_failing_account_to_the_next(door: Door) {
    let mut visit = Visit::with(door, 2, |setup| setup).await;
    let first = visit.created(create("one")).await;
    for script in [
        Script::http(500, "{}"),
        Script::http(200, "<html>").content_type("text/html"),
        Script::refusal(503, "server_is_overloaded", "later"),
    ] {
        visit.upstreams[0].script(script);
        let before = visit.upstreams[1].counts().requests;
        visit.created(after(&first, "two")).await;
        assert_eq!(visit.upstreams[1].counts().requests, before + 1);
        // An account that has served the chain is not excluded.
        visit.created(create("again")).await;
    }
}

async fn when_all_accounts_cool_down_the_client_gets_retry_after(door: Door) {
    let mut visit = Visit::with(door, 2, |setup| setup).await;
    let limited =
        r#"{"error":{"message":"m","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#;
    for (upstream, after) in visit.upstreams.iter().zip(["300", "200"]) {
        upstream.script(Script::http(429, limited).header("retry-after", after));
    }
    for _ in 0..2 {
        let outcome = visit.ask(create("x")).await;
        assert_eq!((outcome.status, outcome.code.as_deref()), (429, Some("rate_limit_exceeded")));
        let after: u64 = outcome.retry_after.unwrap().parse().unwrap();
        assert!((20..=200).contains(&after), "{after}");
    }
}

async fn a_response_that_ended_early_can_be_continued(door: Door) {
    let mut visit = Visit::begin(door).await;
    visit.upstream().script(Script::answer("so far").incomplete("max_output_tokens"));
    let outcome = visit.ask(create("one")).await;
    assert_eq!((outcome.status, &outcome.response["status"]), (200, &json!("incomplete")));
    visit.created(after(&outcome.response, "two")).await;
    assert_eq!(visit.asked(), ["one", "two"]);
    visit.upstream().script(Script::answer("x").failed("content_policy", "No."));
    let outcome = visit.ask(create("three")).await;
    assert_eq!(
        (&outcome.response["status"], outcome.code.as_deref()),
        (&json!("failed"), Some("content_policy"))
    );
    assert_eq!(visit.get(&outcome.response).await.ok()["status"], "failed");
    visit.created(after(&outcome.response, "four")).await;
    assert_eq!(visit.asked(), ["three", "four"]);
}

async fn a_cut_off_reply_is_reported(door: Door) {
    let mut visit = Visit::begin(door).await;
    visit.upstream().script(Script::answer("a b c d").cut_after(5));
    let outcome = visit.ask(create("one")).await;
    if door == Door::Collected {
        assert_eq!((outcome.status, outcome.code.as_deref()), (502, Some("upstream_failed")));
        return;
    }
    assert_eq!((outcome.status, outcome.code.as_deref()), (200, Some("server_error")));
    assert_eq!(visit.get(&outcome.response).await.ok(), outcome.response);
    visit.created(after(&outcome.response, "two")).await;
    assert_eq!(visit.asked(), ["one", "two"]);
}

async fn without_the_store_no_upstream_is_called(door: Door) {
    let faults = Faults::default();
    let mut visit = Visit::with(door, 1, |setup| setup.faults(&faults)).await;
    let first = visit.created(create("one")).await;
    faults.set(Fault::Down);
    let before = visit.upstream().counts().requests;
    for body in [create("x"), after(&first, "x")] {
        let outcome = visit.ask(body).await;
        assert_eq!((outcome.status, outcome.code.as_deref()), (503, Some("store_unavailable")));
        assert_eq!(outcome.retry_after.as_deref(), Some("1"));
    }
    assert_eq!(visit.upstream().counts().requests, before);
    visit.created(json!({"model": "sim", "input": "x", "store": false})).await;
    faults.set(Fault::None);
    visit.created(after(&first, "two")).await;
}

async fn a_commit_that_fails_is_never_acknowledged(door: Door) {
    let faults = Faults::default();
    let mut visit = Visit::with(door, 1, |setup| setup.faults(&faults)).await;
    faults.set(Fault::WritesFail);
    let outcome = visit.ask(create("x")).await;
    assert_eq!(outcome.code.as_deref(), Some("store_unavailable"));
    assert_eq!(outcome.status, if door == Door::Collected { 503 } else { 200 });
    assert_ne!(outcome.response["status"], "completed");
    faults.set(Fault::None);
    if door != Door::Collected {
        assert_eq!(visit.get(&outcome.response).await.status, 404);
    }
}

async fn unknown_members_pass_both_ways(door: Door) {
    let mut visit = Visit::begin(door).await;
    let item = r#"{"type":"new_item","id":"new_1","x":0.10}"#;
    visit.upstream().script(Script::new().item(item));
    let body = json!({"model": "sim", "input": [{"type": "odd", "k": 1.0}], "future": {"n": 1}});
    let response = visit.created(body).await;
    assert_eq!(response["output"][0]["x"], json!(0.10));
    let sent = visit.upstream().last_request().unwrap().json();
    assert_eq!((&sent["future"], &sent["input"][0]), (&json!({"n": 1}), &json!({"type": "odd", "k": 1.0})));
    for name in ["type", "stream_id", "generate", "previous_response_id"] {
        assert!(sent.get(name).is_none(), "{name} went upstream");
    }
    assert_eq!(sent["store"], false);
}

async fn reasoning_comes_in_a_form_that_can_be_replayed(door: Door) {
    let mut visit = Visit::begin(door).await;
    visit.upstream().script(Script::new().reasoning("Thinking.").text("so"));
    let first = visit.created(create("one")).await;
    assert_eq!(
        visit.upstream().last_request().unwrap().json()["include"],
        json!(["reasoning.encrypted_content"])
    );
    assert!(!first.to_string().contains("encrypted_content"), "the client did not ask for it");
    visit.created(after(&first, "two")).await;
    let input = visit.upstream().last_request().unwrap().input();
    assert!(input[1]["encrypted_content"].is_string());
}

async fn headers_that_belong_to_the_turn_go_upstream(door: Door) {
    let mut visit = Visit::begin(door).await;
    visit.created(create("one")).await;
    let request = visit.upstream().last_request().unwrap();
    assert_eq!(
        (request.header("session-id"), request.header("x-codex-window-id")),
        (Some("s-1"), Some("w-1"))
    );
    assert_eq!((request.header("cookie"), request.header("authorization")), (None, None));
}
