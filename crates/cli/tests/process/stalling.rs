//! The memory that clients take who do not read.

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, flood};
use serde_json::json;

use crate::binary;

const CLIENTS: u64 = 8;
/// A little for each connection; the streams together have half a GiB.
const MAX_GROWTH_BYTES: u64 = CLIENTS * 6 * 1024 * 1024;

#[tokio::test]
async fn memory_stays_bounded_when_clients_do_not_read() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("timeouts.write_stall = \"1s\"");
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let before = gateway.peak_memory_bytes();
    upstream.always(flood());
    let mut unread = Vec::new();
    for _ in 0..CLIENTS {
        let body = json!({"model": "sim", "input": "x", "stream": true, "store": false});
        unread.push(gateway.client.stream(body).await);
    }
    upstream.wait_until(|upstream| upstream.aborted() == CLIENTS).await;
    let growth = gateway.peak_memory_bytes() - before;
    assert!(growth < MAX_GROWTH_BYTES, "{CLIENTS} clients that do not read cost {growth} bytes");
}
