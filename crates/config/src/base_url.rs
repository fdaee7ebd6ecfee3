//! `base_url`: the address of an account's upstream.

use url::{Host, Url};

const RULE: &str = r#"must be an http or https URL such as "https://api.openai.com/v1""#;

/// What Antiphon appends itself. The last column is what else to write for an upstream that has this.
const ENDPOINTS: [(&str, &str); 5] = [
    ("/chat/completions", r#" and api = "chat""#),
    ("/responses", ""),
    ("/completions", ""),
    ("/embeddings", ""),
    ("/models", ""),
];

/// Without a slash at the end. The error is the rule that was broken, and what to write instead.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    // The parser would leave some of them out without a word.
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("must not hold blanks or control characters".to_owned());
    }
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https");
    let mut url = Url::parse(text).ok().filter(is_http).ok_or_else(|| with_scheme(text))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user or password: put the credential into api_key".to_owned());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let endpoint = ENDPOINTS.iter().find(|(endpoint, _)| path.ends_with(endpoint));
    let base = endpoint.map_or(path.as_str(), |(endpoint, _)| path.strip_suffix(endpoint).unwrap_or(&path));
    url.set_path(base);
    if endpoint.is_none() && url.query().is_none() && url.fragment().is_none() {
        return Ok(url);
    }
    Err(correction(url, endpoint))
}

/// The rule, and what to write if only the scheme is missing.
fn with_scheme(text: &str) -> String {
    let may_hold_secret = text.contains(['@', '?', '#']);
    if text.starts_with('/') {
        return format!("{RULE}, not a path");
    }
    let url =
        Url::parse(&format!("https://{text}")).ok().filter(|_| !text.contains("://") && !may_hold_secret);
    match url.as_ref().and_then(Url::host) {
        Some(Host::Domain("localhost") | Host::Ipv4(_) | Host::Ipv6(_)) => {
            format!("{RULE}: write \"http://{text}\"")
        }
        Some(Host::Domain(name)) if name.contains('.') => format!("{RULE}: write \"https://{text}\""),
        _ => RULE.to_owned(),
    }
}

/// Says what to write, without the values of parameters, which may be secrets.
fn correction(mut url: Url, endpoint: Option<&(&str, &str)>) -> String {
    let names: Vec<String> = url.query_pairs().map(|(name, _)| format!("{name:?} = \"…\"")).collect();
    url.set_query(None);
    url.set_fragment(None);
    let wrong = match endpoint {
        Some((endpoint, _)) => format!("must not include {endpoint}, which Antiphon appends"),
        None => "must not contain a query or fragment".to_owned(),
    };
    let api = endpoint.map_or("", |(_, api)| api);
    let query =
        if names.is_empty() { String::new() } else { format!(" and query = {{ {} }}", names.join(", ")) };
    format!("{wrong}: write base_url = \"{url}\"{api}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_no_base_is_corrected() {
        for (text, correction) in [
            ("http://h/v1/chat/completions", r#"write base_url = "http://h/v1" and api = "chat""#),
            ("https://h/v1/responses/", r#"write base_url = "https://h/v1""#),
            ("https://h/v1/models", r#"write base_url = "https://h/v1""#),
            (
                "https://h/v1?api-version=1&key=secret",
                r#"write base_url = "https://h/v1" and query = { "api-version" = "…", "key" = "…" }"#,
            ),
            (
                "https://h/openai/chat/completions?api-version=1",
                r#"write base_url = "https://h/openai" and api = "chat" and query = { "api-version" = "…" }"#,
            ),
            ("https://h/v1#x", r#"write base_url = "https://h/v1""#),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.ends_with(correction) && !error.contains("secret"), "{error}");
        }
        for (text, correction) in [
            ("api.example/v1", r#"write "https://api.example/v1""#),
            ("localhost:11434/v1", r#"write "http://localhost:11434/v1""#),
            ("127.0.0.1:8000", r#"write "http://127.0.0.1:8000""#),
            ("/v1", "not a path"),
            ("openai", r#"such as "https://api.openai.com/v1""#),
            ("ftp://h.example", r#"such as "https://api.openai.com/v1""#),
            ("user:secret@h.example", r#"such as "https://api.openai.com/v1""#),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.ends_with(correction) && !error.contains("secret"), "{error}");
        }
        assert_eq!(parse("http://h:1/v1/").unwrap().as_str(), "http://h:1/v1");
    }
}
