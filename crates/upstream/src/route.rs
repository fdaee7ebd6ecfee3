//! How connections are opened: directly or through a proxy, and which authorities they trust.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
pub use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The same route leads to the same connections. The default is direct, and trusts whom the system trusts.
#[derive(Debug, Clone, Default)]
pub struct Route(Option<Arc<Parts>>);

#[derive(Debug)]
struct Parts {
    proxy: Option<Proxy>,
    /// Trusted beside those of the system.
    authorities: Vec<CertificateDer<'static>>,
    /// Made when it is first needed.
    tls: OnceLock<Arc<ClientConfig>>,
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    authority: Authority,
    /// Marked as sensitive.
    authorization: Option<HeaderValue>,
}

/// What a file of authorities lacks.
#[derive(Debug, thiserror::Error)]
pub enum BadAuthorities {
    #[error("it has no certificate in PEM format")]
    None,
    #[error("a certificate in it is not valid: {0}")]
    Invalid(String),
}

// === impl Route ===

impl Route {
    pub fn new(proxy: Option<Proxy>, authorities: &[CertificateDer<'static>]) -> Self {
        if proxy.is_none() && authorities.is_empty() {
            return Self::default();
        }
        Self(Some(Arc::new(Parts { proxy, authorities: authorities.to_vec(), tls: OnceLock::new() })))
    }

    pub fn proxy(&self) -> Option<&Proxy> {
        self.0.as_ref()?.proxy.as_ref()
    }

    /// The TLS client, if it trusts more than the system's authorities.
    pub(crate) fn tls(&self) -> Option<ClientConfig> {
        let parts = self.0.as_ref().filter(|parts| !parts.authorities.is_empty())?;
        let tls = parts.tls.get_or_init(|| Arc::new(tls_client(&parts.authorities)));
        Some(ClientConfig::clone(tls))
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.proxy == b.proxy && a.authorities == b.authorities),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Route {}

impl Hash for Route {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.proxy().map(|proxy| proxy.authority.as_str()).hash(state);
    }
}

/// # Errors
///
/// [`BadAuthorities`] if the text holds no certificates, or one that can't be used.
pub fn parse_authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadAuthorities> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let authorities = parsed.map_err(|error| BadAuthorities::Invalid(error.to_string()))?;
    if authorities.is_empty() {
        return Err(BadAuthorities::None);
    }
    for authority in &authorities {
        let added = RootCertStore::empty().add(authority.clone());
        added.map_err(|error| BadAuthorities::Invalid(error.to_string()))?;
    }
    Ok(authorities)
}

fn tls_client(authorities: &[CertificateDer<'static>]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots.add_parsable_certificates(authorities.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("ring supports TLS 1.2 and 1.3");
    builder.with_root_certificates(roots).with_no_client_auth()
}

// === impl Proxy ===

impl Proxy {
    /// A host with a port.
    pub fn new(authority: Authority, authorization: Option<HeaderValue>) -> Self {
        let authorization = authorization.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Self { authority, authorization }
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    pub(crate) fn uri(&self) -> Uri {
        let builder = Uri::builder().scheme(Scheme::HTTP).authority(self.authority.clone());
        builder.path_and_query("/").build().expect("all parts of an address are set")
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.authority.as_str()).finish()
    }
}
