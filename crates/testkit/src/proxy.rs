//! An HTTP proxy, and an upstream behind TLS with an authority of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Listens on a random port, and connects every host to the same address.
pub struct HttpProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl HttpProxy {
    /// `login` is what has to come as `proxy-authorization`, if anything.
    pub async fn start(target: SocketAddr, login: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, target, login, Arc::clone(&seen)));
            }
        });
        Self { address, heads, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of the first requests of all connections.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass(
    mut client: TcpStream,
    target: SocketAddr,
    login: Option<&str>,
    seen: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD_BYTES || client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let is_allowed = login.is_none_or(|login| text.contains(&format!("proxy-authorization: {login}\r\n")));
    let is_tunnel = text.starts_with("CONNECT ");
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    if !is_allowed {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return client.write_all(refusal).await;
    }
    let mut upstream = TcpStream::connect(target).await?;
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    } else {
        // The upstream takes a whole address for its path as well.
        upstream.write_all(&head).await?;
    }
    copy_bidirectional(&mut client, &mut upstream).await.map(|_| ())
}

/// Ends TLS in front of an upstream.
pub struct TlsFront {
    address: SocketAddr,
    /// The authority's certificate.
    pub authority_pem: String,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// Its certificate is for `name`, and from an authority that nobody knows. It offers HTTP/2.
    pub async fn start(target: SocketAddr, name: &str) -> Self {
        let (config, authority_pem) = certificate(name);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let client = acceptor.accept(client).await?;
                    join(client, TcpStream::connect(target).await?).await
                });
            }
        });
        Self { address, authority_pem, serving }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn join(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: TcpStream,
) -> std::io::Result<()> {
    copy_bidirectional(&mut client, &mut upstream).await.map(|_| ())
}

fn certificate(name: &str) -> (ServerConfig, String) {
    let key = || KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, key()).expect("valid parameters");
    let own = key();
    let params = CertificateParams::new([name.to_owned()]).expect("a valid name");
    let leaf = params.signed_by(&own, &authority).expect("a certificate can be issued");
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring supports TLS 1.2 and 1.3").with_no_client_auth();
    let mut config = config.with_single_cert(vec![leaf.der().clone()], private).expect("a valid certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (config, authority.pem())
}
