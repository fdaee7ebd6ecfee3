//! Replies of chat upstreams that are no streams, and their connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Setup, eventually};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::simulator;

const COMPLETION: &str = r#"{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;

async fn over_chat(lines: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).account(0, &format!("api = \"chat\"\n{lines}"));
    (upstream, setup.start().await)
}

/// Passes connections on to an upstream, and counts them.
async fn counted(upstream: &Simulator) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let target = upstream.url().strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let target = target.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    (url, connections)
}

#[tokio::test]
async fn only_turns_that_need_a_stream_ask_for_one() {
    let request = json!({"model": "sim", "input": "a"});
    for (lines, background, streams) in
        [("", false, None), ("", true, Some(true)), ("stream_only = true", false, Some(true))]
    {
        let (upstream, gateway) = over_chat(lines).await;
        let mut asked = request.clone();
        asked["background"] = background.into();
        gateway.client.created(asked).await;
        eventually("the upstream is asked", async || upstream.counts().requests == 1).await;
        let sent = upstream.last_request().unwrap().json();
        assert_eq!(
            (sent["stream"].as_bool(), sent["stream_options"].is_object()),
            (streams, streams.is_some())
        );
    }
}

#[tokio::test]
async fn a_whole_completion_may_come_after_blank_lines() {
    let (upstream, gateway) = over_chat("").await;
    upstream.script(Script::http(200, format!("\n\n  \n{COMPLETION}")));
    let response = gateway.client.created(json!({"model": "sim", "input": "a"})).await;
    assert_eq!(response["output"][0]["content"][0]["text"], "hi");
    assert_eq!(json!([response["status"], response["usage"]["output_tokens"]]), json!(["completed", 2]));
}

#[tokio::test]
async fn what_is_no_completion_fails_the_turn() {
    for body in
        ["{}", "[]", "null", "hello", "<html>", "{\"choices\":[]}", &COMPLETION[..COMPLETION.len() - 9]]
    {
        let (upstream, gateway) = over_chat("").await;
        upstream.always(Script::http(200, body));
        let refused = gateway.client.create(json!({"model": "sim", "input": "a"})).await;
        assert_eq!(refused.refusal(), (502, Some("upstream_failed".to_owned()), None), "{body}");
    }
}

#[tokio::test]
async fn collected_turns_keep_their_connection() {
    for lines in ["api = \"chat\"", "api = \"chat\"\nstream_only = true", "stream_only = true"] {
        let upstream = simulator().await;
        let (url, connections) = counted(&upstream).await;
        let setup = Setup::with_accounts([("one", url.as_str())]).account(0, lines);
        let gateway = setup.start().await;
        for _ in 0..20 {
            gateway.client.created(json!({"model": "sim", "input": "a"})).await;
        }
        // Others may be opened for the list of models.
        let opened = connections.load(Ordering::Relaxed);
        assert!(opened <= 10, "{lines}: {opened}");
    }
}
