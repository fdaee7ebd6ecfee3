//! A small client, and a reader of event streams.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than anything in these tests takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The pieces as received.
    pub(crate) pieces: Vec<Bytes>,
    /// Whether the body is complete.
    pub(crate) whole: bool,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.pieces.concat()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Event names and data, parsed according to the standard.
    pub(crate) fn events(&self) -> Vec<(String, Value)> {
        let text = self.text().replace("\r\n", "\n");
        let whole = text.split_inclusive("\n\n").filter(|frame| frame.ends_with("\n\n"));
        whole.filter_map(frame).collect()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        self.events().into_iter().map(|(kind, _)| kind).collect()
    }

    pub(crate) fn last_event(&self) -> Value {
        self.events().pop().unwrap().1
    }

    /// The text of all output messages of a collected reply.
    pub(crate) fn output_text(&self) -> String {
        let reply = self.json();
        let items = reply["output"].as_array().unwrap().iter();
        items.filter_map(|item| item["content"][0]["text"].as_str()).collect()
    }

    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: Option<&str>, param: Option<&str>, message: &str) {
        assert_eq!(self.status, status, "{}", self.text());
        let error = &self.json()["error"];
        assert_eq!(error["code"].as_str(), code);
        assert_eq!(error["param"].as_str(), param);
        assert_eq!(error["message"], message);
        assert_eq!(error.as_object().unwrap().len(), 4);
    }
}

fn frame(text: &str) -> Option<(String, Value)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("event:")?.to_owned(), serde_json::from_str(field("data:")?).unwrap()))
}

pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

pub(crate) async fn simulator(options: Options) -> Simulator {
    Simulator::bind(options).await.unwrap()
}

/// A default simulator with one script queued.
pub(crate) async fn scripted(script: Script) -> Simulator {
    let simulator = simulator(Options::default()).await;
    simulator.script(script);
    simulator
}

pub(crate) fn ask(input: impl Into<Value>) -> Value {
    json!({"model": "sim", "store": false, "input": input.into()})
}

pub(crate) fn ask_stream(input: impl Into<Value>) -> Value {
    json!({"model": "sim", "store": false, "stream": true, "input": input.into()})
}

pub(crate) fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

/// The reply once its headers have arrived; `None` if the connection ends before.
pub(crate) async fn open(url: &str, body: impl Into<Bytes>) -> Option<http::Response<Incoming>> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{url}/responses"))
        .header("content-type", "application/json")
        .header("authorization", "Bearer sk-right")
        .body(Full::new(body.into()))
        .unwrap();
    tokio::time::timeout(PATIENCE, client().request(request)).await.expect("headers in time").ok()
}

pub(crate) async fn read(response: http::Response<Incoming>) -> Reply {
    let (parts, mut body) = response.into_parts();
    let mut reply = Reply { status: parts.status, headers: parts.headers, pieces: Vec::new(), whole: true };
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.expect("a frame in time") {
        match frame {
            Ok(frame) => reply.pieces.extend(frame.into_data()),
            Err(_) => reply.whole = false,
        }
    }
    reply
}

pub(crate) async fn post_bytes(simulator: &Simulator, body: impl Into<Bytes>) -> Reply {
    read(open(&simulator.url(), body).await.expect("a reply")).await
}

pub(crate) async fn post(simulator: &Simulator, body: &Value) -> Reply {
    post_bytes(simulator, body.to_string()).await
}

/// POST to an endpoint below `…/responses`.
pub(crate) async fn post_below(simulator: &Simulator, endpoint: &str, body: &Value) -> Reply {
    post_to(simulator, &format!("/responses/{endpoint}"), body).await
}

/// POST to a path below the base URL.
pub(crate) async fn post_to(simulator: &Simulator, path: &str, body: &Value) -> Reply {
    let uri = format!("{}{path}", simulator.url());
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.body(Full::from(body.to_string())).unwrap();
    read(client().request(request).await.unwrap()).await
}

pub(crate) async fn get(url: String) -> Reply {
    let request = Request::builder().uri(url).body(Full::default()).unwrap();
    read(client().request(request).await.unwrap()).await
}

/// Fails after a timeout instead of hanging.
pub(crate) async fn soon<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes in time")
}
