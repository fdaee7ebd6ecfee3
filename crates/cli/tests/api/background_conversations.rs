//! Background turns in conversations.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Client, ManualClock, Postgres, Setup, eventually};
use serde_json::{Value, json};

use crate::background::{body, cancel, ended, in_progress, path, queue};
use crate::conversations::{begin, items, items_path, post, texts, user};
use crate::conversing::assert_locked;
use crate::{gateway, simulator};

const ANSWER: &str = "the answer";

fn turn(conversation: &str, input: &str) -> Value {
    let mut request = body(input);
    request["conversation"] = json!(conversation);
    request
}

fn foreground(conversation: &str, input: &str) -> Value {
    json!({"model": "sim", "input": input, "conversation": conversation})
}

/// The texts of the messages that the upstream got last.
fn asked(upstream: &Simulator) -> Vec<String> {
    let text =
        |item: &Value| item["content"][0]["text"].as_str().or(item["content"].as_str()).map(str::to_owned);
    upstream.last_request().unwrap().input().iter().filter_map(text).collect()
}

async fn listed(client: &Client, conversation: &str) -> Vec<String> {
    texts(&items(client, conversation).await).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn v36_a_background_turn_appends_at_its_end_and_keeps_others_out_until_then() {
    let (upstream, gateway) = gateway().await;
    let client = &gateway.client;
    let conversation = begin(client, &json!([user("zero")])).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let queued = client.created(turn(&conversation, "x")).await;
    assert_eq!(
        (&queued["conversation"], &queued["previous_response_id"]),
        (&json!({"id": conversation}), &Value::Null)
    );
    let id = queued["id"].as_str().unwrap();
    assert_locked(&client.create(foreground(&conversation, "second")).await);
    assert_locked(&client.create(turn(&conversation, "second")).await);
    assert_locked(&post(client, &items_path(&conversation), &json!({"items": [user("y")]})).await);
    assert_eq!(listed(client, &conversation).await, ["zero"]);
    gate.open();
    let completed = ended(client, id).await;
    assert_eq!(completed["conversation"], json!({"id": conversation}));
    assert_eq!(asked(&upstream), ["zero", "x"]);
    assert_eq!(listed(client, &conversation).await, ["zero", "x", ANSWER]);

    // The conversation is free: a streamed one is next, then one in the foreground.
    upstream.script(Script::answer("half").incomplete("max_output_tokens"));
    let mut streamed = turn(&conversation, "z");
    streamed["stream"] = json!(true);
    let events = client.stream(&streamed).await.rest().await;
    for event in &events {
        let response = &event.json()["response"];
        assert!(response.is_null() || response["conversation"] == json!({"id": conversation}));
    }
    assert_eq!(events.last().unwrap().name, "response.incomplete");
    client.created(foreground(&conversation, "on")).await;
    assert_eq!(asked(&upstream), ["zero", "x", ANSWER, "z", "half", "on"]);
}

#[tokio::test]
async fn the_lock_of_a_background_turn_lasts_as_long_as_the_turn() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let conversation = begin(&gateway.client, &json!([])).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let id = queue(&gateway, &turn(&conversation, "x")).await;
    gate.arrived(1).await;
    clock.advance(Duration::from_mins(10));
    assert_locked(&gateway.client.create(foreground(&conversation, "second")).await);
    gate.open();
    assert_eq!(ended(&gateway.client, &id).await["status"], "completed");
    gateway.client.created(foreground(&conversation, "second")).await;
    assert_eq!(asked(&upstream), ["x", ANSWER, "second"]);
}

#[tokio::test]
async fn a_background_turn_that_fails_is_cancelled_or_refused_appends_nothing_and_frees_the_conversation() {
    let upstream = simulator().await;
    let config = "background.max_queued = 1\nbackground.max_running = 1";
    let gateway = Setup::over(&upstream).config(config).start().await;
    let client = &gateway.client;
    let conversation = begin(client, &json!([user("zero")])).await;
    upstream.script(Script::answer("x").failed("server_error", "Odd."));
    let id = queue(&gateway, &turn(&conversation, "fails")).await;
    assert_eq!(ended(client, &id).await["status"], "failed");

    upstream.script(Script::answer("a b c d").hang_after(4));
    let running = queue(&gateway, &turn(&conversation, "is cancelled")).await;
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    let other = begin(client, &json!([])).await;
    let waiting = queue(&gateway, &turn(&other, "waits")).await;
    let third = begin(client, &json!([])).await;
    let refused = client.create(turn(&third, "is refused")).await;
    assert_eq!(refused.refusal().1.as_deref(), Some("rate_limit_exceeded"));
    assert_eq!(cancel(client, &waiting).await.ok()["status"], "cancelled");
    assert_eq!(cancel(client, &running).await.ok()["status"], "cancelled");

    upstream.script(Script::answer("a b c d").hang_after(4));
    let deleted = queue(&gateway, &turn(&conversation, "is deleted")).await;
    in_progress(client, &deleted).await;
    client.delete(&path(&deleted)).await.ok();
    for conversation in [&conversation, &other, &third] {
        client.created(foreground(conversation, "on")).await;
    }
    client.created(foreground(&conversation, "last")).await;
    assert_eq!(asked(&upstream)[..2], ["zero", "on"]);
}

#[tokio::test]
async fn a_background_turn_outlives_its_conversation() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("background.max_running = 1").start().await;
    let client = &gateway.client;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.always(script);
    let mut made = Vec::new();
    for text in ["zero", "one"] {
        let conversation = begin(client, &json!([user(text)])).await;
        made.push((queue(&gateway, &turn(&conversation, "x")).await, conversation));
    }
    gate.arrived(1).await;
    // The first one runs, the second one is still queued.
    for (_, conversation) in &made {
        client.delete(&format!("/v1/conversations/{conversation}")).await.ok();
    }
    gate.open();
    for (id, conversation) in &made {
        let completed = ended(client, id).await;
        assert_eq!(
            (&completed["status"], &completed["conversation"]["id"]),
            (&json!("completed"), &json!(conversation))
        );
    }
    for (n, (id, _)) in made.iter().enumerate() {
        client.created(json!({"model": "sim", "input": "on", "previous_response_id": id})).await;
        assert_eq!(asked(&upstream), [["zero", "one"][n], "x", ANSWER, "on"]);
    }
}

#[tokio::test]
async fn an_unstored_background_turn_reads_its_conversation_and_does_not_write() {
    let (upstream, gateway) = gateway().await;
    let client = &gateway.client;
    let conversation = begin(client, &json!([user("zero")])).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.script(script);
    let mut request = turn(&conversation, "x");
    request["store"] = json!(false);
    let id = queue(&gateway, &request).await;
    gate.arrived(1).await;
    client.created(foreground(&conversation, "beside")).await;
    gate.open();
    assert_eq!(ended(client, &id).await["status"], "completed");
    assert_eq!(listed(client, &conversation).await.len(), 3);
}

#[tokio::test]
async fn a_restart_keeps_the_lock_with_the_turn() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("timeouts.shutdown = \"50ms\"").start().await;
    let conversation = begin(&gateway.client, &json!([user("zero")])).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.always(script);
    let id = queue(&gateway, &turn(&conversation, "x")).await;
    gate.arrived(1).await;
    let gateway = gateway.stop().await.start().await;
    assert_locked(&gateway.client.create(foreground(&conversation, "second")).await);
    gate.open();
    assert_eq!(ended(&gateway.client, &id).await["status"], "completed");
    gateway.client.created(foreground(&conversation, "second")).await;
    assert_eq!(asked(&upstream), ["zero", "x", ANSWER, "second"]);
}

/// Turns in background and in foreground at two replicas: what a conversation has is whole turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_of_two_replicas_are_appended_one_after_the_other() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let start = || Setup::over(&upstream).database_url(&url).start();
    let (one, two) = tokio::join!(start(), start());
    let conversation = begin(&one.client, &json!([])).await;
    let turns = (0..8).map(|n| {
        let (client, conversation) = ([&one, &two][n % 2].client.clone(), conversation.clone());
        async move {
            let text = format!("turn {n}");
            eventually("the turn is served", async || {
                let reply = match n % 4 {
                    0 | 1 => client.create(turn(&conversation, &text)).await,
                    _ => client.create(foreground(&conversation, &text)).await,
                };
                if reply.status == 400 {
                    assert_locked(&reply);
                    return None;
                }
                Some(reply.ok_id())
            })
            .await
        }
    });
    let served = futures_util::future::join_all(turns).await;
    for id in &served {
        assert_eq!(ended(&two.client, id).await["status"], "completed");
    }
    let found = items(&two.client, &conversation).await;
    assert_eq!(found.len(), 16);
    for pair in found.chunks(2) {
        assert_eq!((&pair[0]["role"], &pair[1]["role"]), (&json!("user"), &json!("assistant")));
    }
    let mut texts: Vec<_> = texts(&found).into_iter().filter(|text| text.starts_with("turn")).collect();
    texts.sort_unstable();
    assert_eq!(texts, (0..8).map(|n| format!("turn {n}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_hands_the_lock_over_with_the_turn() {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let config = "background.lease = \"6s\"\ntimeouts.shutdown = \"100ms\"";
    let start = || Setup::over(&upstream).database_url(&url).config(config).start();
    let (one, two) = tokio::join!(start(), start());
    let conversation = begin(&one.client, &json!([])).await;
    let (script, gate) = Script::answer(ANSWER).gated();
    upstream.always(script);
    let id = queue(&one, &turn(&conversation, "x")).await;
    gate.arrived(1).await;
    one.stop().await;
    assert_locked(&two.client.create(foreground(&conversation, "second")).await);
    gate.open();
    assert_eq!(ended(&two.client, &id).await["status"], "completed");
    assert_eq!(listed(&two.client, &conversation).await, ["x", ANSWER]);
    two.client.created(foreground(&conversation, "y")).await;
}
