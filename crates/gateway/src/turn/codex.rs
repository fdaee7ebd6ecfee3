//! The headers that Codex reads, as events: on a WebSocket a turn has no headers of its own.

use antiphon_protocol::json;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::framing::Framing;

const HEADER_PREFIX: &str = "x-codex-";
/// Headers in which clients name themselves.
const CLIENT_HEADERS: [&str; 2] = ["originator", "user-agent"];
const NAME: &[u8] = b"codex";
const WINDOWS: [&str; 2] = ["primary", "secondary"];

/// Whether the client is Codex, by what only Codex sends: its name in `originator` or `user-agent` (`codex_cli_rs`,
/// `codex_exec`, `Codex Desktop`, …), or a header that begins with `x-codex-`.
pub fn is_codex(headers: &HeaderMap) -> bool {
    let names_codex = |value: &HeaderValue| {
        value.as_bytes().get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME))
    };
    CLIENT_HEADERS.iter().any(|name| headers.get(*name).is_some_and(names_codex))
        || headers.keys().any(|name| name.as_str().starts_with(HEADER_PREFIX))
}

/// The events that stand for the headers of an upstream that serves Codex; empty for other upstreams.
pub fn events(headers: &HeaderMap, framing: &Framing) -> Vec<Bytes> {
    if !headers.keys().any(|name| name.as_str().starts_with(HEADER_PREFIX)) {
        return Vec::new();
    }
    let limits = rate_limits(headers).map(|data| framing.render(b"codex.rate_limits", data.into()));
    let metadata = framing.render(b"response.metadata", metadata(headers).into());
    limits.into_iter().chain([metadata]).collect()
}

/// All headers that a client would see over HTTP.
fn metadata(headers: &HeaderMap) -> Vec<u8> {
    let mut out = br#"{"type":"response.metadata","headers":{"#.to_vec();
    let values = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    for (index, (name, value)) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write_string(&mut out, name);
        out.push(b':');
        json::write_string(&mut out, value);
    }
    out.extend_from_slice(b"}}");
    out
}

fn rate_limits(headers: &HeaderMap) -> Option<Vec<u8>> {
    let windows = WINDOWS.map(|name| window_json(headers, name));
    let credits = credits_json(headers);
    if windows.iter().all(Option::is_none) && credits.is_none() {
        return None;
    }
    let [primary, secondary] = windows.map(|window| window.unwrap_or_else(|| "null".to_owned()));
    let mut out = format!(
        r#"{{"type":"codex.rate_limits","rate_limits":{{"primary":{primary},"secondary":{secondary}}}"#
    );
    if let Some(credits) = credits {
        out.push_str(",\"credits\":");
        out.push_str(&credits);
    }
    out.push('}');
    Some(out.into_bytes())
}

fn window_json(headers: &HeaderMap, name: &str) -> Option<String> {
    let figure = |figure: &str| number(headers, &format!("{HEADER_PREFIX}{name}-{figure}"));
    let used = figure("used-percent")?;
    let minutes = figure("window-minutes").unwrap_or("null");
    let reset_at = figure("reset-at").unwrap_or("null");
    Some(format!(r#"{{"used_percent":{used},"window_minutes":{minutes},"reset_at":{reset_at}}}"#))
}

fn credits_json(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(format!("{HEADER_PREFIX}credits-{name}"))?.to_str().ok();
    let flag = |name: &str| match text(name)?.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    };
    let (has_credits, unlimited) = (flag("has-credits")?, flag("unlimited")?);
    let mut balance = Vec::new();
    match text("balance") {
        Some(text) => json::write_string(&mut balance, text),
        None => balance.extend_from_slice(b"null"),
    }
    let balance = String::from_utf8_lossy(&balance);
    Some(format!(r#"{{"has_credits":{has_credits},"unlimited":{unlimited},"balance":{balance}}}"#))
}

/// The value of a header, if it is a JSON number.
fn number<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    let is_number = text.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    Some(text).filter(|text| is_number && json::validate(text.as_bytes()).is_ok())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn events_for(headers: &[(&'static str, &'static str)]) -> Vec<String> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let events = events(&headers, &Framing::Socket(None));
        events.into_iter().map(|event| String::from_utf8(event.to_vec()).unwrap()).collect()
    }

    #[test]
    fn codex_is_known_by_its_headers() {
        let sends = |name: &'static str, value: &'static str| {
            is_codex(&HeaderMap::from_iter([(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]))
        };
        assert!(sends("originator", "codex_exec") && sends("originator", "Codex Desktop"));
        assert!(sends("user-agent", "codex_cli_rs/0.169.0 (Debian 12.0.0; x86_64)"));
        assert!(sends("x-codex-window-id", "w"));
        assert!(!sends("user-agent", "OpenAI/Python 3.52.0") && !sends("originator", "opencode"));
        assert!(!sends("session-id", "codex") && !sends("user-agent", "cod"));
    }

    #[test]
    fn an_upstream_that_does_not_serve_codex_adds_no_events() {
        assert!(events_for(&[("x-request-id", "r"), ("x-ratelimit-limit-tokens", "7")]).is_empty());
    }

    #[test]
    fn headers_and_limits_become_events() {
        assert_eq!(
            events_for(&[("x-codex-turn-state", "s\"1"), ("x-request-id", "r")]),
            [r#"{"type":"response.metadata","headers":{"x-codex-turn-state":"s\"1","x-request-id":"r"}}"#]
        );
        let limits = events_for(&[
            ("x-codex-primary-used-percent", "12.5"),
            ("x-codex-primary-window-minutes", "300"),
            ("x-codex-primary-reset-at", "soon"),
            ("x-codex-credits-has-credits", "True"),
            ("x-codex-credits-unlimited", "0"),
            ("x-codex-credits-balance", "9.99"),
        ]);
        assert_eq!(
            limits[0],
            r#"{"type":"codex.rate_limits","rate_limits":{"primary":{"used_percent":12.5,"window_minutes":300,"reset_at":null},"secondary":null},"credits":{"has_credits":true,"unlimited":false,"balance":"9.99"}}"#
        );
    }
}
