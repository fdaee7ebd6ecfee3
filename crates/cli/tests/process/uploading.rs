//! The memory that clients take while they send.

use std::net::SocketAddr;

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Process, Setup, Socket, eventually};
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::binary;

const SENDERS: u64 = 300;
/// What a connection and its task cost, with what each has sent. Each announces 16 MiB.
const MAX_BYTES_EACH: u64 = 64 * 1024;
/// Large messages one after the other and at the same time.
const ROUNDS: usize = 5;
const AT_ONCE: usize = 30;
const LARGE_BYTES: usize = 1 << 20;
/// What the allocator may keep after 150 MiB were received.
const MAX_KEPT_BYTES: u64 = 48 * 1024 * 1024;

async fn start() -> (Simulator, Setup, Process, SocketAddr) {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let address = gateway.url.strip_prefix("http://").unwrap().parse().unwrap();
    (upstream, setup, gateway, address)
}

async fn open(address: SocketAddr) -> Socket {
    Socket::connect(address, "/v1/responses", &[]).await.unwrap()
}

#[tokio::test]
async fn sockets_that_announce_large_messages_take_no_memory_for_them() {
    let (_upstream, _setup, gateway, address) = start().await;
    let before = gateway.memory_bytes();
    let mut sockets = join_all((0..SENDERS).map(|_| open(address))).await;
    for socket in &mut sockets {
        socket.send_bytes(&[0x81, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4]).await;
    }
    let begun = SENDERS * 4096;
    let reserved = async || gateway.client.metric("antiphon_body_memory_bytes").await;
    eventually("the headers have arrived", async || reserved().await == begun).await;
    let each = gateway.memory_bytes().saturating_sub(before) / SENDERS;
    println!("{each} bytes a socket that announced 16 MiB");
    assert!(each < MAX_BYTES_EACH, "{each} bytes a socket that announced 16 MiB");
}

#[tokio::test]
async fn bodies_that_announce_much_take_no_memory_for_it() {
    let (_upstream, _setup, gateway, address) = start().await;
    let before = gateway.memory_bytes();
    let mut bodies = Vec::new();
    for _ in 0..SENDERS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16777216\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        bodies.push(stream);
    }
    let reserved = async || gateway.client.metric("antiphon_body_memory_bytes").await;
    eventually("a byte of each has arrived", async || reserved().await == SENDERS).await;
    let each = gateway.memory_bytes().saturating_sub(before) / SENDERS;
    println!("{each} bytes a body that announced 16 MiB");
    assert!(each < MAX_BYTES_EACH, "{each} bytes a body that announced 16 MiB");
}

#[tokio::test]
async fn memory_of_large_messages_goes_back_to_the_system() {
    let (_upstream, _setup, gateway, address) = start().await;
    let before = gateway.memory_bytes();
    let mut sockets = join_all((0..AT_ONCE).map(|_| open(address))).await;
    let input = "x".repeat(LARGE_BYTES);
    for _ in 0..ROUNDS {
        let large = || json!({"model": "sim", "input": input, "store": false, "generate": false});
        join_all(sockets.iter_mut().map(|socket| socket.created(large()))).await;
        let small = || json!({"model": "sim", "input": "x", "store": false, "generate": false});
        join_all(sockets.iter_mut().map(|socket| socket.created(small()))).await;
    }
    drop(sockets);
    eventually("the memory goes back", async || {
        // Freed memory is returned by threads that allocate.
        gateway.client.created(json!({"model": "sim", "input": "x"})).await;
        gateway.memory_bytes() < before + MAX_KEPT_BYTES
    })
    .await;
}
