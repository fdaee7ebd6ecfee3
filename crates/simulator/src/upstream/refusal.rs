//! Errors in the API's envelope, all four keys always there.

use super::json::Object;

/// An HTTP error as the real API words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) code: Option<String>,
}

impl Refusal {
    /// 400 `invalid_request_error` without a code.
    pub(super) fn invalid(message: String) -> Self {
        Self { status: 400, kind: "invalid_request_error", message, param: None, code: None }
    }

    pub(super) fn new(status: u16, code: &str, message: &str) -> Self {
        let kind = match status {
            429 if code == "insufficient_quota" => "insufficient_quota",
            429 => "requests",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, kind, message: message.to_owned(), param: None, code: Some(code.to_owned()) }
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
        Object::new().raw("error", &self.error()).finish()
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
