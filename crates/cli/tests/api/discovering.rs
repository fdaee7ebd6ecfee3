//! Accounts whose API is found out: `api = "auto"`.

use std::sync::Arc;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{ManualClock, Setup, eventually};
use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;

use crate::administering::Operator;
use crate::simulator;

async fn upstream(options: Options) -> Simulator {
    Simulator::bind(options).await.unwrap()
}

fn over(upstream: &Simulator) -> Setup {
    Setup::over(upstream).account(0, "api = \"auto\"")
}

fn chat_only() -> Options {
    Options { responses: false, ..Options::default() }
}

/// The paths of the turns that the upstream got, without the empty ones that only ask what it has.
fn turns(upstream: &Simulator) -> Vec<String> {
    let requests = upstream.requests().into_iter().filter(|request| request.body != "{}");
    requests.map(|request| request.path).collect()
}

/// Where the first turn went, and how many empty requests were sent before.
async fn first_turn(upstream: &Simulator) -> (String, usize) {
    let gateway = over(upstream).start().await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let empty =
        upstream.requests().iter().chain(&upstream.other_requests()).filter(|r| r.body == "{}").count();
    (turns(upstream).pop().unwrap(), empty)
}

#[tokio::test]
async fn a_server_is_known_by_what_it_lists_or_else_by_what_it_answers() {
    let owned = |owner: &str| Options { owned_by: owner.to_owned(), ..Options::default() };
    let ollama = Options { ollama_version: Some("0.13.3".to_owned()), ..owned("library") };
    for (options, path, empty) in [
        (owned("llamacpp"), "/v1/chat/completions", 0),
        (ollama, "/v1/chat/completions", 0),
        (owned("vllm"), "/v1/responses", 0),
        (owned("organization_owner"), "/v1/responses", 1),
        (Options::default(), "/v1/responses", 1),
        (chat_only(), "/v1/chat/completions", 1),
        (Options { lists_models: false, ..chat_only() }, "/v1/chat/completions", 1),
    ] {
        let named = format!("{options:?}");
        assert_eq!(first_turn(&upstream(options).await).await, (path.to_owned(), empty), "{named}");
    }
}

#[tokio::test]
async fn concurrent_turns_find_out_once() {
    let upstream = upstream(chat_only()).await;
    let gateway = over(&upstream).start().await;
    let turns = (0..8).map(|_| gateway.client.created(json!({"model": "sim", "input": "x"})));
    join_all(turns).await;
    let empty = upstream.other_requests().into_iter().filter(|request| request.body == "{}");
    assert_eq!(empty.count(), 1);
}

#[tokio::test]
async fn a_missing_path_makes_the_gateway_look_again() {
    let upstream = upstream(Options::default()).await;
    let gateway = over(&upstream).start().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "REASON about a"})).await;
    upstream.serve_responses(false);
    let after = |parent: &serde_json::Value| json!({"model": "sim", "input": "b", "previous_response_id": parent["id"]});
    let second = gateway.client.created(after(&first)).await;
    assert_eq!(turns(&upstream), ["/v1/responses", "/v1/chat/completions"]);
    upstream.serve_responses(true);
    gateway.client.created(after(&second)).await;
    assert_eq!(turns(&upstream).len(), 3, "chat completions still work");
}

#[tokio::test]
async fn a_404_that_is_no_missing_path_is_passed_on() {
    let (upstream, clock) = (upstream(Options::default()).await, Arc::new(ManualClock::default()));
    let gateway = over(&upstream).clock(&clock).start().await;
    gateway.client.created(json!({"model": "sim", "input": "a"})).await;
    for _ in 0..3 {
        upstream.script(Script::refusal(404, "not_found", "Item not found."));
        let reply = gateway.client.create(json!({"model": "sim", "input": "a"})).await;
        assert_eq!((reply.status.as_u16(), reply.refusal().1.as_deref()), (404, Some("not_found")));
    }
    let empty = upstream.other_requests().into_iter().filter(|request| request.body == "{}").count();
    assert_eq!(empty, 2, "one search at the start, and one for the first 404");
}

/// Accepts connections and closes them.
async fn closing_peer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    url
}

#[tokio::test]
async fn a_turn_goes_to_another_account_if_the_upstream_cannot_be_asked() {
    let (good, closing) = (simulator().await, closing_peer().await);
    let setup = Setup::with_accounts([("closing", closing.as_str()), ("good", &good.url())]);
    let setup = setup.account(0, "api = \"auto\"").account(1, "api = \"auto\"");
    let gateway = setup.config("routing.strategy = \"fill_first\"").start().await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(turns(&good).len(), 1);
}

#[tokio::test]
async fn an_upstream_without_the_path_is_replaced_and_the_client_is_told_if_there_is_no_other() {
    let (lacking, good) = (simulator().await, simulator().await);
    lacking.always(Script::http(404, "404 page not found").content_type("text/plain"));
    let alone = Setup::over(&lacking).start().await;
    let reply = alone.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(reply.refusal(), (404, Some("endpoint_not_available".to_owned()), None));
    let both = Setup::with_accounts([("lacking", lacking.url().as_str()), ("good", &good.url())]);
    let both = both.config("routing.strategy = \"fill_first\"").start().await;
    both.client.created(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(good.counts().requests, 1);
}

#[tokio::test]
async fn operators_see_which_api_is_used() {
    let upstream = upstream(Options { ollama_version: Some("0.13.3".to_owned()), ..chat_only() }).await;
    let gateway = over(&upstream).start().await;
    let operator = Operator::of(&gateway).await;
    let is_known = async || operator.get("/api/accounts/one").await["api"] == "chat";
    eventually("the API is found out at the start", is_known).await;
    let tested = operator.post("/api/accounts/one/test").await;
    let expected =
        json!({"account": "one", "answers": true, "error": null, "api": "chat", "server": "Ollama"});
    assert_eq!(tested, expected);
}
