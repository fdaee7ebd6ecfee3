//! Starting, stopping, and the prepared mode of benchmarks.

use crate::support::{ask, ask_stream, open, post, read, scripted, simulator, soon};
use crate::wire::{connect, create, text, with};
use antiphon_simulator::upstream::{Options, Script, Simulator};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

#[tokio::test]
async fn shutdown_cuts_what_is_running_and_frees_the_port() {
    let simulator = scripted(Script::answer("x").hang_after(2)).await;
    let address = simulator.address();
    let response = open(&simulator.url(), ask_stream("hello").to_string()).await.unwrap();
    let reading = tokio::spawn(read(response));
    soon(simulator.shutdown()).await;
    assert!(!soon(reading).await.unwrap().whole);
    let again = Simulator::start(TcpListener::bind(address).await.unwrap(), Options::default());
    assert_eq!(post(&again, &ask("hello")).await.status, 200);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "lifecycle.rs:")]
async fn waiting_for_what_never_happens_names_the_test() {
    let simulator = simulator(Options::default()).await;
    simulator.wait_until(|simulator| simulator.counts().requests == 1).await;
}

#[tokio::test]
async fn a_dropped_simulator_stops() {
    let simulator = scripted(Script::answer("x").hang_after(2)).await;
    let response = open(&simulator.url(), ask_stream("hello").to_string()).await.unwrap();
    drop(simulator);
    assert!(!soon(read(response)).await.whole);
}

#[tokio::test]
async fn a_prepared_reply_is_complete_and_has_new_ids() {
    let simulator = simulator(Options::bench()).await;
    let first = post(&simulator, &ask("hello")).await;
    let second = post(&simulator, &ask("hello")).await;
    assert_eq!(first.output_text().len(), 200);
    assert_ne!(first.json()["id"], second.json()["id"]);
    let stream = post(&simulator, &ask_stream("hello")).await;
    let deltas = stream.kinds().into_iter().filter(|kind| kind == "response.output_text.delta").count();
    assert_eq!(deltas, 50);
    let response = stream.last_event()["response"].clone();
    assert_eq!(response["id"], stream.events()[0].1["response"]["id"]);
    assert_eq!(response["output"][0]["id"], stream.events()[5].1["item_id"]);
    assert!(simulator.requests().is_empty());
    assert_eq!(simulator.counts().requests, 3);
}

#[tokio::test]
async fn a_prepared_stream_can_be_paced() {
    let pause = Duration::from_millis(1);
    let simulator = simulator(Options { between_events: pause, ..Options::bench() }).await;
    let started = Instant::now();
    let reply = post(&simulator, &ask_stream("hello")).await;
    assert_eq!(reply.kinds().last().unwrap(), "response.completed");
    assert!(started.elapsed() >= pause * 57);
}

#[tokio::test]
async fn a_prepared_turn_of_a_socket_is_complete_and_has_new_ids() {
    let simulator = simulator(Options::bench()).await;
    let mut wire = connect(&simulator).await;
    let first = wire.turn(&create("hello")).await;
    assert_eq!((first.len(), text(&first).len()), (58, 200));
    let id = &first[0]["response"]["id"];
    assert_eq!(&first[57]["response"]["id"], id);
    let next = with(create("hello"), "previous_response_id", id.clone());
    assert_ne!(&wire.turn(&next).await[0]["response"]["id"], id);
    let warm_up = wire.turn(&with(create("hello"), "generate", false)).await;
    assert_eq!(warm_up.len(), 3);
    assert_eq!(wire.turn(&with(create("hello"), "stream_id", "a")).await[57]["stream_id"], "a");
    assert!(simulator.requests().is_empty() && simulator.sockets().is_empty());
    assert_eq!((simulator.counts().requests, simulator.counts().sockets), (4, 1));
}

#[tokio::test]
async fn only_the_newest_thousand_requests_are_kept() {
    let simulator = simulator(Options::default()).await;
    for _ in 0..1_010 {
        post(&simulator, &ask("hello")).await;
    }
    assert_eq!(simulator.requests().len(), 1_000);
    assert_eq!(simulator.counts().requests, 1_010);
}
