//! Where turns go, over which kind of connection.

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

    /// One turn, read to its end.
    pub(crate) async fn take(
        &self,
        connection: &mut Connection,
        parent: Option<&Parent>,
    ) -> Result<Success, Failure> {
        let body = self.bodies.of(parent);
        match connection {
            Connection::Http(http) => http.take(self, body, self.mode == Mode::Sse).await,
            Connection::Socket(socket) => socket.take(self, body).await,
        }
    }

    /// What a turn that continues this response has to name; nothing if there is none.
    pub(crate) fn parent(&self, response: &[u8]) -> Result<Option<Parent>, Failure> {
        if self.turns > 1 { Parent::find(response, self.tools).map(Some) } else { Ok(None) }
    }
}

impl Connection {
    /// False when it is known to be over. A lost socket is found out by the next turn.
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
