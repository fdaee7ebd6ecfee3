//! The one place that turns failures into HTTP.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::turn::{Failure, Rejected, seconds};

/// A failure as an HTTP reply.
#[derive(Debug)]
pub struct Refused(Rejected);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(Rejected { failure, rates: None })
    }
}

impl From<Rejected> for Refused {
    fn from(rejected: Rejected) -> Self {
        Self(rejected)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Rejected { failure, rates } = self.0;
        let mut reply = of_failure(failure);
        if let Some(rates) = rates {
            rates.replace(reply.headers_mut());
        }
        reply
    }
}

fn of_failure(failure: Failure) -> Response {
    if let Failure::Refused(refusal) = failure {
        let mut reply = (refusal.status, refusal.body).into_response();
        // The upstream's own content type, not the one that bytes have by default.
        reply.headers_mut().remove(header::CONTENT_TYPE);
        reply.headers_mut().extend(refusal.headers);
        return reply;
    }
    let body = failure.api_error().envelope();
    let mut reply = (failure.status(), body).into_response();
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(after) = failure.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
    }
    if reply.status() == StatusCode::PAYLOAD_TOO_LARGE || reply.status() == StatusCode::REQUEST_TIMEOUT {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use antiphon_store::{Count, Timestamp};
    use serde_json::json;

    use super::*;
    use antiphon_access::limits::{Exceeded, Owner, Rates, Rules};

    /// A limit that is reset in two seconds.
    fn limit_reached(limits: &serde_json::Value) -> Failure {
        let rules = Rules::parse(limits).unwrap();
        let rule = rules.of_model("m").next().unwrap().clone();
        let reset = (Timestamp::from_unix_ms(0), Duration::from_millis(1_001));
        Failure::LimitReached(Box::new(Exceeded {
            owner: Owner::Key,
            rule,
            count: Count::default(),
            amount: 1,
            reset: Some(reset),
            rates: Rates::default(),
        }))
    }

    const INVALID: &str = "invalid_request_error";

    /// A failure with its status, type, code and param.
    type Case = (Failure, u16, &'static str, Option<&'static str>, Option<&'static str>);

    fn assert_contract(cases: impl IntoIterator<Item = Case>) {
        for (failure, status, kind, code, param) in cases {
            let error = failure.api_error();
            assert_eq!(
                (
                    failure.status().as_u16(),
                    error.kind.as_str(),
                    error.code.as_deref(),
                    error.param.as_deref()
                ),
                (status, kind, code, param),
                "{failure:?}"
            );
            let reply = Refused::from(failure).into_response();
            assert_eq!(reply.headers()[header::CONTENT_TYPE], "application/json");
            let after = reply.headers().get(header::RETRY_AFTER).map(|after| after.to_str().unwrap());
            let expected = match status {
                429 => Some("2"),
                503 => Some("1"),
                _ => None,
            };
            assert_eq!(after, expected);
        }
    }

    #[test]
    fn what_is_wrong_with_a_request_has_its_place_in_the_contract() {
        let id = || "X".to_owned();
        assert_contract([
            (
                Failure::PreviousNotFound(id()),
                400,
                INVALID,
                Some("previous_response_not_found"),
                Some("previous_response_id"),
            ),
            (
                Failure::PreviousNotCompleted(id()),
                400,
                INVALID,
                Some("previous_response_not_completed"),
                Some("previous_response_id"),
            ),
            (
                Failure::ContextTooLarge { what: "turns", limit: 1, size: 2 },
                400,
                INVALID,
                Some("context_too_large"),
                Some("previous_response_id"),
            ),
            (
                Failure::InputTooLarge { limit: 1, size: 2 },
                400,
                INVALID,
                Some("context_too_large"),
                Some("input"),
            ),
            (Failure::ResponseNotFound(id()), 404, INVALID, None, None),
            (Failure::ConversationNotFound(id()), 404, INVALID, None, None),
            (Failure::ItemNotFound(id()), 404, INVALID, None, Some("input")),
            (Failure::NotInBackground, 400, INVALID, None, None),
            (Failure::ModelNotFound(id()), 404, INVALID, Some("model_not_found"), Some("model")),
            (Failure::BodyTooLarge { max_bytes: 1 }, 413, INVALID, Some("request_too_large"), None),
            (Failure::BodyTimeout(Duration::from_secs(1)), 408, INVALID, Some("request_timeout"), None),
            (Failure::UnsupportedEncoding(id()), 415, INVALID, Some("unsupported_content_encoding"), None),
            (Failure::UnknownRoute(id()), 404, INVALID, Some("unknown_url"), None),
            (Failure::MethodNotAllowed(id()), 405, INVALID, Some("method_not_allowed"), None),
        ]);
    }

    #[test]
    fn what_is_wrong_with_a_caller_or_an_operators_call_has_its_place_in_the_contract() {
        let id = || "X".to_owned();
        assert_contract([
            (Failure::AccountNotFound(id()), 404, INVALID, Some("account_not_found"), None),
            (Failure::NotAnOperator, 401, "authentication_error", Some("invalid_admin_token"), None),
            (Failure::InvalidKey, 401, "authentication_error", Some("invalid_api_key"), None),
            (
                Failure::TooManyAttempts(Duration::from_millis(1_001)),
                429,
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                None,
            ),
            (
                Failure::ModelNotAllowed(id()),
                403,
                "permission_error",
                Some("model_not_allowed"),
                Some("model"),
            ),
            (Failure::KeyNotFound(id()), 404, INVALID, Some("key_not_found"), None),
            (
                Failure::Conflict { code: "key_exists", param: Some("name"), message: id() },
                409,
                INVALID,
                Some("key_exists"),
                Some("name"),
            ),
        ]);
    }

    #[test]
    fn what_is_wrong_with_a_socket_has_its_place_in_the_contract() {
        assert_contract([
            (Failure::SocketsOff, 426, INVALID, Some("websocket_disabled"), None),
            (Failure::BadHandshake("x"), 400, INVALID, Some("invalid_handshake"), None),
            (Failure::BinaryMessage, 400, INVALID, Some("unsupported_message"), None),
            (
                Failure::TooManyLanes { max_lanes: 1 },
                400,
                INVALID,
                Some("websocket_stream_limit_reached"),
                Some("stream_id"),
            ),
            (
                Failure::SocketTooOld(Duration::from_mins(60)),
                400,
                INVALID,
                Some("websocket_connection_limit_reached"),
                None,
            ),
        ]);
    }

    #[test]
    fn what_keeps_a_turn_from_being_served_has_its_place_in_the_contract() {
        assert_contract([
            (Failure::NoAccount, 503, "server_error", Some("no_account_available"), None),
            (Failure::Overloaded, 503, "server_error", Some("server_is_overloaded"), None),
            (Failure::Busy, 503, "server_error", Some("server_is_overloaded"), None),
            (
                Failure::Cooling(Duration::from_millis(1_001)),
                429,
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                None,
            ),
            (
                limit_reached(&json!({"requests_per_minute": 1})),
                429,
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                None,
            ),
            (
                limit_reached(&json!({"tokens_per_minute": 1})),
                429,
                "rate_limit_error",
                Some("rate_limit_exceeded"),
                None,
            ),
            (
                limit_reached(&json!({"budgets": [{"tokens": 1, "window": "month"}]})),
                429,
                "insufficient_quota",
                Some("insufficient_quota"),
                None,
            ),
            (Failure::StoreUnavailable, 503, "server_error", Some("store_unavailable"), None),
            (
                Failure::UpstreamUnreachable("x".into()),
                502,
                "server_error",
                Some("upstream_unreachable"),
                None,
            ),
            (Failure::UpstreamTimeout("x"), 504, "server_error", Some("upstream_timeout"), None),
            (Failure::Internal, 500, "server_error", Some("internal_error"), None),
        ]);
    }
}
