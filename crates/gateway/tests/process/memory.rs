//! The memory ceiling of the real binary, which is pushed past it and recovers.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Process, Setup, eventually};
use futures_util::future::join_all;
use serde_json::json;

use crate::binary;

const CEILING_BYTES: u64 = 200 << 20;
/// Together they are larger than the ceiling.
const TURNS: usize = 40;
const BODY_BYTES: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_past_its_memory_ceiling_refuses_turns_until_others_have_ended() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("limits.memory = \"200MiB\"");
    let gateway = Process::start(binary(), &setup).await;
    let body = |bytes: usize| json!({"model": "sim", "input": "x".repeat(bytes), "store": false});
    gateway.client.created(body(1)).await;
    let (script, gate) = Script::answer("done").gated();
    upstream.always(script);
    let held: Vec<_> = (0..TURNS)
        .map(|_| {
            let (client, body) = (gateway.client.clone(), body(BODY_BYTES));
            tokio::spawn(async move { client.create(body).await })
        })
        .collect();
    let resident = async || gateway.client.metric("antiphon_memory_resident_bytes").await;
    eventually("memory is short", async || resident().await > CEILING_BYTES / 100 * 80).await;
    let refused = gateway.client.create(body(1)).await;
    assert_eq!(refused.refusal(), (503, Some("server_is_overloaded".to_owned()), None));
    gate.open();
    for reply in join_all(held).await {
        let status = reply.unwrap().status;
        assert!(status == 200 || status == 503, "{status}");
    }
    eventually("turns are accepted again", async || gateway.client.create(body(1)).await.status == 200).await;
    let (lines, success) = gateway.terminate().await;
    assert!(success);
    let with = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    let (above, below) = (with("refusing new turns"), with("accepting new turns"));
    assert!(above >= 1 && above == below, "{above} and {below}");
    assert_eq!(with("rejected before parsing"), 0, "a refused turn is not logged");
}
