//! Trace context of the W3C: the headers `traceparent` and `tracestate`.

use std::fmt;

use antiphon_runtime::hex;
use http::{HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The specification asks to pass on at least this much.
const MAX_STATE_BYTES: usize = 512;
const MAX_STATE_MEMBERS: usize = 32;
const SAMPLED: u8 = 1;

/// Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

/// Never all zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanId([u8; 8]);

/// A client's span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    pub is_sampled: bool,
    /// The `tracestate`, or nothing.
    pub state: String,
}

// === impl TraceId ===

impl TraceId {
    pub fn random() -> Self {
        Self(random())
    }

    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl SpanId ===

impl SpanId {
    pub fn random() -> Self {
        Self(random())
    }

    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Parent ===

impl Parent {
    /// `None` if there is no `traceparent`, or several, or one that is not valid.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let parent = values.next().filter(|_| values.next().is_none())?;
        let states: Option<Vec<&str>> =
            headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect();
        Self::parse(parent.to_str().ok()?, &states.unwrap_or_default().join(","))
    }

    /// `None` if the parent is not valid. A state that is not valid is left out.
    pub fn parse(parent: &str, state: &str) -> Option<Self> {
        let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = parent.trim_matches([' ', '\t']).split('-');
        let mut part = |digits: usize| parts.next().filter(|part| part.len() == digits && is_hex(part));
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // A later version may have more parts.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let trace: [u8; 16] = hex::decode(trace)?.try_into().ok()?;
        let span: [u8; 8] = hex::decode(span)?.try_into().ok()?;
        if trace == [0; 16] || span == [0; 8] {
            return None;
        }
        let is_sampled = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & SAMPLED != 0);
        let state = if is_state(state) { state.to_owned() } else { String::new() };
        Some(Self { trace: TraceId(trace), span: SpanId(span), is_sampled, state })
    }
}

/// The `traceparent` of a span that is exported.
pub fn header(trace: TraceId, span: SpanId) -> HeaderValue {
    HeaderValue::try_from(format!("00-{trace}-{span}-{SAMPLED:02x}")).expect("digits and hyphens are valid")
}

fn is_state(state: &str) -> bool {
    let is_key = |key: &str| {
        let is_allowed =
            |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
        (1..=256).contains(&key.len()) && key.bytes().all(is_allowed)
    };
    let is_value = |value: &str| {
        let is_allowed = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
        (1..=256).contains(&value.len()) && value.bytes().all(is_allowed)
    };
    let members =
        || state.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|it| !it.is_empty());
    let is_member =
        |member: &str| member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value));
    state.len() <= MAX_STATE_BYTES && members().count() <= MAX_STATE_MEMBERS && members().all(is_member)
}

fn random<const N: usize>() -> [u8; N] {
    loop {
        let mut bytes = [0; N];
        rand::rng().fill(&mut bytes);
        if bytes != [0; N] {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parse(parent: &str) -> Option<Parent> {
        Parent::parse(parent, "")
    }

    #[test]
    fn valid_parents_are_read_and_written() {
        let parent = parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!((parent.trace.to_string(), parent.span.to_string()), (TRACE.to_owned(), SPAN.to_owned()));
        assert!(parent.is_sampled);
        assert_eq!(header(parent.trace, parent.span), format!("00-{TRACE}-{SPAN}-01"));
        assert!(!parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().is_sampled);
        assert!(parse(&format!("00-{TRACE}-{SPAN}-ff")).unwrap().is_sampled);
        assert!(parse(&format!("cc-{TRACE}-{SPAN}-01-what-comes-later")).is_some());
    }

    #[test]
    fn parents_that_are_not_valid_are_ignored() {
        for parent in [
            String::new(),
            "x".repeat(100_000),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}é-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
        ] {
            assert_eq!(parse(&parent), None, "{parent}");
        }
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, header(TraceId::random(), SpanId::random()));
        assert!(Parent::from_headers(&headers).is_some());
        headers.append(TRACEPARENT, header(TraceId::random(), SpanId::random()));
        assert_eq!(Parent::from_headers(&headers), None);
    }

    #[test]
    fn a_state_is_passed_on_whole_or_not_at_all() {
        let state = |text: &str| Parent::parse(&format!("00-{TRACE}-{SPAN}-01"), text).unwrap().state;
        for valid in ["a=b", "rojo=00f067aa0ba902b7, tenant@sys=t61rcWkgMzE", "a=b,,c=d", ""] {
            assert_eq!(state(valid), valid);
        }
        let many = vec!["a=b"; 33].join(",");
        for bad in
            ["a", "=b", "a=", "A=b", "a=b=c", "a=\u{7f}", many.as_str(), &format!("a={}", "b".repeat(600))]
        {
            assert_eq!(state(bad), "", "{bad}");
        }
    }
}
