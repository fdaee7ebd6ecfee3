//! TLS towards clients: the certificate, and the handshake.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use antiphon_config::TlsConfig;
use antiphon_runtime::{Clock, Timestamp, rfc3339};
use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// No file with certificates or a key is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What differs once a file was replaced or written: its inode, size, and time of change. `None` for one that can't be found.
type FileVersion = Option<(u64, u64, i64, i64)>;

/// What the gateway shows its clients. The handshakes of one moment have the same certificate and key.
pub struct Tls {
    files: TlsConfig,
    /// The versions of the files that were loaded, or older ones.
    loaded: Vec<FileVersion>,
    clock: Arc<dyn Clock>,
    current: ArcSwap<ServerConfig>,
    metrics: TlsMetrics,
}

/// Why TLS cannot be served with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls.{key}: cannot read {path}: {reason}", path = path.display())]
    Unreadable { key: &'static str, path: PathBuf, reason: io::Error },
    #[error("tls.{key}: {path} is larger than 1 MiB, which no certificate is", path = path.display())]
    TooLarge { key: &'static str, path: PathBuf },
    #[error(
        "tls.{key}: {path} must be a PEM file with {expected}: {reason}",
        path = path.display()
    )]
    NotPem { key: &'static str, path: PathBuf, expected: &'static str, reason: pem::Error },
    #[error("tls.certificate: {path} cannot be used with tls.key: {reason}", path = path.display())]
    Unusable { path: PathBuf, reason: rustls::Error },
    #[error("tls.client_ca: {path} cannot be used: {reason}", path = path.display())]
    Authority { path: PathBuf, reason: String },
}

/// Clones share their values.
#[derive(Debug, Clone, Default)]
struct TlsMetrics {
    expiry: Gauge,
    reloads: Family<ReloadLabels, Counter>,
    failed_handshakes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

/// What is read from the files.
struct Material {
    server: ServerConfig,
    /// Since 1970.
    expiry: Option<Duration>,
}

/// Counts a handshake that fails, or is given up because it takes too long.
struct CountedHandshake<'a> {
    failed: &'a Counter,
    has_succeeded: bool,
}

// === impl Tls ===

impl Tls {
    pub fn load(files: TlsConfig, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let loaded = versions(&files);
        let Material { server, expiry } = Material::read(&files)?;
        let current = ArcSwap::from_pointee(server);
        let tls = Self { files, loaded, clock, current, metrics: TlsMetrics::default() };
        tls.tell_expiry(expiry);
        Ok(tls)
    }

    /// Reads the files again. New connections get what is in them; if they cannot be used, nothing changes.
    pub fn reload(&self) {
        let outcome = match Material::read(&self.files) {
            Ok(Material { server, expiry }) => {
                self.current.store(Arc::new(server));
                tracing::info!("TLS certificate reloaded");
                self.tell_expiry(expiry);
                "taken_over"
            }
            Err(error) => {
                tracing::error!(%error, "TLS certificate not reloaded; keeping the current one");
                "refused"
            }
        };
        self.metrics.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    /// The versions of its files as they are now.
    pub fn versions(&self) -> Vec<FileVersion> {
        versions(&self.files)
    }

    /// The versions of its files from before they were loaded.
    pub fn loaded_versions(&self) -> &[FileVersion] {
        &self.loaded
    }

    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let accepting = pin!(TlsAcceptor::from(self.current.load_full()).accept(stream));
        // Dropped before `accepting`: a handshake that is given up has been counted when its connection closes.
        let mut handshake =
            CountedHandshake { failed: &self.metrics.failed_handshakes, has_succeeded: false };
        let accepted = accepting.await;
        handshake.has_succeeded = accepted.is_ok();
        accepted
    }

    fn tell_expiry(&self, expiry: Option<Duration>) {
        let Some(expiry) = expiry else { return };
        let seconds = i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX);
        let expires_at = Timestamp::from_unix_ms(seconds.saturating_mul(1000));
        if expires_at <= self.clock.now() {
            tracing::warn!(
                expired_at = rfc3339(expires_at),
                "the TLS certificate has expired; clients will refuse it"
            );
        }
        self.metrics.expiry.set(seconds);
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        let TlsMetrics { expiry, reloads, failed_handshakes } = self.metrics.clone();
        // An alert sees the first reload only if there was a zero before.
        for outcome in ["taken_over", "refused"] {
            drop(reloads.get_or_create(&ReloadLabels { outcome }));
        }
        let registry = registry.sub_registry_with_prefix("tls");
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate expires",
            Unit::Seconds,
            expiry,
        );
        registry.register(
            "certificate_reloads",
            "Reloads of the certificate, by outcome: taken_over or refused",
            reloads,
        );
        registry.register("failed_handshakes", "TLS handshakes that failed", failed_handshakes);
    }
}

// === impl CountedHandshake ===

impl Drop for CountedHandshake<'_> {
    fn drop(&mut self) {
        if !self.has_succeeded {
            self.failed.inc();
        }
    }
}

// === impl Material ===

impl Material {
    fn read(files: &TlsConfig) -> Result<Self, TlsError> {
        let TlsConfig { certificate: path, key: key_path, client_ca } = files;
        let chain = certificates("certificate", path)?;
        let expiry = chain.first().and_then(expiry);
        let text = read("key", key_path)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|reason| TlsError::NotPem {
            key: "key",
            path: key_path.clone(),
            expected: "a private key",
            reason,
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |reason| TlsError::Unusable { path: path.clone(), reason };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match client_ca {
            Some(path) => {
                let refuse = |reason: VerifierBuilderError| TlsError::Authority {
                    path: path.clone(),
                    reason: reason.to_string(),
                };
                let roots = Arc::new(authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(refuse)?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(unusable)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { server, expiry })
    }
}

fn versions(files: &TlsConfig) -> Vec<FileVersion> {
    let TlsConfig { certificate, key, client_ca } = files;
    [Some(certificate), Some(key), client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| version(path))
        .collect()
}

fn version(path: &Path) -> FileVersion {
    let file = std::fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("client_ca", path)? {
        roots
            .add(certificate)
            .map_err(|reason| TlsError::Authority { path: path.to_owned(), reason: reason.to_string() })?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |reason| TlsError::NotPem { key, path: path.to_owned(), expected: "a certificate", reason };
    let text = read(key, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(not_pem)?;
    if found.is_empty() { Err(not_pem(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text))
        .map_err(|reason| TlsError::Unreadable { key, path: path.to_owned(), reason })?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::TooLarge { key, path: path.to_owned() });
    }
    Ok(text)
}

/// Since 1970.
fn expiry(certificate: &CertificateDer<'_>) -> Option<Duration> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration())
}

#[cfg(test)]
mod tests {
    use antiphon_runtime::SystemClock;

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_reported_with_their_key_and_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(path("certificate"), identity.cert.pem()).unwrap();
        std::fs::write(path("key"), identity.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("other"), other.serialize_pem()).unwrap();
        std::fs::write(path("text"), "not PEM").unwrap();
        std::fs::write(path("large"), vec![b'a'; 2 << 20]).unwrap();
        let load = |certificate: &str, key: &str, client_ca: Option<&str>| {
            let client_ca = client_ca.map(path);
            let files = TlsConfig { certificate: path(certificate), key: path(key), client_ca };
            Tls::load(files, Arc::new(SystemClock))
        };
        assert!(load("certificate", "key", Some("certificate")).is_ok());
        let cases = [
            (load("missing", "key", None), "tls.certificate: cannot read ", "missing: "),
            (load("text", "key", None), "tls.certificate: ", "text must be a PEM file with a certificate: "),
            (load("certificate", "text", None), "tls.key: ", "text must be a PEM file with a private key: "),
            (
                load("certificate", "other", None),
                "tls.certificate: ",
                "certificate cannot be used with tls.key: ",
            ),
            (load("large", "key", None), "tls.certificate: ", "large is larger than 1 MiB"),
            (
                load("certificate", "key", Some("key")),
                "tls.client_ca: ",
                "key must be a PEM file with a certificate: ",
            ),
        ];
        for (loaded, start, part) in cases {
            let error = loaded.err().expect(part).to_string();
            assert!(error.starts_with(start) && error.contains(part), "{error}");
        }
    }
}
