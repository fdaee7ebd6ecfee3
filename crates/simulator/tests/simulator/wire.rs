//! A small WebSocket client.

use crate::support::soon;
use antiphon_simulator::upstream::Simulator;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

pub(crate) struct Wire {
    stream: WebSocketStream<TcpStream>,
    pub(crate) handshake: http::Response<Option<Vec<u8>>>,
}

/// What the simulator sends.
#[derive(Debug)]
pub(crate) enum Came {
    Event(Value),
    /// A close frame with this code.
    Close(Option<u16>),
    /// The end of TCP, or its reset.
    End {
        reset: bool,
    },
}

pub(crate) async fn shake(simulator: &Simulator, headers: &[(&str, &str)]) -> Result<Wire, Error> {
    let mut request =
        format!("{}/responses", simulator.url().replacen("http", "ws", 1)).into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    let tcp = TcpStream::connect(simulator.address()).await?;
    tcp.set_nodelay(true)?;
    let (stream, handshake) = soon(client_async(request, tcp)).await?;
    Ok(Wire { stream, handshake })
}

pub(crate) async fn connect(simulator: &Simulator) -> Wire {
    shake(simulator, &[]).await.expect("an open socket")
}

/// The reply to a refused handshake.
pub(crate) async fn refused(
    simulator: &Simulator,
    headers: &[(&str, &str)],
) -> http::Response<Option<Vec<u8>>> {
    match shake(simulator, headers).await {
        Err(Error::Http(response)) => *response,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the handshake was accepted"),
    }
}

/// A turn that is not stored.
pub(crate) fn create(input: impl Into<Value>) -> Value {
    json!({"type": "response.create", "model": "sim", "store": false, "input": input.into()})
}

/// Adds a member to a message.
pub(crate) fn with(mut frame: Value, name: &str, value: impl Into<Value>) -> Value {
    frame[name] = value.into();
    frame
}

pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// The text of the message of a completed turn.
pub(crate) fn text(events: &[Value]) -> &str {
    let response = &events.last().unwrap()["response"];
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

#[track_caller]
pub(crate) fn assert_error(event: &Value, status: u16, code: &str, param: Option<&str>) {
    assert_eq!(event["type"], "error", "{event}");
    assert_eq!(event["status"], status, "{event}");
    assert_eq!(event["error"]["code"], code, "{event}");
    assert_eq!(event["error"]["param"].as_str(), param, "{event}");
    assert_eq!(event["error"].as_object().unwrap().len(), 4);
}

impl Wire {
    pub(crate) async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        soon(self.stream.send(Message::text(text))).await.unwrap();
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        soon(self.stream.send(message)).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Came {
        loop {
            match soon(self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return Came::Event(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    // Sends the answer to it.
                    drop(soon(self.stream.flush()).await);
                    return Came::Close(frame.map(|frame| frame.code.into()));
                }
                Some(Ok(_)) => (),
                Some(Err(Error::Io(error))) => {
                    return Came::End { reset: error.kind() == std::io::ErrorKind::ConnectionReset };
                }
                Some(Err(_)) | None => return Came::End { reset: false },
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Value {
        match self.next().await {
            Came::Event(event) => event,
            other => panic!("no event but {other:?}"),
        }
    }

    /// All events up to the end of a turn.
    pub(crate) async fn events(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            let kind = event["type"].as_str().unwrap().to_owned();
            events.push(event);
            let last = ["error", "response.completed", "response.failed", "response.incomplete"];
            if last.contains(&kind.as_str()) {
                return events;
            }
        }
    }

    /// The lane whose turn is completed next.
    pub(crate) async fn ended_lane(&mut self) -> Option<String> {
        loop {
            let event = self.event().await;
            if event["type"] == "response.completed" {
                return event["stream_id"].as_str().map(str::to_owned);
            }
        }
    }

    pub(crate) async fn turn(&mut self, frame: &Value) -> Vec<Value> {
        self.send(frame).await;
        self.events().await
    }

    /// The number of events before the end, and the end.
    pub(crate) async fn rest(&mut self) -> (usize, Came) {
        let mut count = 0;
        loop {
            match self.next().await {
                Came::Event(_) => count += 1,
                end => return (count, end),
            }
        }
    }

    /// All bytes until TCP ends.
    pub(crate) async fn raw_rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        drop(soon(self.stream.get_mut().read_to_end(&mut bytes)).await);
        bytes
    }

    pub(crate) async fn close(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        soon(self.stream.close(Some(frame))).await.unwrap();
        while let Some(Ok(_)) = soon(self.stream.next()).await {}
    }

    pub(crate) async fn ping(&mut self) {
        self.send_message(Message::Ping(Bytes::from_static(b"x"))).await;
        while !matches!(soon(self.stream.next()).await, Some(Ok(Message::Pong(_)))) {}
    }
}
