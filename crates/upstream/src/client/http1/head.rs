//! The heads of requests and replies: what is before their bodies.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use httparse::{ParserConfig, Status};
use memchr::memchr_iter;

use super::framing::Framing;
use crate::client::parts::PartsBody;

const MAX_HEADERS: usize = 128;

/// The head of a reply, and what it says about the rest.
#[derive(Debug)]
pub struct ReplyHead {
    pub reply: Response<()>,
    /// The bytes that it takes.
    pub len: usize,
    pub framing: Framing,
    /// Whether the connection may be used again.
    pub keeps_alive: bool,
}

/// The upstream does not speak HTTP/1.1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("the reply's head is not HTTP: {0}")]
    Syntax(#[from] httparse::Error),
    #[error("the reply's length is not a number, or there are several")]
    Length,
    #[error("the reply's transfer-encoding does not belong there")]
    TransferEncoding,
    #[error("the reply switches protocols")]
    Upgrade,
}

/// The head of a request that has a `host` header, with its address as it stands there: a path, or for a proxy the whole.
pub fn encode(request: &Request<PartsBody>) -> Bytes {
    let body_bytes = request.body().remaining();
    let uri = request.uri();
    let whole = uri.scheme().map(|_| uri.to_string());
    let path = whole.as_deref().unwrap_or_else(|| uri.path_and_query().map_or("/", |path| path.as_str()));
    let mut head = Vec::with_capacity(512);
    for part in [request.method().as_str(), " ", path, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    let mut add = |name: &HeaderName, value: &[u8]| {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    for (name, value) in request.headers() {
        add(name, value.as_bytes());
    }
    if body_bytes > 0 || request.method() != Method::GET {
        add(&header::CONTENT_LENGTH, body_bytes.to_string().as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// Whether a head may end here.
pub fn has_empty_line(bytes: &[u8]) -> bool {
    memchr_iter(b'\n', bytes).any(|at| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// The head of the reply; `None` if it has not arrived as a whole.
pub fn parse(bytes: &[u8]) -> Result<Option<ReplyHead>, BadHead> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let parsing = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut lines);
    let Status::Complete(len) = parsing? else { return Ok(None) };
    let mut reply = Response::new(());
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    *reply.status_mut() = status.ok_or(httparse::Error::Status)?;
    *reply.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let headers = reply.headers_mut();
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| httparse::Error::HeaderValue)?;
        headers.append(name, value);
    }
    let framing = framing(&reply)?;
    let keeps_alive = framing != Framing::UntilClose && keeps_alive(&reply);
    Ok(Some(ReplyHead { reply, len, framing, keeps_alive }))
}

/// By RFC 9112, section 6.3, for replies to GET and POST.
fn framing(reply: &Response<()>) -> Result<Framing, BadHead> {
    let headers = reply.headers();
    match reply.status() {
        StatusCode::SWITCHING_PROTOCOLS => return Err(BadHead::Upgrade),
        status if status.is_informational() => return Ok(Framing::Length(0)),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => return Ok(Framing::Length(0)),
        _ => {}
    }
    if let Some(last) = tokens(headers, &header::TRANSFER_ENCODING).last() {
        if reply.version() == Version::HTTP_10 {
            return Err(BadHead::TransferEncoding);
        }
        let is_chunked = last.eq_ignore_ascii_case(b"chunked");
        return Ok(if is_chunked { Framing::chunked() } else { Framing::UntilClose });
    }
    let mut length = None;
    for token in tokens(headers, &header::CONTENT_LENGTH) {
        let digits = std::str::from_utf8(token).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let bytes = digits.and_then(|digits| digits.parse().ok()).ok_or(BadHead::Length)?;
        if length.is_some_and(|length| length != bytes) {
            return Err(BadHead::Length);
        }
        length = Some(bytes);
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

fn keeps_alive(reply: &Response<()>) -> bool {
    let says = |word: &str| {
        let mut tokens = tokens(reply.headers(), &header::CONNECTION);
        tokens.any(|token| token.eq_ignore_ascii_case(word.as_bytes()))
    };
    !says("close") && (reply.version() == Version::HTTP_11 || says("keep-alive"))
}

/// The elements of a header that is a list.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<(Framing, bool), BadHead> {
        let head = head.replace('\n', "\r\n");
        let parsed = parse(head.as_bytes())?.expect("the head is whole");
        assert_eq!(parsed.len, head.len());
        Ok((parsed.framing, parsed.keeps_alive))
    }

    #[test]
    fn the_head_says_where_the_body_ends_and_whether_the_connection_stays() {
        for (head, framing, keeps_alive) in [
            ("HTTP/1.1 200 OK\nContent-Length: 12\n\n", Framing::Length(12), true),
            ("HTTP/1.1 200\ncontent-length: 7, 7\ncontent-length: 7\n\n", Framing::Length(7), true),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, Chunked\n\n", Framing::chunked(), true),
            ("HTTP/1.1 200 OK\ntransfer-encoding: chunked\ncontent-length: 3\n\n", Framing::chunked(), true),
            ("HTTP/1.1 200 OK\ntransfer-encoding: chunked, gzip\n\n", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\n\n", Framing::UntilClose, false),
            ("HTTP/1.1 204 No Content\ncontent-length: 5\n\n", Framing::Length(0), true),
            ("HTTP/1.1 304 Not Modified\ncontent-length: 5\n\n", Framing::Length(0), true),
            ("HTTP/1.1 100 Continue\n\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\nconnection: Upgrade, Close\ncontent-length: 1\n\n", Framing::Length(1), false),
            ("HTTP/1.0 200 OK\ncontent-length: 1\n\n", Framing::Length(1), false),
            ("HTTP/1.0 200 OK\nconnection: keep-alive\ncontent-length: 1\n\n", Framing::Length(1), true),
        ] {
            assert_eq!(parsed(head), Ok((framing, keeps_alive)), "{head}");
        }
    }

    #[test]
    fn heads_that_leave_the_end_of_the_body_open_are_refused() {
        for (head, error) in [
            ("HTTP/1.1 200 OK\ncontent-length: 7\ncontent-length: 8\n\n", BadHead::Length),
            ("HTTP/1.1 200 OK\ncontent-length: +7\n\n", BadHead::Length),
            ("HTTP/1.1 200 OK\ncontent-length: \n\n", BadHead::Length),
            ("HTTP/1.1 200 OK\ncontent-length: 18446744073709551616\n\n", BadHead::Length),
            ("HTTP/1.0 200 OK\ntransfer-encoding: chunked\n\n", BadHead::TransferEncoding),
            ("HTTP/1.1 101 Switching Protocols\n\n", BadHead::Upgrade),
            ("HTTP/2 200 OK\n\n", httparse::Error::Version.into()),
            ("HTTP/1.1 200 OK\na b: c\n\n", httparse::Error::HeaderName.into()),
        ] {
            assert_eq!(parsed(head), Err(error), "{head}");
        }
    }

    #[test]
    fn a_head_is_parsed_once_it_is_whole() {
        let head = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\na: b\r\na: c\r\n\r\nbody";
        for end in 0..head.len() - 4 {
            assert!(parse(&head[..end]).unwrap().is_none(), "{end}");
            assert!(!has_empty_line(&head[..end]), "{end}");
        }
        assert!(has_empty_line(head) && has_empty_line(b"a\n\nb"));
        let parsed = parse(head).unwrap().unwrap();
        assert_eq!((parsed.reply.status(), parsed.len), (StatusCode::TOO_MANY_REQUESTS, head.len() - 4));
        assert_eq!(parsed.reply.headers()["retry-after"], "7");
        assert_eq!(parsed.reply.headers().get_all("a").iter().collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn a_request_without_a_body_has_a_length_unless_it_is_a_get() {
        for (method, end) in
            [(Method::GET, "host: h\r\n\r\n"), (Method::POST, "host: h\r\ncontent-length: 0\r\n\r\n")]
        {
            let mut request = Request::new(PartsBody::new(Vec::new()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = "/v1/models?a=b".parse().unwrap();
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("h"));
            assert_eq!(encode(&request), format!("{method} /v1/models?a=b HTTP/1.1\r\n{end}"));
        }
    }
}
