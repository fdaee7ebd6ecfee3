//! Upstreams over WebSockets, whatever transport the client uses.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::{Close, Options, Script, Simulator};
use antiphon_testkit::{Client, Gateway, ManualClock, Reply, Setup, Socket, header};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::simulator;

pub(crate) async fn over(transport: &str) -> (Simulator, Gateway, Arc<ManualClock>) {
    let upstream = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let setup = Setup::over(&upstream).account(0, &format!("transport = \"{transport}\"")).clock(&clock);
    (upstream, setup.start().await, clock)
}

pub(crate) fn turn(parent: Option<&str>) -> Value {
    json!({"model": "sim", "input": "x", "previous_response_id": parent})
}

pub(crate) async fn follow(client: &Client, parent: &str) -> Reply {
    client.create(turn(Some(parent))).await
}

#[tokio::test]
async fn a_chain_keeps_its_socket_and_sends_only_new_items() {
    let (upstream, gateway, _) = over("websocket").await;
    let mut parent = gateway.client.create(turn(None)).await.ok_id();
    for _ in 0..4 {
        parent = follow(&gateway.client, &parent).await.ok_id();
    }
    let mut events = gateway
        .client
        .stream(json!({"model": "sim", "input": "x", "stream": true, "previous_response_id": parent}))
        .await;
    let last = events.until("response.completed").await;
    assert_ne!(last.response_id(), parent);
    let sockets = upstream.sockets();
    assert_eq!((sockets.len(), sockets[0].turns, upstream.counts().requests), (1, 6, 6));
    let frames = sockets[0].json();
    assert_eq!(frames[0]["previous_response_id"], Value::Null);
    for frame in &frames {
        assert_eq!((&frame["type"], &frame["store"]), (&json!("response.create"), &json!(false)));
        assert!(frame.get("stream").is_none() && frame.get("background").is_none(), "{frame}");
    }
    assert!(frames[1..].iter().all(|frame| frame["input"].as_array().is_none_or(|input| input.len() == 1)));
    let known: Vec<&Value> = frames[1..].iter().map(|frame| &frame["previous_response_id"]).collect();
    assert!(
        known.iter().all(|id| id.as_str().is_some_and(|id| id != parent)),
        "the upstream's own ids: {known:?}"
    );
    let metrics = gateway.client.metrics().await;
    for line in [
        "antiphon_upstream_sockets 1",
        r#"antiphon_upstream_socket_turns_total{account="one",socket="opened"} 1"#,
        r#"antiphon_upstream_socket_turns_total{account="one",socket="reused"} 5"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn a_reply_over_a_socket_is_the_same_as_over_http() {
    let shape = |value: &Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        // Upstreams send it only in collected replies.
        keys.retain(|key| key != "billing");
        keys.sort();
        (keys, value["status"].clone(), value["output"][0]["content"].clone(), value["store"].clone())
    };
    let (_upstream, http, _) = over("http").await;
    let (_upstream, socket, _) = over("websocket").await;
    let (one, other) = (http.client.created(turn(None)).await, socket.client.created(turn(None)).await);
    assert_eq!(shape(&one), shape(&other));
    let names = async |client: &Client| {
        let mut events = client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
        assert_eq!(events.headers["content-type"], "text/event-stream; charset=utf-8");
        let events = events.rest().await;
        events.into_iter().map(|event| (event.name.clone(), event.json()["type"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(names(&http.client).await, names(&socket.client).await);
}

#[tokio::test]
async fn an_idle_socket_that_closes_does_not_count_as_a_failure() {
    for close in [Close::Code(1000), Close::Code(1012), Close::Fin, Close::Reset] {
        let (upstream, gateway, _) = over("websocket").await;
        upstream.script(Script::answer("a").then_close(Duration::ZERO, close));
        let first = gateway.client.create(turn(None)).await.ok_id();
        upstream
            .wait_until(|upstream| upstream.last_socket().is_some_and(|socket| socket.end.is_some()))
            .await;
        follow(&gateway.client, &first).await.ok();
        let sockets = upstream.sockets();
        assert_eq!((sockets.len(), sockets[1].turns), (2, 1), "{close:?}");
        let frame = &sockets[1].json()[0];
        assert_eq!(frame.get("previous_response_id"), None, "{close:?}");
        assert_eq!(frame["input"].as_array().unwrap().len(), 3, "all of the chain: {frame}");
        assert_eq!(gateway.account_state("one").await, "ready");
    }
}

#[tokio::test]
async fn an_upstream_without_sockets_is_used_over_http_for_ten_minutes() {
    for status in [426, 404, 400] {
        let (upstream, gateway, clock) = over("auto").await;
        upstream.handshake(Script::refusal(status, "x", "no sockets"));
        let first = gateway.client.create(turn(None)).await.ok_id();
        let second = follow(&gateway.client, &first).await.ok_id();
        assert_eq!((upstream.sockets().len(), upstream.counts().requests), (1, 2), "{status}");
        clock.advance(Duration::from_secs(601));
        follow(&gateway.client, &second).await.ok();
        assert_eq!(upstream.sockets().len(), 2, "{status}");
        assert!(upstream.last_request().unwrap().socket.is_some());
        assert_eq!(gateway.account_state("one").await, "ready");
    }
}

#[tokio::test]
async fn a_failed_or_lost_socket_falls_back_to_http() {
    let scripts = [
        Script::refusal(503, "x", "m"),
        Script::new().drop_connection(),
        Script::new().close_after(0, Close::Reset),
        Script::new().close_after(0, Close::Code(1011)),
    ];
    for script in scripts {
        let (upstream, gateway, _) = over("auto").await;
        upstream.handshake(script.clone());
        gateway.client.created(turn(None)).await;
        assert!(upstream.last_request().unwrap().socket.is_none(), "{script:?}");
        let metrics = gateway.client.metrics().await;
        assert!(metrics.contains("antiphon_upstream_socket_fallbacks_total{account=\"one\""), "{metrics}");
    }
    for close in [Close::Reset, Close::Fin, Close::Code(1011)] {
        let (upstream, gateway, _) = over("auto").await;
        upstream.script(Script::answer("a").close_after(0, close));
        gateway.client.created(turn(None)).await;
        let requests = upstream.requests();
        let ways: Vec<bool> = requests.iter().map(|request| request.socket.is_some()).collect();
        assert_eq!(ways, [true, false], "{close:?}");
        assert_eq!(gateway.account_state("one").await, "ready");
    }
}

#[tokio::test]
async fn a_slow_handshake_falls_back_to_http() {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).account(0, "transport = \"auto\"").config("timeouts.connect = \"2s\"");
    let gateway = setup.start().await;
    upstream.handshake(Script::new().hang());
    let first = gateway.client.create(turn(None)).await.ok_id();
    follow(&gateway.client, &first).await.ok();
    assert!(upstream.requests().iter().all(|request| request.socket.is_none()));
    assert_eq!(upstream.sockets().len(), 1, "the failed handshake is remembered");
}

/// `a` uses only sockets, and `b` takes over. The clock stands still: no cooldown ends.
async fn socket_account_and_another() -> (Simulator, Simulator, Gateway) {
    let (first, second) = (simulator().await, simulator().await);
    let gateway = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
        .account(0, "transport = \"websocket\"")
        .config("routing.strategy = \"fill_first\"")
        .clock(&Arc::new(ManualClock::default()))
        .start()
        .await;
    (first, second, gateway)
}

#[tokio::test]
async fn a_socket_only_account_fails_over_like_any_other() {
    let handshakes = [
        (Script::refusal(401, "invalid_api_key", "m"), "ready"),
        (Script::refusal(429, "rate_limit_exceeded", "m"), "cooling"),
        (Script::refusal(426, "x", "m"), "ready"),
        (Script::refusal(503, "x", "m"), "ready"),
        (Script::new().drop_connection(), "ready"),
    ];
    for (script, wanted) in handshakes {
        let (first, second, gateway) = socket_account_and_another().await;
        first.handshake(script.clone());
        gateway.client.created(turn(None)).await;
        assert_eq!((first.counts().requests, second.counts().requests), (0, 1), "{script:?}");
        assert_eq!(gateway.account_state("a").await, wanted, "{script:?}");
    }
    let turns = [
        (Script::refusal(429, "rate_limit_exceeded", "m").header("retry-after", "9"), "cooling"),
        (Script::refusal(429, "insufficient_quota", "m"), "cooling"),
        (Script::refusal(401, "invalid_api_key", "m"), "ready"),
        (Script::refusal(500, "server_error", "m"), "ready"),
        (Script::refusal(404, "model_not_found", "m"), "ready"),
        (Script::answer("a").close_after(0, Close::Reset), "ready"),
    ];
    for (script, wanted) in turns {
        let (first, second, gateway) = socket_account_and_another().await;
        first.script(script.clone());
        gateway.client.created(turn(None)).await;
        assert_eq!((first.counts().requests, second.counts().requests), (1, 1), "{script:?}");
        assert_eq!(gateway.account_state("a").await, wanted, "{script:?}");
        gateway.idle().await;
    }
}

#[tokio::test]
async fn an_upstream_error_over_a_socket_equals_one_over_http() {
    let (upstream, gateway, _) = over("websocket").await;
    upstream.script(Script::refusal(400, "context_length_exceeded", "too long"));
    let reply = gateway.client.create(turn(None)).await;
    assert_eq!(reply.refusal(), (400, Some("context_length_exceeded".into()), None));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(gateway.account_state("one").await, "ready");
}

#[tokio::test]
async fn a_parent_unknown_to_the_socket_is_replayed() {
    let (upstream, gateway, _) = over("websocket").await;
    let first = gateway.client.create(turn(None)).await.ok_id();
    upstream.script(Script::http(
        400,
        r#"{"error":{"message":"m","type":"invalid_request_error","param":"previous_response_id","code":"previous_response_not_found"}}"#,
    ));
    follow(&gateway.client, &first).await.ok();
    let last = upstream.last_request().unwrap();
    assert_eq!((last.json().get("previous_response_id"), last.input().len()), (None, 3));
}

#[tokio::test]
async fn branches_of_a_chain_continue_concurrently_on_their_own_sockets() {
    let (upstream, gateway, _) = over("websocket").await;
    let trunk = gateway.client.create(turn(None)).await.ok_id();
    let branches = join_all((0..3).map(|_| follow(&gateway.client, &trunk))).await;
    assert_eq!(upstream.sockets().len(), 3);
    let ids: Vec<String> = branches.iter().map(Reply::ok_id).collect();
    join_all(ids.iter().map(|id| follow(&gateway.client, id)))
        .await
        .iter()
        .for_each(|reply| drop(reply.ok()));
    assert_eq!(upstream.sockets().len(), 3, "no other socket is opened");
    assert_eq!(upstream.sockets().iter().map(|socket| socket.turns).sum::<usize>(), 7);
}

#[tokio::test]
async fn a_socket_lost_during_a_turn_ends_it_as_the_contract_says() {
    for events in 1..8 {
        for close in [Close::Reset, Close::Code(1011)] {
            let (upstream, gateway, _) = over("auto").await;
            upstream.script(Script::answer("a b c d").close_after(events, close));
            let body = json!({"model": "sim", "input": "x", "stream": true});
            let events = gateway.client.stream(body).await.rest().await;
            let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
            assert!(names.ends_with(&["error", "response.failed"]), "{names:?}");
            let failed = events.last().unwrap();
            let stored = gateway.client.get(&format!("/v1/responses/{}", failed.response_id())).await.ok();
            assert_eq!(stored["status"], "failed");
            assert_eq!(upstream.counts().requests, 1, "it is not sent again");
            gateway.idle().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_socket_of_a_turn_that_is_not_stored() {
    let (upstream, gateway, _) = over("websocket").await;
    let (script, gate) = Script::answer("a b c").gated_after(2);
    upstream.script(script);
    let body = json!({"model": "sim", "input": "x", "stream": true, "store": false});
    let mut events = gateway.client.stream(body).await;
    events.next().await.unwrap();
    drop(events);
    upstream.wait_until(|upstream| upstream.counts().open_sockets == 0).await;
    gate.open();
    gateway.idle().await;
}

#[tokio::test]
async fn a_socket_is_opened_with_the_clients_headers_and_the_accounts_credential() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream)
        .account_key("sk-one")
        .account(0, "transport = \"websocket\"\nheaders = { \"x-org\" = \"org\" }\nquery = { v = \"1\" }")
        .start()
        .await;
    let headers = [
        header("authorization", "Bearer the-clients"),
        header("cookie", "a=b"),
        header("session-id", "s1"),
        header("x-codex-window-id", "w1"),
        header("connection", "x-codex-hop"),
        header("x-codex-hop", "1"),
    ];
    let reply = gateway.client.request(Method::POST, "/v1/responses", &headers, turn(None).to_string()).await;
    reply.ok();
    let socket = upstream.last_socket().unwrap();
    assert_eq!(socket.header("authorization"), Some("Bearer sk-one"));
    assert_eq!((socket.header("session-id"), socket.header("x-codex-window-id")), (Some("s1"), Some("w1")));
    assert_eq!((socket.header("cookie"), socket.header("x-org")), (None, Some("org")));
    assert_eq!(socket.header("x-codex-hop"), None, "`connection` names it");
    assert_eq!(socket.header("openai-beta"), Some("responses_websockets=2026-02-06"));
    assert_eq!(socket.handshake.query.as_deref(), Some("v=1"));
    assert_eq!(socket.header("sec-websocket-extensions"), None);
}

#[tokio::test]
async fn chains_lose_nothing_when_sockets_close() {
    let (upstream, gateway, _) = over("auto").await;
    let upstream = Arc::new(upstream);
    let chaos = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move {
            for n in 0.. {
                // Only idle sockets close, because a running turn would fail.
                upstream.wait_until(|upstream| upstream.counts().requests >= 7 * (n + 1)).await;
                let close = [Close::Reset, Close::Fin, Close::Code(1000)][usize::try_from(n % 3).unwrap()];
                upstream.script(Script::answer("bye").then_close(Duration::ZERO, close));
            }
        }
    });
    let chain = async |n: usize| {
        let mut id = gateway.client.create(turn(None)).await.ok_id();
        for depth in 0..6 {
            let reply = follow(&gateway.client, &id).await;
            assert_eq!(reply.status, 200, "chain {n} at {depth}: {}", String::from_utf8_lossy(&reply.body));
            id = reply.ok_id();
        }
        let items = gateway.client.get(&format!("/v1/responses/{id}/input_items")).await.ok();
        assert_eq!(items["data"].as_array().unwrap().len(), 1);
    };
    join_all((0..24).map(chain)).await;
    chaos.abort();
    gateway.idle().await;
    assert_eq!(gateway.account_state("one").await, "ready");
}

#[tokio::test]
async fn an_unstored_chain_sends_only_new_items_over_both_sockets() {
    let (upstream, gateway, _) = over("websocket").await;
    let mut socket = Socket::connect(gateway.address(), "/v1/responses", &[]).await.unwrap();
    let frame = |parent: &Value| json!({"model": "sim", "input": "x", "store": false, "previous_response_id": parent});
    let mut parent = Value::Null;
    for _ in 0..4 {
        parent = socket.created(frame(&parent)).await["id"].clone();
    }
    let sockets = upstream.sockets();
    assert_eq!((sockets.len(), sockets[0].turns), (1, 4));
    assert!(sockets[0].json()[1..].iter().all(|turn| turn["previous_response_id"].is_string()));
    upstream.close_sockets(Close::Reset);
    upstream.wait_until(|upstream| upstream.counts().open_sockets == 0).await;
    socket.created(frame(&parent)).await;
    let last = upstream.last_request().unwrap();
    assert_eq!(
        (last.json().get("previous_response_id"), last.input().len()),
        (None, 9),
        "the whole chain is sent again"
    );
    assert_eq!(gateway.account_state("one").await, "ready");
}

#[tokio::test]
async fn a_native_upstream_is_not_asked_to_continue_unstored_responses() {
    let upstream = Simulator::bind(Options { stateful: true, ..Options::default() }).await.unwrap();
    let gateway = Setup::over(&upstream).account(0, "state = \"native\"").start().await;
    let mut socket = Socket::connect(gateway.address(), "/v1/responses", &[]).await.unwrap();
    let first = socket.created(json!({"model": "sim", "input": "x", "store": false})).await;
    let second = json!({"model": "sim", "input": "y", "store": false, "previous_response_id": first["id"]});
    socket.created(second).await;
    assert_eq!(upstream.counts().requests, 2, "no request for an unknown parent");
    assert_eq!(upstream.last_request().unwrap().input().len(), 3);
}
