//! `[tls]`: TLS for clients.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct TlsConfig {
    /// A PEM file with the certificate, followed by those between it and its root. It is read again when it changes.
    pub certificate: PathBuf,

    /// A PEM file with the private key of the certificate.
    pub key: PathBuf,

    /// A PEM file with certificate authorities. If set, every client needs a certificate of one of them. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}
