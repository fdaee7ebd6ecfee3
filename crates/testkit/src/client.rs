//! A client that shows a test exactly what came over the wire.

use antiphon_protocol::json;
use antiphon_protocol::sse::Decoder;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::eventually::in_time;

/// Talks to one gateway.
#[derive(Debug, Clone)]
pub struct Client {
    http: HyperClient<HttpConnector, Full<Bytes>>,
    base: String,
    /// What every request is authorized with, unless it says so itself.
    secret: Option<HeaderValue>,
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A reply that is read event by event. Dropping it closes the connection.
pub struct Events {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    decoder: Decoder,
    pub raw: Vec<u8>,
    /// Whether the connection ended before the reply did.
    pub is_cut: bool,
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    pub data: Bytes,
    pub raw: Bytes,
}

/// A header for a request.
pub fn header(name: &'static str, value: &str) -> (&'static str, HeaderValue) {
    (name, HeaderValue::from_str(value).expect("a valid header value"))
}

impl Client {
    pub fn new(base: &str) -> Self {
        Self {
            http: HyperClient::builder(TokioExecutor::new()).build_http(),
            base: base.to_owned(),
            secret: None,
        }
    }

    /// The same client, with a secret.
    #[must_use]
    pub fn with_secret(&self, secret: &str) -> Self {
        let value = HeaderValue::from_str(&format!("Bearer {secret}")).expect("a valid header value");
        Self { secret: Some(value), ..self.clone() }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, HeaderValue)],
        body: impl Into<Bytes>,
    ) -> Option<http::Response<Incoming>> {
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().expect("a valid address");
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        if let Some(secret) = &self.secret {
            request.headers_mut().insert("authorization", secret.clone());
        }
        request.headers_mut().extend(
            headers.iter().cloned().map(|(name, value)| (http::HeaderName::from_static(name), value)),
        );
        in_time("a reply", self.http.request(request)).await.ok()
    }

    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, HeaderValue)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.try_request(method, path, headers, body)
            .await
            .expect("the gateway answers, and the reply comes whole")
    }

    /// As [`request`](Self::request), to a gateway that may be gone: `None` if the reply does not come whole.
    pub async fn try_request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, HeaderValue)],
        body: impl Into<Bytes>,
    ) -> Option<Reply> {
        let (head, body) = self.send(method, path, headers, body).await?.into_parts();
        let body = in_time("the whole reply", body.collect()).await.ok()?.to_bytes();
        Some(Reply { status: head.status, headers: head.headers, body })
    }

    /// POST `/v1/responses` with this body.
    pub async fn create(&self, body: impl ToString) -> Reply {
        self.request(Method::POST, "/v1/responses", &[], body.to_string()).await
    }

    /// As [`create`](Self::create), for turns that succeed.
    pub async fn created(&self, body: impl ToString) -> Value {
        self.create(body).await.ok()
    }

    /// POST `/v1/responses`, read event by event.
    pub async fn stream(&self, body: impl ToString) -> Events {
        self.try_stream(body).await.expect("the gateway answers")
    }

    /// As [`stream`](Self::stream), from a gateway that may be gone.
    pub async fn try_stream(&self, body: impl ToString) -> Option<Events> {
        self.try_stream_from("/v1/responses", body).await
    }

    /// As [`stream`](Self::stream), from another path.
    pub async fn stream_from(&self, path: &str, body: impl ToString) -> Events {
        self.try_stream_from(path, body).await.expect("the gateway answers")
    }

    async fn try_stream_from(&self, path: &str, body: impl ToString) -> Option<Events> {
        Some(self.send(Method::POST, path, &[], body.to_string()).await?.into())
    }

    /// GET, read event by event.
    pub async fn follow(&self, path: &str) -> Events {
        self.try_follow(path).await.expect("the gateway answers")
    }

    /// As [`follow`](Self::follow), from a gateway that may be gone.
    pub async fn try_follow(&self, path: &str) -> Option<Events> {
        Some(self.send(Method::GET, path, &[], "").await?.into())
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request(Method::GET, path, &[], "").await
    }

    /// All metrics, as their text.
    pub async fn metrics(&self) -> String {
        String::from_utf8_lossy(&self.get("/metrics").await.body).into_owned()
    }

    /// What one metric counts, by its name with the labels as they are written.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is not in\n{text}"))
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.request(Method::DELETE, path, &[], "").await
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {text}", self.status))
    }

    /// The JSON of a reply that has to be a success.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The id in a reply that has to be a success.
    pub fn ok_id(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", String::from_utf8_lossy(&self.body));
        json::string_member(&self.body, "id").expect("an id").into_owned()
    }

    /// Status, `error.code` and `error.param`; all four keys of the envelope have to be there.
    pub fn refusal(&self) -> (u16, Option<String>, Option<String>) {
        let json = self.json();
        let error = json["error"].as_object().expect("an error envelope");
        for key in ["message", "type", "param", "code"] {
            assert!(error.contains_key(key), "the envelope lacks {key}: {json}");
        }
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        (self.status.as_u16(), text("code"), text("param"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl From<http::Response<Incoming>> for Events {
    fn from(reply: http::Response<Incoming>) -> Self {
        let (head, body) = reply.into_parts();
        let decoder = Decoder::new(1 << 30);
        Self { status: head.status, headers: head.headers, body, decoder, raw: Vec::new(), is_cut: false }
    }
}

impl Events {
    /// The next event, or `None` at the end of the stream, however it came.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("a frame of sane size") {
                let Some(data) = frame.data() else { continue };
                let name = String::from_utf8_lossy(frame.event().unwrap_or_default()).into_owned();
                return Some(Event { name, data: data.into_owned().into(), raw: frame.raw.clone() });
            }
            let Ok(frame) = in_time("an event", self.body.frame()).await? else {
                self.is_cut = true;
                return None;
            };
            let chunk = frame.into_data().unwrap_or_default();
            self.raw.extend_from_slice(&chunk);
            self.decoder.push(chunk);
        }
    }

    /// Reads up to and including the event of this name.
    pub async fn until(&mut self, name: &str) -> Event {
        while let Some(event) = self.next().await {
            if event.name == name {
                return event;
            }
        }
        panic!("the stream ended without {name}: {}", String::from_utf8_lossy(&self.raw));
    }

    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

impl Event {
    /// The id of the response that it carries.
    pub fn response_id(&self) -> String {
        let response = json::member(&self.data, "response").expect("an event with a response");
        json::string_member(response, "id").expect("an id").into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.data).expect("the data of an event is JSON")
    }
}
