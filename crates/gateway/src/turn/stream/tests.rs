//! The first event decides whether a turn stays with its account.

use std::time::Duration;

use antiphon_protocol::id::ResponseId;
use antiphon_upstream::dialect::ReplyFormat;
use antiphon_upstream::pool::Verdict;
use antiphon_upstream::transport::ReplyBody;

use super::super::framing::Framing;
use super::*;

/// A stream that is checked when this part of it has arrived.
async fn opening(stream: &str) -> OpeningStream {
    let body = ReplyBody::Whole(Bytes::copy_from_slice(stream.as_bytes()));
    let mut opening = OpeningStream {
        events: EventReader::new(body, &ReplyFormat::Responses, 1 << 16),
        relay: Relay::new(Owned::new(ResponseId::mint(1, &[7; 10]), None, true), Framing::Sse, None),
        pending: VecDeque::new(),
        phase: Phase::Relaying,
        silence: Silence::begin(Duration::from_secs(1)),
    };
    assert!(opening.events.read().await.unwrap());
    if let Some(terminal) = opening.relay.push(opening.events.decoder(), &mut opening.pending).unwrap() {
        opening.phase = Phase::Ending(Box::new(terminal));
    }
    opening
}

fn failed(code: &str) -> String {
    format!(
        "event: response.failed\ndata: {{\"type\":\"response.failed\",\"response\":{{\"id\":\"r\",\"status\":\"failed\",\
         \"error\":{{\"code\":\"{code}\",\"message\":\"m\"}},\"output\":[]}}}}\n\n"
    )
}

fn error(code: &str) -> String {
    format!("event: error\ndata: {{\"type\":\"error\",\"code\":\"{code}\",\"message\":\"m\"}}\n\n")
}

#[tokio::test]
async fn a_stream_that_begins_with_a_failure_of_the_account_goes_to_another() {
    for (code, verdict) in [
        ("server_error", Verdict::Failed),
        ("rate_limit_exceeded", Verdict::RateLimited { until: None }),
        ("insufficient_quota", Verdict::OutOfQuota { until: None }),
    ] {
        let limits = "event: codex.rate_limits\ndata: {}\n\n";
        for stream in [
            failed(code),
            error(code),
            format!("{}{}", error(code), failed(code)),
            format!("{}data: [DONE]\n\n", error(code)),
            format!(": hi\n\n{limits}{}", error(code)),
            format!("{}{}", error(code), failed("")),
        ] {
            let checked = opening(&stream).await.check_first_event();
            assert_eq!(checked.unwrap_err().verdict, verdict, "{stream}");
        }
    }
}

#[tokio::test]
async fn errors_for_the_client_and_later_events_stay() {
    let created =
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\"}}\n\n";
    for stream in [
        created.to_owned(),
        failed("invalid_prompt"),
        error("content_policy_violation"),
        format!("{}{}", error("server_error"), failed("server_error").replace("failed", "completed")),
        // The client gets what follows the first event, even if it arrived with it.
        format!("{created}{}", failed("server_error")),
        format!("{created}{}", error("server_error")),
    ] {
        assert!(opening(&stream).await.check_first_event().is_ok(), "{stream}");
    }
}
