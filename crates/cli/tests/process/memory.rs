//! The memory of the real binary: its pages, and its ceiling, which it is pushed past and recovers from.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Process, Setup, eventually};
use futures_util::future::join_all;
use serde_json::json;

use crate::binary;

const BODY_BYTES: usize = 8 << 20;
/// Far more than the ceiling has room for.
const MAX_TURNS: usize = 60;
/// What a gateway has that has served a few turns, and some long ones are in its cache.
const LITTLE_BYTES: u64 = 128 << 20;
const REFUSED: &str = "antiphon_memory_refused_turns_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_past_its_memory_ceiling_refuses_turns_until_others_have_ended() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("limits.memory = \"160MiB\"");
    let gateway = Process::start(binary(), &setup).await;
    let body = |bytes: usize| json!({"model": "sim", "input": "x".repeat(bytes), "store": false});
    gateway.client.created(body(1)).await;
    let (script, gate) = Script::answer("done").gated();
    upstream.always(script);
    let mut held = Vec::new();
    while gateway.client.metric(REFUSED).await == 0 {
        assert!(held.len() < MAX_TURNS, "no turn was refused");
        let (client, body, sent) = (gateway.client.clone(), body(BODY_BYTES), upstream.counts().requests);
        held.push(tokio::spawn(async move { client.create(body).await }));
        let is_decided =
            async || upstream.counts().requests > sent || gateway.client.metric(REFUSED).await > 0;
        eventually("the turn is held or refused", is_decided).await;
    }
    gate.open();
    let replies = join_all(held).await.into_iter().map(Result::unwrap);
    let (served, refused): (Vec<_>, Vec<_>) = replies.partition(|reply| reply.status == 200);
    assert!(!served.is_empty() && !refused.is_empty());
    for reply in refused {
        assert_eq!(reply.refusal(), (503, Some("server_is_overloaded".to_owned()), None));
    }
    eventually("turns are accepted again", async || gateway.client.create(body(1)).await.status == 200).await;
    let (lines, success) = gateway.terminate().await;
    assert!(success);
    let with = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    let (above, below) = (with("refusing new turns"), with("accepting new turns"));
    assert!(above >= 1 && above == below, "{above} and {below}");
    assert_eq!(with("rejected before parsing"), 0, "a refused turn is not logged");
}

/// An allocator that keeps what one thread allocates and another frees would be past the ceiling after a few replies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_replies_one_after_another_leave_room_for_turns() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("limits.memory = \"320MiB\"");
    let gateway = Process::start(binary(), &setup).await;
    let stored = gateway.client.created(json!({"model": "sim", "input": "x".repeat(BODY_BYTES)})).await;
    let path = format!("/v1/responses/{}/input_items", stored["id"].as_str().unwrap());
    for _ in 0..MAX_TURNS {
        assert!(gateway.client.get(&path).await.body.len() > BODY_BYTES);
    }
    assert_eq!(gateway.client.created(json!({"model": "sim", "input": "x"})).await["status"], "completed");
    assert_eq!(gateway.client.metric(REFUSED).await, 0);
    join_all((0..8).map(|_| gateway.client.get(&path))).await;
    let has_little = async || gateway.client.metric("antiphon_memory_resident_bytes").await < LITTLE_BYTES;
    eventually("memory is returned while nothing happens", has_little).await;
}

/// What is allocated before `main` may get one.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_come_as_huge_pages() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x".repeat(BODY_BYTES)})).await;
    assert!(gateway.huge_page_bytes() <= HUGE_PAGE_BYTES, "{}", gateway.huge_page_bytes());
}
