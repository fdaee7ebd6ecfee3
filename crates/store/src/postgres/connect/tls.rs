//! The TLS side of a connection: trusted authorities, and the client certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::url::tls::{Identity, Roots, SslMode, TlsOptions};

/// What servers expect when TLS starts without a request for it.
const ALPN: &[u8] = b"postgresql";

/// The TLS client for these options; `None` without TLS. An error is a text for the operator.
pub(super) fn client(options: &TlsOptions) -> Result<Option<MakeRustlsConnect>, String> {
    if options.mode == SslMode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] =
        if options.is_1_3 { &[&version::TLS13] } else { &[&version::TLS12, &version::TLS13] };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("TLS can't be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier(options, provider)?);
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (certificates, key) = read_identity(identity)?;
            builder.with_client_auth_cert(certificates, key).map_err(|error| {
                let (certificate, key) = (identity.certificate.display(), identity.key.display());
                format!("sslcert {certificate} and sslkey {key} can't be used together: {error}")
            })?
        }
    };
    if options.is_direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn verifier(
    options: &TlsOptions,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    if !options.verifies() {
        return Ok(Arc::new(Lenient { authority: None, provider }));
    }
    let roots = match &options.roots {
        Roots::System => system_roots(),
        Roots::File(path) => file_roots(path)?,
    };
    let authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| format!("certificates can't be checked: {error}"))?;
    Ok(match options.mode {
        SslMode::VerifyFull => authority,
        _ => Arc::new(Lenient { authority: Some(authority), provider }),
    })
}

/// The authorities that the system trusts, with those that its administrator added. Without such a list, as in a minimal
/// container, the well-known ones.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn file_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates("sslrootcert", path)? {
        roots.add(certificate).map_err(|error| unreadable("sslrootcert", path, &error))?;
    }
    Ok(roots)
}

fn read_identity(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let certificates = read_certificates("sslcert", &identity.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|error| unreadable("sslkey", &identity.key, &error))?;
    Ok((certificates, key))
}

fn read_certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(parameter, path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(parameter, path, &"it contains no certificate"));
    }
    Ok(certificates)
}

fn unreadable(parameter: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{parameter} {} can't be read: {error}", path.display())
}

/// Accepts certificates for any host: from the authority for sslmode=verify-ca, from anyone for sslmode=require and prefer, which
/// protect against eavesdroppers but not against impostors.
#[derive(Debug)]
struct Lenient {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

// === impl Lenient ===

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        // The name is checked last: if it is wrong, all else is right.
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
