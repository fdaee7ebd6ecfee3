//! The TLS options of a PostgreSQL URL.

use std::path::PathBuf;

use super::StoreUrlError;
use super::host::Host;
use super::parameters::Parameters;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    /// TLS if the server supports it.
    Prefer,
    /// TLS with any certificate; with [`Roots::File`], the same as [`VerifyCa`](Self::VerifyCa).
    Require,
    /// TLS with a certificate of the authority, for any host.
    VerifyCa,
    /// TLS with a certificate of the authority for the host of the URL.
    VerifyFull,
}

/// Trusted authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those that this machine trusts, or the well-known ones if it has no list.
    System,
    File(PathBuf),
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    pub(crate) mode: SslMode,
    pub(crate) roots: Roots,
    pub(crate) identity: Option<Identity>,
    pub(crate) channel_binding: ChannelBinding,
    /// TLS starts without a request for it.
    pub(crate) is_direct: bool,
    /// No TLS 1.2.
    pub(crate) is_1_3: bool,
}

const MODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// The names of the given options that need TLS.
const NEED_TLS: [&str; 5] =
    ["sslrootcert", "sslcert", "sslkey", "channel_binding=require", "sslnegotiation=direct"];

// === impl TlsOptions ===

impl TlsOptions {
    pub(super) fn take(
        parameters: &mut Parameters,
        host: &Host,
        is_local: bool,
    ) -> Result<Self, StoreUrlError> {
        let has_roots = parameters.has("sslrootcert");
        let mode = take_mode(parameters)?;
        let (channel_binding, is_direct, is_1_3) = take_words(parameters)?;
        let given = [
            has_roots,
            parameters.has("sslcert"),
            parameters.has("sslkey"),
            channel_binding == ChannelBinding::Require,
            is_direct,
        ];
        let asks_for_tls = NEED_TLS.iter().zip(given).find(|(_, given)| *given).map(|(name, _)| *name);
        let mode = match (mode, host) {
            (Some(SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull), Host::Socket(_)) => {
                return Err(StoreUrlError::TlsOnSocket("sslmode"));
            }
            (_, Host::Socket(_)) => SslMode::Disable,
            (Some(mode), _) => mode,
            // No eavesdropper is on this machine; but a named authority is to be checked.
            (None, _) if is_local && !has_roots && !is_direct => SslMode::Prefer,
            (None, _) => SslMode::VerifyFull,
        };
        match (mode, asks_for_tls, host) {
            (SslMode::Disable, Some(name), Host::Socket(_)) => return Err(StoreUrlError::TlsOnSocket(name)),
            (SslMode::Disable, Some(name), _) => return Err(StoreUrlError::TlsDisabled(name)),
            (SslMode::Prefer, Some(name @ ("sslrootcert" | "sslnegotiation=direct")), _) => {
                return Err(StoreUrlError::TlsNotRequired(name));
            }
            _ => {}
        }
        let roots = take_roots(parameters, mode)?;
        let identity = take_identity(parameters)?;
        Ok(Self { mode, roots, identity, channel_binding, is_direct, is_1_3 })
    }

    /// Whether the server's certificate is checked at all.
    pub(crate) fn verifies(&self) -> bool {
        match self.mode {
            SslMode::Disable | SslMode::Prefer => false,
            SslMode::Require => matches!(self.roots, Roots::File(_)),
            SslMode::VerifyCa | SslMode::VerifyFull => true,
        }
    }
}

fn take_mode(parameters: &mut Parameters) -> Result<Option<SslMode>, StoreUrlError> {
    const RULE: &str = "must be disable, prefer, require, verify-ca or verify-full (allow would send everything in the \
                        clear whenever the server lets it)";
    parameters.word("sslmode", &MODES, RULE)
}

fn take_words(parameters: &mut Parameters) -> Result<(ChannelBinding, bool, bool), StoreUrlError> {
    let bindings = [
        ("disable", ChannelBinding::Disable),
        ("prefer", ChannelBinding::Prefer),
        ("require", ChannelBinding::Require),
    ];
    let binding = parameters.word("channel_binding", &bindings, "must be disable, prefer or require")?;
    let negotiations = [("postgres", false), ("direct", true)];
    let is_direct = parameters.word("sslnegotiation", &negotiations, "must be postgres or direct")?;
    // Versions below 1.2 are never used.
    let versions = [("TLSv1", false), ("TLSv1.1", false), ("TLSv1.2", false), ("TLSv1.3", true)];
    let is_1_3 = parameters.word("ssl_min_protocol_version", &versions, "must be TLSv1.2 or TLSv1.3")?;
    Ok((binding.unwrap_or(ChannelBinding::Prefer), is_direct.unwrap_or_default(), is_1_3.unwrap_or_default()))
}

fn take_roots(parameters: &mut Parameters, mode: SslMode) -> Result<Roots, StoreUrlError> {
    const RULE: &str = "must be the path of a file with certificates, or \"system\"";
    match (parameters.take("sslrootcert").as_deref(), mode) {
        (Some(""), _) => Err(StoreUrlError::BadValue { parameter: "sslrootcert", rule: RULE }),
        (Some("system"), SslMode::VerifyFull) => Ok(Roots::System),
        (Some("system"), _) => Err(StoreUrlError::PublicAuthorities),
        (Some(path), _) => Ok(Roots::File(path.into())),
        (None, SslMode::VerifyCa) => Err(StoreUrlError::NoAuthority),
        (None, _) => Ok(Roots::System),
    }
}

fn take_identity(parameters: &mut Parameters) -> Result<Option<Identity>, StoreUrlError> {
    let path = |text: String| Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
    match (parameters.take("sslcert").and_then(path), parameters.take("sslkey").and_then(path)) {
        (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
        (None, None) => Ok(None),
        _ => Err(StoreUrlError::HalfIdentity),
    }
}
