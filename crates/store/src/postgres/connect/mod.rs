//! Connecting to the server: resolving its name, checking its addresses, TLS, and logging in.

mod explain;
mod lingering;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;

use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{CancelToken, Client, Config, SimpleQueryMessage, config};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::lingering::Lingering;
use crate::StoreError;
use crate::url::PostgresTarget;
use crate::url::host::Host;
use crate::url::tls::{ChannelBinding, SslMode};

/// The encodings of databases that can store every text. SQL_ASCII stores bytes as they come.
const ENCODINGS: [&str; 2] = ["UTF8", "SQL_ASCII"];

/// Opens connections to one database. `new` reads the files that the URL names.
pub(super) struct Connector {
    target: PostgresTarget,
    config: Config,
    /// `None` never offers TLS.
    tls: Option<MakeRustlsConnect>,
    resolve: Resolve,
}

/// Resolves a name and a port to addresses.
type Resolve = Box<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// A connection that is logged in.
pub(super) struct Opened {
    pub(super) client: Client,
    /// Moves the connection's bytes while it is polled.
    pub(super) driver: Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>,
}

/// Why there is no connection. Never holds credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectError {
    /// An operator has to act: wrong credentials, no such database, an untrusted certificate, a refused address.
    #[error("{0}")]
    Unusable(String),

    /// The server can't be reached now, or accepts no connections now.
    #[error("{0}")]
    Unavailable(String),
}

// === impl Connector ===

impl Connector {
    /// Reads the certificates. Doesn't connect.
    pub(super) fn new(target: &PostgresTarget) -> Result<Self, StoreError> {
        let resolve: Resolve = Box::new(|name, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) })
        });
        Self::with_resolver(target, resolve)
    }

    fn with_resolver(target: &PostgresTarget, resolve: Resolve) -> Result<Self, StoreError> {
        let tls = tls::client(&target.tls).map_err(StoreError::Unusable)?;
        Ok(Self { config: login(target), tls, resolve, target: target.clone() })
    }

    /// Connects and logs in within the URL's `connect_timeout`. Resolves the name and checks its addresses each time, and
    /// connects to exactly the addresses that it checked.
    pub(super) async fn connect(&self) -> Result<Opened, ConnectError> {
        let deadline = Instant::now() + self.target.connect_timeout;
        let Host::Socket(directory) = &self.target.host else {
            return self.connect_first(deadline).await;
        };
        let opened = async { self.log_in(self.unix_stream(directory).await?).await };
        timeout(self.target.connect_timeout, opened).await.unwrap_or_else(|_| Err(self.too_late()))
    }

    /// Asks the server to cancel the query of another connection. The server doesn't say whether it has.
    pub(super) async fn cancel(&self, connection: &CancelToken) -> Result<(), ConnectError> {
        let cancelled = match &self.target.host {
            Host::Socket(directory) => {
                let stream = Lingering(self.unix_stream(directory).await?);
                connection.cancel_query_raw(stream, NoTls).await
            }
            _ => {
                let addresses = self.addresses().await?;
                let first = addresses.first().ok_or_else(|| self.unavailable("its name has no address"))?;
                let stream = Lingering(self.tcp_stream(*first).await?);
                match self.tls::<Lingering<TcpStream>>() {
                    Some(tls) => connection.cancel_query_raw(stream, tls).await,
                    None => connection.cancel_query_raw(stream, NoTls).await,
                }
            }
        };
        cancelled.map_err(|error| explain::explain(&error, &self.target))
    }

    async fn unix_stream(&self, directory: &Path) -> Result<UnixStream, ConnectError> {
        let path = directory.join(format!(".s.PGSQL.{}", self.target.port));
        UnixStream::connect(&path).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ConnectError::Unusable(self.unreached(&error)),
            _ => ConnectError::Unavailable(self.unreached(&error)),
        })
    }

    /// Connects to the first address that accepts. Each gets an equal share of the time that is left.
    async fn connect_first(&self, deadline: Instant) -> Result<Opened, ConnectError> {
        let addresses = tokio::time::timeout_at(deadline, self.addresses());
        let addresses = addresses.await.unwrap_or_else(|_| Err(self.too_late()))?;
        let mut last = None;
        for (at, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
            let opened = async { self.log_in(self.tcp_stream(*address).await?).await };
            match timeout(share, opened).await {
                Ok(Err(ConnectError::Unavailable(text))) => last = Some(ConnectError::Unavailable(text)),
                Ok(decided) => return decided,
                Err(_) => last = Some(self.too_late()),
            }
        }
        Err(last.unwrap_or_else(|| self.unavailable("its name has no address")))
    }

    /// The addresses of the server. If the policy refuses one, it refuses them all: whoever answers for the name chose both.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let PostgresTarget { host, address, port, network, .. } = &self.target;
        let name = match (address, host) {
            (Some(address), _) | (None, Host::Address(address)) => {
                network.check_address(*address).map_err(|refusal| self.unusable(refusal))?;
                return Ok(vec![SocketAddr::new(*address, *port)]);
            }
            (None, Host::Name(name)) => name,
            (None, Host::Socket(_)) => return Ok(Vec::new()),
        };
        let resolved = (self.resolve)(name.clone(), *port).await;
        let resolved =
            resolved.map_err(|error| self.unavailable(format!("its name can't be resolved: {error}")))?;
        for address in resolved.iter().map(SocketAddr::ip) {
            let leads = |why: String| self.unusable(format!("its name resolves to {address}: {why}"));
            network.check_address(address).map_err(|refusal| leads(refusal.to_string()))?;
            if host.is_local() && !address.to_canonical().is_loopback() {
                return Err(leads("a name of this machine may only resolve to loopback addresses".into()));
            }
        }
        Ok(resolved)
    }

    async fn tcp_stream(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        let stream = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            if let Some(keepalive) = self.target.keepalive {
                let keepalive = TcpKeepalive::new()
                    .with_time(keepalive.idle)
                    .with_interval(keepalive.interval)
                    .with_retries(keepalive.count);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            }
            Ok(stream)
        };
        stream.await.map_err(|error: io::Error| ConnectError::Unavailable(self.unreached(&error)))
    }

    fn tls<S>(&self) -> Option<<MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let name = match &self.target.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.trim_end_matches('.').to_owned(),
            Host::Socket(_) => String::new(),
        };
        let Ok(tls) = MakeTlsConnect::<S>::make_tls_connect(&mut self.tls.clone()?, &name);
        Some(tls)
    }

    async fn log_in<S>(&self, stream: S) -> Result<Opened, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut opened = match self.tls::<S>() {
            None => self.start(stream, NoTls).await?,
            Some(tls) => self.start(stream, tls).await?,
        };
        if self.target.must_write {
            self.check_writes(&mut opened).await?;
        }
        Ok(opened)
    }

    async fn start<S, T>(&self, stream: S, tls: T) -> Result<Opened, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: TlsConnect<S>,
        T::Stream: Send + 'static,
    {
        match self.config.connect_raw(stream, tls).await {
            Ok((client, connection)) => {
                self.check_encoding(connection.parameter("server_encoding"))?;
                Ok(Opened { client, driver: Box::pin(connection) })
            }
            Err(error) => Err(explain::explain(&error, &self.target)),
        }
    }

    /// A database in another encoding could store only some of the texts that clients and upstreams send.
    fn check_encoding(&self, encoding: Option<&str>) -> Result<(), ConnectError> {
        match encoding.filter(|encoding| !ENCODINGS.contains(encoding)) {
            None => Ok(()),
            Some(encoding) => Err(self.unusable(format!(
                "the database has the encoding {encoding}, in which not every text can be stored; create one with \
                 ENCODING 'UTF8' TEMPLATE template0, and use that"
            ))),
        }
    }

    /// A server that is a standby now may be the primary at the next attempt.
    async fn check_writes(&self, opened: &mut Opened) -> Result<(), ConnectError> {
        let answer = tokio::select! {
            answer = opened.client.simple_query("SHOW transaction_read_only") => answer,
            ended = &mut opened.driver => ended.map(|()| Vec::new()),
        };
        let messages = answer.map_err(|error| explain::explain(&error, &self.target))?;
        let says = |state: &str| {
            messages
                .iter()
                .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(state)))
        };
        if says("off") {
            Ok(())
        } else {
            Err(self.unavailable("it can't write now: it is a standby, or read-only for this user"))
        }
    }

    fn unusable(&self, why: impl std::fmt::Display) -> ConnectError {
        ConnectError::Unusable(format!("{}: {why}", self.target))
    }

    fn unavailable(&self, why: impl std::fmt::Display) -> ConnectError {
        ConnectError::Unavailable(format!("{}: {why}", self.target))
    }

    fn unreached(&self, error: &io::Error) -> String {
        format!("{} can't be reached: {error}", self.target)
    }

    fn too_late(&self) -> ConnectError {
        self.unavailable(format!("no connection within {:?}", self.target.connect_timeout))
    }
}

/// The parameters of the login.
fn login(target: &PostgresTarget) -> Config {
    let mut config = Config::new();
    config
        .user(&target.user)
        .dbname(&target.database)
        .application_name(&target.application_name)
        .ssl_mode(match target.tls.mode {
            SslMode::Disable => config::SslMode::Disable,
            SslMode::Prefer => config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => config::SslMode::Require,
        })
        .ssl_negotiation(if target.tls.is_direct {
            config::SslNegotiation::Direct
        } else {
            config::SslNegotiation::Postgres
        })
        .channel_binding(match target.tls.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
    if let Some(password) = &target.password {
        config.password(password);
    }
    config
}

// === impl ConnectError ===

impl From<ConnectError> for StoreError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unusable(text) => Self::Unusable(text),
            ConnectError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}
