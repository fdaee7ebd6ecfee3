//! Upstreams that run background responses themselves, and answer requests about them badly or not at all.

use std::sync::{Arc, Mutex};

use antiphon_testkit::{Event, Gateway, Setup, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::background::{body, ended, queue};

/// How an upstream answers a request.
#[derive(Debug, Clone)]
enum Answer {
    Json(u16, Value),
    /// Events, and then the end of the stream.
    Events(Vec<Value>),
    /// Events, and then nothing more.
    Stalled(Vec<Value>),
    Never,
}

/// Answers a request by its method, its path and how many of the same came before.
type Answers = fn(&str, &str, usize) -> Answer;

/// An upstream that answers as a test wants it.
struct Upstream {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answers, Arc::clone(&seen)));
            }
        });
        Self { url, requests }
    }

    fn count(&self, request: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|seen| *seen == request).count()
    }
}

async fn serve(mut stream: TcpStream, answers: Answers, seen: Arc<Mutex<Vec<String>>>) {
    let Some(request) = read_request(&mut stream).await else { return };
    let (method, path) = request.split_once(' ').unwrap();
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.iter().filter(|earlier| **earlier == request).count() - 1
    };
    let answer = answers(method, path, before);
    let stalls = matches!(answer, Answer::Stalled(_));
    let (status, kind, body) = match answer {
        Answer::Json(status, body) => (status, "application/json", body.to_string()),
        Answer::Events(events) | Answer::Stalled(events) => {
            let events = events.iter().map(|event| format!("data: {event}\n\n"));
            (200, "text/event-stream", events.collect())
        }
        Answer::Never => return std::future::pending().await,
    };
    let reply = format!("HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(reply.as_bytes()).await.ok();
    if stalls {
        std::future::pending::<()>().await;
    }
}

/// Reads a request. Yields its method and its path.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.ok().filter(|count| *count > 0)?;
        read.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some(head.lines().next()?.strip_suffix(" http/1.1")?.to_owned());
        }
    }
}

const CREATE: &str = "post /v1/responses";
const POLL: &str = "get /v1/responses/resp_up";
const CANCEL: &str = "post /v1/responses/resp_up/cancel";

fn response(status: &str) -> Value {
    let content = json!([{"type": "output_text", "text": "the answer", "annotations": []}]);
    let message = json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content});
    let output = if status == "completed" { json!([message]) } else { json!([]) };
    json!({"id": "resp_up", "object": "response", "status": status, "background": true, "output": output})
}

fn event(number: u64) -> Value {
    match number {
        0 => json!({"type": "response.created", "sequence_number": 0, "response": response("queued")}),
        1 => {
            json!({"type": "response.in_progress", "sequence_number": 1, "response": response("in_progress")})
        }
        4 => json!({"type": "response.completed", "sequence_number": 4, "response": response("completed")}),
        _ => {
            json!({"type": "response.output_text.delta", "sequence_number": number, "delta": number.to_string()})
        }
    }
}

fn events(numbers: impl IntoIterator<Item = u64>) -> Answer {
    Answer::Events(numbers.into_iter().map(event).collect())
}

fn unavailable() -> Answer {
    Answer::Json(502, json!({"error": {"message": "m", "type": "server_error", "code": null, "param": null}}))
}

async fn native(answers: Answers, config: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start(answers).await;
    let setup = Setup::with_accounts([("one", upstream.url.as_str()), ("two", upstream.url.as_str())]);
    let setup = setup.account(0, "background = \"native\"").account(1, "background = \"native\"");
    (upstream, setup.config(config).start().await)
}

/// Runs a turn to its end. Yields its response and, if it is streamed, its events.
async fn run(gateway: &Gateway, is_streamed: bool) -> (Value, Vec<Event>) {
    let (id, events) = match is_streamed {
        false => (queue(gateway, &body("x")).await, Vec::new()),
        true => {
            let mut request = body("x");
            request["stream"] = json!(true);
            let events = gateway.client.stream(request).await.rest().await;
            (events[0].response_id(), events)
        }
    };
    (ended(&gateway.client, &id).await, events)
}

fn text(response: &Value) -> &Value {
    &response["output"][0]["content"][0]["text"]
}

#[tokio::test]
async fn a_turn_that_cannot_be_read_on_fails_at_its_time_limit() {
    let never: Answers = |method, path, _| match (method, path) {
        ("post", "/v1/responses") => events(0..2),
        ("post", _) => Answer::Json(200, response("cancelled")),
        _ => Answer::Never,
    };
    let only_polled: Answers = |method, path, _| match (method, path) {
        ("post", "/v1/responses") => Answer::Json(200, response("queued")),
        ("post", _) => Answer::Json(200, response("cancelled")),
        _ => Answer::Never,
    };
    let cases = [(never, false), (never, true), (only_polled, false), (only_polled, true)];
    let fails = async |(answers, is_streamed)| {
        let (upstream, gateway) = native(answers, "background.max_duration = \"6s\"").await;
        let (failed, _) = run(&gateway, is_streamed).await;
        assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("server_error")));
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(message.contains("the turn exceeded its time limit"), "{message}");
        eventually("it is cancelled", async || upstream.count(CANCEL) == 1).await;
        assert_eq!(upstream.count(CREATE), 1, "nothing is paid twice");
    };
    join_all(cases.map(fails)).await;
}

#[tokio::test]
async fn a_turn_that_is_accepted_without_a_stream_is_polled_to_its_end() {
    let answers: Answers = |method, path, before| match (method, path, before) {
        ("post", "/v1/responses", _) => Answer::Json(200, response("queued")),
        ("get", "/v1/responses/resp_up", 0) => Answer::Json(200, response("in_progress")),
        ("get", "/v1/responses/resp_up", _) => Answer::Json(200, response("completed")),
        _ => Answer::Never,
    };
    for is_streamed in [false, true] {
        let (upstream, gateway) = native(answers, "").await;
        let (completed, events) = run(&gateway, is_streamed).await;
        assert_eq!((&completed["status"], text(&completed)), (&json!("completed"), &json!("the answer")));
        assert_eq!((upstream.count(CREATE), upstream.count(POLL), upstream.count(CANCEL)), (1, 2, 0));
        assert_eq!(events.last().map(|event| &*event.name), is_streamed.then_some("response.completed"));
    }
}

#[tokio::test]
async fn a_turn_that_is_answered_whole_ends_with_that() {
    let answers: Answers = |_, _, _| Answer::Json(200, response("completed"));
    for is_streamed in [false, true] {
        let (upstream, gateway) = native(answers, "").await;
        let (completed, _) = run(&gateway, is_streamed).await;
        assert_eq!((&completed["status"], text(&completed)), (&json!("completed"), &json!("the answer")));
        assert_eq!((upstream.count(CREATE), upstream.count(POLL)), (1, 0));
    }
}

#[tokio::test]
async fn an_upstream_that_is_unavailable_for_a_while_is_asked_again() {
    let answers: Answers = |method, path, before| match (method, path) {
        ("post", "/v1/responses") => events(0..2),
        ("get", _) if before < 5 => unavailable(),
        ("get", _) => events(2..5),
        _ => Answer::Never,
    };
    let check = async |is_streamed| {
        let (upstream, gateway) = native(answers, "").await;
        let (completed, _) = run(&gateway, is_streamed).await;
        assert_eq!((&completed["status"], text(&completed)), (&json!("completed"), &json!("the answer")));
        assert_eq!((upstream.count(CREATE), upstream.count(CANCEL)), (1, 0));
    };
    tokio::join!(check(false), check(true));
}

#[tokio::test]
async fn an_upstream_that_does_not_stream_the_rest_is_polled() {
    let json: Answers = |method, path, _| match (method, path) {
        ("post", "/v1/responses") => events(0..2),
        ("get", _) => Answer::Json(200, response("completed")),
        _ => Answer::Never,
    };
    let empty: Answers = |method, path, _| match (method, path) {
        ("post", "/v1/responses") => events(0..2),
        ("get", "/v1/responses/resp_up") => Answer::Json(200, response("completed")),
        ("get", _) => events(0..0),
        _ => Answer::Never,
    };
    for (answers, is_streamed) in [(json, false), (json, true), (empty, false), (empty, true)] {
        let (upstream, gateway) = native(answers, "").await;
        let (completed, _) = run(&gateway, is_streamed).await;
        assert_eq!((&completed["status"], text(&completed)), (&json!("completed"), &json!("the answer")));
        assert_eq!((upstream.count(CREATE), upstream.count(CANCEL)), (1, 0));
    }
}

#[tokio::test]
async fn a_turn_whose_events_stop_is_read_on_and_not_run_again() {
    let answers: Answers = |method, path, _| match (method, path) {
        ("post", "/v1/responses") => Answer::Stalled((0..2).map(event).collect()),
        ("get", _) => events(2..5),
        _ => Answer::Never,
    };
    for is_streamed in [false, true] {
        let (upstream, gateway) = native(answers, "timeouts.idle = \"1s\"").await;
        let (completed, _) = run(&gateway, is_streamed).await;
        assert_eq!((&completed["status"], text(&completed)), (&json!("completed"), &json!("the answer")));
        assert_eq!((upstream.count(CREATE), upstream.count(CANCEL)), (1, 0));
    }
}

#[tokio::test]
async fn events_that_the_upstream_sends_again_are_not_repeated() {
    let answers: Answers = |method, path, _| match (method, path) {
        ("post", "/v1/responses") => events(0..3),
        ("get", _) => events(0..5),
        _ => Answer::Never,
    };
    let (_upstream, gateway) = native(answers, "").await;
    let (completed, events) = run(&gateway, true).await;
    let numbers: Vec<_> =
        events.iter().map(|event| event.json()["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    let deltas: Vec<_> =
        events.iter().filter_map(|event| event.json()["delta"].as_str().map(str::to_owned)).collect();
    assert_eq!(deltas, ["2", "3"]);
    assert_eq!(text(&completed), "the answer");
}
