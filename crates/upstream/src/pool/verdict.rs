//! The failure table: what an attempt says about its account, and whether the turn may go to another one.

#[cfg(test)]
mod tests;

use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::request::Operation;
use antiphon_store::Timestamp;
use http::{HeaderMap, StatusCode};

use super::reset;
use crate::transport::KEY_REFUSALS;

/// What an attempt says about its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It served the turn to its end.
    Served,
    /// It can't be reached, whatever the request is.
    Unreachable,
    /// It failed, or its reply was cut off. The request may have caused that.
    Failed,
    RateLimited {
        until: Option<Timestamp>,
    },
    OutOfQuota {
        until: Option<Timestamp>,
    },
    /// It refused a turn because of its credential. What the client sent may have caused that.
    CredentialRefused,
    /// It refused its credential in a request that contains nothing from a client.
    CredentialInvalid,
    /// It does not have the model, or may not use it, or not for what was asked.
    ModelMissing,
    /// Nothing, but its limit or its credit is too small for the request, and another account's may not be.
    TooLarge,
    /// Nothing, but its upstream's API can't express the request, and another one may.
    Unsupported,
    /// It does not have the endpoint, or not for the model.
    EndpointMissing,
    /// Nothing: the request is at fault, or nothing is.
    Neutral,
}

impl Verdict {
    /// From an error reply to a turn. `model` is the account's name for the model.
    pub fn from_reply(
        status: StatusCode,
        error: &UpstreamError,
        headers: &HeaderMap,
        model: &str,
        now: Timestamp,
    ) -> Self {
        let until = || reset::limit_reset_at(headers, error, now);
        let message = error.message.as_deref().unwrap_or_default();
        match status.as_u16() {
            // Smaller requests are served.
            402 | 429 if is_too_large(message) => Self::TooLarge,
            // How Groq says that a request exceeds the tokens per minute.
            413 if error.code.as_deref() == Some("rate_limit_exceeded") && is_too_large(message) => {
                Self::TooLarge
            }
            429 if is_quota_error(error) || affords_nothing(message) => Self::OutOfQuota { until: until() },
            429 => Self::RateLimited { until: until() },
            // Prepaid credit is used up.
            402 => Self::OutOfQuota { until: until() },
            401 => Self::CredentialRefused,
            400 | 403 if KEY_REFUSALS.iter().any(|words| message.starts_with(words)) => {
                Self::CredentialRefused
            }
            400 | 403 if is_unpaid(error) => Self::OutOfQuota { until: until() },
            403 | 404 if is_model_error(error, model) => Self::ModelMissing,
            403 if is_credential_error(error) && !is_about_header(error) => Self::CredentialRefused,
            _ if status.is_client_error() => Self::Neutral,
            // A redirect is not of the API either: a proxy or a sign-in stands before the upstream.
            _ => Self::Failed,
        }
    }

    /// At an endpoint that not every upstream has: a 405 says that the upstream lacks it. So do a 404 and a 501, unless they are an
    /// error of the API about something else, which the client may have caused. `error` is `None` if the reply is no error of
    /// the API.
    pub fn at_endpoint(
        self,
        operation: Operation,
        status: StatusCode,
        error: Option<&UpstreamError>,
    ) -> Self {
        let is_about_path = || error.is_none_or(|error| is_path_error(error, operation.path()));
        match status.as_u16() {
            405 => Self::EndpointMissing,
            404 if self == Self::Neutral && is_about_path() => Self::EndpointMissing,
            501 if is_about_path() || error.is_some_and(is_unsupported) => Self::EndpointMissing,
            _ => self,
        }
    }

    /// From the error of a failed response or an `error` event, which have neither status nor headers.
    pub fn from_event(code: &str, message: &str) -> Self {
        let is_limit = code == "rate_limit_exceeded" || QUOTA_CODES.contains(&code);
        match code {
            _ if is_limit && is_too_large(message) => Self::TooLarge,
            "rate_limit_exceeded" if !affords_nothing(message) => Self::RateLimited { until: None },
            "server_error" | "server_is_overloaded" | "slow_down" => Self::Failed,
            _ if is_limit => Self::OutOfQuota { until: None },
            _ => Self::Neutral,
        }
    }

    /// Whether the turn may go to another account, as long as no event has gone out.
    pub fn allows_failover(&self) -> bool {
        !matches!(self, Self::Served | Self::Neutral)
    }

    /// The verdict's name in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Unreachable | Self::Failed => "failed",
            Self::RateLimited { .. } => "rate_limited",
            Self::OutOfQuota { .. } => "out_of_quota",
            Self::CredentialRefused | Self::CredentialInvalid => "credential_refused",
            Self::ModelMissing => "model_missing",
            Self::TooLarge => "too_large",
            Self::Unsupported => "unsupported",
            Self::EndpointMissing => "endpoint_missing",
            Self::Neutral => "refused",
        }
    }
}

/// The longest name of a team, an id.
const MAX_TEAM: usize = 64;

const QUOTA_CODES: [&str; 8] = [
    "insufficient_quota",
    "usage_limit_reached",
    "billing_hard_limit_reached",
    "quota_exceeded",
    "usage_not_included",
    // Moonshot's, MiniMax's and DashScope's
    "exceeded_current_quota_error",
    "insufficient_balance_error",
    "Arrearage",
];

/// How Anthropic and xAI say with a 400 or 403 that the account has no credit; `{}` is the name of a team. The whole message must
/// match, because a part of it may quote the client.
const UNPAID_MESSAGES: [&str; 2] = [
    "your credit balance is too low to access the anthropic api. please go to plans & billing to upgrade or purchase credits{}",
    "your team {} has either used all available credits or reached its monthly spending limit. to continue making api requests, please purchase more credits or raise your spending limit",
];

fn is_unpaid(error: &UpstreamError) -> bool {
    let message = whole_message(error);
    let is_name = |name: &str| name.len() <= MAX_TEAM && !name.contains(char::is_whitespace);
    error.code.as_deref() == Some("Arrearage")
        || UNPAID_MESSAGES.iter().any(|form| named(message, form).is_some_and(is_name))
}

fn is_quota_error(error: &UpstreamError) -> bool {
    let names = [&error.code, &error.kind];
    names.into_iter().flatten().any(|name| QUOTA_CODES.contains(&name.as_str()))
}

/// Parts of messages that say that the request alone is too large, in lower case.
const TOO_LARGE_PHRASES: [&str; 5] = [
    "request too large",
    "tokens must be reduced",
    "fewer max_tokens",
    "can only afford",
    "prompt tokens limit exceeded",
];

fn is_too_large(message: &str) -> bool {
    let lower = message.to_ascii_lowercase();
    TOO_LARGE_PHRASES.iter().any(|phrase| lower.contains(phrase)) && !affords_nothing(message)
}

/// The smallest `max_output_tokens` of the API: an account that can afford fewer tokens serves no request.
const MIN_OUTPUT_TOKENS: i64 = 16;

fn affords_nothing(message: &str) -> bool {
    affordable_tokens(&message.to_ascii_lowercase()).is_some_and(|tokens| tokens < MIN_OUTPUT_TOKENS)
}

/// How many tokens the account can afford, if a message in lower case says so.
fn affordable_tokens(message: &str) -> Option<i64> {
    let after = |phrase| message.split_once(phrase).map(|(_, rest)| rest);
    let limit = || Some(after("prompt tokens limit exceeded:")?.split_once('>')?.1);
    let number = after("can only afford").or_else(limit)?.trim_start();
    let end = number.find(|c: char| !matches!(c, '0'..='9' | '-' | ',')).unwrap_or(number.len());
    number[..end].replace(',', "").parse().ok()
}

fn is_credential_error(error: &UpstreamError) -> bool {
    const CODES: [&str; 6] = [
        "invalid_api_key",
        "account_deactivated",
        "invalid_organization",
        "billing_not_active",
        "insufficient_permissions",
        "token_expired",
    ];
    error.code.as_ref().is_some_and(|code| CODES.contains(&code.as_str()))
        || error.kind.as_deref() == Some("authentication_error")
        || (error.code.is_none() && error.kind.as_deref() == Some("permission_error"))
}

/// Whether the request lacks a header that has nothing to do with the credential.
fn is_about_header(error: &UpstreamError) -> bool {
    const OF_CREDENTIALS: [&str; 3] = ["authorization", "api-key", "api key"];
    let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    message.contains("header") && !OF_CREDENTIALS.iter().any(|name| message.contains(name))
}

/// How upstreams without error codes say that they lack a model; `{}` is its name in any quotes. The whole message must match
/// one of these, because a part of it may quote the client.
const MODEL_MESSAGES: [&str; 8] = [
    "the model {} does not exist",
    "the model {} does not exist or you do not have access to it",
    "the model {} was not found",
    "model {} does not exist",
    "model {} not found",
    "model {} not found, try pulling it first",
    "model {} is not supported",
    "{} is not a valid model id",
];

/// How upstreams say that they lack a path; `{}` ends with it.
const PATH_MESSAGES: [&str; 3] =
    ["invalid url (post {})", "cannot post {}", "unexpected endpoint or method. (post {})"];
/// The same in messages that do not name it.
const BARE_PATH_MESSAGES: [&str; 6] =
    ["", "not found", "file not found", "path not found", "resource not found", "method not found"];

fn is_model_error(error: &UpstreamError, model: &str) -> bool {
    const CODES: [&str; 3] = ["model_not_found", "DeploymentNotFound", "model_not_available"];
    if let Some(code) = &error.code {
        return CODES.contains(&code.as_str());
    }
    if error.param.as_deref() == Some("model") {
        return true;
    }
    let message = whole_message(error);
    let name = |form: &&str| named(message, form).map(|name| name.trim_matches(['`', '\'', '"']));
    MODEL_MESSAGES.iter().any(|form| name(form) == Some(model))
}

/// Whether the upstream says that it does not have this path.
fn is_path_error(error: &UpstreamError, path: &str) -> bool {
    let message = whole_message(error);
    error.code.as_deref() == Some("unknown_url")
        || BARE_PATH_MESSAGES.iter().any(|bare| message.eq_ignore_ascii_case(bare))
        || PATH_MESSAGES.iter().any(|form| named(message, form).is_some_and(|name| name.ends_with(path)))
}

/// How llama.cpp, Ollama and vLLM say that the model is not for the endpoint. vLLM replies 501 to parts of messages that it does
/// not know as well.
fn is_unsupported(error: &UpstreamError) -> bool {
    let message = whole_message(error).to_ascii_lowercase();
    error.kind.as_deref() == Some("not_supported_error")
        || ["this model does not support embeddings", "the model does not support embeddings api"]
            .contains(&&*message)
}

fn whole_message(error: &UpstreamError) -> &str {
    let message = error.message.as_deref().unwrap_or_default();
    message.strip_suffix('.').unwrap_or(message)
}

/// What stands for the `{}` of the form in a message that has this form.
fn named<'a>(message: &'a str, form: &str) -> Option<&'a str> {
    let (before, after) = form.split_once("{}")?;
    strip_ends(message, before, after)
}

/// The text between a prefix and a suffix, whose case does not matter.
fn strip_ends<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(before.len())?;
    let (name, end) = rest.split_at_checked(rest.len().checked_sub(after.len())?)?;
    (start.eq_ignore_ascii_case(before) && end.eq_ignore_ascii_case(after)).then_some(name)
}
