//! The target of the load: its address, and the kind of connection to it.

use crate::body::Bodies;
use crate::http::HttpConnection;
use crate::outcome::{Failure, Success};
use crate::reply::Parent;
use crate::socket::Socket;
use crate::{LoadError, LoadOptions, Mode, http_url};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Uri};
use tokio::net::TcpStream;

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) authority: String,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) turns: usize,
    pub(crate) delays: bool,
    mode: Mode,
    tools: bool,
    bodies: Bodies,
}

pub(crate) enum Connection {
    Http(HttpConnection),
    Socket(Box<Socket>),
}

impl Target {
    pub(crate) fn new(options: &LoadOptions) -> Result<Self, LoadError> {
        let url = http_url(&options.url)?;
        let host = url.host().unwrap_or_default();
        let authority = format!("{host}:{}", url.port_u16().unwrap_or(80));
        let uri = format!("{}/responses", url.path().trim_end_matches('/'));
        Ok(Self {
            headers: headers(&authority, options.api_key.as_deref())?,
            uri: uri.parse().map_err(|_| LoadError::Url { url: options.url.clone() })?,
            authority,
            turns: options.turns.max(1),
            delays: options.delays,
            mode: options.mode,
            tools: options.tools,
            bodies: Bodies::new(options),
        })
    }

    pub(crate) async fn open(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|_| Failure::Connect)?;
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        Ok(match self.mode {
            Mode::Json | Mode::Sse => Connection::Http(HttpConnection::open(stream).await?),
            Mode::Ws => Connection::Socket(Box::new(Socket::open(stream, self).await?)),
        })
    }

    /// Runs one turn and reads its reply to the end.
    pub(crate) async fn run(
        &self,
        connection: &mut Connection,
        parent: Option<&Parent>,
    ) -> Result<Success, Failure> {
        let body = self.bodies.body(parent);
        match connection {
            Connection::Http(http) => http.run(self, body, self.mode == Mode::Sse).await,
            Connection::Socket(socket) => socket.run(self, body).await,
        }
    }

    /// The ids that a turn needs to continue this response; `None` if the run has no chains.
    pub(crate) fn parent(&self, response: &[u8]) -> Result<Option<Parent>, Failure> {
        if self.turns > 1 { Parent::find(response, self.tools).map(Some) } else { Ok(None) }
    }
}

impl Connection {
    /// `false` if it is known to be closed. A lost socket is only noticed by the next turn.
    pub(crate) async fn is_usable(&mut self) -> bool {
        match self {
            Self::Http(http) => http.is_usable().await,
            Self::Socket(_) => true,
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
