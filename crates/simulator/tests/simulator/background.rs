//! Responses that the upstream runs in the background.

use crate::support::{Reply, get, post, simulator};
use antiphon_simulator::upstream::{Options, Script, Simulator};
use serde_json::{Value, json};

fn options() -> Options {
    Options { background: true, ..Options::default() }
}

fn background(stream: bool) -> Value {
    json!({"model": "sim", "input": "x", "background": true, "stream": stream})
}

async fn scripted(script: Script) -> Simulator {
    let upstream = simulator(options()).await;
    upstream.script(script);
    upstream
}

async fn below(upstream: &Simulator, path: &str) -> Reply {
    get(format!("{}/responses/{path}", upstream.url())).await
}

#[tokio::test]
async fn without_the_option_background_is_refused() {
    let upstream = simulator(Options::default()).await;
    let reply = post(&upstream, &background(false)).await;
    let message = "Unsupported parameter: 'background' is not supported with this model.";
    reply.assert_refused(400, Some("unsupported_parameter"), Some("background"), message);
}

#[tokio::test]
async fn a_response_is_polled_until_it_has_ended() {
    let (script, gate) = Script::answer("done").gated_after(3);
    let upstream = scripted(script).await;
    let queued = post(&upstream, &background(false)).await.json();
    assert_eq!((&queued["status"], &queued["background"]), (&json!("queued"), &json!(true)));
    let path = queued["id"].as_str().unwrap();
    gate.arrived(1).await;
    assert_eq!(below(&upstream, path).await.json()["status"], "in_progress");
    gate.open();
    upstream.wait_until(|upstream| upstream.counts().finished == 1).await;
    let completed = below(&upstream, path).await.json();
    assert_eq!((&completed["status"], &completed["id"]), (&json!("completed"), &queued["id"]));
    assert_eq!(below(&upstream, &format!("{path}?stream=true")).await.status, 400);
    assert_eq!(below(&upstream, "resp_unknown").await.status, 404);
}

#[tokio::test]
async fn a_cut_stream_is_read_on_from_any_number() {
    let upstream = scripted(Script::answer("a b c").cut_after(4)).await;
    let cut = post(&upstream, &background(true)).await;
    assert!(!cut.whole && cut.events().len() == 4);
    let id = cut.events()[0].1["response"]["id"].as_str().unwrap().to_owned();
    let rest = below(&upstream, &format!("{id}?stream=true&starting_after=3")).await;
    let numbers: Vec<_> =
        rest.events().iter().map(|(_, data)| data["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (4..4 + numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(rest.kinds().pop().unwrap(), "response.completed");
}
