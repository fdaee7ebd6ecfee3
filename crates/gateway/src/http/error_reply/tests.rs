//! Every failure is compared with the contract's table of errors, and rendered.

use std::time::Duration;

use antiphon_access::limits::{Exceeded, Owner, Rate, Rules};
use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_protocol::request::{CreateRequest, Operation};
use antiphon_store::{Count, Status, Timestamp};
use http_body_util::BodyExt;
use serde_json::{Value, json};

mod operations;
mod reference;

use self::operations::{failures_of_operations, line_of_operation};
use super::*;
use crate::body_memory::NoMemory;
use crate::conversations::NoRoom;

const CONVERSATION_NOT_FOUND: &str = "404 | client | null | null | Conversation with id 'X' not found.";
const CONVERSATION_LOCKED: &str = "400 | client | conversation_locked | conversation | \
     Another process is currently operating on this conversation. Please retry in a few seconds.";
const REST: Duration = Duration::from_millis(1_001);

/// A limit that resets in two seconds.
fn limit_reached(limits: &Value) -> Failure {
    let rules = Rules::parse(limits).unwrap();
    let rule = rules.for_model("m").next().unwrap().clone();
    Failure::LimitReached(Box::new(Exceeded {
        owner: Owner::Key,
        rule,
        count: Count::default(),
        amount: 1,
        reset: Some((Timestamp::from_unix_ms(0), REST)),
        rates: Rates::default(),
    }))
}

fn upstream_error(status: StatusCode) -> Failure {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
    let body = Bytes::from_static(br#"{"error":{"message":"m","odd":1}}"#);
    Failure::UpstreamError(Box::new(UpstreamErrorReply { status, headers, body }))
}

fn unsupported_tool() -> ApiError {
    ApiError {
        kind: ErrorKind::InvalidRequest,
        code: Some("unsupported_parameter".into()),
        param: Some("tools[0]".into()),
        message: "No such tool.".to_owned(),
    }
}

fn failures_of_turns() -> Vec<Failure> {
    let id = || "X".to_owned();
    vec![
        Failure::AllBusy,
        Failure::NoConnections,
        Failure::Overloaded(NoMemory::Pool),
        Failure::InputTooLarge { limit: 1, size: 2 },
        limit_reached(&json!({"requests_per_minute": 1})),
        limit_reached(&json!({"budgets": [{"tokens": 1, "window": "month"}]})),
        Failure::AllCoolingDown(REST),
        Failure::AllFailing(REST),
        Failure::PreviousNotFound(id()),
        Failure::PreviousNotCompleted(id()),
        Failure::QueueFull,
        Failure::ContextTooLarge { what: "turns", limit: 1, size: 2 },
        Failure::ConversationNotFound(id()),
        Failure::ConversationLocked,
        Failure::ConversationTooLarge { limit: 1, size: 2 },
        Failure::NoRoom(NoRoom::Items { items: 2, limit: 1 }),
        Failure::NoRoom(NoRoom::Bytes { bytes: 2, limit: 1 }),
        Failure::NoRoom(NoRoom::Project { bytes: 2, limit: 1 }),
        Failure::ModelNotAllowed(id()),
        Failure::ItemNotFound(id()),
        Failure::ModelNotFound { model: id(), near: String::new() },
        Failure::EndpointMissing { path: "/embeddings", model: id() },
        Failure::NoAccount,
        Failure::CredentialsRefused,
        Failure::Unsupported(Box::new(unsupported_tool())),
        upstream_error(StatusCode::IM_A_TEAPOT),
        upstream_error(StatusCode::PAYMENT_REQUIRED),
        upstream_error(StatusCode::BAD_GATEWAY),
        Failure::UpstreamUnreachable("no connection".into()),
        Failure::UpstreamFailed("status 500".into()),
        Failure::UpstreamTimeout("no connection in time"),
        Failure::StreamInterrupted("it ended".to_owned()),
        Failure::Stopped,
        Failure::StoreUnavailable,
        Failure::StoreDamaged,
        Failure::Internal,
        Failure::ClientGone,
    ]
}

const STORE_UNAVAILABLE: &str =
    "503 | store | store_unavailable | null | The response store is unavailable. Please retry in a moment.";
const STORE_DAMAGED: &str = "500 | store | store_damaged | null | A stored response that this request needs is damaged. The gateway's log names it.";
const INTERNAL: &str =
    "500 | gateway | internal_error | null | Internal error. The gateway's log has the cause.";
const QUEUE_FULL: &str = "429 | limits | rate_limit_exceeded | null | Too many background responses are queued. Please retry in 10 s.";

fn line_of_room(no_room: NoRoom) -> &'static str {
    match no_room {
        NoRoom::Items { .. } => {
            "400 | limits | conversation_too_large | conversation | The conversation would have 2 items, the limit is 1. \
             Delete items, or continue in another conversation."
        }
        NoRoom::Bytes { .. } => {
            "400 | limits | conversation_too_large | conversation | The conversation would take 2 bytes, the limit is 1. \
             Continue in another conversation."
        }
        NoRoom::Project { .. } => {
            "400 | limits | conversation_storage_exceeded | conversation | The conversations of this project would take 2 bytes, \
             the limit is 1. Delete conversations that are not needed any more."
        }
    }
}

/// Status, fault, code, param and message. A new failure needs its line here.
#[expect(clippy::too_many_lines, reason = "a table with a row for each failure")]
fn line_of_turn(failure: &Failure) -> &'static str {
    match failure {
        Failure::PreviousNotFound(_) => {
            "400 | client | previous_response_not_found | previous_response_id | Previous response with id 'X' not found."
        }
        Failure::PreviousNotCompleted(_) => {
            "409 | client | previous_response_not_completed | previous_response_id | \
             Previous response with id 'X' is still in progress. Wait for it to complete."
        }
        Failure::QueueFull => QUEUE_FULL,
        Failure::ContextTooLarge { .. } => {
            "400 | client | context_too_large | previous_response_id | \
             Continuing the previous response would make the chain too large: 2 turns, the limit is 1."
        }
        Failure::ConversationNotFound(_) => CONVERSATION_NOT_FOUND,
        Failure::ConversationLocked => CONVERSATION_LOCKED,
        Failure::ConversationTooLarge { .. } => {
            "400 | client | context_too_large | conversation | The history of the conversation is too large: 2 bytes, the limit \
             is 1. Delete items, or continue in another conversation."
        }
        Failure::NoRoom(no_room) => line_of_room(*no_room),
        Failure::ItemNotFound(_) => "404 | client | null | input | Item with id 'X' not found.",
        Failure::ModelNotAllowed(_) => {
            "403 | client | model_not_allowed | model | This API key may not use the model 'X'."
        }
        Failure::ModelNotFound { .. } => {
            "404 | client | model_not_found | model | The model 'X' does not exist or you do not have access to it."
        }
        Failure::LimitReached(exceeded) if exceeded.rule.is_budget() => {
            "429 | limits | insufficient_quota | null | This API key is limited to 1 tokens per month: 0 used, 0 reserved by \
             running requests, and this request may need 1. The limit resets in 2 s, at 1970-01-01T00:00:00Z."
        }
        Failure::LimitReached(_) => {
            "429 | limits | rate_limit_exceeded | null | This API key is limited to 1 requests per minute: 0 used, 0 reserved \
             by running requests, and this request may need 1. The limit resets in 2 s, at 1970-01-01T00:00:00Z."
        }
        Failure::AllCoolingDown(_) => {
            "429 | upstream | rate_limit_exceeded | null | All upstream accounts are rate limited or failing. Please retry in 2 s."
        }
        Failure::AllFailing(_) => {
            "503 | upstream | no_account_available | null | All upstream accounts are failing. Please retry in 2 s."
        }
        Failure::Unsupported(_) => "400 | client | unsupported_parameter | tools[0] | No such tool.",
        Failure::EndpointMissing { .. } => {
            "404 | client | endpoint_not_available | null | No upstream account has '/embeddings' for the model 'X'."
        }
        Failure::CredentialsRefused => {
            "503 | upstream | no_account_available | null | The upstream refused the credentials of every account that could serve this request. This is for the gateway's operator to correct: the client's key is valid."
        }
        Failure::NoAccount => {
            "503 | upstream | no_account_available | null | No upstream account can serve this request."
        }
        Failure::Overloaded(_) => {
            "503 | gateway | server_is_overloaded | null | The gateway has no memory left for request and reply bodies. Please retry in a moment."
        }
        Failure::InputTooLarge { .. } => {
            "400 | client | context_too_large | input | The items that the input references are too large: at least 2 bytes, the limit is 1."
        }
        Failure::AllBusy => {
            "503 | gateway | server_is_overloaded | null | All upstream accounts are busy. Please retry in a moment."
        }
        Failure::NoConnections => {
            "503 | gateway | server_is_overloaded | null | The gateway can open no more connections. Please retry in a moment."
        }
        Failure::UpstreamError(reply) => match reply.status.as_u16() {
            402 => "402 | upstream | upstream_error | null | The upstream replied with status 402.",
            418 => "418 | client | upstream_error | null | The upstream replied with status 418.",
            _ => "502 | upstream | upstream_error | null | The upstream replied with status 502.",
        },
        Failure::UpstreamUnreachable(_) => {
            "502 | upstream | upstream_unreachable | null | The upstream can't be reached: no connection."
        }
        Failure::UpstreamFailed(_) => {
            "502 | upstream | upstream_failed | null | The upstream failed: status 500."
        }
        Failure::UpstreamTimeout(_) => {
            "504 | upstream | upstream_timeout | null | The upstream timed out: no connection in time."
        }
        Failure::StreamInterrupted(_) => {
            "502 | upstream | server_error | null | The upstream's stream was interrupted: it ended."
        }
        Failure::Stopped => {
            "503 | gateway | server_error | null | The gateway stopped before the response was complete. Please retry."
        }
        Failure::StoreUnavailable => STORE_UNAVAILABLE,
        Failure::StoreDamaged => STORE_DAMAGED,
        Failure::Internal => INTERNAL,
        Failure::ClientGone => "500 | client | internal_error | null | The client is gone.",
    }
}

fn failures_of_requests() -> Vec<RequestError> {
    let parse = |body: &'static str| {
        CreateRequest::parse(Operation::Create, Bytes::from_static(body.as_bytes())).unwrap_err().into()
    };
    let id = || "X".to_owned();
    vec![
        parse("[]"),
        RequestError::BodyTooLarge { max_bytes: 1 },
        RequestError::BodyUnreadable("why".to_owned()),
        RequestError::BodyTimeout {
            received_bytes: 16_384,
            waited: Duration::from_secs(31),
            limit: Duration::from_secs(30),
        },
        RequestError::UnsupportedEncoding("br".to_owned()),
        RequestError::Overloaded(NoMemory::Pool),
        RequestError::Overloaded(NoMemory::Share("project")),
        RequestError::InvalidKey,
        RequestError::MemoryShort,
        RequestError::BadHost,
        RequestError::HttpsRequired,
        RequestError::HostNotAllowed(id()),
        RequestError::CrossSite,
        RequestError::CrossSiteForm,
        RequestError::TooManyAttempts(REST),
        RequestError::InvalidQuery { param: "limit", message: "Invalid 'limit'.".to_owned() },
        RequestError::ResponseNotFound(id()),
        RequestError::ConversationNotFound(id()),
        RequestError::ConversationLocked,
        RequestError::NoRoom(NoRoom::Items { items: 2, limit: 1 }),
        RequestError::ItemNotFound(id()),
        RequestError::NotInBackground,
        RequestError::HasEnded(Status::Completed),
        RequestError::HasEnded(Status::Failed),
        RequestError::HasEnded(Status::Incomplete),
        RequestError::NotStreamed,
        RequestError::NotStreamedInBackground,
        RequestError::LogExpired(Duration::from_secs(3_601)),
        RequestError::ModelNotFound(id()),
        RequestError::UnknownRoute("GET /v1/x".to_owned()),
        RequestError::MethodNotAllowed("PUT /v1/models".to_owned()),
        RequestError::SocketsDisabled,
        RequestError::BadHandshake("has no Sec-WebSocket-Key"),
        RequestError::BinaryMessage,
        RequestError::TooManyLanes { max_lanes: 32 },
        RequestError::SocketMaxAge(Duration::from_mins(60)),
        RequestError::StoreUnavailable,
        RequestError::StoreDamaged,
        RequestError::Internal,
    ]
}

fn line_of_memory(error: NoMemory) -> &'static str {
    match error {
        NoMemory::Pool => {
            "503 | gateway | server_is_overloaded | null | \
             The gateway has no memory left for request and reply bodies. Please retry in a moment."
        }
        NoMemory::Share(_) => {
            "503 | gateway | server_is_overloaded | null | The gateway has no memory left for request and reply bodies of this \
             project: its other requests hold its share. Please retry in a moment."
        }
    }
}

/// The lines about background responses.
fn line_of_background(error: &RequestError) -> &'static str {
    match error {
        RequestError::HasEnded(Status::Completed) => {
            "400 | client | invalid_request_error | response_id | Cannot cancel a completed response."
        }
        RequestError::HasEnded(Status::Failed) => {
            "400 | client | invalid_request_error | response_id | Cannot cancel a failed response."
        }
        RequestError::HasEnded(Status::Incomplete | Status::Cancelled) => {
            "400 | client | invalid_request_error | response_id | Cannot cancel a response in terminal state."
        }
        RequestError::NotStreamed => {
            "400 | client | invalid_request_error | stream | \
             This response cannot be streamed because it was not created with stream=true."
        }
        RequestError::NotStreamedInBackground => {
            "400 | client | invalid_request_error | stream | \
             This response cannot be streamed because it was not created with background=true."
        }
        RequestError::LogExpired(_) => {
            "400 | client | invalid_request_error | stream | \
             This response can no longer be streamed because it is more than 60 minutes old."
        }
        _ => "not about background responses",
    }
}

#[expect(clippy::too_many_lines, reason = "a table with a row for each failure")]
fn line_of_request(error: &RequestError) -> &'static str {
    match error {
        RequestError::Invalid(_) => "400 | client | invalid_json | null | ",
        RequestError::BodyTooLarge { .. } => {
            "413 | client | request_too_large | null | The request body is too large: the limit is 1 bytes, after decompression."
        }
        RequestError::BodyUnreadable(_) => {
            "400 | client | invalid_body | null | The request body could not be read: why."
        }
        RequestError::BodyTimeout { .. } => {
            "408 | client | request_timeout | null | Timed out reading the request body: 16384 bytes arrived in 31 s of \
             waiting. The limit is 30 s, and 1 s more for every 16 KiB."
        }
        RequestError::UnsupportedEncoding(_) => {
            "415 | client | unsupported_content_encoding | null | \
             Unsupported content-encoding 'br': use gzip, zstd or none."
        }
        RequestError::Overloaded(error) => line_of_memory(*error),
        RequestError::MemoryShort => {
            "503 | gateway | server_is_overloaded | null | The gateway is short of memory. Please retry in a moment."
        }
        RequestError::BadHost => {
            "400 | client | invalid_host | null | A request needs one Host header that names the gateway."
        }
        RequestError::HttpsRequired => {
            "400 | client | https_required | null | This address is served over TLS: use https:// instead of http:// in the \
             base URL."
        }
        RequestError::HostNotAllowed(_) => {
            "403 | client | host_not_allowed | null | Without a key, this gateway is served to this machine only, and not as \
             'X': create a key, or add the name to allowed_hosts."
        }
        RequestError::CrossSiteForm => {
            "403 | client | cross_site_request | null | This form was sent from a page of another origin. Open the dashboard \
             and try again."
        }
        RequestError::CrossSite => {
            "403 | client | cross_site_request | null | \
             Without a key, this gateway is not served to web pages of other origins: create a key."
        }
        RequestError::InvalidKey => {
            "401 | client | invalid_api_key | null | \
             Incorrect API key provided. Send a valid key of this gateway as 'authorization: Bearer apn-…'."
        }
        RequestError::TooManyAttempts(_) => {
            "429 | client | rate_limit_exceeded | null | \
             Too many requests without a valid key from this address. Please retry in 2 s."
        }
        RequestError::InvalidQuery { .. } => "400 | client | invalid_value | limit | Invalid 'limit'.",
        RequestError::ResponseNotFound(_) => "404 | client | null | null | Response with id 'X' not found.",
        RequestError::ConversationNotFound(_) => CONVERSATION_NOT_FOUND,
        RequestError::ConversationLocked => CONVERSATION_LOCKED,
        RequestError::NoRoom(no_room) => line_of_room(*no_room),
        RequestError::ItemNotFound(_) => "404 | client | null | null | Item with id 'X' not found.",
        RequestError::NotInBackground => "400 | client | null | null | Cannot cancel a synchronous response.",
        RequestError::ModelNotFound(_) => {
            "404 | client | model_not_found | model | The model 'X' does not exist or you do not have access to it."
        }
        RequestError::UnknownRoute(_) => "404 | client | unknown_url | null | Invalid URL (GET /v1/x)",
        RequestError::MethodNotAllowed(_) => {
            "405 | client | method_not_allowed | null | Method not allowed: PUT /v1/models."
        }
        RequestError::SocketsDisabled => {
            "426 | client | websocket_disabled | null | WebSocket mode is disabled on this gateway. Use HTTP."
        }
        RequestError::BadHandshake(_) => {
            "400 | client | invalid_handshake | null | The WebSocket handshake has no Sec-WebSocket-Key."
        }
        RequestError::BinaryMessage => {
            "400 | client | unsupported_message | null | \
             Binary messages are not supported: send JSON in a text message."
        }
        RequestError::TooManyLanes { .. } => {
            "400 | client | websocket_stream_limit_reached | stream_id | \
             This websocket connection already has 32 streams, the maximum. Reuse one of them or open another connection."
        }
        RequestError::SocketMaxAge(_) => {
            "400 | client | websocket_connection_limit_reached | null | Responses websocket connection limit reached \
             (60 minutes). Create a new websocket connection to continue."
        }
        RequestError::StoreUnavailable => STORE_UNAVAILABLE,
        RequestError::StoreDamaged => STORE_DAMAGED,
        RequestError::Internal => INTERNAL,
        _ => line_of_background(error),
    }
}

fn line(row: &ErrorRow) -> String {
    let ApiError { code, param, message, .. } = &row.error;
    let [code, param] = [code, param].map(|name| name.as_deref().unwrap_or("null").to_owned());
    format!("{} | {} | {code} | {param} | {message}", row.status.as_u16(), row.fault.as_str())
}

fn every_row() -> Vec<(ErrorRow, &'static str)> {
    let turns = failures_of_turns();
    let requests = failures_of_requests();
    let operations = failures_of_operations();
    let turns = turns.iter().map(|failure| (failure.row(), line_of_turn(failure)));
    let requests = requests.iter().map(|error| (error.row(), line_of_request(error)));
    let operations = operations.iter().map(|error| (error.row(), line_of_operation(error)));
    turns.chain(requests).chain(operations).collect()
}

/// The type of an error, as the contract defines it.
fn kind(status: u16, code: Option<&str>) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 if code == Some("insufficient_quota") => "insufficient_quota",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

#[test]
fn every_failure_matches_its_row_of_the_contract() {
    for (row, expected) in every_row() {
        let told = line(&row);
        // The parser writes these messages; its own tests check them.
        let is_worded_elsewhere = expected.ends_with("| ") && told.starts_with(expected);
        assert!(told == expected || is_worded_elsewhere, "{told}\n{expected}");
        assert_eq!(row.error.kind.as_str(), kind(row.status.as_u16(), row.error.code.as_deref()), "{told}");
        let rest = match row.status.as_u16() {
            429 if expected.contains("Please retry in 10 s.") => Some(Duration::from_secs(10)),
            429 if expected.contains("too_many_watchers") => Some(Duration::from_secs(1)),
            429 => Some(REST),
            409 if expected.contains("still in progress") => Some(Duration::from_secs(1)),
            503 if expected.contains("Please retry in 2 s.") => Some(REST),
            503 => Some(Duration::from_secs(1)),
            _ => None,
        };
        assert_eq!(row.retry_after, rest, "{told}");
    }
}

#[test]
fn errors_of_the_parser_have_the_texts_of_the_contract() {
    for (body, expected) in [
        (
            r#"{"model":"m","input":"x","previous_response_id":7}"#,
            "400 | client | invalid_type | previous_response_id | \
             Invalid type for 'previous_response_id': expected a string, but got an integer instead.",
        ),
        (
            r#"{"model":"m","input":"x","previous_response_id":"resp_1","conversation":"conv_1"}"#,
            "400 | client | mutually_exclusive_parameters | null | Mutually exclusive parameters. Ensure you are only \
             providing one of: 'previous_response_id' or 'conversation'.",
        ),
        (
            r#"{"input":"x"}"#,
            "400 | client | missing_required_parameter | model | Missing required parameter: 'model'.",
        ),
        (
            r#"{"model":"m"}"#,
            "400 | client | missing_required_parameter | input | Missing required parameter: 'input'.",
        ),
    ] {
        let parsed = CreateRequest::parse(Operation::Create, Bytes::from_static(body.as_bytes()));
        assert_eq!(line(&RequestError::from(parsed.unwrap_err()).row()), expected);
    }
    for body in ["", "{", "[]", "7"] {
        let parsed = CreateRequest::parse(Operation::Create, Bytes::from_static(body.as_bytes()));
        let told = line(&RequestError::from(parsed.unwrap_err()).row());
        assert!(told.starts_with("400 | client | invalid_json | null | "), "{told}");
    }
}

async fn rendered(reply: ErrorReply) -> (StatusCode, HeaderMap, Bytes) {
    let (head, body) = reply.into_response().into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn every_row_renders_the_same_error_as_a_reply_and_as_a_frame() {
    let names = |headers: &HeaderMap| headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
    for (row, told) in every_row() {
        let frame: Value = serde_json::from_slice(&ErrorReply::from(row.clone()).frame(None)).unwrap();
        let (status, headers, body) = rendered(row.into()).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&frame["type"], &frame["status"]), (&json!("error"), &json!(status.as_u16())), "{told}");
        assert_eq!(frame["error"], body["error"], "{told}");
        let mut members: Vec<&String> = body["error"].as_object().unwrap().keys().collect();
        members.sort();
        assert_eq!(members, ["code", "message", "param", "type"]);
        let (mut expected, mut in_frame) = (vec!["content-type"], Value::Null);
        match status.as_u16() {
            408 | 413 | 426 => expected.push("connection"),
            409 if !told.contains("still in progress") => {}
            409 | 429 | 503 => {
                expected.push("retry-after");
                let seconds = match status {
                    _ if told.contains("Please retry in 10 s.") => "10",
                    StatusCode::TOO_MANY_REQUESTS if !told.contains("too_many_watchers") => "2",
                    _ if told.contains("Please retry in 2 s.") => "2",
                    _ => "1",
                };
                in_frame = json!({ "retry-after": seconds });
            }
            _ => {}
        }
        let mut shown = names(&headers);
        shown.sort();
        expected.sort_unstable();
        assert_eq!(shown, expected, "{told}");
        assert_eq!(frame["headers"], in_frame, "{told}");
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    }
}

#[tokio::test]
async fn an_error_of_the_upstream_is_rendered_unchanged_with_the_clients_own_limits() {
    let rate = Rate { limit: 60, remaining: 59, reset: Duration::from_secs(12) };
    let rates = Some(Box::new(Rates { requests: Some(rate), tokens: None }));
    let reply = || -> ErrorReply {
        TurnError { failure: upstream_error(StatusCode::PAYLOAD_TOO_LARGE), rates: rates.clone() }.into()
    };
    let (status, headers, body) = rendered(reply()).await;
    assert_eq!(
        (status, &body[..]),
        (StatusCode::PAYLOAD_TOO_LARGE, &br#"{"error":{"message":"m","odd":1}}"#[..])
    );
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(headers[header::RETRY_AFTER], "7");
    assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
    assert!(!headers.contains_key(header::CONNECTION), "it is the upstream that has not read it");
    let stream_id = StreamId::new("a").unwrap();
    let frame: Value = serde_json::from_slice(&reply().frame(Some(&stream_id))).unwrap();
    assert_eq!((&frame["error"], &frame["stream_id"]), (&json!({"message": "m", "odd": 1}), &json!("a")));
    assert_eq!(frame["headers"]["x-ratelimit-limit-requests"], "60");
    assert!(frame["headers"].get("content-type").is_none(), "{frame}");
}
