//! One turn through one of the doors, as a client sees it.

mod background;
mod socket;
mod stream;

use std::time::Duration;

use antiphon_testkit::Client;
use http::Method;
use serde_json::Value;

use self::socket::Socket;
use self::stream::Stream;
use crate::rig::Targets;

/// No turn takes longer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    Json,
    Sse,
    Socket,
    /// In the background, polled.
    Polled,
    /// In the background, streamed, and read on after each cut.
    ReadOn,
}

/// How a turn ended.
#[derive(Debug)]
pub enum Outcome {
    /// The response of its terminal event, or of its collected reply.
    Acknowledged(Value),
    /// The error's status, where there is one, and code.
    Refused(String),
    /// The connection ended, or there was none.
    Cut,
    /// What must not happen.
    Violation(String),
}

/// A client's connection to one gateway, with a key.
pub struct Connection {
    url: String,
    secret: String,
    http: Client,
    socket: Option<Socket>,
    /// All gateways.
    targets: Targets,
}

impl Door {
    pub const ALL: [Self; 5] = [Self::Json, Self::Sse, Self::Socket, Self::Polled, Self::ReadOn];

    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Sse => "SSE",
            Self::Socket => "WebSocket",
            Self::Polled => "background, polled",
            Self::ReadOn => "background, streamed",
        }
    }
}

impl Connection {
    pub fn new(url: &str, secret: &str, targets: &Targets) -> Self {
        let http = Client::new(url).with_secret(secret);
        let (url, secret, targets) = (url.to_owned(), secret.to_owned(), targets.clone());
        Self { url, secret, http, socket: None, targets }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn turn(&mut self, door: Door, mut body: Value) -> Outcome {
        let turn = async {
            match door {
                Door::Json => self.collected(&body).await,
                Door::Sse => {
                    body["stream"] = Value::Bool(true);
                    self.streamed(&body).await
                }
                Door::Socket => self.over_socket(body).await,
                Door::Polled => {
                    body["background"] = Value::Bool(true);
                    self.polled(&body).await
                }
                Door::ReadOn => {
                    (body["background"], body["stream"]) = (Value::Bool(true), Value::Bool(true));
                    self.read_on(&body).await
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, turn).await;
        waited.unwrap_or_else(|_| Outcome::Violation(format!("a turn had not ended after {PATIENCE:?}")))
    }

    async fn collected(&self, body: &Value) -> Outcome {
        let Some(reply) = self.http.try_request(Method::POST, "/v1/responses", &[], body.to_string()).await
        else {
            return Outcome::Cut;
        };
        let Ok(json) = serde_json::from_slice::<Value>(&reply.body) else {
            return Outcome::Violation(format!("a reply with status {} is not JSON", reply.status));
        };
        match reply.status.as_u16() {
            200 if json["status"] == "completed" => Outcome::Acknowledged(json),
            200 => Outcome::Refused(format!("200 {}", text(&json["status"]))),
            status => refused(status, &json["error"]),
        }
    }

    async fn streamed(&self, body: &Value) -> Outcome {
        let Some(mut events) = self.http.try_stream(body).await else { return Outcome::Cut };
        let status = events.status.as_u16();
        if status != 200 {
            while events.next().await.is_some() {}
            let json: Value = serde_json::from_slice(&events.raw).unwrap_or_default();
            return if events.is_cut { Outcome::Cut } else { refused(status, &json["error"]) };
        }
        let mut stream = Stream::default();
        while let Some(event) = events.next().await {
            // The raw bytes of endless streams are of no interest.
            events.raw.clear();
            let json = serde_json::from_slice::<Value>(&event.data).unwrap_or_default();
            if json["type"] != event.name.as_str() {
                return Outcome::Violation(format!(
                    "an event is named {}, but is a {}",
                    event.name, json["type"]
                ));
            }
            if let Err(violation) = stream.push(json) {
                return Outcome::Violation(violation);
            }
        }
        stream.end(events.is_cut)
    }

    async fn over_socket(&mut self, body: Value) -> Outcome {
        let socket = match self.socket.take() {
            Some(socket) => Ok(socket),
            None => Socket::open(&self.url, &self.secret).await,
        };
        let mut socket = match socket {
            Ok(socket) => socket,
            Err(outcome) => return outcome,
        };
        // A turn that is dropped half-way takes its socket along.
        let outcome = socket.turn(body).await;
        if !matches!(outcome, Outcome::Cut | Outcome::Violation(_)) {
            self.socket = Some(socket);
        }
        outcome
    }
}

fn refused(status: u16, error: &Value) -> Outcome {
    let whole = ["message", "type", "param", "code"].iter().all(|key| error.get(key).is_some());
    if whole {
        Outcome::Refused(format!("{status} {}", text(&error["code"])))
    } else {
        Outcome::Violation(format!("an error with status {status} has no envelope: {error}"))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("null")
}
