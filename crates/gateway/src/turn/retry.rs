//! What changes in a request that an account has refused, before the account gets it again.

use antiphon_protocol::error::UpstreamError;
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::{Dialect, ReplyFormat};
use antiphon_upstream::pool::Verdict;
use antiphon_upstream::transport::{ReplyBody, Secrets};
use http::{HeaderValue, Response};

use super::Turn;
use super::attempt::FailedAttempt;
use super::resolve::Resolved;
use super::variant::RequestVariant;

/// How an account gets the turn, and what was tried.
pub(super) struct RequestForm<'a> {
    pub dialect: Dialect,
    pub variant: RequestVariant<'a>,
    pub has_refreshed_token: bool,
}

/// A request that was refused.
pub(super) struct Refused<'a> {
    pub reply: Response<ReplyBody>,
    pub format: &'a ReplyFormat,
    /// Whether it had the reasoning of earlier turns as text.
    pub has_reasoning: bool,
    pub authorization: Option<&'a HeaderValue>,
}

impl Turn {
    /// Changes what the account has refused, and returns the name of the change. Fails if there is nothing to change.
    pub(super) async fn change_for_retry<'a>(
        &mut self,
        account: &Account,
        resolved: &'a Resolved,
        form: &mut RequestForm<'a>,
        refused: Refused<'_>,
    ) -> Result<&'static str, FailedAttempt> {
        let Refused { reply, format, has_reasoning, authorization } = refused;
        let mut error_reply = self.read_error_reply(reply).await?;
        error_reply.body = Secrets::new(account, authorization).redact(error_reply.body);
        if let Some(body) = format.decode_error(error_reply.status, &error_reply.body) {
            error_reply.replace_body(body);
        }
        let (status, error) = (error_reply.status, UpstreamError::parse(&error_reply.body));
        let variant = &mut form.variant;
        if format.is_decoded()
            && let Some(change) =
                variant.chat_form.adapt(variant.known_chat_form, status, &error, has_reasoning)
        {
            return Ok(change);
        }
        if variant.refuses_own_items(status, &error) {
            let unreadable = self.find_unreadable(account, &resolved.own, &error).await;
            if let Some(change) = variant.leave_out_unreadable(&unreadable) {
                return Ok(change);
            }
        }
        if let Some(change) = variant.reduce(status, &error) {
            return Ok(change);
        }
        let failed = self.classify_error_reply(account, error_reply, &error);
        if self.may_lack_path(status, &failed)
            && let Some(other) = self.other_dialect(account, form.dialect).await?
        {
            form.dialect = other;
            form.variant = self.initial_variant(account, other, resolved, false);
            return Ok("api_changed");
        }
        let may_refresh = failed.verdict == Verdict::CredentialRefused && !form.has_refreshed_token;
        if may_refresh && self.turns.upstream.invalidate_credential(account, authorization) {
            form.has_refreshed_token = true;
            return Ok("token_refused");
        }
        Err(failed.in_form_of(format))
    }
}
