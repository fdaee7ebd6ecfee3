//! TLS for clients: both versions of HTTP, WebSockets, client certificates, and a certificate that is replaced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::Simulator;
use antiphon_testkit::{Client, Gateway, Setup, eventually};
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::administering::Operator;
use crate::simulator;

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// The files of a gateway with TLS.
struct Files(TempDir);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        Identity { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    /// A client that trusts this authority, and shows this identity if there is one.
    fn client(&self, shown: Option<&Identity>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(roots);
        match shown {
            Some(Identity { certificate, key }) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }
}

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn write_identity(&self, Identity { certificate, key }: &Identity) {
        self.write("certificate.pem", &certificate.pem());
        self.write("key.pem", &key.serialize_pem());
    }

    fn setup(&self, upstream: &Simulator) -> Setup {
        let path = |name| self.path(name).display().to_string();
        let lines =
            format!("tls.certificate = {:?}\ntls.key = {:?}", path("certificate.pem"), path("key.pem"));
        Setup::over(upstream).config(&lines)
    }
}

async fn secured(authority: &Authority) -> (Simulator, Files, Gateway) {
    let (upstream, files) = (simulator().await, Files::new());
    files.write_identity(&authority.issue("localhost"));
    let gateway = files.setup(&upstream).start().await;
    (upstream, files, gateway)
}

/// Sends a turn over HTTPS; the version of HTTP that was agreed on, the status, and the reply.
async fn create(gateway: &Gateway, tls: ClientConfig, body: &Value) -> Option<(Version, StatusCode, Value)> {
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_all_versions().build();
    let client = HyperClient::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let request = Request::post(format!("https://localhost:{}/v1/responses", gateway.address().port()));
    let request = request.header("content-type", "application/json").body(body.to_string().into()).unwrap();
    let (head, body) = client.request(request).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((head.version, head.status, serde_json::from_slice(&body).unwrap()))
}

/// The certificate that new connections are shown.
async fn shown_certificate(gateway: &Gateway, tls: ClientConfig) -> CertificateDer<'static> {
    let stream = connect(gateway, tls).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn connect(gateway: &Gateway, tls: ClientConfig) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
}

async fn metrics(gateway: &Gateway, authority: &Authority) -> String {
    let mut stream = connect(gateway, authority.client(None)).await;
    let head = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

/// What a gateway with TLS shows of its metrics.
pub(crate) async fn page_of_metrics() -> String {
    let authority = Authority::new();
    let (_upstream, _files, gateway) = secured(&authority).await;
    let reply = metrics(&gateway, &authority).await;
    reply.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn turns_are_served_over_tls_with_http_2_where_clients_speak_it() {
    let authority = Authority::new();
    let (_upstream, _files, gateway) = secured(&authority).await;
    let body = json!({"model": "sim", "input": "hello"});
    let (version, status, reply) = create(&gateway, authority.client(None), &body).await.unwrap();
    assert_eq!((version, status), (Version::HTTP_2, StatusCode::OK), "{reply}");
    let mut tls = authority.client(None);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = connect(&gateway, tls).await;
    let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
}

#[tokio::test]
async fn a_socket_is_served_over_tls() {
    let authority = Authority::new();
    let (_upstream, _files, gateway) = secured(&authority).await;
    let stream = connect(&gateway, authority.client(None)).await;
    let (mut socket, _) =
        tokio_tungstenite::client_async("wss://localhost/v1/responses", stream).await.unwrap();
    let turn = json!({"type": "response.create", "model": "sim", "input": "hello"});
    futures_util::SinkExt::send(&mut socket, turn.to_string().into()).await.unwrap();
    loop {
        let message = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(&message.into_data()).unwrap();
        if event["type"] == "response.completed" {
            break;
        }
        assert_ne!(event["type"], "error", "{event}");
    }
}

#[tokio::test]
async fn the_cookie_of_a_session_is_for_https_alone() {
    let authority = Authority::new();
    let (_upstream, _files, gateway) = secured(&authority).await;
    let token = Operator::of(&gateway).await.token;
    let mut stream = connect(&gateway, authority.client(None)).await;
    let form = format!("token={token}");
    let head = "POST /login HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/x-www-form-urlencoded\r\norigin: https://localhost\r\n";
    let request = format!("{head}content-length: {}\r\n\r\n{form}", form.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let cookie = reply.lines().find(|line| line.starts_with("set-cookie: ")).expect(&reply);
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && cookie.ends_with("; Secure"), "{cookie}");
}

#[tokio::test]
async fn a_client_that_speaks_plain_http_is_told_to_use_https() {
    let authority = Authority::new();
    let (upstream, _files, gateway) = secured(&authority).await;
    let plain = Client::new(&format!("http://{}", gateway.address()));
    let reply = plain.create(json!({"model": "sim", "input": "hello"})).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status.as_u16(), &error["code"]), (400, &json!("https_required")));
    assert!(error["message"].as_str().unwrap().contains("https://"), "{error}");
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_to_new_connections_and_open_ones_go_on() {
    let authority = Authority::new();
    let (_upstream, files, gateway) = secured(&authority).await;
    let mut open = connect(&gateway, authority.client(None)).await;
    let first = shown_certificate(&gateway, authority.client(None)).await;
    let metrics = async || metrics(&gateway, &authority).await;
    // A key that does not belong to the certificate changes nothing.
    files.write("key.pem", &KeyPair::generate().unwrap().serialize_pem());
    let refused = "antiphon_tls_certificate_reloads_total{outcome=\"refused\"} 1\n";
    eventually("the reload is refused", async || metrics().await.contains(refused)).await;
    assert_eq!(shown_certificate(&gateway, authority.client(None)).await, first);
    let next = authority.issue("localhost");
    files.write_identity(&next);
    let is_next =
        async || shown_certificate(&gateway, authority.client(None)).await == *next.certificate.der();
    eventually("the new certificate is shown", is_next).await;
    assert!(metrics().await.contains("antiphon_tls_certificate_expiry_timestamp_seconds "));
    open.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert!(open.read_u8().await.is_ok());
}

#[tokio::test]
async fn with_client_ca_only_clients_with_its_certificates_are_served() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (upstream, files) = (simulator().await, Files::new());
    files.write_identity(&authority.issue("localhost"));
    files.write("clients.pem", &clients.0.pem());
    let lines = format!("tls.client_ca = {:?}", files.path("clients.pem").display().to_string());
    let gateway = files.setup(&upstream).config(&lines).start().await;
    let body = json!({"model": "sim", "input": "hello"});
    let known = clients.issue("client");
    let (_, status, _) = create(&gateway, authority.client(Some(&known)), &body).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    let stranger = authority.issue("client");
    for shown in [None, Some(&stranger)] {
        assert!(create(&gateway, authority.client(shown), &body).await.is_none());
    }
}

#[tokio::test]
async fn a_client_that_never_ends_its_handshake_is_disconnected() {
    let authority = Authority::new();
    let (upstream, files) = (simulator().await, Files::new());
    files.write_identity(&authority.issue("localhost"));
    let gateway = files.setup(&upstream).config("timeouts.header_read = \"2s\"").start().await;
    let silent_after = async |sent: &[u8]| {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        end.expect("the gateway closes the connection").ok();
    };
    // Nothing; the type of a handshake; the head of a record that never comes.
    tokio::join!(silent_after(b""), silent_after(b"\x16"), silent_after(b"\x16\x03\x01\x3f\xff"));
    let counted = metrics(&gateway, &authority).await;
    assert!(
        counted.contains("\nantiphon_tls_failed_handshakes_total 2\n"),
        "those that had begun: {counted}"
    );
}

#[tokio::test]
async fn a_handshake_that_is_under_way_does_not_hold_up_the_shutdown() {
    let authority = Authority::new();
    let (upstream, files) = (simulator().await, Files::new());
    files.write_identity(&authority.issue("localhost"));
    let gateway = files.setup(&upstream).config("timeouts.shutdown = \"1h\"").start().await;
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(b"\x16").await.unwrap();
    // A connection that was accepted later has been served, so that the first one is.
    drop(connect(&gateway, authority.client(None)).await);
    tokio::time::timeout(Duration::from_secs(20), gateway.stop()).await.expect("the gateway stops");
}
