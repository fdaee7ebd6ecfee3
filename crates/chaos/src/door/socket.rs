//! The WebSocket door.

use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::stream::Stream;
use super::{Outcome, refused};

pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Opens a socket, or says how that ended.
    pub async fn open(url: &str, secret: &str) -> Result<Self, Outcome> {
        let address = url.trim_start_matches("http://");
        let stream = TcpStream::connect(address).await.map_err(|_| Outcome::Cut)?;
        let request = format!("ws://{address}/v1/responses").into_client_request();
        let mut request = request.map_err(|error| Outcome::Violation(error.to_string()))?;
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {secret}")) {
            request.headers_mut().insert("authorization", value);
        }
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((stream, _)) => Ok(Self(stream)),
            Err(Error::Http(reply)) => {
                let json = reply.body().as_deref().and_then(|body| serde_json::from_slice(body).ok());
                Err(refused(reply.status().as_u16(), &json.unwrap_or(Value::Null)["error"]))
            }
            Err(_) => Err(Outcome::Cut),
        }
    }

    pub async fn turn(&mut self, mut body: Value) -> Outcome {
        body["type"] = Value::from("response.create");
        if self.0.send(Message::text(body.to_string())).await.is_err() {
            return Outcome::Cut;
        }
        let mut stream = Stream::default();
        while !stream.is_over() {
            let frame = match self.0.next().await {
                Some(Ok(Message::Text(frame))) => frame,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Binary(_))) => return Outcome::Violation("a binary frame came".to_owned()),
                _ => return Outcome::Cut,
            };
            let event: Value = serde_json::from_str(&frame).unwrap_or_default();
            if let (Some(status), true) = (event["status"].as_u64(), event["type"] == "error") {
                return refused(u16::try_from(status).unwrap_or_default(), &event["error"]);
            }
            if let Err(violation) = stream.push(event) {
                return Outcome::Violation(violation);
            }
        }
        stream.end(false)
    }
}
