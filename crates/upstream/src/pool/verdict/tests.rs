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
