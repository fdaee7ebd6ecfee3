//! WebSocket mode when something goes wrong: lost or stalled clients, store failures, shutdowns, bad frames.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Came, Fault, Faults, Gateway, Message, Setup, Socket, eventually, flood};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::{gateway, simulator};

const PATIENCE: Duration = Duration::from_secs(60);

fn create(input: &str, store: bool) -> Value {
    json!({"model": "sim", "input": input, "store": store})
}

async fn over(config: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(config).start().await;
    (upstream, gateway)
}

async fn open_sockets(gateway: &Gateway) -> u64 {
    gateway.client.metric("antiphon_sockets").await
}

/// Waits until no socket is open.
async fn none_open(gateway: &Gateway) {
    eventually("no socket is open", async || open_sockets(gateway).await == 0).await;
}

#[tokio::test]
async fn a_client_lost_at_any_event_leaks_nothing() {
    let (upstream, gateway) = gateway().await;
    let events = {
        let mut socket = gateway.socket().await;
        socket.create(create("how many?", false)).await;
        socket.turn().await.len()
    };
    let mut turns = 1;
    let mut known: HashSet<_> = gateway.logged(turns).await.iter().map(|row| row.response).collect();
    for store in [true, false] {
        for seen in 0..events {
            turns += 1;
            let aborted = upstream.aborted();
            let (script, gate) = Script::answer("Hello from the simulator.").gated_after(seen);
            upstream.script(script);
            let before = upstream.counts().requests;
            let mut socket = gateway.socket().await;
            socket.create(create("question", store)).await;
            upstream.wait_until(|upstream| upstream.counts().requests > before).await;
            for _ in 0..seen {
                socket.frame().await;
            }
            drop(socket);
            if store {
                gate.open();
            } else {
                upstream.wait_until(|upstream| upstream.aborted() == aborted + 1).await;
            }
            gateway.idle().await;
            // Rows of the same millisecond are in no order.
            let log = gateway.logged(turns).await;
            let row = log.into_iter().find(|row| known.insert(row.response)).unwrap();
            let id = row.response.to_string();
            let stored = gateway.client.get(&format!("/v1/responses/{id}")).await;
            if store {
                assert_eq!(stored.ok()["status"], "completed", "after {seen} events");
            } else {
                assert_eq!((row.outcome.as_ref(), stored.status.as_u16()), ("cancelled", 404), "{seen}");
            }
        }
    }
    none_open(&gateway).await;
    assert_eq!(gateway.client.metric("antiphon_socket_lanes").await, 0);
}

#[tokio::test]
async fn with_cancel_a_stored_turn_is_not_finished_without_its_client() {
    let (upstream, gateway) = over("turns.on_disconnect = \"cancel\"").await;
    upstream.script(Script::answer("a b c").hang_after(3));
    let mut socket = gateway.socket().await;
    socket.create(create("question", true)).await;
    let id = socket.frame().await["response"]["id"].as_str().unwrap().to_owned();
    drop(socket);
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    gateway.idle().await;
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok()["status"], "cancelled");
}

#[tokio::test]
async fn a_client_that_stops_reading_slows_its_upstream_and_is_then_disconnected() {
    let (upstream, gateway) = over("timeouts.write_stall = \"1s\"").await;
    for (rows, store) in [(1, false), (2, true)] {
        upstream.script(flood());
        let aborted = upstream.aborted();
        let mut socket = Socket::connect_narrow(gateway.address()).await;
        socket.create(create("x", store)).await;
        socket.frame().await;
        upstream.wait_until(|upstream| upstream.in_flight() == 0).await;
        none_open(&gateway).await;
        gateway.idle().await;
        assert_eq!(upstream.aborted() - aborted, u64::from(!store));
        let row = gateway.logged(rows).await.remove(0);
        assert_eq!(row.outcome, if store { "completed" } else { "cancelled" });
    }
}

#[tokio::test]
async fn a_flooded_lane_does_not_starve_others() {
    let (upstream, gateway) = gateway().await;
    upstream.script(flood());
    let mut socket = gateway.socket().await;
    socket.create(json!({"model": "sim", "input": "x", "store": false, "stream_id": "flood"})).await;
    assert_eq!(socket.frame().await["stream_id"], "flood");
    socket.create(json!({"model": "sim", "input": "x", "store": false, "stream_id": "small"})).await;
    let is_answered = |upstream: &Simulator| upstream.counts().requests == 2 && upstream.in_flight() == 1;
    let mut flooded = 0;
    let last = loop {
        let frame = socket.frame().await;
        match frame["stream_id"].as_str() {
            Some("flood") if is_answered(&upstream) => flooded += 1,
            // Read slowly, or the flood may be over before the small turn has reached the upstream.
            Some("flood") => {
                let _ = timeout(Duration::from_millis(20), upstream.wait_until(is_answered)).await;
            }
            _ if frame["type"] == "response.completed" => break frame,
            _ => {}
        }
    };
    assert_eq!(last["stream_id"], "small");
    assert!(flooded < 512, "the small turn waited for {flooded} events of the other");
}

#[tokio::test]
async fn sixteen_turns_run_concurrently_and_further_ones_wait() {
    let (upstream, gateway) = gateway().await;
    let mut gates = Vec::new();
    for _ in 0..16 {
        let (script, gate) = Script::answer("x").gated();
        upstream.script(script);
        gates.push(gate);
    }
    let mut socket = gateway.socket().await;
    for lane in 0..20 {
        let lane = format!("lane-{lane}");
        socket.create(json!({"model": "sim", "input": "x", "store": false, "stream_id": lane})).await;
    }
    upstream.wait_until(|upstream| upstream.in_flight() == 16).await;
    // Pings get their pongs in the meantime.
    socket.send_message(Message::Ping("are you there?".into())).await;
    let pong = socket.message().await;
    assert_eq!(pong, Some(Message::Pong("are you there?".into())));
    assert_eq!(upstream.counts().requests, 16);
    gates.iter().for_each(antiphon_simulator::upstream::Gate::open);
    let mut ended = 0;
    while ended < 20 {
        ended += usize::from(socket.frame().await["type"] == "response.completed");
    }
}

#[tokio::test]
async fn frames_beyond_the_queue_are_read_later_without_loss() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("x").gated();
    upstream.script(script);
    let mut socket = gateway.socket().await;
    for n in 0..100 {
        socket.create(create(&format!("turn {n}"), false)).await;
    }
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    gate.open();
    for n in 0..100 {
        assert_eq!(socket.turn().await.last().unwrap()["type"], "response.completed", "turn {n}");
    }
    let asked: Vec<_> =
        upstream.requests().iter().map(|request| request.input()[0]["content"].clone()).collect();
    assert_eq!(asked.len(), 100);
}

#[tokio::test]
async fn a_shutdown_closes_idle_sockets_and_finishes_running_turns_first() {
    let (upstream, gateway) = gateway().await;
    let (mut idle, mut busy) = (gateway.socket().await, gateway.socket().await);
    idle.created(create("x", false)).await;
    let (script, gate) = Script::answer("to the end").gated_after(1);
    upstream.script(script);
    busy.create(create("question", true)).await;
    let begun = busy.frame().await;
    let restart = Came::Closed(1012, "service restart".to_owned());
    let stopping = tokio::spawn(gateway.stop());
    assert_eq!(idle.next().await, restart);
    assert!(!stopping.is_finished());
    gate.open();
    let last = busy.turn().await.pop().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(busy.next().await, restart);
    let gateway = stopping.await.unwrap().start().await;
    let mut socket = gateway.socket().await;
    let next = json!({"model": "sim", "input": "on", "previous_response_id": begun["response"]["id"]});
    socket.created(next).await;
}

#[tokio::test]
async fn an_idle_socket_does_not_hold_up_the_shutdown() {
    let (_upstream, gateway) = gateway().await;
    // One client replies to the close frame, the other does not.
    let (mut idle, _silent) = (gateway.socket().await, gateway.socket().await);
    let reading = tokio::spawn(async move { idle.next().await });
    let begun = Instant::now();
    gateway.stop().await;
    assert!(begun.elapsed() < PATIENCE);
    assert!(matches!(reading.await.unwrap(), Came::Closed(1012, _)));
}

#[tokio::test]
async fn a_socket_at_its_maximum_age_finishes_turns_and_closes_with_a_reason() {
    let (upstream, gateway) = over("sockets.max_age = \"6s\"").await;
    let (script, gate) = Script::answer("to the end").gated_after(1);
    upstream.script(script);
    let mut socket = gateway.socket().await;
    let upgraded = Instant::now();
    socket.create(create("question", false)).await;
    socket.frame().await;
    tokio::time::sleep(Duration::from_millis(6_100).saturating_sub(upgraded.elapsed())).await;
    gate.open();
    assert_eq!(socket.turn().await.last().unwrap()["type"], "response.completed");
    assert_eq!(socket.refusal().await, (400, "websocket_connection_limit_reached".to_owned(), None));
    assert_eq!(socket.next().await, Came::Closed(1000, "connection limit reached".to_owned()));
}

#[tokio::test]
async fn a_silent_socket_is_pinged() {
    let (_upstream, gateway) = over("sockets.ping_interval = \"30ms\"").await;
    let mut socket = gateway.socket().await;
    for _ in 0..3 {
        assert!(matches!(socket.message().await, Some(Message::Ping(_))));
    }
    socket.created(create("x", false)).await;
}

#[tokio::test]
async fn a_client_that_pings_without_reading_is_bounded() {
    let (_upstream, gateway) = over("timeouts.write_stall = \"1s\"").await;
    let mut socket = Socket::connect_narrow(gateway.address()).await;
    let ping = [&[0x89, 0xfd, 0, 0, 0, 0][..], &[b'x'; 125]].concat().repeat(1_000);
    let mut sent = 0;
    let flooding = async {
        while socket.try_send_bytes(&ping).await {
            sent += ping.len();
        }
    };
    tokio::time::timeout(PATIENCE, flooding).await.expect("it is given up in the end");
    assert!(sent < 64 << 20, "{sent} bytes of pings were read");
    none_open(&gateway).await;
}

#[tokio::test]
async fn a_store_failure_is_reported_and_unstored_turns_still_work() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    let mut socket = gateway.socket().await;
    let parent = socket.created(create("one", false)).await;
    faults.set(Fault::WritesFail);
    socket.create(create("question", true)).await;
    let frames = socket.turn().await;
    let [.., error, failed] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("store_unavailable")));
    assert!(error.get("sequence_number").is_some() && error.get("status").is_none());
    assert_eq!(failed["response"]["error"]["code"], "store_unavailable");
    let warm = json!({"model": "sim", "input": "x", "generate": false});
    assert_eq!(socket.refused(warm).await.1, "store_unavailable");
    faults.set(Fault::Down);
    let requests = upstream.counts().requests;
    socket.create(create("question", true)).await;
    let frame = socket.frame().await;
    assert_eq!((&frame["status"], &frame["headers"]["retry-after"]), (&json!(503), &json!("1")));
    assert_eq!(upstream.counts().requests, requests);
    let mut next = create("two", false);
    next["previous_response_id"] = parent["id"].clone();
    socket.created(next).await;
    let mut unknown = create("two", false);
    unknown["previous_response_id"] = format!("resp_{}", "0".repeat(32)).into();
    assert_eq!(socket.refused(unknown).await.1, "previous_response_not_found");
}

#[tokio::test]
async fn a_cut_off_stream_ends_with_an_error_and_can_be_retried() {
    let (upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    let parent = socket.created(create("one", false)).await;
    upstream.script(Script::answer("a b c d").cut_after(5));
    let mut next = create("two", false);
    next["stream_id"] = "lane".into();
    next["previous_response_id"] = parent["id"].clone();
    socket.create(next.clone()).await;
    let frames = socket.turn().await;
    let [.., error, failed] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("server_error")));
    assert_eq!(failed["type"], "response.failed");
    assert!(frames.iter().all(|frame| frame["stream_id"] == "lane"));
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(frame["sequence_number"], n);
    }
    socket.created(next).await;
}

#[tokio::test]
async fn messages_of_any_size_and_in_any_pieces_are_read() {
    let (upstream, gateway) = over("limits.max_body = \"8MiB\"").await;
    let mut socket = gateway.socket().await;
    for size in [1, 125, 126, 65_535, 65_536, 3_000_000, 8_000_000] {
        socket.created(create(&"x".repeat(size), false)).await;
        assert_eq!(
            upstream.last_request().unwrap().input()[0]["content"][0]["text"].as_str().map(str::len),
            Some(size)
        );
    }
    let text =
        json!({"type": "response.create", "model": "sim", "input": "é".repeat(50_000), "store": false})
            .to_string();
    // Cut at any byte, even within a character, with a ping in between.
    for piece in [1_001, 50_000] {
        socket.send_fragments(text.as_bytes(), piece).await;
        assert_eq!(socket.turn().await.last().unwrap()["type"], "response.completed");
    }
}

#[tokio::test]
async fn an_unreadable_message_closes_the_socket_with_a_reason() {
    let (_upstream, gateway) = over("limits.max_body = \"1MiB\"\ntimeouts.body_read = \"3s\"").await;
    let mut socket = gateway.socket().await;
    socket.send("x".repeat(1_100_000)).await;
    assert_eq!(socket.refusal().await.1, "request_too_large");
    assert!(matches!(socket.next().await, Came::Closed(1009, _)));

    let mut socket = gateway.socket().await;
    socket.send_unfinished(&vec![b'x'; 700_000], 2).await;
    assert_eq!(socket.refusal().await.1, "request_too_large");
    assert!(matches!(socket.next().await, Came::Closed(1009, _)));

    let mut socket = gateway.socket().await;
    socket.send_bytes(&[0x81, 0xfe, 0x10]).await;
    assert_eq!(socket.refusal().await.1, "request_timeout");
    assert!(matches!(socket.next().await, Came::Closed(1008, _)));

    let mut socket = gateway.socket().await;
    socket.send_bytes(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xff]).await;
    assert!(matches!(socket.next().await, Came::Closed(1007, _)));

    for garbage in [&[0x81, 0x01, b'x'][..], &[0xf1, 0x80, 0, 0, 0, 0], &[0x83, 0x80, 0, 0, 0, 0]] {
        let mut socket = gateway.socket().await;
        socket.send_bytes(garbage).await;
        assert!(matches!(socket.next().await, Came::Closed(1002, _)), "{garbage:?}");
    }
    none_open(&gateway).await;
}

#[tokio::test]
async fn messages_wait_for_the_memory_that_they_share_with_bodies() {
    let (upstream, gateway) =
        over("limits.max_body = \"2MiB\"\nlimits.body_memory = \"2MiB\"\ntimeouts.body_read = \"4s\"").await;
    let (script, gate) = Script::answer("slow").gated();
    upstream.script(script);
    let large = create(&"x".repeat(1_500_000), false);
    let (mut one, mut two) = (gateway.socket().await, gateway.socket().await);
    one.create(large.clone()).await;
    upstream.wait_until(|upstream| upstream.counts().requests == 1).await;
    two.send(json!({"type": "response.create", "model": "sim", "input": "x".repeat(1_500_000)})).await;
    assert_eq!(two.refusal().await.1, "server_is_overloaded");
    assert!(matches!(two.next().await, Came::Closed(1013, _)));
    gate.open();
    assert_eq!(one.turn().await.last().unwrap()["type"], "response.completed");
    one.created(large).await;
}

#[tokio::test]
async fn a_graceful_close_is_counted_by_its_code() {
    let (_upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    socket.created(json!({"model": "sim", "input": "x", "stream_id": "a"})).await;
    socket.created(create("x", true)).await;
    gateway.idle().await;
    let text = gateway.client.metrics().await;
    for line in ["antiphon_sockets 1", "antiphon_socket_lanes 2", "antiphon_turns_in_flight 0"] {
        assert!(text.lines().any(|have| have == line), "{line} is missing from\n{text}");
    }
    socket.stream.close(None).await.unwrap();
    assert!(!matches!(socket.next().await, Came::Frame(_)));
    none_open(&gateway).await;
    // The reply to the handshake is sent before the socket is counted.
    let gone = gateway.socket().await;
    eventually("the socket is counted", async || open_sockets(&gateway).await == 1).await;
    drop(gone);
    none_open(&gateway).await;
    let text = gateway.client.metrics().await;
    for line in [
        "antiphon_sockets 0",
        "antiphon_socket_lanes 0",
        "antiphon_socket_turns_sum 2.0",
        "antiphon_socket_turns_count 2",
        "antiphon_socket_closes_total{code=\"1005\"} 1",
        "antiphon_socket_closes_total{code=\"1006\"} 1",
        "antiphon_turns_total{transport=\"websocket\",outcome=\"completed\"} 2",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing from\n{text}");
    }
}

#[tokio::test]
async fn frames_sent_with_the_handshake_are_read() {
    let (_upstream, gateway) = gateway().await;
    let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    let text = r#"{"type":"response.processed"}{"#;
    let mut bytes =
        b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .to_vec();
    bytes.extend_from_slice(&[0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0]);
    bytes.extend_from_slice(text.as_bytes());
    stream.write_all(&bytes).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("invalid_json") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "{}", String::from_utf8_lossy(&seen));
    }
    let seen = String::from_utf8_lossy(&seen).to_ascii_lowercase();
    assert!(seen.starts_with("http/1.1 101 ") && !seen.contains("sec-websocket-extensions"), "{seen}");
    assert!(seen.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{seen}");
}
