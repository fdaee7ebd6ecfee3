//! Background responses that the upstream itself runs in the background.

use antiphon_protocol::id::ProjectId;
use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Event, Gateway, Setup, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::background::{body, cancel, ended, in_progress, path, queue};

async fn native() -> (Simulator, Gateway) {
    let upstream = Simulator::bind(Options { background: true, ..Options::default() }).await.unwrap();
    let gateway = Setup::over(&upstream)
        .account(0, "background = \"native\"")
        .config("timeouts.shutdown = \"50ms\"")
        .start()
        .await;
    (upstream, gateway)
}

fn streamed() -> Value {
    let mut request = body("x");
    request["stream"] = json!(true);
    request
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.json()["sequence_number"].as_u64().unwrap()).collect()
}

/// How often the upstream was asked for a response's events.
fn resumed(upstream: &Simulator) -> Vec<Option<String>> {
    let asked = upstream.other_requests();
    let about =
        asked.iter().filter(|request| request.method == Method::GET && request.path.contains("/responses/"));
    about.map(|request| request.query.clone()).collect()
}

#[tokio::test]
async fn the_upstream_runs_a_background_turn_only_if_its_account_says_so() {
    let (upstream, gateway) = native().await;
    let id = queue(&gateway, &body("x")).await;
    let completed = ended(&gateway.client, &id).await;
    assert_eq!((&completed["status"], &completed["id"]), (&json!("completed"), &json!(id)));
    let sent = upstream.last_request().unwrap().json();
    assert_eq!(
        (&sent["background"], &sent["store"], &sent["stream"]),
        (&json!(true), &json!(true), &json!(true))
    );
    gateway.client.created(json!({"model": "sim", "input": "y"})).await;
    let sent = upstream.last_request().unwrap().json();
    assert_eq!((sent.get("background"), &sent["store"]), (None, &json!(false)));
}

#[tokio::test]
async fn a_stream_that_is_cut_is_read_on_at_the_upstream() {
    let (upstream, gateway) = native().await;
    for stream in [false, true] {
        upstream.script(Script::answer("a b c d").cut_after(5));
        let requests = upstream.counts().requests;
        let id = match stream {
            false => queue(&gateway, &body("x")).await,
            true => {
                let events = gateway.client.stream(streamed()).await.rest().await;
                assert_eq!(numbers(&events), (0..events.len() as u64).collect::<Vec<_>>());
                assert_eq!(events.last().unwrap().name, "response.completed");
                events[0].response_id()
            }
        };
        let completed = ended(&gateway.client, &id).await;
        assert_eq!(completed["output"][0]["content"][0]["text"], "a b c d");
        assert_eq!(upstream.counts().requests, requests + 1, "nothing is paid twice");
        assert!(resumed(&upstream).pop().unwrap().unwrap().starts_with("starting_after="));
    }
}

#[tokio::test]
async fn a_gateway_that_starts_again_reads_on_where_it_stopped() {
    for stream in [false, true] {
        let (upstream, gateway) = native().await;
        let limits = "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\"}\n\n";
        let (script, gate) = Script::answer("a b c d").inject(0, limits).inject(4, limits).gated_after(5);
        upstream.script(script);
        let (id, seen) = match stream {
            false => {
                let id = queue(&gateway, &body("x")).await;
                in_progress(&gateway.client, &id).await;
                gate.arrived(1).await;
                (id, Vec::new())
            }
            true => {
                let mut events = gateway.client.stream(streamed()).await;
                let mut seen = vec![events.next().await.unwrap()];
                while *numbers(&seen).last().unwrap() < 4 {
                    seen.push(events.next().await.unwrap());
                }
                (seen[0].response_id(), seen)
            }
        };
        let setup = gateway.stop().await;
        gate.open();
        let gateway = setup.start().await;
        let completed = ended(&gateway.client, &id).await;
        assert_eq!(
            (&completed["status"], upstream.counts().requests),
            (&json!("completed"), 1),
            "{completed}"
        );
        assert_eq!(completed["output"][0]["content"][0]["text"], "a b c d");
        if stream {
            let whole = gateway.client.follow(&format!("{}?stream=true", path(&id))).await.rest().await;
            assert_eq!(numbers(&whole), (0..whole.len() as u64).collect::<Vec<_>>());
            assert!(whole.len() > seen.len());
            let deltas = whole.iter().filter(|event| event.name == "response.output_text.delta");
            let text: String =
                deltas.map(|event| event.json()["delta"].as_str().unwrap().to_owned()).collect();
            assert_eq!(text, "a b c d");
        }
    }
}

#[tokio::test]
async fn c9_a_cancellation_reaches_the_upstream() {
    let (upstream, gateway) = native().await;
    upstream.always(Script::answer("a b c d").hang_after(5));
    for stream in [false, true] {
        let mut request = body("x");
        request["stream"] = json!(stream);
        let id = match stream {
            false => queue(&gateway, &request).await,
            true => gateway.client.stream(&request).await.next().await.unwrap().response_id(),
        };
        let store = gateway.app.chains.store();
        let (project, parsed) = (ProjectId::new(ProjectId::DEFAULT), id.parse().unwrap());
        eventually("the upstream's id is stored", async || {
            store.load_background(&project, parsed).await.unwrap().unwrap().upstream.is_some()
        })
        .await;
        assert_eq!(cancel(&gateway.client, &id).await.ok()["status"], "cancelled");
        let aborted = 1 + u64::from(stream);
        upstream.wait_until(|upstream| upstream.aborted() == aborted).await;
    }
}
