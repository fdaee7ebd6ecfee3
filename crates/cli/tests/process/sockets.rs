//! The memory that sockets take.

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, Socket, flood};
use futures_util::future::join_all;
use serde_json::json;

use crate::binary;

const IDLE: u64 = 1_000;
const MAX_IDLE_BYTES: u64 = 20 * 1024;
/// What the allocator keeps after memory was freed.
const MAX_LEFT_BYTES: u64 = 32 * 1024;
const UNREAD: u64 = 8;
/// Enough for the buffers of the connections on both sides; the streams together have half a GiB.
const MAX_UNREAD_BYTES: u64 = 6 * 1024 * 1024;

#[tokio::test]
async fn a_thousand_idle_sockets_cost_little() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let address = gateway.url.strip_prefix("http://").unwrap().parse().unwrap();
    let open = async || Socket::connect(address, "/v1/responses", &[]).await.unwrap();
    // One-time allocations are done.
    let mut warm = join_all((0..50).map(|_| open())).await;
    for socket in &mut warm {
        socket.created(json!({"model": "sim", "input": "x", "store": false})).await;
    }
    let before = gateway.memory_bytes();
    let mut idle = Vec::new();
    for _ in 0..IDLE / 50 {
        idle.extend(join_all((0..50).map(|_| open())).await);
    }
    let each = gateway.memory_bytes().saturating_sub(before) / IDLE;
    println!("{each} bytes an idle socket");
    assert!(each < MAX_IDLE_BYTES, "{each} bytes an idle socket");
    // The same after a turn of some size.
    let before = gateway.memory_bytes();
    for socket in &mut idle {
        let input = "x".repeat(100_000);
        socket.created(json!({"model": "sim", "input": input, "store": false, "generate": false})).await;
        socket.created(json!({"model": "sim", "input": "x", "store": false, "generate": false})).await;
    }
    let each = gateway.memory_bytes().saturating_sub(before) / IDLE;
    println!("{each} bytes more after a large turn");
    assert!(each < MAX_LEFT_BYTES, "{each} bytes more after a large turn");
}

#[tokio::test]
async fn memory_stays_bounded_when_sockets_do_not_read() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("timeouts.write_stall = \"1s\"");
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let address = gateway.url.strip_prefix("http://").unwrap().parse().unwrap();
    let before = gateway.peak_memory_bytes();
    upstream.always(flood());
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let mut socket = Socket::connect_narrow(address).await;
        socket.create(json!({"model": "sim", "input": "x", "store": false})).await;
        unread.push(socket);
    }
    upstream.wait_until(|upstream| upstream.aborted() == UNREAD).await;
    let each = (gateway.peak_memory_bytes().saturating_sub(before)) / UNREAD;
    println!("{each} bytes a socket that is not read");
    assert!(each < MAX_UNREAD_BYTES, "{each} bytes a socket that is not read");
}
