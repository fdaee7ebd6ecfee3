//! The failure table: what an attempt says about its account, and whether the turn may go to another one.

use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::request::Operation;
use antiphon_store::Timestamp;
use http::{HeaderMap, StatusCode};

use super::reset;

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
    /// It does not have the model, or may not use it.
    ModelMissing,
    /// Nothing, but its upstream's API can't express the request, and another one may.
    Unsupported,
    /// It does not have the endpoint, or not for the model.
    EndpointMissing(Operation),
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
        match status.as_u16() {
            429 if is_quota_error(error) => Self::OutOfQuota { until: until() },
            429 => Self::RateLimited { until: until() },
            // Prepaid credit is used up.
            402 => Self::OutOfQuota { until: until() },
            401 => Self::CredentialRefused,
            403 | 404 if is_model_error(error, model) => Self::ModelMissing,
            403 if is_credential_error(error) && !is_about_header(error) => Self::CredentialRefused,
            _ if status.is_client_error() => Self::Neutral,
            // A redirect is not of the API either: a proxy or a sign-in stands before the upstream.
            _ => Self::Failed,
        }
    }

    /// As [`from_reply`](Self::from_reply), for an endpoint that not every upstream has: a 404 that says nothing of the model
    /// says that the upstream lacks it.
    pub fn from_passed_reply(self, status: StatusCode, operation: Operation) -> Self {
        match self {
            Self::Neutral if status == StatusCode::NOT_FOUND => Self::EndpointMissing(operation),
            verdict => verdict,
        }
    }

    /// From the error code of a failed response or an `error` event, which have neither status nor headers.
    pub fn from_code(code: &str) -> Self {
        match code {
            "rate_limit_exceeded" => Self::RateLimited { until: None },
            "server_error" | "server_is_overloaded" | "slow_down" => Self::Failed,
            _ if QUOTA_CODES.contains(&code) => Self::OutOfQuota { until: None },
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
            Self::Unsupported => "unsupported",
            Self::EndpointMissing(_) => "endpoint_missing",
            Self::Neutral => "refused",
        }
    }
}

const QUOTA_CODES: [&str; 5] = [
    "insufficient_quota",
    "usage_limit_reached",
    "billing_hard_limit_reached",
    "quota_exceeded",
    "usage_not_included",
];

fn is_quota_error(error: &UpstreamError) -> bool {
    let names = [&error.code, &error.kind];
    names.into_iter().flatten().any(|name| QUOTA_CODES.contains(&name.as_str()))
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

fn is_model_error(error: &UpstreamError, model: &str) -> bool {
    const CODES: [&str; 3] = ["model_not_found", "DeploymentNotFound", "model_not_available"];
    if let Some(code) = &error.code {
        return CODES.contains(&code.as_str());
    }
    if error.param.as_deref() == Some("model") {
        return true;
    }
    let message = error.message.as_deref().unwrap_or_default();
    let message = message.strip_suffix('.').unwrap_or(message);
    let matches = |form: &str| {
        let (before, after) = form.split_once("{}").unwrap_or((form, ""));
        let name = strip_ends(message, before, after).map(|name| name.trim_matches(['`', '\'', '"']));
        name == Some(model)
    };
    MODEL_MESSAGES.iter().any(|form| matches(form))
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

    fn coded(code: &str) -> String {
        format!(r#"{{"error":{{"message":"m","type":"t","param":null,"code":"{code}"}}}}"#)
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
            (429, coded("insufficient_quota"), OutOfQuota { until: None }),
            (429, coded("usage_limit_reached"), OutOfQuota { until: None }),
            (402, worded("Insufficient Balance"), OutOfQuota { until: None }),
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
    fn a_404_that_says_nothing_of_the_model_says_that_the_endpoint_is_missing() {
        let passed = |status, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            verdict(status.as_u16(), body).from_passed_reply(status, Operation::Embed)
        };
        let missing = Verdict::EndpointMissing(Operation::Embed);
        assert!(missing.allows_failover());
        for body in
            [String::new(), "<html>".to_owned(), r#"{"detail":"Not Found"}"#.to_owned(), coded("unknown_url")]
        {
            assert_eq!(passed(404, &body), missing, "{body}");
        }
        assert_eq!(passed(404, &coded("model_not_found")), Verdict::ModelMissing);
        assert_eq!(passed(400, &worded("no")), Verdict::Neutral);
        assert_eq!(passed(500, ""), Verdict::Failed);
    }

    #[test]
    fn a_failed_response_is_judged_by_its_code() {
        for (code, expected) in [
            ("server_error", Verdict::Failed),
            ("server_is_overloaded", Verdict::Failed),
            ("rate_limit_exceeded", Verdict::RateLimited { until: None }),
            ("insufficient_quota", Verdict::OutOfQuota { until: None }),
            ("invalid_prompt", Verdict::Neutral),
            ("", Verdict::Neutral),
        ] {
            assert_eq!(Verdict::from_code(code), expected, "{code}");
        }
    }

    #[test]
    fn only_failures_of_the_account_lead_to_another_account() {
        assert!(!Verdict::Served.allows_failover() && !Verdict::Neutral.allows_failover());
        let account_failures = [Verdict::Failed, Verdict::CredentialRefused, Verdict::ModelMissing];
        assert!(account_failures.iter().all(Verdict::allows_failover));
    }
}
