//! The host of a PostgreSQL URL, in all its spellings.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::StoreUrlError;
use super::network::{self, Network};
use super::parameters::encode;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    /// In lower case.
    Name(String),
    /// The directory that the server's socket is in.
    Socket(PathBuf),
}

/// A text that ends like an IPv4 address.
enum Numeric {
    Address(Ipv4Addr),
    Impossible,
}

// === impl Host ===

impl Host {
    /// Parses a percent-decoded host, and checks it against the policy as far as possible without resolving it.
    pub(super) fn parse(text: &str, network: Network) -> Result<Self, StoreUrlError> {
        if text.starts_with('/') {
            network.check_socket()?;
            return Ok(Self::Socket(PathBuf::from(text)));
        }
        if text.contains(',') {
            return Err(StoreUrlError::SeveralHosts);
        }
        let inner = text.strip_prefix('[').map(|rest| rest.strip_suffix(']').ok_or(StoreUrlError::BadHost));
        let text = inner.transpose()?.unwrap_or(text);
        if text.contains(':') {
            return parse_v6(text, network);
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            network.check_address(address.into())?;
            return Ok(Self::Address(address.into()));
        }
        match numeric(text) {
            Some(Numeric::Address(address)) => {
                // A refusal of the address tells more than one of its spelling.
                network.check_address(address.into())?;
                network.check_legacy_ipv4()?;
                Ok(Self::Address(address.into()))
            }
            Some(Numeric::Impossible) => Err(StoreUrlError::BadHost),
            None => parse_name(text, network),
        }
    }

    /// Whether the text names this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => network::is_local_name(name),
            Self::Socket(_) => true,
        }
    }
}

/// As in a URL.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
            Self::Socket(directory) => f.write_str(&encode(&directory.to_string_lossy())),
        }
    }
}

fn parse_v6(text: &str, network: Network) -> Result<Host, StoreUrlError> {
    if text.contains('%') {
        return Err(StoreUrlError::Zone);
    }
    let address: Ipv6Addr = text.parse().map_err(|_| StoreUrlError::BadHost)?;
    network.check_address(address.into())?;
    Ok(Host::Address(address.into()))
}

fn parse_name(text: &str, network: Network) -> Result<Host, StoreUrlError> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let name = text.to_ascii_lowercase();
    let labels = name.strip_suffix('.').unwrap_or(&name);
    if labels.len() > 253 || !labels.split('.').all(is_label) {
        return Err(StoreUrlError::BadHost);
    }
    network.check_name(&name)?;
    Ok(Host::Name(name))
}

/// Parses IPv4 addresses as resolvers do: up to four numbers, each decimal, octal (`0…`) or hexadecimal (`0x…`). The last number
/// fills the remaining bytes. `None` is a name.
fn numeric(text: &str) -> Option<Numeric> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next()?;
    let is_hex = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if last.is_empty() || !(is_hex || last.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let parts: Option<Vec<u64>> = text.split('.').map(number).collect();
    Some(parts.and_then(|parts| address(&parts)).map_or(Numeric::Impossible, Numeric::Address))
}

fn number(part: &str) -> Option<u64> {
    let hex = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
    let (digits, radix) = match (hex, part.strip_prefix('0')) {
        (Some(""), _) | (None, Some("")) => return Some(0),
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) => (digits, 8),
        (None, None) => (part, 10),
    };
    // `from_str_radix` would take a sign.
    let is_digits = digits.chars().all(|digit| digit.is_digit(radix));
    u64::from_str_radix(digits, radix).ok().filter(|_| is_digits)
}

fn address(parts: &[u64]) -> Option<Ipv4Addr> {
    let (last, upper) = parts.split_last()?;
    let mut bits = u32::try_from(*last).ok()?;
    if upper.len() > 3 || u64::from(bits) >= 1 << (32 - 8 * upper.len()) {
        return None;
    }
    for (at, part) in upper.iter().enumerate() {
        bits |= u32::from(u8::try_from(*part).ok()?) << (24 - 8 * at);
    }
    Some(Ipv4Addr::from_bits(bits))
}
