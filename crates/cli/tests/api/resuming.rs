//! The event log of background responses: reading it from any number on, and while it grows.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Event, Events, Fault, Faults, Gateway, ManualClock, Setup, eventually};
use serde_json::{Value, json};

use crate::background::{body, cancel, ended, path, queue};
use crate::{gateway, simulator};

fn streamed(input: &str) -> Value {
    let mut request = body(input);
    request["stream"] = json!(true);
    request
}

async fn resume(gateway: &Gateway, id: &str, after: Option<u64>) -> Events {
    let after = after.map_or_else(String::new, |after| format!("&starting_after={after}"));
    gateway.client.follow(&format!("{}?stream=true{after}", path(id))).await
}

fn number(event: &Event) -> u64 {
    event.json()["sequence_number"].as_u64().unwrap()
}

fn raw(events: &[Event]) -> Vec<u8> {
    events.iter().flat_map(|event| event.raw.to_vec()).collect()
}

#[tokio::test]
async fn a2_a_stream_starts_with_the_response_and_ends_with_one_terminal_event() {
    let (upstream, gateway) = gateway().await;
    let mut events = gateway.client.stream(streamed("x")).await;
    assert_eq!(events.headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(events.headers["cache-control"], "no-cache");
    assert_eq!(events.headers["x-accel-buffering"], "no");
    let events = events.rest().await;
    assert_eq!((events[0].name.as_str(), number(&events[0])), ("response.created", 0));
    assert_eq!(events[0].json()["response"]["status"], "queued");
    assert_eq!(events[1].name, "response.in_progress");
    let numbers: Vec<_> = events.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let count = |name: &str| events.iter().filter(|event| event.name == name).count();
    assert_eq!((count("response.created"), count("response.completed")), (1, 1));
    let last = events.last().unwrap().json();
    assert_eq!(
        (&last["type"], &last["response"]["background"]),
        (&json!("response.completed"), &json!(true))
    );
    let id = events[0].response_id();
    let stored = gateway.client.get(&path(&id)).await.ok();
    assert_eq!(stored, last["response"]);
    assert!(upstream.last_request().unwrap().json().get("background").is_none());
}

#[tokio::test]
async fn a_response_was_created_when_it_was_queued_whatever_the_upstream_says() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    clock.go_back(Duration::from_hours(1));
    let gateway = Setup::over(&upstream).clock(&clock).start().await;
    let client = &gateway.client;
    let polled = client.created(body("x")).await;
    let completed = ended(client, polled["id"].as_str().unwrap()).await;
    assert_eq!(completed["created_at"], polled["created_at"]);
    let events = client.stream(streamed("x")).await.rest().await;
    let created_at: Vec<_> =
        events.iter().filter_map(|event| event.json()["response"].get("created_at").cloned()).collect();
    assert_eq!(created_at, vec![polled["created_at"].clone(); 3]);
    let shown = client.get(&path(&events[0].response_id())).await.ok();
    assert_eq!(shown["created_at"], polled["created_at"]);
}

#[tokio::test]
async fn r1_r2_resume_gives_exactly_the_events_after_n() {
    let (_upstream, gateway) = gateway().await;
    let events = gateway.client.stream(streamed("x")).await.rest().await;
    let id = events[0].response_id();
    assert_eq!(raw(&resume(&gateway, &id, None).await.rest().await), raw(&events));
    for (index, event) in events.iter().enumerate() {
        let rest = resume(&gateway, &id, Some(number(event))).await.rest().await;
        assert_eq!(raw(&rest), raw(&events[index + 1..]), "after {}", number(event));
    }
    let gateway = gateway.restart().await;
    assert_eq!(raw(&resume(&gateway, &id, None).await.rest().await), raw(&events), "from the store");
    assert_eq!(raw(&resume(&gateway, &id, Some(2)).await.rest().await), raw(&events[3..]));
}

#[tokio::test]
async fn r3_resume_after_the_last_event_is_an_empty_stream() {
    let (_upstream, gateway) = gateway().await;
    let events = gateway.client.stream(streamed("x")).await.rest().await;
    let (id, last) = (events[0].response_id(), number(events.last().unwrap()));
    for after in [last, last + 1, u64::MAX] {
        let mut rest = resume(&gateway, &id, Some(after)).await;
        assert_eq!((rest.status.as_u16(), rest.rest().await.len()), (200, 0));
    }
}

#[tokio::test]
async fn r4_resume_of_a_running_turn_waits_for_its_events() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("a b c d").gated_after(4);
    upstream.script(script);
    let mut creator = gateway.client.stream(streamed("x")).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event| number(event) < 3) {
        seen.push(creator.next().await.unwrap());
    }
    let id = seen[0].response_id();
    let mut reader = resume(&gateway, &id, Some(3)).await;
    gate.open();
    let (rest, of_creator) = tokio::join!(reader.rest(), creator.rest());
    assert_eq!(raw(&rest), raw(&of_creator));
    assert_eq!(rest.last().unwrap().name, "response.completed");
}

#[tokio::test]
async fn r5_starting_after_has_to_be_a_number() {
    let (_upstream, gateway) = gateway().await;
    let id = gateway.client.stream(streamed("x")).await.until("response.completed").await.response_id();
    for wrong in ["x", "-1", "1.5", ""] {
        let reply = gateway.client.get(&format!("{}?stream=true&starting_after={wrong}", path(&id))).await;
        let param = Some("starting_after".to_owned());
        assert_eq!(reply.refusal(), (400, Some("invalid_value".to_owned()), param), "{wrong}");
    }
}

#[tokio::test]
async fn the_last_of_several_parameters_counts() {
    let (_upstream, gateway) = gateway().await;
    let events = gateway.client.stream(streamed("x")).await.rest().await;
    let id = path(&events[0].response_id());
    let query = "stream=true&starting_after=x&starting_after=2";
    let mut resumed = gateway.client.follow(&format!("{id}?{query}")).await;
    assert!(raw(&resumed.rest().await) == raw(&events[3..]));
    let polled = gateway.client.get(&format!("{id}?stream=true&stream=false")).await.ok();
    assert_eq!(polled["status"], "completed");
}

#[tokio::test]
async fn stream_is_a_boolean_however_a_client_spells_it() {
    let (_upstream, gateway) = gateway().await;
    let events = gateway.client.stream(streamed("x")).await.rest().await;
    let id = path(&events[0].response_id());
    for value in ["true", "True", "1"] {
        let resumed = gateway.client.follow(&format!("{id}?stream={value}")).await.rest().await;
        assert_eq!(raw(&resumed), raw(&events), "{value}");
    }
    for value in ["false", "False", "0"] {
        let polled = gateway.client.get(&format!("{id}?stream={value}")).await.ok();
        assert_eq!(polled["status"], "completed", "{value}");
    }
    for value in ["yes", "", "2"] {
        let refusal = gateway.client.get(&format!("{id}?stream={value}")).await.refusal();
        assert_eq!(refusal, (400, Some("invalid_value".to_owned()), Some("stream".to_owned())), "{value}");
    }
}

#[tokio::test]
async fn r6_r7_only_a_streamed_background_response_can_be_streamed_again() {
    let (upstream, gateway) = gateway().await;
    let polled = queue(&gateway, &body("x")).await;
    ended(&gateway.client, &polled).await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let running = queue(&gateway, &body("x")).await;
    let foreground = gateway.client.create(json!({"model": "sim", "input": "SAY{x}"}));
    gate.open();
    let foreground = foreground.await.ok_id();
    for (id, text) in [
        (&polled, "This response cannot be streamed because it was not created with stream=true."),
        (&running, "This response cannot be streamed because it was not created with stream=true."),
        (&foreground, "This response cannot be streamed because it was not created with background=true."),
    ] {
        let reply = gateway.client.get(&format!("{}?stream=true", path(id))).await;
        let (code, param) = ("invalid_request_error".to_owned(), "stream".to_owned());
        assert_eq!(reply.refusal(), (400, Some(code), Some(param)));
        assert_eq!(reply.json()["error"]["message"], text);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn r8_what_is_unknown_or_gone_is_not_found() {
    let (_upstream, gateway) = gateway().await;
    let mut unstored = streamed("x");
    unstored["store"] = json!(false);
    let mut gone = Vec::new();
    for request in [streamed("x"), unstored] {
        let events = gateway.client.stream(request).await.rest().await;
        let id = events[0].response_id();
        assert_eq!(raw(&resume(&gateway, &id, None).await.rest().await), raw(&events));
        gateway.client.delete(&path(&id)).await.ok();
        gone.push(id);
    }
    for id in gone.iter().map(String::as_str).chain(["resp_unknown"]) {
        let reply = gateway.client.get(&format!("{}?stream=true", path(id))).await;
        assert_eq!(reply.refusal(), (404, None, None), "{id}");
    }
}

#[tokio::test]
async fn r9_an_expired_log_is_refused_with_its_age() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let config = "store.purge_interval = \"20ms\"";
    let gateway = Setup::over(&upstream).clock(&clock).config(config).start().await;
    let id = gateway.client.stream(streamed("x")).await.until("response.completed").await.response_id();
    clock.advance(Duration::from_secs(3_599));
    assert!(!resume(&gateway, &id, None).await.rest().await.is_empty());
    clock.advance(Duration::from_secs(2));
    let refused = async || gateway.client.get(&format!("{}?stream=true", path(&id))).await;
    let text = "This response can no longer be streamed because it is more than 60 minutes old.";
    assert_eq!(refused().await.json()["error"]["message"], text);
    clock.advance(Duration::from_secs(60));
    let store = gateway.app.chains.store();
    let row = gateway.logged(1).await.remove(0);
    eventually("the log is purged", async || {
        store.load_background(&row.project, row.response).await.unwrap().is_none()
    })
    .await;
    assert_eq!(refused().await.refusal().0, 400);
    gateway.client.get(&path(&id)).await.ok();
}

#[tokio::test]
async fn a_log_that_was_kept_for_seconds_is_refused_with_its_age_in_seconds() {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let config = "background.log_retention = \"30s\"";
    let gateway = Setup::over(&upstream).clock(&clock).config(config).start().await;
    let id = gateway.client.stream(streamed("x")).await.until("response.completed").await.response_id();
    clock.advance(Duration::from_secs(31));
    let refused = gateway.client.get(&format!("{}?stream=true", path(&id))).await;
    let text = "This response can no longer be streamed because it is more than 31 seconds old.";
    assert_eq!(refused.json()["error"]["message"], text);
}

#[tokio::test]
async fn r10_r11_no_reader_matters_to_the_turn_or_to_another_reader() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("word ".repeat(200)).deltas(200).gated_after(2);
    upstream.script(script);
    let mut creator = gateway.client.stream(streamed("x")).await;
    let id = creator.next().await.unwrap().response_id();
    drop(creator);
    let (mut one, mut two) = tokio::join!(resume(&gateway, &id, None), resume(&gateway, &id, Some(0)));
    // It never reads.
    let _idle = resume(&gateway, &id, None).await;
    gate.open();
    let (one, two) = tokio::join!(one.rest(), two.rest());
    assert_eq!(raw(&one[1..]), raw(&two));
    assert_eq!(one.last().unwrap().name, "response.completed");
    assert!(one.len() > 200);
    assert_eq!(upstream.aborted(), 0);
}

#[tokio::test]
async fn c7_readers_of_a_cancelled_turn_get_a_failed_event_with_its_status() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::new().reasoning("Thinking.").text("a b c").hang_after(12));
    let mut events = gateway.client.stream(streamed("x")).await;
    events.until("response.output_item.done").await;
    let id = resume_id(&events);
    let mut reader = resume(&gateway, &id, Some(0)).await;
    assert_eq!(cancel(&gateway.client, &id).await.ok()["output"], json!([]));
    for events in [&mut events, &mut reader] {
        let last = events.rest().await.pop().unwrap();
        assert_eq!(last.name, "response.failed");
        let response = &last.json()["response"];
        assert_eq!((&response["status"], &response["output"]), (&json!("cancelled"), &json!([])));
    }
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    assert_eq!(gateway.client.get(&path(&id)).await.ok()["output"], json!([]));
}

fn resume_id(events: &Events) -> String {
    let text = String::from_utf8_lossy(&events.raw).into_owned();
    let at = text.find("resp_").unwrap();
    text[at..at + 37].to_owned()
}

#[tokio::test]
async fn a_stream_that_breaks_off_fails_with_what_it_has() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::new().reasoning("Thinking.").text("a b c").cut_after(12));
    let events = gateway.client.stream(streamed("x")).await.rest().await;
    let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names[names.len() - 2..], ["error", "response.failed"]);
    let numbers: Vec<_> = events.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    let stored = gateway.client.get(&path(&events[0].response_id())).await.ok();
    assert_eq!((&stored["status"], &stored["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert_eq!(stored["output"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn events_are_not_read_before_they_are_written_and_wait_for_the_store() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    let (script, gate) = Script::answer("a b c d").gated_after(4);
    upstream.script(script);
    let mut events = gateway.client.stream(streamed("x")).await;
    let mut seen = vec![events.next().await.unwrap()];
    while number(seen.last().unwrap()) < 3 {
        seen.push(events.next().await.unwrap());
    }
    faults.set(Fault::WritesFail);
    gate.open();
    let early = tokio::time::timeout(Duration::from_millis(500), events.next()).await;
    assert!(early.is_err(), "{early:?}");
    faults.set(Fault::None);
    seen.extend(events.rest().await);
    assert_eq!(seen.last().unwrap().name, "response.completed");
    assert_eq!(raw(&resume(&gateway, &seen[0].response_id(), None).await.rest().await), raw(&seen));
}

#[tokio::test]
async fn a_turn_stops_that_cannot_be_logged_for_longer_than_its_lease() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let config = "background.lease = \"3s\"";
    let gateway = Setup::over(&upstream).faults(&faults).config(config).start().await;
    let (script, gate) = Script::answer("a b c d").hang_after(9).gated_after(6);
    upstream.script(script);
    let mut events = gateway.client.stream(streamed("x")).await;
    let mut seen = vec![events.next().await.unwrap()];
    while number(seen.last().unwrap()) < 5 {
        seen.push(events.next().await.unwrap());
    }
    faults.set(Fault::WritesFail);
    gate.open();
    eventually("the turn stops", async || {
        gateway.client.metric("antiphon_background_log_failures_total").await == 1
    })
    .await;
    faults.set(Fault::None);
    // Whoever takes it over ends it, as its client has seen a part of it.
    let rest = events.rest().await;
    assert_eq!(rest.last().unwrap().name, "response.failed");
    assert!(number(&rest[0]) > 5);
    let stored = ended(&gateway.client, &seen[0].response_id()).await;
    assert_eq!((&stored["status"], &stored["error"]["code"]), (&json!("failed"), &json!("server_error")));
}
