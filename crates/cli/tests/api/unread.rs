//! Long replies from the store, which take memory until the client has read them.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Gateway, Setup, Socket, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::simulator;

/// More than the buffers of a connection hold.
const LONG: usize = 12 << 20;
const HELD: &str = "antiphon_body_memory_bytes";

/// Requests a path and reads nothing of the reply but its first line.
async fn ask(gateway: &Gateway, path: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    (stream, String::from_utf8_lossy(&first).into_owned())
}

#[tokio::test]
async fn replies_that_nobody_reads_hold_their_memory_and_further_ones_wait_for_it() {
    let upstream = simulator().await;
    let limits = "limits.max_body = \"16MiB\"\nlimits.body_memory = \"64MiB\"\ntimeouts.body_read = \"4s\"";
    let gateway = Setup::over(&upstream).config(limits).start().await;
    upstream.script(Script::answer("y".repeat(LONG)).deltas(1));
    let stored = gateway.client.created(json!({"model": "sim", "input": "x".repeat(LONG)})).await;
    let response = format!("/v1/responses/{}", stored["id"].as_str().unwrap());
    for path in [format!("{response}/input_items"), response] {
        let (unread, status) = ask(&gateway, &path).await;
        assert_eq!(status, "HTTP/1.1 200");
        assert!(gateway.client.metric(HELD).await >= LONG as u64);
        assert_eq!(ask(&gateway, &path).await.1, "HTTP/1.1 503", "the share of the project is taken");
        let (_, (_, status)) = tokio::join!(async { drop(unread) }, ask(&gateway, &path));
        assert_eq!(status, "HTTP/1.1 200", "it got the memory of the one that was closed");
        eventually("the memory is free again", async || gateway.client.metric(HELD).await == 0).await;
    }
}

#[tokio::test]
async fn long_events_of_a_background_response_that_nobody_reads_hold_their_memory() {
    let upstream = simulator().await;
    let limits = "limits.max_body = \"16MiB\"\nlimits.body_memory = \"64MiB\"";
    let gateway = Setup::over(&upstream).config(limits).start().await;
    upstream.script(Script::answer("y".repeat(LONG)).deltas(1));
    let create = json!({"model": "sim", "input": "x", "background": true, "stream": true});
    let mut events = gateway.client.stream(&create).await;
    let id = events.next().await.unwrap().json()["response"]["id"].as_str().unwrap().to_owned();
    events.rest().await;
    eventually("no memory is held", async || gateway.client.metric(HELD).await == 0).await;
    let path = format!("/v1/responses/{id}?stream=true");
    let (unread, status) = ask(&gateway, &path).await;
    assert_eq!(status, "HTTP/1.1 200");
    let is_held = async || gateway.client.metric(HELD).await >= LONG as u64;
    eventually("the event's memory is held", is_held).await;
    let reading = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get(&path).await }
    });
    drop(unread);
    let reply = reading.await.unwrap();
    assert!(String::from_utf8_lossy(&reply.body).contains("event: response.completed"));
    eventually("the memory is free again", async || gateway.client.metric(HELD).await == 0).await;
}

#[tokio::test]
async fn an_input_that_is_returned_over_a_socket_holds_its_memory_until_it_is_read() {
    let upstream = simulator().await;
    let limits = "limits.max_body = \"16MiB\"\nlimits.body_memory = \"64MiB\"";
    let gateway = Setup::over(&upstream).config(limits).start().await;
    let mut socket = Socket::connect_narrow(gateway.address()).await;
    let input = "x".repeat(LONG);
    let steer = json!({"type": "response.steer", "previous_response_id": "resp_1", "input": input});
    for _ in 0..2 {
        socket.send(&steer).await;
        socket.stream.get_ref().readable().await.unwrap();
        assert!(gateway.client.metric(HELD).await >= LONG as u64);
        assert_eq!(socket.frame().await["steer"]["input"], input);
        eventually("the memory is free again", async || gateway.client.metric(HELD).await == 0).await;
    }
}
