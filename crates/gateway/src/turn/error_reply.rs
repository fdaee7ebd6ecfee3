//! What an upstream's error reply means: for the account, and for the client.

use std::time::Instant;

use antiphon_errors::RETRY_AFTER;
use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::request::Operation;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::attempt::FailedAttempt;
use super::unpacked::unpacked;
use super::{Failure, Turn, UpstreamErrorReply};
use antiphon_runtime::whole_seconds;
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::ReplyFormat;
use antiphon_upstream::pool::Verdict;
use antiphon_upstream::transport::{ReplyBody, headers};

/// The largest error reply that is passed on; a larger one cannot be an error of the API.
const MAX_ERROR_REPLY_BYTES: usize = 1024 * 1024;

impl Turn {
    pub(super) async fn read_error_reply(
        &self,
        reply: http::Response<ReplyBody>,
    ) -> Result<UpstreamErrorReply, FailedAttempt> {
        let (head, body) = reply.into_parts();
        let reading = async {
            let body = body.collect(MAX_ERROR_REPLY_BYTES).await.ok()?;
            unpacked(&head.headers, body, MAX_ERROR_REPLY_BYTES).await
        };
        let limit = self.deadline.min(Instant::now() + self.turns.settings.idle_timeout);
        let read = tokio::time::timeout_at(limit.into(), self.cancellation.or_cancelled(reading)).await;
        let body = match read {
            Ok(Ok(Some(body))) => body,
            Ok(Err(_cancelled)) => return Err(FailedAttempt::client_gone()),
            Ok(Ok(None)) | Err(_) => Bytes::new(),
        };
        let mut headers = headers::for_client(&head.headers);
        if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, content_type.clone());
        }
        Ok(UpstreamErrorReply { status: head.status, headers, body })
    }

    /// What an error reply means for the account, and what the client gets of it.
    pub(super) fn classify_error_reply(
        &self,
        account: &Account,
        error_reply: UpstreamErrorReply,
        error: &UpstreamError,
    ) -> FailedAttempt {
        let now = self.turns.env.clock.now();
        let model = &self.facts.create.model;
        let named = account.upstream_name(model);
        let named = named.as_deref().unwrap_or(model);
        let mut verdict = Verdict::from_reply(error_reply.status, error, &error_reply.headers, named, now);
        let has_api_error = is_api_error(&error_reply.body);
        let operation = self.facts.create.operation;
        if operation != Operation::Create {
            verdict = verdict.at_endpoint(operation, error_reply.status, has_api_error.then_some(error));
        }
        let is_path_missing =
            operation == Operation::Create && error_reply.status == StatusCode::NOT_FOUND && !has_api_error;
        if is_path_missing && verdict == Verdict::Neutral {
            let path = account.api.dialect().path();
            tracing::warn!(account.id = %account.name, path, "the upstream does not have this path: check base_url and api");
            let failure = Failure::EndpointMissing { path, model: model.clone() };
            return FailedAttempt { failure, verdict: Verdict::Unsupported };
        }
        let failure = match error_reply.status {
            // The account's credential is wrong, not the client's. The message may quote a part of it.
            _ if verdict == Verdict::CredentialRefused => Failure::CredentialsRefused,
            _ if verdict == Verdict::ModelMissing => self.explain_missing_model(error_reply),
            _ if verdict == Verdict::EndpointMissing => self.endpoint_missing(),
            status if status.is_client_error() => Failure::UpstreamError(Box::new(error_reply)),
            status if status.is_server_error() && has_api_error => {
                Failure::UpstreamError(Box::new(error_reply))
            }
            status => {
                tracing::warn!(
                    account.id = %account.name,
                    http.status = status.as_u16(),
                    "the upstream's error reply is not an API error"
                );
                match status {
                    StatusCode::GATEWAY_TIMEOUT => Failure::UpstreamTimeout("status 504"),
                    _ => Failure::UpstreamFailed(format!("status {}", status.as_u16()).into()),
                }
            }
        };
        FailedAttempt { failure, verdict }
    }

    /// The upstream's own error, unless there are models of similar names.
    fn explain_missing_model(&self, error_reply: UpstreamErrorReply) -> Failure {
        match self.model_not_found() {
            Failure::ModelNotFound { near, .. } if near.is_empty() => {
                Failure::UpstreamError(Box::new(error_reply))
            }
            failure => failure,
        }
    }

    /// Sets `Retry-After` on an upstream's error: after a rate limit, to when the first account is ready again. Clients may
    /// not retry an error without it.
    pub(super) fn with_retry_after(&self, mut failure: Failure) -> Failure {
        let Failure::UpstreamError(error_reply) = &mut failure else { return failure };
        let until = match error_reply.status {
            StatusCode::TOO_MANY_REQUESTS => self.turns.pool.earliest_ready_at(self.asked()),
            StatusCode::SERVICE_UNAVAILABLE => None,
            _ => return failure,
        };
        let wait = until.map(|until| until.since(self.turns.env.clock.now()));
        if wait.is_some() || !error_reply.headers.contains_key(header::RETRY_AFTER) {
            error_reply.headers.remove("retry-after-ms");
            let retry_after = HeaderValue::from(whole_seconds(wait.unwrap_or(RETRY_AFTER)));
            error_reply.headers.insert(header::RETRY_AFTER, retry_after);
        }
        failure
    }
}

// === impl FailedAttempt ===

impl FailedAttempt {
    /// With the upstream's error reply in the form of the client's API, whatever form it had.
    #[must_use]
    pub fn in_form_of(mut self, format: &ReplyFormat) -> Self {
        if let Failure::UpstreamError(reply) = &mut self.failure
            && !is_api_error(&reply.body)
            && let Some(body) = format.wrap_error(reply.status, &reply.body)
        {
            reply.replace_body(body);
        }
        self
    }
}

/// Whether the body is an error object of the API, which clients understand.
fn is_api_error(body: &[u8]) -> bool {
    antiphon_protocol::json::validate(body).is_ok()
        && antiphon_protocol::json::member(body, "error").is_some()
}
