//! The headers that pass from client to upstream, and back. No others do, above all no credentials and cookies. Nor do
//! those that `Connection` names, which are meant for the next hop alone.

use http::{HeaderMap, HeaderName, header};

const TO_UPSTREAM: [&str; 7] = [
    "session-id",
    "thread-id",
    "x-client-request-id",
    "originator",
    "user-agent",
    "traceparent",
    "tracestate",
];
const TO_UPSTREAM_PREFIXES: [&str; 2] = ["openai-", "x-codex-"];
/// Set by the account only: an upstream would refuse the credential if a client named another organization.
const ACCOUNT_ONLY: [&str; 2] = ["openai-organization", "openai-project"];
const TO_CLIENT: [&str; 4] = ["retry-after", "retry-after-ms", "openai-processing-ms", "x-request-id"];
const TO_CLIENT_PREFIXES: [&str; 2] = ["x-ratelimit-", "x-codex-"];

/// The client's headers that go upstream.
pub fn for_upstream(client: &HeaderMap) -> HeaderMap {
    let mut headers = copy_matching(client, &TO_UPSTREAM, &TO_UPSTREAM_PREFIXES);
    for name in ACCOUNT_ONLY {
        headers.remove(name);
    }
    headers
}

/// The upstream's headers that go to the client.
pub fn for_client(upstream: &HeaderMap) -> HeaderMap {
    copy_matching(upstream, &TO_CLIENT, &TO_CLIENT_PREFIXES)
}

/// Removes the headers that the `Connection` of a message names.
pub fn remove_named_by_connection(headers: &mut HeaderMap, message: &HeaderMap) {
    for value in message.get_all(header::CONNECTION) {
        for name in value.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                headers.remove(name);
            }
        }
    }
}

fn copy_matching(from: &HeaderMap, names: &[&str], prefixes: &[&str]) -> HeaderMap {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut picked = HeaderMap::new();
    for (name, value) in from.iter().filter(|(name, _)| passes(name)) {
        picked.append(name.clone(), value.clone());
    }
    remove_named_by_connection(&mut picked, from);
    picked
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_listed_headers_pass() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "cookie",
            "set-cookie",
            "connection",
            "x-api-key",
            "api-key",
            "x-stainless-lang",
            "openai-beta",
            "openai-organization",
            "openai-project",
            "x-codex-window-id",
            "session-id",
            "x-ratelimit-reset-requests",
            "retry-after",
            "transfer-encoding",
            "tracestate",
            "baggage",
        ] {
            headers.insert(HeaderName::from_static(name), "v".parse().unwrap());
        }
        let names = |map: HeaderMap| {
            let mut names: Vec<_> = map.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(
            names(for_upstream(&headers)),
            ["openai-beta", "session-id", "tracestate", "x-codex-window-id"]
        );
        assert_eq!(
            names(for_client(&headers)),
            ["retry-after", "x-codex-window-id", "x-ratelimit-reset-requests"]
        );
    }

    #[test]
    fn headers_that_connection_names_do_not_pass() {
        let mut headers = HeaderMap::new();
        for name in ["session-id", "x-codex-a", "x-codex-b", "x-codex-c"] {
            headers.insert(HeaderName::from_static(name), "v".parse().unwrap());
        }
        for value in ["keep-alive, X-Codex-A", "x-codex-c ,, no name, \u{e9}"] {
            headers.append(header::CONNECTION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        assert_eq!(for_upstream(&headers).len(), 2);
        let names: Vec<_> = for_client(&headers).keys().map(ToString::to_string).collect();
        assert_eq!(names, ["x-codex-b"]);
    }
}
