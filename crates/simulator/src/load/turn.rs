//! Requests rendered once, and replies searched instead of parsed.

use super::connection::Connection;
use super::outcome::{Failure, Success};
use super::{LoadError, LoadOptions, Mode, http_url};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use memchr::memmem;
use std::time::Instant;

/// Where turns go and what they say.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) authority: String,
    pub(super) mode: Mode,
    pub(super) turns: usize,
    uri: Uri,
    headers: HeaderMap,
    first_body: Bytes,
    /// What stands before and after the id in a body that continues.
    around_id: (String, String),
}

impl Target {
    pub(super) fn new(options: &LoadOptions) -> Result<Self, LoadError> {
        let url = http_url(&options.url)?;
        let host = url.host().unwrap_or_default();
        let authority = format!("{host}:{}", url.port_u16().unwrap_or(80));
        let uri = format!("{}/responses", url.path().trim_end_matches('/'));
        let store = options.store.unwrap_or(options.mode == Mode::Chain);
        let text: String =
            "Say something about the weather. ".chars().cycle().take(options.input_chars).collect();
        let model = serde_json::Value::from(options.model.as_str());
        let stream = options.mode == Mode::Sse;
        let rest = format!("\"model\":{model},\"store\":{store},\"stream\":{stream},\"input\":\"{text}\"}}");
        let before_id = String::from("{\"previous_response_id\":\"");
        Ok(Self {
            headers: headers(&authority, options.api_key.as_deref())?,
            uri: uri.parse().map_err(|_| LoadError::Url { url: options.url.clone() })?,
            authority,
            mode: options.mode,
            turns: options.turns.max(1),
            first_body: format!("{{{rest}").into(),
            around_id: (before_id, format!("\",{rest}")),
        })
    }

    /// One turn, read to its end.
    pub(super) async fn take(
        &self,
        connection: &mut Connection,
        parent: Option<&str>,
    ) -> Result<Success, Failure> {
        let body = match parent {
            Some(id) => [&self.around_id.0, id, &self.around_id.1].concat().into(),
            None => self.first_body.clone(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let started = Instant::now();
        let response = connection.send(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        if status != StatusCode::OK {
            drain(&mut body).await?;
            return Err(Failure::Status(status.as_u16()));
        }
        match self.mode {
            Mode::Json => drain(&mut body).await.map(|bytes| Success { bytes, ..Success::default() }),
            Mode::Sse => read_stream(&mut body, started).await,
            Mode::Chain => read_collected(&mut body).await,
        }
    }
}

fn headers(authority: &str, api_key: Option<&str>) -> Result<HeaderMap, LoadError> {
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(authority).map_err(|_| LoadError::Url { url: authority.to_owned() })?;
    headers.insert(HOST, host);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(key) = api_key {
        let bearer = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| LoadError::ApiKey)?;
        headers.insert(AUTHORIZATION, bearer);
    }
    Ok(headers)
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(Failure::Cut),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn drain(body: &mut Incoming) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(data) = next(body).await? {
        bytes += data.len() as u64;
    }
    Ok(bytes)
}

async fn read_stream(body: &mut Incoming, started: Instant) -> Result<Success, Failure> {
    let mut first_event = None;
    // The line end before the first line, so that every event line has one.
    let mut stream = vec![b'\n'];
    while let Some(data) = next(body).await? {
        first_event.get_or_insert_with(|| started.elapsed());
        stream.extend_from_slice(&data);
    }
    // A text that talks about events cannot be taken for one: its line ends are escaped.
    let has = |line: &str| memmem::rfind(&stream, line.as_bytes()).is_some();
    if has("\nevent: response.completed") {
        Ok(Success { bytes: stream.len() as u64 - 1, first_event, response_id: None })
    } else if has("\nevent: response.failed") || has("\nevent: response.incomplete") || has("\nevent: error")
    {
        Err(Failure::NotCompleted)
    } else {
        Err(Failure::NoTerminal)
    }
}

async fn read_collected(body: &mut Incoming) -> Result<Success, Failure> {
    let mut collected = next(body).await?.unwrap_or_default();
    while let Some(data) = next(body).await? {
        collected = [collected, data].concat().into();
    }
    let response_id = Some(response_id(&collected).ok_or(Failure::NoId)?);
    Ok(Success { bytes: collected.len() as u64, response_id, first_event: None })
}

/// The first `id` whose value begins like a response's.
fn response_id(body: &[u8]) -> Option<String> {
    memmem::find_iter(body, "\"id\"").find_map(|at| {
        let rest = body[at + "\"id\"".len()..].trim_ascii_start().strip_prefix(b":")?;
        let value = rest.trim_ascii_start().strip_prefix(b"\"")?;
        let id = &value[..memchr::memchr(b'"', value)?];
        id.starts_with(b"resp").then(|| String::from_utf8(id.to_vec()).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::response_id;

    #[test]
    fn the_response_id_is_found_wherever_it_stands() {
        assert_eq!(response_id(br#"{"id":"resp_1","output":[]}"#).as_deref(), Some("resp_1"));
        assert_eq!(
            response_id(br#"{"output":[{"id": "msg_1"}], "id" : "resp_2"}"#).as_deref(),
            Some("resp_2")
        );
        assert_eq!(response_id(br#"{"error":{}}"#), None);
    }
}
