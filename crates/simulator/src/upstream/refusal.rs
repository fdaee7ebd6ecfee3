//! Errors in the API's envelope, all four keys always there.

use super::json::Object;
use serde_json::{Value, json};

/// An HTTP error as the real API words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) code: Option<String>,
    /// The whole body, of servers that have no envelope.
    pub(super) body: Option<String>,
}

impl Refusal {
    /// 400 `invalid_request_error` without a code.
    pub(super) fn invalid(message: String) -> Self {
        Self { status: 400, kind: "invalid_request_error", message, param: None, code: None, body: None }
    }

    pub(super) fn new(status: u16, code: &str, message: &str) -> Self {
        let kind = match status {
            429 if code == "insufficient_quota" => "insufficient_quota",
            429 => "requests",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self {
            status,
            kind,
            message: message.to_owned(),
            param: None,
            code: Some(code.to_owned()),
            body: None,
        }
    }

    /// 422 for members that the server does not know, by their paths, as Mistral words it.
    pub(super) fn extra_members(paths: &[Value]) -> Self {
        let detail: Vec<Value> = paths
            .iter()
            .map(|path| json!({"type": "extra_forbidden", "loc": path, "msg": "Extra inputs are not permitted", "input": null}))
            .collect();
        let body = json!({"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": null, "code": null});
        Self { status: 422, body: Some(body.to_string()), ..Self::invalid(String::new()) }
    }

    /// 400 as Google words it: a list with one error.
    pub(super) fn of_google(message: &str) -> Self {
        let body = json!([{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]);
        Self { body: Some(body.to_string()), ..Self::invalid(message.to_owned()) }
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(super) fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    pub(super) fn envelope(&self) -> String {
        self.body.clone().unwrap_or_else(|| Object::new().raw("error", &self.error()).finish())
    }

    /// The error object inside the envelope.
    pub(super) fn error(&self) -> String {
        Object::new()
            .value("message", &self.message)
            .value("type", self.kind)
            .value("param", &self.param)
            .value("code", &self.code)
            .finish()
    }
}
