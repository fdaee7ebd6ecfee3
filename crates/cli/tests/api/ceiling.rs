//! Past the memory ceiling new turns are refused, and everything else goes on.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, ManualMemory, Setup, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::simulator;

const CEILING: u64 = 1_000_000_000;
const LITTLE: u64 = CEILING / 10;
const TOO_MUCH: u64 = CEILING / 10 * 9;

const RESIDENT: &str = "antiphon_memory_resident_bytes";
const REFUSED: &str = "antiphon_memory_refused_turns_total";

/// A gateway whose memory the test orders.
struct Ceiling {
    upstream: Simulator,
    gateway: Gateway,
    memory: ManualMemory,
}

impl Ceiling {
    async fn start() -> Self {
        let (upstream, memory) = (simulator().await, ManualMemory::default());
        memory.set(LITTLE);
        let setup = Setup::over(&upstream).config("limits.memory = \"1GB\"").memory(&memory);
        let gateway = setup.start().await;
        let ceiling = Self { upstream, gateway, memory };
        ceiling.hold(LITTLE).await;
        ceiling
    }

    /// Returns once the gateway has seen it.
    async fn hold(&self, bytes: u64) {
        self.memory.set(bytes);
        let is_seen = async || self.gateway.client.metric(RESIDENT).await == bytes;
        eventually("the gateway has read its memory", is_seen).await;
    }
}

fn asked(stream: bool) -> Value {
    json!({"model": "sim", "input": "question", "stream": stream})
}

#[tokio::test]
async fn new_turns_are_refused_over_http_until_memory_is_free_again() {
    let ceiling = Ceiling::start().await;
    let client = &ceiling.gateway.client;
    ceiling.hold(TOO_MUCH).await;
    let large = json!({"model": "sim", "input": "x".repeat(5 << 20)});
    let turns = [
        ("/v1/responses", asked(false)),
        ("/v1/responses", asked(true)),
        ("/v1/responses", large),
        ("/v1/responses/compact", asked(false)),
        ("/v1/responses/input_tokens", asked(false)),
    ];
    for (path, body) in &turns {
        let reply = client.request(Method::POST, path, &[], body.to_string()).await;
        assert_eq!(reply.refusal(), (503, Some("server_is_overloaded".to_owned()), None), "{path}");
        assert_eq!(reply.json()["error"]["type"], "server_error");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    assert_eq!(ceiling.upstream.counts().requests, 0);
    assert_eq!(client.metric(REFUSED).await, 5);
    assert_eq!(client.metric("antiphon_memory_ceiling_bytes").await, CEILING);
    let failures = r#"antiphon_failures_total{fault="gateway",code="server_is_overloaded"}"#;
    assert_eq!(client.metric(failures).await, 5);
    ceiling.hold(LITTLE).await;
    client.created(asked(false)).await;
    assert_eq!(client.metric(REFUSED).await, 5);
}

#[tokio::test]
async fn a_socket_stays_open_while_its_turns_are_refused() {
    let ceiling = Ceiling::start().await;
    let mut socket = ceiling.gateway.socket().await;
    let mut ask = json!({"model": "sim", "input": "question"});
    let first = socket.created(ask.clone()).await;
    ceiling.hold(TOO_MUCH).await;
    for generate in [true, false] {
        let mut asked = ask.clone();
        (asked["generate"], asked["stream_id"]) = (generate.into(), "lane".into());
        socket.create(asked).await;
        let frame = socket.frame().await;
        assert_eq!((&frame["type"], &frame["status"]), (&json!("error"), &json!(503)), "{frame}");
        assert_eq!(frame["stream_id"], "lane");
        assert_eq!(frame["headers"]["retry-after"], "1");
        let error = &frame["error"];
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("server_error"), &json!("server_is_overloaded"))
        );
    }
    ceiling.hold(LITTLE).await;
    ask["previous_response_id"] = first["id"].clone();
    socket.created(ask).await;
    assert_eq!(ceiling.gateway.client.metric(REFUSED).await, 2);
}

#[tokio::test]
async fn running_turns_reads_deletions_and_operators_go_on() {
    let ceiling = Ceiling::start().await;
    let client = &ceiling.gateway.client;
    let operator = Operator::of(&ceiling.gateway).await;
    let stored = client.created(asked(false)).await;
    let path = format!("/v1/responses/{}", stored["id"].as_str().unwrap());
    let (script, gate) = Script::answer("the whole answer").gated_after(2);
    ceiling.upstream.script(script);
    let mut running = client.stream(asked(true)).await;
    running.next().await.unwrap();
    ceiling.hold(TOO_MUCH).await;
    gate.open();
    running.until("response.completed").await;
    for path in [&path, &format!("{path}/input_items"), "/v1/models", "/healthz", "/readyz"] {
        client.get(path).await.ok();
    }
    client.delete(&path).await.ok();
    operator.get("/api/accounts").await;
    operator.key(json!({"name": "one"})).await;
}

#[tokio::test]
async fn the_cache_of_chains_is_emptied_before_turns_are_refused_and_fills_again() {
    let ceiling = Ceiling::start().await;
    let client = &ceiling.gateway.client;
    let cached = async || client.metric("antiphon_chain_cache_bytes").await;
    let first = client.created(asked(false)).await;
    assert!(cached().await > 0);
    ceiling.hold(CEILING / 100 * 75).await;
    eventually("the cache is empty", async || cached().await == 0).await;
    let continued = |id: &Value| json!({"model": "sim", "input": "next", "previous_response_id": id});
    let second = client.created(continued(&first["id"])).await;
    assert_eq!(ceiling.upstream.last_request().unwrap().input().len(), 3, "it was read from the store");
    eventually("nothing is kept", async || cached().await == 0).await;
    ceiling.hold(LITTLE).await;
    // The next reading has enlarged the cache before the one that is awaited.
    ceiling.hold(LITTLE + 1).await;
    client.created(continued(&second["id"])).await;
    assert!(cached().await > 0);
}

#[tokio::test]
async fn without_figures_from_the_system_there_is_no_ceiling() {
    let (upstream, memory) = (simulator().await, ManualMemory::default());
    memory.set(ManualMemory::UNKNOWN);
    let gateway = Setup::over(&upstream).config("limits.memory = 1").memory(&memory).start().await;
    gateway.client.created(asked(false)).await;
    assert_eq!(gateway.client.metric("antiphon_memory_ceiling_bytes").await, 0);
}
