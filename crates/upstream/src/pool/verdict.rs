//! The failure table: what an attempt says about its account, and whether the turn may go to another one.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, body: &str) -> Verdict {
        let status = StatusCode::from_u16(status).unwrap();
        let error = UpstreamError::parse(body.as_bytes());
        Verdict::from_reply(status, &error, &HeaderMap::new(), "m", Timestamp::from_unix_ms(0))
    }

    fn at_endpoint(status: u16, body: Option<&str>) -> Verdict {
        let error = body.map(|body| UpstreamError::parse(body.as_bytes()));
        let verdict = verdict(status, body.unwrap_or_default());
        let status = StatusCode::from_u16(status).unwrap();
        verdict.at_endpoint(Operation::ChatCompletion, status, error.as_ref())
    }

    fn coded(code: &str) -> String {
        format!(r#"{{"error":{{"message":"m","type":"t","param":null,"code":"{code}"}}}}"#)
    }

    fn typed(kind: &str) -> String {
        format!(r#"{{"error":{{"message":"m","type":"{kind}"}}}}"#)
    }

    fn worded(message: &str) -> String {
        format!(r#"{{"error":{{"message":"{message}","type":"t","param":null,"code":null}}}}"#)
    }

    #[test]
    fn each_row_of_the_failure_table_has_its_verdict() {
        use Verdict::{CredentialRefused, Failed, ModelMissing, Neutral, OutOfQuota, RateLimited};
        for (status, body, expected) in [
            (500, String::new(), Failed),
            (502, worded("bad gateway"), Failed),
            (503, coded("server_is_overloaded"), Failed),
            (504, "<html>".to_owned(), Failed),
            (529, String::new(), Failed),
            (302, "<html>".to_owned(), Failed),
            (304, String::new(), Failed),
            (429, coded("rate_limit_exceeded"), RateLimited { until: None }),
            (429, String::new(), RateLimited { until: None }),
            (
                429,
                worded("Rate limit reached for m: Limit 30000, Used 29000, Requested 2000."),
                RateLimited { until: None },
            ),
            (429, coded("insufficient_quota"), OutOfQuota { until: None }),
            (429, coded("usage_limit_reached"), OutOfQuota { until: None }),
            (402, worded("Insufficient Balance"), OutOfQuota { until: None }),
            (429, typed("exceeded_current_quota_error"), OutOfQuota { until: None }),
            (400, coded("Arrearage"), OutOfQuota { until: None }),
            (
                400,
                worded(
                    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
                ),
                OutOfQuota { until: None },
            ),
            (
                403,
                worded(
                    "Your team 1b2c has either used all available credits or reached its monthly spending limit. To continue making API requests, please purchase more credits or raise your spending limit.",
                ),
                OutOfQuota { until: None },
            ),
            (
                400,
                worded("Your credit balance is too low to access the Anthropic API. is not a valid model ID"),
                Neutral,
            ),
            (400, worded("API key not valid. Please pass a valid API key."), CredentialRefused),
            (400, worded("Incorrect API key provided: xa***."), CredentialRefused),
            (400, worded("The text says: Incorrect API key provided: xa***."), Neutral),
            (401, coded("invalid_api_key"), CredentialRefused),
            (401, String::new(), CredentialRefused),
            (403, coded("account_deactivated"), CredentialRefused),
            (
                403,
                r#"{"error":{"message":"Not allowed.","type":"permission_error"}}"#.to_owned(),
                CredentialRefused,
            ),
            (
                403,
                r#"{"error":{"message":"Missing header: X-Tenant","type":"permission_error"}}"#.to_owned(),
                Neutral,
            ),
            (403, coded("model_not_found"), ModelMissing),
            (403, coded("unsupported_country_region_territory"), Neutral),
            (404, coded("model_not_found"), ModelMissing),
            (404, coded("DeploymentNotFound"), ModelMissing),
            (404, worded("The model `m` does not exist."), ModelMissing),
            (404, worded("model 'm' not found, try pulling it first"), ModelMissing),
            (404, worded("Model m not found"), ModelMissing),
            (404, worded("The model `other` does not exist"), Neutral),
            (404, worded("Item with id 'rs_model' not found."), Neutral),
            (404, worded("Item with id 'The model m does not exist' not found"), Neutral),
            (404, r#"{"error":{"message":"no","param":"model","code":null}}"#.to_owned(), ModelMissing),
            (404, coded("not_found"), Neutral),
            (400, coded("model_not_found"), Neutral),
            (400, coded("invalid_encrypted_content"), Neutral),
            (413, String::new(), Neutral),
            (422, worded("no"), Neutral),
        ] {
            assert_eq!(verdict(status, &body), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_request_that_is_too_large_is_told_from_a_quota_that_is_used_up() {
        use Verdict::{Neutral, OutOfQuota, TooLarge};
        for (status, body, expected) in [
            (429, worded("Request too large for m: Limit 30000, Requested 45123."), TooLarge),
            (
                429,
                worded("The input or output tokens must be reduced in order to run successfully."),
                TooLarge,
            ),
            (402, worded("You requested up to 64000 tokens, but can only afford 14640."), TooLarge),
            (402, worded("Prompt tokens limit exceeded: 20000 > 14640."), TooLarge),
            (402, worded("You requested up to 64000 tokens, but can only afford 16."), TooLarge),
            (402, worded("You requested up to 64000 tokens, but can only afford 14,640."), TooLarge),
            (413, worded("Request too large for m: Limit 12000, Requested 14137."), Neutral),
            (
                413,
                r#"{"error":{"message":"Request too large for model `m` on tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#.to_owned(),
                TooLarge,
            ),
            (
                402,
                worded("You requested up to 64000 tokens, but can only afford 15."),
                OutOfQuota { until: None },
            ),
            (
                402,
                worded("You requested up to 64000 tokens, but can only afford -72."),
                OutOfQuota { until: None },
            ),
            (
                402,
                worded("Prompt tokens limit exceeded: 20000 > 0. To increase, pay."),
                OutOfQuota { until: None },
            ),
            (
                429,
                worded("You requested up to 64000 tokens, but can only afford 0."),
                OutOfQuota { until: None },
            ),
        ] {
            assert_eq!(verdict(status, &body), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_404_says_that_the_endpoint_is_missing_unless_it_is_about_something_else() {
        let missing = Verdict::EndpointMissing;
        assert!(missing.allows_failover());
        assert_eq!(at_endpoint(404, None), missing, "it is no error of the API");
        for body in [
            coded("unknown_url"),
            worded("Invalid URL (POST /v1/chat/completions)"),
            worded("Cannot POST /openai/v1/chat/completions"),
            r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#.to_owned(),
            r#"{"error":{"code":404}}"#.to_owned(),
            r#"{"error":"Not Found"}"#.to_owned(),
        ] {
            assert_eq!(at_endpoint(404, Some(&body)), missing, "{body}");
        }
        for message in [
            "No endpoints found that support tool use.",
            "No such File object: /v1/chat/completions",
            "File 'Invalid URL (POST /v1/chat/completions)' not found",
            "Invalid URL (POST https://example.com/image.png)",
        ] {
            assert_eq!(at_endpoint(404, Some(&worded(message))), Verdict::Neutral, "{message}");
        }
        assert_eq!(at_endpoint(404, Some(&coded("model_not_found"))), Verdict::ModelMissing);
        assert_eq!(at_endpoint(400, Some(&worded("no"))), Verdict::Neutral);
        assert_eq!(at_endpoint(500, None), Verdict::Failed);
    }

    #[test]
    fn a_405_says_that_the_endpoint_is_missing_and_a_501_unless_it_is_about_something_else() {
        for body in [None, Some(worded("No.")), Some(coded("model_not_found"))] {
            assert_eq!(at_endpoint(405, body.as_deref()), Verdict::EndpointMissing, "{body:?}");
        }
        let not_supported = r#"{"error":{"message":"No.","type":"not_supported_error","code":501}}"#;
        for body in [
            None,
            Some(not_supported.to_owned()),
            Some(worded("this model does not support embeddings")),
            Some(worded("The model does not support Embeddings API")),
            Some(worded("Not found")),
        ] {
            assert_eq!(at_endpoint(501, body.as_deref()), Verdict::EndpointMissing, "{body:?}");
        }
        assert_eq!(at_endpoint(501, Some(&worded("Unknown part type: file"))), Verdict::Failed);
    }

    #[test]
    fn a_failed_response_is_judged_by_its_error() {
        for (code, expected) in [
            ("server_error", Verdict::Failed),
            ("server_is_overloaded", Verdict::Failed),
            ("rate_limit_exceeded", Verdict::RateLimited { until: None }),
            ("insufficient_quota", Verdict::OutOfQuota { until: None }),
            ("invalid_prompt", Verdict::Neutral),
            ("", Verdict::Neutral),
        ] {
            assert_eq!(Verdict::from_event(code, "m"), expected, "{code}");
        }
        for (code, expected) in [
            ("rate_limit_exceeded", Verdict::TooLarge),
            ("insufficient_quota", Verdict::TooLarge),
            ("server_error", Verdict::Failed),
        ] {
            assert_eq!(Verdict::from_event(code, "Request too large for m."), expected, "{code}");
        }
        for code in ["rate_limit_exceeded", "insufficient_quota"] {
            let verdict = Verdict::from_event(code, "You can only afford 0 tokens.");
            assert_eq!(verdict, Verdict::OutOfQuota { until: None }, "{code}");
        }
    }

    #[test]
    fn only_failures_of_the_account_lead_to_another_account() {
        assert!(!Verdict::Served.allows_failover() && !Verdict::Neutral.allows_failover());
        let account_failures = [Verdict::Failed, Verdict::CredentialRefused, Verdict::ModelMissing];
        assert!(account_failures.iter().all(Verdict::allows_failover));
    }
}
