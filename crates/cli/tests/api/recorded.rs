//! Recorded sessions of real clients on sockets, frame by frame; long texts and tools are shortened.

use std::collections::HashMap;

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Setup, Socket};
use serde::Deserialize;
use serde_json::Value;

use crate::simulator;

#[derive(Deserialize)]
struct Session {
    name: String,
    steps: Vec<Step>,
}

/// A frame of the client, and the reply to it.
#[derive(Deserialize)]
struct Step {
    /// The session's socket that it came on.
    socket: usize,
    frame: Value,
    /// The recorded response.
    id: Option<String>,
    /// The first and the last event.
    events: Vec<String>,
    /// The model's text.
    items: Vec<Value>,
    /// The code of the error, if there was one instead.
    error: Option<String>,
}

fn sessions() -> Vec<Session> {
    serde_json::from_str(include_str!("recorded/sessions.json")).unwrap()
}

/// Encrypted content that this upstream can read, instead of the recorded one.
fn readable(value: &Value, upstream: &Simulator) -> Value {
    match value {
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| match name.as_str() {
                "encrypted_content" if value.is_string() => {
                    (name.clone(), upstream.encrypted_content().into())
                }
                _ => (name.clone(), readable(value, upstream)),
            };
            Value::Object(members.iter().map(member).collect())
        }
        Value::Array(values) => values.iter().map(|value| readable(value, upstream)).collect(),
        other => other.clone(),
    }
}

async fn replay(session: &Session, upstream: &Simulator, gateway: &Gateway) {
    let mut sockets: Vec<Socket> = Vec::new();
    let mut ids: HashMap<String, String> = HashMap::new();
    for (place, step) in session.steps.iter().enumerate() {
        let at = format!("{} at {place}", session.name);
        while sockets.len() <= step.socket {
            sockets.push(Socket::connect(gateway.address(), "/v1/responses", &[]).await.unwrap());
        }
        let mut frame = readable(&step.frame, upstream);
        if let Some(ours) = frame["previous_response_id"].as_str().and_then(|id| ids.get(id)) {
            frame["previous_response_id"] = Value::from(ours.clone());
        }
        if step.error.is_none() && frame["generate"] != false {
            let said = step.items.iter().map(|item| readable(item, upstream).to_string());
            upstream.script(said.fold(Script::new(), Script::item));
        }
        sockets[step.socket].send(&frame).await;
        let events = sockets[step.socket].turn().await;
        let (first, last) = (&events[0], events.last().unwrap());
        assert_eq!([first["type"].as_str(), last["type"].as_str()], ends(&step.events), "{at}: {last}");
        assert_eq!(last["error"]["code"].as_str(), step.error.as_deref(), "{at}: {last}");
        assert!(events.iter().all(|event| event["stream_id"] == frame["stream_id"]), "{at}");
        if let Some(id) = &step.id {
            let response = &last["response"];
            assert_eq!(response["previous_response_id"], frame["previous_response_id"], "{at}");
            assert_eq!(response["output"].as_array().unwrap().len(), step.items.len(), "{at}");
            ids.insert(id.clone(), response["id"].as_str().unwrap().to_owned());
        }
    }
}

fn ends(events: &[String]) -> [Option<&str>; 2] {
    [events.first().map(String::as_str), events.last().map(String::as_str)]
}

#[tokio::test]
async fn recorded_sessions_replay_identically_over_both_kinds_of_upstream() {
    for transport in ["http", "websocket"] {
        for session in sessions() {
            let upstream = simulator().await;
            let account = format!("transport = \"{transport}\"");
            let gateway = Setup::over(&upstream).account(0, &account).start().await;
            replay(&session, &upstream, &gateway).await;
            gateway.idle().await;
            let turns =
                session.steps.iter().filter(|step| step.error.is_none() && step.frame["generate"] != false);
            let asked = upstream.requests();
            assert_eq!(asked.len(), turns.count(), "{}: one request a turn", session.name);
            assert!(asked.iter().all(|request| request.socket.is_some() == (transport == "websocket")));
        }
    }
}
