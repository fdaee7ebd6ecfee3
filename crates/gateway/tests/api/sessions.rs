//! Sessions that real clients had with another server, recorded and shortened, again with this one: every frame of the client is
//! sent as it was, and what the client relied on has to come.

use std::collections::HashMap;

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Setup, Socket};
use serde_json::Value;

use crate::simulator;

const SESSIONS: &str = include_str!("fixtures/sessions.json");

/// What stands in for the recording's server, and for its ids.
struct Replay {
    upstream: Simulator,
    gateway: Gateway,
    sockets: HashMap<String, (Socket, Vec<Value>)>,
    ids: HashMap<String, String>,
}

impl Replay {
    async fn step(&mut self, event: &Value, later: &[Value]) {
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        if let Some(name) = text("open") {
            let socket = Socket::connect(self.gateway.address(), &text("path").unwrap(), &[]).await.unwrap();
            self.sockets.insert(name, (socket, Vec::new()));
        } else if let Some(name) = text("in") {
            self.expect_call(later);
            let frame = self.with_our_ids(&event["frame"]);
            self.sockets.get_mut(&name).unwrap().0.send(frame).await;
        } else if let Some(name) = text("out") {
            let frame = self.wait_for(&name, event).await;
            if let Some(id) = text("id") {
                self.ids.insert(id, frame["response"]["id"].as_str().unwrap().to_owned());
            }
        } else if let Some(name) = text("close") {
            self.sockets.remove(&name);
        } else if text("http").is_some() {
            self.expect_call(later);
            let reply = self.gateway.client.create(self.with_our_ids(&event["body"])).await.ok();
            let recorded = later.iter().find_map(|event| event["reply"].as_u64().and(event["id"].as_str()));
            self.ids.insert(recorded.unwrap().to_owned(), reply["id"].as_str().unwrap().to_owned());
        }
    }

    /// If the client answers a tool call next, the upstream makes that call.
    fn expect_call(&self, later: &[Value]) {
        let next = later.iter().find_map(|event| event.get("frame"));
        let items = next.and_then(|frame| frame["input"].as_array()).into_iter().flatten();
        let call = items
            .filter(|item| item["type"] == "function_call_output")
            .find_map(|item| item["call_id"].as_str());
        if let Some(call_id) = call {
            self.upstream.script(Script::new().tool_call_as(call_id, "exec_command", "{}"));
        }
    }

    fn with_our_ids(&self, frame: &Value) -> Value {
        let mut frame = frame.clone();
        if let Some(id) = frame["previous_response_id"].as_str() {
            frame["previous_response_id"] = self.ids.get(id).map_or(id, String::as_str).into();
        }
        frame
    }

    /// The frame that the recording has here; those of other lanes may come before it.
    async fn wait_for(&mut self, name: &str, recorded: &Value) -> Value {
        let (socket, early) = self.sockets.get_mut(name).unwrap();
        let is_it = |frame: &Value| {
            frame["type"] == recorded["type"] && frame.get("stream_id") == recorded.get("stream_id")
        };
        let frame = match early.iter().position(is_it) {
            Some(place) => early.remove(place),
            None => loop {
                let frame = socket.frame().await;
                if is_it(&frame) {
                    break frame;
                }
                assert_ne!(frame["type"], "error", "{frame}");
                early.push(frame);
            },
        };
        assert_eq!(frame["status"], recorded["status"], "{frame}");
        assert_eq!(frame["error"]["code"], recorded["code"], "{frame}");
        frame
    }
}

#[tokio::test]
async fn recorded_sessions_work_frame_by_frame() {
    let sessions: HashMap<String, Vec<Value>> = serde_json::from_str(SESSIONS).unwrap();
    assert!(sessions.len() >= 10);
    for (name, session) in sessions {
        println!("{name}");
        let upstream = simulator().await;
        let gateway = Setup::over(&upstream).account(0, "models = [\"*\"]").start().await;
        let mut replay = Replay { upstream, gateway, sockets: HashMap::new(), ids: HashMap::new() };
        for (place, event) in session.iter().enumerate() {
            replay.step(event, &session[place + 1..]).await;
        }
        replay.gateway.idle().await;
    }
}
