//! Long replies of upstreams, which take memory of the project's share until they are stored and read.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Setup, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::simulator;

const MIB: usize = 1 << 20;

async fn over(config: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(config).start().await;
    (upstream, gateway)
}

async fn held(gateway: &Gateway) -> usize {
    gateway.client.metric("antiphon_body_memory_bytes").await.try_into().unwrap()
}

async fn nothing_is_held(gateway: &Gateway) {
    eventually("the memory is free", async || held(gateway).await == 0).await;
}

/// An answer that begins with items of 1 MiB each.
fn long(items: usize) -> Script {
    let item = json!({"type": "message", "content": "x".repeat(MIB)});
    let done = json!({"type": "response.output_item.done", "output_index": 0, "item": item});
    let event = format!("event: response.output_item.done\ndata: {done}\n\n");
    Script::answer("done").inject(1, event.repeat(items))
}

fn ask(stream: bool) -> Value {
    json!({"model": "sim", "input": "x", "stream": stream})
}

#[tokio::test]
async fn what_a_stream_keeps_takes_memory_until_the_turn_has_ended() {
    let (upstream, gateway) = over("").await;
    let (script, gate) = long(3).gated_after(2);
    upstream.script(script);
    let mut events = gateway.client.stream(ask(true)).await;
    for _ in 0..3 {
        events.until("response.output_item.done").await;
    }
    eventually("it is kept, and will be copied", async || held(&gateway).await > 6 * MIB).await;
    gate.open();
    events.until("response.completed").await;
    nothing_is_held(&gateway).await;
}

#[tokio::test]
async fn a_stream_gets_the_memory_of_another_one_that_has_ended() {
    let (upstream, gateway) = over("limits.max_body = \"4MiB\"\nlimits.body_memory = \"4MiB\"").await;
    let (script, others_gate) = long(2).gated();
    upstream.script(script);
    let client = gateway.client.clone();
    let other = tokio::spawn(async move {
        let mut events = client.stream(ask(true)).await;
        events.until("response.completed").await
    });
    upstream.wait_until(|upstream| upstream.counts().requests == 1).await;
    let (script, gate) = long(2).gated_after(2);
    upstream.script(script);
    let mut events = gateway.client.stream(ask(true)).await;
    for _ in 0..2 {
        events.until("response.output_item.done").await;
    }
    eventually("it has half of the memory", async || held(&gateway).await > 2 * MIB).await;
    others_gate.open();
    gate.open();
    events.until("response.completed").await;
    other.await.unwrap();
    nothing_is_held(&gateway).await;
}

#[tokio::test]
async fn a_collected_reply_takes_memory_until_the_client_has_read_it() {
    // More than the buffers of a connection hold.
    const LONG: usize = 12 * MIB;
    let (upstream, gateway) = over("").await;
    for stored in [true, false] {
        upstream.script(Script::answer("y".repeat(LONG)).deltas(1));
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let body = json!({"model": "sim", "input": "x", "store": stored}).to_string();
        let head =
            format!("POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        gateway.idle().await;
        assert!(held(&gateway).await > LONG);
        drop(stream);
        nothing_is_held(&gateway).await;
    }
}

#[tokio::test]
async fn a_collected_reply_is_whole_whatever_pieces_it_arrives_in() {
    let (upstream, gateway) = over("").await;
    let text: String = (0..3_000).map(|n| format!("{n} ")).collect();
    let content = json!([{"type": "output_text", "text": text}]);
    let item = json!({"type": "message", "id": "msg_1", "role": "assistant", "content": content});
    let reply =
        json!({"id": "resp_1", "object": "response", "status": "completed", "output": [item]}).to_string();
    for size in [7, 3_000, 5_000, reply.len()] {
        let script = Script::stream_bytes(reply.clone()).content_type("application/json");
        upstream.script(script.writes_of(size));
        let response = gateway.client.created(ask(false)).await;
        assert_eq!(response["output"][0]["content"][0]["text"], text, "pieces of {size} bytes");
    }
}
