//! Turns in conversations. The tests are named after the lines of the API's behaviour that they pin.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_store::Clock;
use antiphon_testkit::{Client, ManualClock, Reply, Setup, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::conversations::{add, begin, items, items_path, post, texts, user};
use crate::{gateway, simulator};

const ANSWER: &str = "the answer";

fn turn(conversation: &str, input: &str) -> Value {
    json!({"model": "sim", "input": input, "conversation": conversation})
}

/// Asks until the conversation is free for the turn.
async fn served(client: &Client, turn: &Value) {
    eventually("the turn is served", async || {
        let reply = client.create(turn).await;
        if reply.status != 200 {
            assert_locked(&reply);
        }
        reply.status == 200
    })
    .await;
}

/// The texts of the messages that the upstream got last.
fn asked(upstream: &Simulator) -> Vec<String> {
    let text =
        |item: &Value| item["content"][0]["text"].as_str().or(item["content"].as_str()).map(str::to_owned);
    upstream.last_request().unwrap().input().iter().filter_map(text).collect()
}

async fn begun(client: &Client) -> String {
    begin(client, &json!([])).await
}

#[track_caller]
pub(crate) fn assert_locked(reply: &Reply) {
    let expected = json!({"error": {
        "message": "Another process is currently operating on this conversation. Please retry in a few seconds.",
        "type": "invalid_request_error", "param": "conversation", "code": "conversation_locked"}});
    assert_eq!((reply.status.as_u16(), reply.json()), (400, expected));
}

#[tokio::test]
async fn v20_a_response_shows_its_conversation_and_no_previous_response() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer(ANSWER));
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    for (n, named) in [json!(id), json!({"id": id})].into_iter().enumerate() {
        let made = gateway.client.created(json!({"model": "sim", "input": "x", "conversation": named})).await;
        assert_eq!(
            (&made["conversation"], &made["previous_response_id"]),
            (&json!({"id": id}), &Value::Null)
        );
        let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
        assert_eq!(gateway.client.get(&path).await.ok(), made);
        assert_eq!(asked(&upstream).len(), 2 + 2 * n);
    }
    let mut events = gateway
        .client
        .stream(json!({"model": "sim", "input": "y", "conversation": id, "stream": true}))
        .await;
    let with_response: Vec<Value> = events
        .rest()
        .await
        .iter()
        .map(|event| event.json()["response"].clone())
        .filter(|r| !r.is_null())
        .collect();
    assert!(with_response.len() >= 3);
    assert!(with_response.iter().all(|response| response["conversation"] == json!({"id": id})));
    assert_eq!(asked(&upstream), ["zero", "x", ANSWER, "x", ANSWER, "y"]);
}

#[tokio::test]
async fn v21_an_unknown_conversation_is_not_found_after_the_checks_of_the_request() {
    let (upstream, gateway) = gateway().await;
    let reply = gateway.client.create(turn("conv_1", "x")).await;
    assert_eq!(reply.refusal(), (404, None, None));
    assert_eq!(reply.json()["error"]["message"], "Conversation with id 'conv_1' not found.");
    let wrong = json!({"model": "sim", "input": "x", "conversation": "conv_1", "metadata": "x"});
    assert_eq!(gateway.client.create(wrong).await.refusal().0, 400);
    let unknown_model = json!({"model": "no-such", "input": "x", "conversation": "conv_1"});
    assert_eq!(gateway.client.create(unknown_model).await.refusal().1, None);
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn v22_a_conversation_and_a_previous_response_exclude_each_other() {
    let (_upstream, gateway) = gateway().await;
    let id = begun(&gateway.client).await;
    let mut body = turn(&id, "x");
    body["previous_response_id"] = json!("resp_1");
    let refusal = gateway.client.create(body).await.refusal();
    assert_eq!(refusal, (400, Some("mutually_exclusive_parameters".into()), None));
}

#[tokio::test]
async fn v23_a_completed_turn_appends_its_input_and_output_at_once() {
    let (upstream, gateway) = gateway().await;
    let id = begun(&gateway.client).await;
    let (script, gate) = Script::answer(ANSWER).gated_after(2);
    upstream.script(script);
    let mut body = turn(&id, "x");
    body["stream"] = json!(true);
    let mut events = gateway.client.stream(body).await;
    events.until("response.created").await;
    assert_eq!(items(&gateway.client, &id).await, [] as [Value; 0]);
    gate.open();
    let response = events.until("response.completed").await.json()["response"].clone();
    let listed = items(&gateway.client, &id).await;
    assert_eq!(texts(&listed), ["x", ANSWER]);
    assert!(listed.iter().all(|item| item["status"] == "completed"), "{listed:?}");
    assert_eq!(listed[1], response["output"][0]);
    let path = format!("/v1/responses/{}/input_items", response["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok()["data"][0], listed[0]);
}

#[tokio::test]
async fn v24_an_incomplete_turn_is_appended() {
    let (upstream, gateway) = gateway().await;
    let id = begun(&gateway.client).await;
    upstream.script(Script::answer("half").incomplete("max_output_tokens"));
    assert_eq!(gateway.client.created(turn(&id, "x")).await["status"], "incomplete");
    assert_eq!(texts(&items(&gateway.client, &id).await), ["x", "half"]);
}

#[tokio::test]
async fn v25_a_turn_that_fails_or_is_cancelled_appends_nothing() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("turns.on_disconnect = \"cancel\"").start().await;
    let id = begun(&gateway.client).await;
    upstream.script(Script::answer("a b c").cut_after(4));
    let mut body = turn(&id, "cut");
    body["stream"] = json!(true);
    let mut events = gateway.client.stream(body.clone()).await;
    let failed = events.until("response.failed").await.json();
    assert_eq!(failed["response"]["conversation"], json!({"id": id}));
    upstream.script(Script::answer("a b c").failed("server_error", "no"));
    gateway.client.create(turn(&id, "failed")).await;
    upstream.script(Script::answer("slow").hang_after(2));
    let mut events = gateway.client.stream(body).await;
    events.until("response.created").await;
    drop(events);
    gateway.idle().await;
    upstream.script(Script::answer(ANSWER));
    gateway.client.created(turn(&id, "x")).await;
    assert_eq!(asked(&upstream), ["x"]);
    assert_eq!(texts(&items(&gateway.client, &id).await), ["x", ANSWER]);
}

#[tokio::test]
async fn v26_a_turn_that_is_not_stored_reads_and_does_not_write() {
    let (upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    let mut body = turn(&id, "x");
    body["store"] = json!(false);
    let made = gateway.client.created(body).await;
    assert_eq!((&made["conversation"], &made["store"]), (&json!({"id": id}), &json!(false)));
    assert_eq!(asked(&upstream), ["zero", "x"]);
    assert_eq!(items(&gateway.client, &id).await.len(), 1);
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.status, 404);
}

#[tokio::test]
async fn v27_a_response_of_a_conversation_is_continued_outside_of_it() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer(ANSWER));
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    let first = gateway.client.created(turn(&id, "one")).await;
    gateway.client.created(turn(&id, "two")).await;
    let fork = json!({"model": "sim", "input": "fork", "previous_response_id": first["id"]});
    for _ in 0..2 {
        let made = gateway.client.created(fork.clone()).await;
        assert_eq!((&made["conversation"], &made["previous_response_id"]), (&Value::Null, &first["id"]));
        assert_eq!(asked(&upstream), ["zero", "one", ANSWER, "fork"]);
    }
    assert_eq!(items(&gateway.client, &id).await.len(), 5);
}

#[tokio::test]
async fn v28_a_second_turn_waits_and_is_then_refused() {
    let (upstream, gateway) = gateway().await;
    let id = begun(&gateway.client).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let first = gateway.client.create(turn(&id, "first"));
    let second = async {
        upstream.wait_until(|upstream| upstream.counts().requests == 1).await;
        let started = Instant::now();
        assert_locked(&gateway.client.create(turn(&id, "second")).await);
        assert!(started.elapsed() >= Duration::from_secs(2));
        // One that comes shortly before the first has ended is served, unless the machine stands still in between.
        let third = gateway.client.create(turn(&id, "third"));
        let open = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            gate.open();
        };
        let (third, ()) = tokio::join!(third, open);
        if third.status != 200 {
            assert_locked(&third);
            served(&gateway.client, &turn(&id, "third")).await;
        }
    };
    tokio::join!(first, second).0.ok();
    assert_eq!(upstream.counts().requests, 2);
    assert_eq!(asked(&upstream), ["first", ANSWER, "third"]);
}

#[tokio::test]
async fn v29_items_can_not_be_changed_while_a_turn_runs() {
    let (upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    let item = items(&gateway.client, &id).await[0]["id"].as_str().unwrap().to_owned();
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let running = gateway.client.create(turn(&id, "x"));
    let changes = async {
        upstream.wait_until(|upstream| upstream.counts().requests == 1).await;
        let (body, path) = (json!({"items": [user("y")]}), items_path(&id));
        let posting = post(&gateway.client, &path, &body);
        let path = format!("{path}/{item}");
        let (posted, deleted) = tokio::join!(posting, gateway.client.delete(&path));
        assert_locked(&posted);
        assert_locked(&deleted);
        gate.open();
    };
    tokio::join!(running, changes).0.ok();
    assert_eq!(texts(&items(&gateway.client, &id).await), ["zero", "x", ANSWER]);
}

#[tokio::test]
async fn v30_a_turn_outlives_its_conversation() {
    let (upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let running = gateway.client.create(turn(&id, "x"));
    let delete = async {
        upstream.wait_until(|upstream| upstream.counts().requests == 1).await;
        gateway.client.delete(&format!("/v1/conversations/{id}")).await.ok();
        gate.open();
    };
    let made = tokio::join!(running, delete).0.ok();
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok(), made);
    gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": made["id"]})).await;
    assert_eq!(asked(&upstream), ["zero", "x", ANSWER, "on"]);
}

#[tokio::test]
async fn v31_items_stay_when_their_response_is_deleted() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer(ANSWER));
    let id = begun(&gateway.client).await;
    let made = gateway.client.created(turn(&id, "one")).await;
    gateway.client.delete(&format!("/v1/responses/{}", made["id"].as_str().unwrap())).await.ok();
    let listed = items(&gateway.client, &id).await;
    assert_eq!(texts(&listed), ["one", ANSWER]);
    gateway.client.created(turn(&id, "two")).await;
    assert_eq!(asked(&upstream), ["one", ANSWER, "two"]);
    let reference = json!({"type": "item_reference", "id": listed[1]["id"]});
    gateway.client.created(json!({"model": "sim", "input": [reference, user("three")]})).await;
    assert_eq!(asked(&upstream), [ANSWER, "three"]);
}

#[tokio::test]
async fn v32_responses_stay_when_their_conversation_is_deleted() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer(ANSWER));
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    let made = gateway.client.created(turn(&id, "one")).await;
    gateway.client.delete(&format!("/v1/conversations/{id}")).await.ok();
    let path = format!("/v1/responses/{}", made["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok(), made);
    gateway.client.created(json!({"model": "sim", "input": "two", "previous_response_id": made["id"]})).await;
    assert_eq!(asked(&upstream), ["zero", "one", ANSWER, "two"]);
}

#[tokio::test]
async fn v33_all_items_are_replayed() {
    let (upstream, gateway) = gateway().await;
    let many: Vec<Value> = (0..700).map(|n| user(&n.to_string())).collect();
    let id = begin(&gateway.client, &json!(many[..300])).await;
    for some in many[300..].chunks(40) {
        add(&gateway.client, &id, &json!(some)).await;
    }
    for gateway in [gateway.restart().await] {
        gateway.client.created(turn(&id, "700")).await;
        let expected: Vec<String> = (0..=700).map(|n| n.to_string()).collect();
        assert_eq!(asked(&upstream), expected);
    }
}

#[tokio::test]
async fn v34_a_conversation_does_not_expire() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let config = "store.retention = \"1d\"\nstore.purge_interval = \"20ms\"";
    let gateway = Setup::over(&upstream).config(config).clock(&clock).start().await;
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    let made = gateway.client.created(turn(&id, "one")).await;
    let other = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    clock.advance(Duration::from_hours(100 * 24));
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().unwrap());
    let store = gateway.app.chains.store();
    eventually("the other response is purged", async || {
        store.stats(clock.now()).await.unwrap()[0].responses == 1
    })
    .await;
    assert_eq!(gateway.client.get(&path(&other)).await.status, 404);
    assert_eq!(gateway.client.get(&path(&made)).await.ok(), made);
    gateway.client.created(turn(&id, "two")).await;
    assert_eq!(asked(&upstream).len(), 4);
    assert_eq!(items(&gateway.client, &id).await.len(), 5);
    // Without its conversation, it is older than responses are kept.
    gateway.client.delete(&format!("/v1/conversations/{id}")).await.ok();
    clock.advance(Duration::from_hours(2 * 24));
    eventually("all of it is purged", async || store.stats(clock.now()).await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn v35_a_turn_on_a_socket_is_appended() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer(ANSWER));
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    let mut socket = gateway.socket().await;
    for input in ["one", "two"] {
        assert_eq!(socket.created(turn(&id, input)).await["conversation"], json!({"id": id}));
    }
    assert_eq!(asked(&upstream), ["zero", "one", ANSWER, "two"]);
    let mut warm_up = turn(&id, "three");
    warm_up["generate"] = json!(false);
    socket.created(warm_up).await;
    assert_eq!(texts(&items(&gateway.client, &id).await), ["zero", "one", ANSWER, "two", ANSWER, "three"]);
    assert_eq!(socket.refused(turn("conv_1", "x")).await.0, 404);
}

#[tokio::test]
async fn compaction_and_counting_read_a_conversation() {
    let (upstream, gateway) = gateway().await;
    let id = begin(&gateway.client, &json!([user("zero")])).await;
    for path in ["/v1/responses/compact", "/v1/responses/input_tokens"] {
        post(&gateway.client, path, &turn(&id, "x")).await.ok();
        assert_eq!(asked(&upstream), ["zero", "x"]);
        let sent = upstream.last_request().unwrap().json();
        assert!(sent.get("conversation").is_none(), "{sent}");
    }
    assert_eq!(items(&gateway.client, &id).await.len(), 1);
}

#[tokio::test]
async fn a_deleted_item_is_not_replayed_from_then_on_and_earlier_responses_keep_it() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer(ANSWER));
    let id = begin(&gateway.client, &json!([user("zero"), user("secret")])).await;
    let before = gateway.client.created(turn(&id, "one")).await;
    let listed = items(&gateway.client, &id).await;
    for n in [1, 3] {
        let name = listed[n]["id"].as_str().unwrap();
        gateway.client.delete(&format!("{}/{name}", items_path(&id))).await.ok();
    }
    // From memory, and from the store.
    for restarts in [false, true] {
        let after = gateway.client.created(turn(&id, "two")).await;
        assert_eq!(asked(&upstream)[..3], ["zero", "one", "two"], "{restarts}");
        gateway
            .client
            .created(json!({"model": "sim", "input": "x", "previous_response_id": after["id"]}))
            .await;
        assert!(!asked(&upstream).contains(&"secret".to_owned()));
        gateway
            .client
            .created(json!({"model": "sim", "input": "x", "previous_response_id": before["id"]}))
            .await;
        assert_eq!(asked(&upstream), ["zero", "secret", "one", ANSWER, "x"]);
    }
    let gateway = gateway.restart().await;
    gateway.client.created(turn(&id, "three")).await;
    assert_eq!(asked(&upstream), ["zero", "one", "two", ANSWER, "two", ANSWER, "three"]);
}

#[tokio::test]
async fn ids_that_are_ours_do_not_go_upstream() {
    let (upstream, gateway) = gateway().await;
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let output = json!({"type": "function_call_output", "call_id": "c", "output": "x"});
    let id = begin(&gateway.client, &json!([user("a"), call, output])).await;
    gateway.client.created(turn(&id, "b")).await;
    let without_ids = |input: Vec<Value>| input.iter().all(|item| item.get("id").is_none());
    assert!(without_ids(upstream.last_request().unwrap().input()));
    // As a client does that keeps its history in a conversation and sends all of it.
    let mut history: Vec<Value> = items(&gateway.client, &id).await.into_iter().take(4).collect();
    history.push(json!({"type": "message", "role": "user", "id": "msg_mine", "content": "c"}));
    let made = gateway.client.created(json!({"model": "sim", "input": history})).await;
    let sent = upstream.last_request().unwrap().input();
    assert_eq!(sent[4]["id"], "msg_mine", "what the client calls its own item is not ours");
    assert!(without_ids(sent[..4].to_vec()), "{sent:?}");
    gateway.client.created(json!({"model": "sim", "input": "d", "previous_response_id": made["id"]})).await;
    assert!(without_ids(upstream.last_request().unwrap().input()[..4].to_vec()));
    let path = format!("/v1/responses/{}/input_items?order=asc", made["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok()["data"][0]["id"], history[0]["id"], "clients see them");
}

#[tokio::test]
async fn a_conversation_moves_to_another_account_and_its_reasoning_stays_behind() {
    let boundary = async |name: &str| {
        Simulator::bind(Options { boundary: name.to_owned(), ..Options::default() }).await.unwrap()
    };
    let upstreams = [boundary("a").await, boundary("b").await];
    let setup = Setup::with_accounts([("one", &*upstreams[0].url()), ("two", &*upstreams[1].url())]);
    let gateway = setup.config("routing.strategy = \"fill_first\"").start().await;
    let id = begun(&gateway.client).await;
    gateway.client.created(turn(&id, "REASON one")).await;
    add(&gateway.client, &id, &json!([user("posted")])).await;
    upstreams[0].script(Script::http(500, "{}"));
    let moved = gateway.client.create(turn(&id, "two")).await;
    assert_eq!(moved.header("x-antiphon-reasoning"), Some("stripped"));
    assert!(asked(&upstreams[1]).contains(&"posted".to_owned()));
    let again = gateway.client.create(turn(&id, "three")).await;
    assert_eq!(
        again.header("x-antiphon-reasoning"),
        Some("stripped"),
        "it stays with the account that served it last"
    );
}

#[tokio::test]
async fn without_the_store_a_turn_in_a_conversation_is_refused() {
    let upstream = simulator().await;
    let faults = antiphon_testkit::Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    let id = begun(&gateway.client).await;
    faults.set(antiphon_testkit::Fault::Down);
    for reply in [
        gateway.client.create(turn(&id, "x")).await,
        post(&gateway.client, &items_path(&id), &json!({"items": [user("x")]})).await,
        gateway.client.get(&items_path(&id)).await,
    ] {
        assert_eq!(reply.refusal().1.as_deref(), Some("store_unavailable"));
    }
    faults.set(antiphon_testkit::Fault::None);
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let failing = async {
        gate.arrived(1).await;
        faults.set(antiphon_testkit::Fault::WritesFail);
        gate.open();
    };
    assert_eq!(tokio::join!(gateway.client.create(turn(&id, "x")), failing).0.status, 503);
    faults.set(antiphon_testkit::Fault::None);
    assert_eq!(items(&gateway.client, &id).await, [] as [Value; 0]);
    gateway.client.created(turn(&id, "y")).await;
    assert_eq!(asked(&upstream), ["y"]);
}

#[tokio::test]
async fn a_turn_whose_client_leaves_while_it_waits_is_not_run() {
    let (upstream, gateway) = gateway().await;
    let id = begun(&gateway.client).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let first = gateway.client.create(turn(&id, "first"));
    let in_flight = async |turns: u64| {
        eventually("so many are in flight", async || {
            gateway.client.metric("antiphon_turns_in_flight").await == turns
        })
        .await;
    };
    let leaving = async {
        upstream.wait_until(|upstream| upstream.counts().requests == 1).await;
        tokio::select! {
            _ = gateway.client.create(turn(&id, "gone")) => panic!("it was not to be served"),
            () = in_flight(2) => {}
        }
        in_flight(1).await;
        gate.open();
    };
    tokio::join!(first, leaving).0.ok();
    gateway.client.created(turn(&id, "last")).await;
    assert_eq!(asked(&upstream), ["first", ANSWER, "last"]);
    let log = gateway.logged(3).await;
    assert!(log.iter().any(|row| (&*row.outcome, row.http_status) == ("cancelled", 499)), "{log:?}");
}

#[tokio::test]
async fn turns_that_wait_are_served_in_the_order_in_which_they_came() {
    let (upstream, gateway) = gateway().await;
    let id = begun(&gateway.client).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let is_of_a_turn = |line: &&str| {
        ["antiphon_turns_total{", "antiphon_turns_in_flight "].iter().any(|name| line.starts_with(name))
    };
    let have_come = async |turns: u64| {
        eventually("so many have come", async || {
            let metrics = gateway.client.metrics().await;
            let counts = metrics.lines().filter(is_of_a_turn).map(|line| line.rsplit(' ').next().unwrap());
            counts.map(|count| count.parse::<u64>().unwrap()).sum::<u64>() >= turns
        })
        .await;
    };
    let sent: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    let waiting = sent.iter().zip(1..).map(async |(text, earlier)| {
        have_come(earlier).await;
        gateway.client.create(turn(&id, text)).await.status == 200
    });
    let opening = async {
        have_come(6).await;
        gate.open();
    };
    let first = gateway.client.create(turn(&id, "first"));
    let (first, served, ()) = tokio::join!(first, join_all(waiting), opening);
    first.ok();
    // Where the machine is slow, the last are refused.
    let served = sent.into_iter().zip(served).filter(|(_, is_served)| *is_served).map(|(text, _)| text);
    let expected: Vec<String> = ["first".to_owned()].into_iter().chain(served).collect();
    assert!(expected.len() > 2, "an order takes two: {expected:?}");
    let items = items(&gateway.client, &id).await;
    assert_eq!(texts(&items).into_iter().step_by(2).collect::<Vec<_>>(), expected);
}
