//! Encrypted items, and accounts that can't read what another account's upstream has encrypted.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Client, Gateway, Reply, Setup};
use serde_json::{Value, json};

/// Two accounts with a boundary each. Turns go to the first one.
async fn two_boundaries() -> (Simulator, Simulator, Gateway) {
    let upstream = async |boundary: &str| {
        Simulator::bind(Options { boundary: boundary.to_owned(), ..Options::default() }).await.unwrap()
    };
    let (one, two) = (upstream("one").await, upstream("two").await);
    let accounts = [("one", one.url()), ("two", two.url())];
    let setup = Setup::with_accounts(accounts.iter().map(|(name, url)| (*name, url.as_str())));
    let gateway = setup.config("routing.strategy = \"fill_first\"").start().await;
    (one, two, gateway)
}

/// Makes the upstream fail the next turn.
fn fail_once(upstream: &Simulator) {
    upstream.script(Script::http(500, "{}"));
}

async fn continued(client: &Client, parent: &Value) -> Reply {
    let reply =
        client.create(json!({"model": "sim", "input": "on", "previous_response_id": parent["id"]})).await;
    reply.ok();
    reply
}

fn input(upstream: &Simulator) -> Vec<Value> {
    upstream.last_request().unwrap().input()
}

fn types(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn reasoning_is_stripped_for_another_boundary_and_complete_at_its_own() {
    let (one, two, gateway) = two_boundaries().await;
    one.script(Script::new().reasoning("I thought hard.").text("answer"));
    let first = gateway.client.create(json!({"model": "sim", "input": "question"})).await;
    assert_eq!(first.header("x-antiphon-reasoning"), Some("full"));
    let first = first.ok();
    let path =
        format!("/v1/responses/{}?include[]=reasoning.encrypted_content", first["id"].as_str().unwrap());
    let sealed = gateway.client.get(&path).await.ok()["output"][0]["encrypted_content"].clone();
    assert!(sealed.is_string());

    fail_once(&one);
    let elsewhere = continued(&gateway.client, &first).await;
    assert_eq!(elsewhere.header("x-antiphon-reasoning"), Some("stripped"));
    let items = input(&two);
    assert_eq!(types(&items), ["message"; 4]);
    assert_eq!((&items[1]["role"], &items[1]["content"]), (&json!("assistant"), &json!("I thought hard.")));
    assert!(!items.iter().any(|item| item.to_string().contains("encrypted_content")));
    assert_eq!(two.counts().requests, 1, "it was stripped without a refused attempt");

    let back = continued(&gateway.client, &first).await;
    assert_eq!(back.header("x-antiphon-reasoning"), Some("full"));
    assert_eq!(input(&one)[1]["encrypted_content"], sealed);
    let metrics = gateway.client.metrics().await;
    assert!(metrics.contains("antiphon_turns_reasoning_total{state=\"stripped\"} 1"), "{metrics}");
}

#[tokio::test]
async fn each_account_of_a_mixed_chain_gets_its_own_reasoning_and_summaries_of_the_rest() {
    let (one, two, gateway) = two_boundaries().await;
    one.script(Script::new().reasoning("first").text("a"));
    let mut parent = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    fail_once(&one);
    two.script(Script::new().reasoning("second").text("b"));
    parent = continued(&gateway.client, &parent).await.ok();
    continued(&gateway.client, &parent).await.ok();
    let items = input(&two);
    assert_eq!(
        types(&items),
        ["message", "message", "message", "message", "reasoning", "message", "message"]
    );
    assert_eq!(items[1]["content"], "first");
    fail_once(&two);
    let there = continued(&gateway.client, &parent).await;
    assert_eq!(there.header("x-antiphon-reasoning"), Some("stripped"));
    let items = input(&one);
    assert_eq!(
        types(&items),
        ["message", "reasoning", "message", "message", "message", "message", "message"]
    );
    assert_eq!(items[4]["content"], "second");
}

/// The user's question and what a client keeps of a reply: references, as the AI SDK of Vercel sends them, or the items without
/// what was hidden in them, as the Agents SDK does.
fn referring(history: &[&Value], by_reference: bool) -> Value {
    let mut input = vec![json!({"type": "message", "role": "user", "content": "question"})];
    for item in history.iter().flat_map(|response| response["output"].as_array().unwrap()) {
        let reference = json!({"type": "item_reference", "id": item["id"]});
        input.push(if by_reference { reference } else { item.clone() });
    }
    json!({"model": "sim", "input": input})
}

#[tokio::test]
async fn a_turn_that_references_items_goes_to_the_account_that_made_the_newest_of_them() {
    for by_reference in [true, false] {
        let (one, two, gateway) = two_boundaries().await;
        one.script(Script::new().reasoning("first").text("a"));
        let first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        fail_once(&one);
        two.script(Script::new().reasoning("second").text("b"));
        let second = gateway.client.created(json!({"model": "sim", "input": "y"})).await;

        let reply = gateway.client.create(referring(&[&second], by_reference)).await;
        reply.ok();
        assert_eq!(reply.header("x-antiphon-reasoning"), Some("full"));
        assert_eq!(types(&input(&two)), ["message", "reasoning", "message"]);
        assert!(input(&two)[1]["encrypted_content"].is_string());

        let reply = gateway.client.create(referring(&[&first, &second], by_reference)).await;
        reply.ok();
        assert_eq!(reply.header("x-antiphon-reasoning"), Some("stripped"));
        let items = input(&two);
        assert_eq!(types(&items), ["message", "message", "message", "reasoning", "message"]);
        assert_eq!((&items[1]["role"], &items[1]["content"]), (&json!("assistant"), &json!("first")));
        assert_eq!((one.counts().requests, two.counts().requests), (2, 3), "none was refused");
    }
}

#[tokio::test]
async fn referenced_reasoning_is_stripped_for_another_boundary_and_complete_at_its_own() {
    for by_reference in [true, false] {
        let (one, two, gateway) = two_boundaries().await;
        one.script(Script::new().reasoning("I thought hard.").reasoning("").text("answer"));
        let first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        let body = referring(&[&first], by_reference);
        fail_once(&one);
        let elsewhere = gateway.client.create(&body).await;
        elsewhere.ok();
        assert_eq!(elsewhere.header("x-antiphon-reasoning"), Some("stripped"));
        let items = input(&two);
        assert_eq!(types(&items), ["message"; 3]);
        assert_eq!(items[1]["content"], "I thought hard.");
        assert_eq!(two.counts().requests, 1, "it was stripped without a refused attempt");

        let back = gateway.client.create(&body).await;
        back.ok();
        assert_eq!(back.header("x-antiphon-reasoning"), Some("full"));
        assert_eq!(types(&input(&one)), ["message", "reasoning", "reasoning", "message"]);
    }
}

#[tokio::test]
async fn an_unreadable_compaction_is_replaced_by_the_original_items() {
    let (one, two, gateway) = two_boundaries().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "remember blue"})).await;
    let compaction =
        json!({"type": "compaction", "id": "cmp_1", "encrypted_content": one.encrypted_content()});
    one.script(Script::new().item(compaction.to_string()).text("compacted"));
    let second = continued(&gateway.client, &first).await.ok();

    let whole = continued(&gateway.client, &second).await;
    assert_eq!(whole.header("x-antiphon-reasoning"), Some("full"));
    assert_eq!(types(&input(&one)), ["compaction", "message", "message"]);

    fail_once(&one);
    let rebuilt = continued(&gateway.client, &second).await;
    assert_eq!(rebuilt.header("x-antiphon-reasoning"), Some("rebuilt"));
    let items = input(&two);
    assert_eq!(types(&items), ["message"; 5]);
    assert_eq!(items[0]["content"][0]["text"], "remember blue");

    continued(&gateway.client, &second).await;
    assert_eq!(types(&input(&one)), ["compaction", "message", "message"]);
}

#[tokio::test]
async fn foreign_encrypted_content_is_stripped_after_the_upstream_refuses_it() {
    let message =
        "The encrypted content gAAA...0001 could not be verified. Reason: could not be decrypted or parsed.";
    let by_message = json!({"error": {"message": message, "type": "invalid_request_error", "code": null}});
    for refusal in [None, Some(Script::http(400, by_message.to_string()))] {
        let (one, two, gateway) = two_boundaries().await;
        let sealed = if refusal.is_some() { one.encrypted_content() } else { two.encrypted_content() };
        let body = json!({"model": "sim", "store": false, "stream": false, "input": [
            {"type": "message", "role": "user", "content": "question"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "thought"}], "content": null, "encrypted_content": sealed},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "done"},
        ]});
        if let Some(refusal) = refusal {
            one.script(refusal);
        }
        let reply = gateway.client.create(&body).await;
        reply.ok();
        assert_eq!(reply.header("x-antiphon-reasoning"), Some("stripped"));
        assert_eq!((one.counts().requests, two.counts().requests), (2, 0));
        assert_eq!(types(&input(&one)), ["message", "message", "function_call", "function_call_output"]);
        assert_eq!(gateway.account_state("one").await, "ready");
    }
}

#[tokio::test]
async fn content_that_stays_unreadable_is_a_client_error_after_one_retry() {
    let (one, two, gateway) = two_boundaries().await;
    let refusal =
        json!({"error": {"message": "m", "type": "t", "param": null, "code": "invalid_encrypted_content"}});
    one.always(Script::http(400, refusal.to_string()));
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!((reply.status.as_u16(), reply.json()), (400, refusal));
    assert_eq!((one.counts().requests, two.counts().requests), (2, 0));
}

/// Two accounts whose upstreams store responses, with a boundary each. Turns go to the first one.
async fn two_native() -> (Simulator, Simulator, Gateway) {
    let upstream = async |boundary: &str| {
        let options = Options { boundary: boundary.to_owned(), stateful: true, ..Options::default() };
        Simulator::bind(options).await.unwrap()
    };
    let (one, two) = (upstream("one").await, upstream("two").await);
    let accounts = [("one", one.url()), ("two", two.url())];
    let setup = Setup::with_accounts(accounts.iter().map(|(name, url)| (*name, url.as_str())));
    let setup = setup.account(0, "state = \"native\"").account(1, "state = \"native\"");
    let gateway = setup.config("routing.strategy = \"fill_first\"").start().await;
    (one, two, gateway)
}

/// How clients keep a reply whose reasoning they have not asked for: its items as they got them; references to them; or
/// references to its reasoning and its other items.
fn kept_in_each_way(response: &Value) -> [Vec<Value>; 3] {
    let output = response["output"].as_array().unwrap();
    let reference = |item: &Value| json!({"type": "item_reference", "id": item["id"]});
    let is_reasoning = |item: &Value| item["type"] == "reasoning";
    let mixed = output.iter().map(|item| if is_reasoning(item) { reference(item) } else { item.clone() });
    [output.clone(), output.iter().map(reference).collect(), mixed.collect()]
}

fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": text})
}

#[tokio::test]
async fn an_upstream_that_stores_items_gets_them_with_their_reasoning() {
    for way in 0..3 {
        let (one, two, gateway) = two_native().await;
        one.always(Script::new().reasoning("I thought.").text("a"));
        two.always(Script::new().reasoning("I thought, too.").text("b"));
        let mut history = vec![user("question")];
        for turn in 0..6 {
            if turn == 2 {
                fail_once(&one);
            }
            let reply = gateway.client.create(json!({"model": "sim", "input": history})).await;
            assert_eq!(reply.status, 200, "way {way}, turn {turn}: {}", reply.json());
            history.extend(kept_in_each_way(&reply.json())[way].clone());
            history.push(user("on"));
        }
        let refused = one.counts().requests + two.counts().requests - 7;
        assert_eq!(refused, 0, "way {way}");
    }
}

#[tokio::test]
async fn sealed_reasoning_that_a_storing_upstream_cannot_read_takes_no_other_item_with_it() {
    let (one, two, gateway) = two_native().await;
    one.always(Script::new().reasoning("I thought.").tool_call_as("c", "f", "{}"));
    two.always(Script::new().reasoning("I thought, too.").text("b"));
    let mut history = vec![user("question")];
    for turn in 0..4 {
        if turn == 1 {
            fail_once(&one);
        }
        let body = json!({"model": "sim", "input": history, "include": ["reasoning.encrypted_content"]});
        let created = gateway.client.created(body).await;
        history.extend(created["output"].as_array().unwrap().iter().cloned());
        history.push(match turn {
            0 => json!({"type": "function_call_output", "call_id": "c", "output": "1"}),
            _ => user("on"),
        });
        if turn == 1 {
            one.always(Script::new().reasoning("Again.").text("c"));
        }
    }
}

/// How many items with encrypted content the last request of an upstream had.
fn sealed_in_last(upstream: &Simulator) -> usize {
    input(upstream).iter().filter(|item| item["encrypted_content"].is_string()).count()
}

#[tokio::test]
async fn an_account_keeps_getting_its_own_of_the_reasoning_that_a_client_sends_back() {
    for (store, takeover) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let (one, two, gateway) = two_boundaries().await;
        one.always(Script::new().reasoning("I thought.").text("a"));
        two.always(Script::new().reasoning("I thought, too.").text("b"));
        let mut history = Vec::new();
        for turn in 0..8 {
            let fails = (3..3 + takeover).contains(&turn);
            if fails {
                fail_once(&one);
            }
            history.push(user("on"));
            let (of_one, of_two) = (one.counts().requests, two.counts().requests);
            let body = json!({"model": "sim", "store": store, "input": history, "include": ["reasoning.encrypted_content"]});
            let reply = gateway.client.create(body).await;
            let (of_one, of_two) = (one.counts().requests - of_one, two.counts().requests - of_two);
            history.extend(reply.ok()["output"].as_array().unwrap().iter().cloned());
            let place = format!("store {store}, {takeover} elsewhere, turn {turn}");
            let state = reply.header("x-antiphon-reasoning");
            if turn < 3 {
                assert_eq!((of_one, sealed_in_last(&one), state), (1, turn, Some("full")), "{place}");
            } else if fails {
                let repeated = if turn > 3 { 1 } else { 3 + u64::from(!store) };
                assert_eq!(
                    (of_two, sealed_in_last(&two), state),
                    (repeated, turn - 3, Some("stripped")),
                    "{place}"
                );
            } else {
                let is_back = turn == 3 + takeover;
                let repeated = if is_back { if store { 2 } else { 1 + takeover as u64 } } else { 1 };
                let own = turn - takeover;
                assert_eq!(
                    (of_one, sealed_in_last(&one), state),
                    (repeated, own, Some("stripped")),
                    "{place}"
                );
            }
        }
    }
}

/// Encrypted content of a boundary. Each has its own last characters, by which errors name it.
fn sealed(boundary: &str, number: u32) -> String {
    let boundary: String = boundary.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("gAAAAA{boundary}_{number:016x}")
}

/// A client that keeps its items itself, and an account of boundary "two".
struct Keeper {
    two: Simulator,
    gateway: Gateway,
    history: Vec<Value>,
}

impl Keeper {
    async fn of(kept: &[(&str, &str)]) -> Self {
        let options = Options { boundary: "two".to_owned(), ..Options::default() };
        let two = Simulator::bind(options).await.unwrap();
        let gateway = Setup::with_accounts([("two", two.url().as_str())]).start().await;
        let item = |(number, (kind, boundary)): (u32, &(&str, &str))| {
            let content = sealed(boundary, number);
            match *kind {
                "compaction" => json!({"type": "compaction", "encrypted_content": content}),
                _ => json!({"type": "reasoning", "summary": [], "encrypted_content": content}),
            }
        };
        Self { two, gateway, history: (0..).zip(kept).map(item).collect() }
    }

    /// Sends a turn. Returns how often the account was asked, and how many sealed items it accepted.
    async fn turn(&mut self, number: u32, is_stored: bool) -> (u64, usize) {
        let made = json!({"type": "reasoning", "summary": [], "encrypted_content": sealed("two", 100 + number),
            "id": format!("rs_{number}")});
        self.two.always(Script::new().item(made.to_string()).text("answer"));
        self.history.push(user("on"));
        let before = self.two.counts().requests;
        let created = self.gateway.client.created(json!({"model": "sim", "store": is_stored,
            "input": self.history, "include": ["reasoning.encrypted_content"]}));
        self.history.extend(created.await["output"].as_array().unwrap().iter().cloned());
        (self.two.counts().requests - before, sealed_in_last(&self.two))
    }
}

#[tokio::test]
async fn an_account_keeps_getting_its_own_reasoning_beside_a_compaction_that_it_cannot_read() {
    for (is_stored, is_vague) in [(true, false), (false, false), (true, true), (false, true)] {
        // The simulator refuses foreign items before it follows a script.
        let boundary = if is_vague { "two" } else { "one" };
        let mut keeper = Keeper::of(&[("compaction", boundary)]).await;
        for number in 0..5 {
            let is_refused = number == 0 || (is_vague && number == 1);
            if is_vague && is_refused {
                let message = "The encrypted content could not be verified.";
                keeper.two.script(Script::refusal(400, "invalid_encrypted_content", message));
            }
            let expected = (1 + u64::from(is_refused), number as usize);
            let place = format!("stored {is_stored}, vague {is_vague}, turn {number}");
            assert_eq!(keeper.turn(number, is_stored).await, expected, "{place}");
        }
    }
}

#[tokio::test]
async fn an_account_that_read_none_of_many_items_gets_back_those_that_it_has_made_itself() {
    let (of_one, of_two) = (("reasoning", "one"), ("reasoning", "two"));
    let made_by_both = [of_one, of_one, of_one, of_one, of_two, of_two, of_two];
    let mut keeper = Keeper::of(&made_by_both).await;
    for (number, expected) in (0..).zip([(4, 0), (1, 2), (1, 4), (1, 6), (2, 7), (1, 8)]) {
        assert_eq!(keeper.turn(number, false).await, expected, "turn {number}");
    }
    let mut keeper = Keeper::of(&[of_one; 20]).await;
    for (number, expected) in (0..).zip([(4, 0), (2, 1), (1, 2), (1, 3)]) {
        assert_eq!(keeper.turn(number, false).await, expected, "turn {number}");
    }
}
