//! Opening connections, with TLS where the address asks for it.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::io::Errno;
use tower::ServiceExt;

use super::dial::Dial;
use super::origin::Origin;
use super::wire::{Wire, WireLog};
use super::{SendError, error_chain, error_chain_text};
use crate::route::Route;

/// The byte stream below HTTP.
pub type Stream = MaybeHttpsStream<Wire>;

#[derive(Clone)]
pub struct Connector {
    /// For TCP and TLS together.
    timeout: Duration,
    /// For requests, which a proxy may read if they are not encrypted.
    requests: HttpsConnector<Dial>,
    /// For WebSockets, which every proxy passes on unread.
    sockets: HttpsConnector<Dial>,
    http: HttpConnector,
}

// === impl Connector ===

impl Connector {
    /// Checks certificates against the system's roots, or the built-in ones if the system has none.
    pub fn new(timeout: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(timeout));
        http.set_keepalive(Some(Duration::from_secs(60)));
        let connector = |tunnels_all| {
            let dial = Dial::new(http.clone(), Route::default(), tunnels_all);
            tls().https_or_http().enable_http1().wrap_connector(dial)
        };
        let (requests, sockets) = (connector(false), connector(true));
        Self { timeout, requests, sockets, http }
    }

    /// For requests.
    pub async fn connect(&self, origin: &Origin) -> Result<Stream, SendError> {
        let connector = self.connector(origin.route(), false);
        self.open(connector, origin.uri()).await
    }

    pub async fn connect_socket(&self, uri: &Uri, route: &Route) -> Result<Stream, SendError> {
        let connector = self.connector(route, true);
        self.open(connector, uri.clone()).await
    }

    fn connector(&self, route: &Route, tunnels_all: bool) -> HttpsConnector<Dial> {
        match route.tls() {
            None if *route == Route::default() => {
                if tunnels_all {
                    self.sockets.clone()
                } else {
                    self.requests.clone()
                }
            }
            own => {
                let tls = own.map_or_else(tls, |own| HttpsConnectorBuilder::new().with_tls_config(own));
                let dial = Dial::new(self.http.clone(), route.clone(), tunnels_all);
                tls.https_or_http().enable_http1().wrap_connector(dial)
            }
        }
    }

    async fn open(&self, connector: HttpsConnector<Dial>, uri: Uri) -> Result<Stream, SendError> {
        let connecting = connector.oneshot(uri);
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| connect_error(error.as_ref())),
            Err(_elapsed) => Err(SendError::ConnectTimeout),
        }
    }
}

fn tls() -> HttpsConnectorBuilder<WantsSchemes> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new;
    match builder().with_provider_and_native_roots(provider.clone()) {
        Ok(tls) => tls,
        Err(_) => builder().with_provider_and_webpki_roots(provider).expect("ring supports TLS 1.2 and 1.3"),
    }
}

/// The log of the TCP connection below.
pub fn wire_log(stream: &Stream) -> &Arc<WireLog> {
    match stream {
        MaybeHttpsStream::Http(wire) => wire.log(),
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().log(),
    }
}

fn connect_error(error: &(dyn std::error::Error + 'static)) -> SendError {
    let has = |is_wanted: fn(&std::io::Error) -> bool| {
        error_chain(error).filter_map(|source| source.downcast_ref::<std::io::Error>()).any(is_wanted)
    };
    if has(|io| io.kind() == std::io::ErrorKind::TimedOut) {
        return SendError::ConnectTimeout;
    }
    let reason = error_chain_text(error);
    if has(is_own_shortage) { SendError::NoResources(reason) } else { SendError::Connect(reason) }
}

/// Whether this machine, not the upstream, has no room for another connection.
fn is_own_shortage(error: &std::io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|error| shortages.contains(&error))
}
