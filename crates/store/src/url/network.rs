//! The policy on hosts of a store, by the kind of their addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where a database server may be. Metadata services of clouds are always refused: they are no databases, and they hand out
/// credentials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Anywhere: for a URL that comes from the operator.
    #[default]
    Any,
    /// Only on the internet: no address of this machine or of a private network.
    Public,
    /// Only on this machine or in a private network: loopback, private, shared (CGNAT) and unique local addresses, and Unix
    /// sockets.
    Private,
}

/// The kind of an address. An IPv6 address that embeds an IPv4 address has the kind of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    Public,
    Metadata,
    Loopback,
    Private,
    /// Between a provider and its customers (CGNAT).
    Shared,
    LinkLocal,
    UniqueLocal,
    Unspecified,
    Multicast,
    Documentation,
    Benchmark,
    Reserved,
}

/// Why a host is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub network: Network,
    pub reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Address(AddressKind),
    /// A name for a cloud's metadata service.
    MetadataName,
    /// `localhost`, or another name for it.
    LocalName,
    /// An IPv4 address in octal, hexadecimal, with fewer than four parts, or with a dot at its end.
    LegacyIpv4,
    Socket,
}

/// The text names no [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be \"any\", \"public\" or \"private\"")]
pub struct UnknownNetwork;

const METADATA_V4: [Ipv4Addr; 10] = [
    // AWS, Google, Azure, Oracle, DigitalOcean, Hetzner, OpenStack and most others.
    Ipv4Addr::new(169, 254, 169, 254),
    // Rancher.
    Ipv4Addr::new(169, 254, 169, 250),
    // AWS: credentials of tasks and of pods.
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    // Scaleway, Tencent.
    Ipv4Addr::new(169, 254, 42, 42),
    Ipv4Addr::new(169, 254, 0, 23),
    // Alibaba, Volcengine.
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(100, 96, 0, 96),
    // Azure's host agent.
    Ipv4Addr::new(168, 63, 129, 16),
    // Oracle, before its present cloud.
    Ipv4Addr::new(192, 0, 0, 192),
];

const METADATA_V6: [Ipv6Addr; 5] = [
    // AWS: metadata, and the credentials of pods.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    // OpenStack.
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// Without Google's short `metadata`, which may well name a database; its addresses are checked anyway.
const METADATA_NAMES: [&str; 7] = [
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.platformequinix.com",
    "metadata.tencentyun.com",
];

/// Each with the names below it.
const LOCAL_NAMES: [&str; 8] = [
    "ip6-localhost",
    "ip6-loopback",
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
];

const RANGES_V4: [(Ipv4Addr, u32, AddressKind); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, AddressKind::Unspecified),
    (Ipv4Addr::new(10, 0, 0, 0), 8, AddressKind::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, AddressKind::Shared),
    (Ipv4Addr::new(127, 0, 0, 0), 8, AddressKind::Loopback),
    (Ipv4Addr::new(169, 254, 0, 0), 16, AddressKind::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, AddressKind::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, AddressKind::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, AddressKind::Documentation),
    (Ipv4Addr::new(192, 88, 99, 0), 24, AddressKind::Reserved),
    (Ipv4Addr::new(192, 168, 0, 0), 16, AddressKind::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, AddressKind::Benchmark),
    (Ipv4Addr::new(198, 51, 100, 0), 24, AddressKind::Documentation),
    (Ipv4Addr::new(203, 0, 113, 0), 24, AddressKind::Documentation),
    (Ipv4Addr::new(233, 252, 0, 0), 24, AddressKind::Documentation),
    (Ipv4Addr::new(224, 0, 0, 0), 4, AddressKind::Multicast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, AddressKind::Reserved),
];

/// The first match counts. Addresses outside all ranges are reserved.
const RANGES_V6: [(Ipv6Addr, u32, AddressKind); 12] = [
    (Ipv6Addr::UNSPECIFIED, 128, AddressKind::Unspecified),
    (Ipv6Addr::LOCALHOST, 128, AddressKind::Loopback),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, AddressKind::UniqueLocal),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, AddressKind::LinkLocal),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, AddressKind::Multicast),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, AddressKind::Documentation),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, AddressKind::Documentation),
    (Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48, AddressKind::Benchmark),
    // Names of hosts in the form of addresses (ORCHID), which nothing routes.
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28, AddressKind::Reserved),
    (Ipv6Addr::new(0x2001, 0x20, 0, 0, 0, 0, 0, 0), 28, AddressKind::Reserved),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96, AddressKind::Public),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3, AddressKind::Public),
];

// === impl Network ===

impl Network {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Public => "public",
            Self::Private => "private",
        }
    }

    pub(crate) fn check_address(self, address: IpAddr) -> Result<(), Refusal> {
        let kind = AddressKind::of(address);
        let allowed = match self {
            _ if kind == AddressKind::Metadata => false,
            Self::Any => true,
            Self::Public => kind == AddressKind::Public,
            Self::Private => matches!(
                kind,
                AddressKind::Loopback | AddressKind::Private | AddressKind::Shared | AddressKind::UniqueLocal
            ),
        };
        if allowed { Ok(()) } else { Err(self.refuse(Reason::Address(kind))) }
    }

    /// Checks a name before it is resolved.
    pub(crate) fn check_name(self, name: &str) -> Result<(), Refusal> {
        if METADATA_NAMES.contains(&name.strip_suffix('.').unwrap_or(name)) {
            return Err(self.refuse(Reason::MetadataName));
        }
        if self == Self::Public && is_local_name(name) {
            return Err(self.refuse(Reason::LocalName));
        }
        Ok(())
    }

    pub(crate) fn check_legacy_ipv4(self) -> Result<(), Refusal> {
        if self == Self::Any { Ok(()) } else { Err(self.refuse(Reason::LegacyIpv4)) }
    }

    pub(crate) fn check_socket(self) -> Result<(), Refusal> {
        if self == Self::Public { Err(self.refuse(Reason::Socket)) } else { Ok(()) }
    }

    fn refuse(self, reason: Reason) -> Refusal {
        Refusal { network: self, reason }
    }
}

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, UnknownNetwork> {
        [Self::Any, Self::Public, Self::Private]
            .into_iter()
            .find(|network| network.as_str() == text)
            .ok_or(UnknownNetwork)
    }
}

// === impl AddressKind ===

impl AddressKind {
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        if METADATA_V4.contains(&address) {
            return Self::Metadata;
        }
        let bits = address.to_bits();
        RANGES_V4
            .iter()
            .find(|(start, prefix, _)| (bits ^ start.to_bits()) >> (32 - prefix) == 0)
            .map_or(Self::Public, |(_, _, kind)| *kind)
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if METADATA_V6.contains(&address) {
            return Self::Metadata;
        }
        let bits = address.to_bits();
        let own = RANGES_V6
            .iter()
            .find(|(start, prefix, _)| (bits ^ start.to_bits()) >> (128 - prefix) == 0)
            .map_or(Self::Reserved, |(_, _, kind)| *kind);
        if address.is_unspecified() || address.is_loopback() {
            return own;
        }
        let embedded: Vec<Self> = embedded(address).into_iter().map(Self::of_v4).collect();
        let telling = |kind: &&Self| **kind != Self::Public;
        match embedded.iter().find(|kind| **kind == Self::Metadata).or(embedded.iter().find(telling)) {
            Some(kind) => *kind,
            None if stands_for_v4(bits) => Self::Public,
            None => own,
        }
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Metadata => "cloud metadata",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared (CGNAT)",
            Self::LinkLocal => "link-local",
            Self::UniqueLocal => "unique local",
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Documentation => "documentation",
            Self::Benchmark => "benchmark",
            Self::Reserved => "reserved",
        })
    }
}

/// Whether the upper 96 bits say that the lower 32 are an IPv4 address and nothing else: mapped, translated, or compatible.
fn stands_for_v4(bits: u128) -> bool {
    matches!(bits >> 32, 0xffff | 0xffff_0000 | 0)
}

/// The IPv4 addresses to which a packet for this address could be forwarded.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bits = address.to_bits();
    let at = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    // Around the bits 64 to 71, which stay free (RFC 6052).
    let split = |shift: u32, low: u32| {
        let upper = (bits >> 64) << low;
        let lower = (bits >> shift) & ((1 << low) - 1);
        Ipv4Addr::from_bits((upper | lower) as u32)
    };
    match address.segments() {
        _ if stands_for_v4(bits) => vec![at(0)],
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![at(0)],
        // The NAT64 prefix for local use, in each length that it may have.
        [0x64, 0xff9b, 1, ..] => vec![at(0), split(40, 16), split(32, 24), at(24)],
        // 6to4.
        [0x2002, ..] => vec![at(80)],
        // Teredo: the server, and the client's address inverted.
        [0x2001, 0, ..] => vec![at(64), Ipv4Addr::from_bits(!(bits as u32))],
        // ISATAP.
        [.., 0 | 0x200, 0x5efe, _, _] => vec![at(0)],
        _ => Vec::new(),
    }
}

/// Whether a name is `localhost` or an alias of it.
pub(crate) fn is_local_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    LOCAL_NAMES
        .iter()
        .any(|local| name.strip_suffix(local).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = self.network.as_str();
        match self.reason {
            Reason::Address(AddressKind::Metadata) => {
                f.write_str("this is an address of a cloud's metadata service, not of a database")
            }
            Reason::MetadataName => {
                f.write_str("this is a name of a cloud's metadata service, not of a database")
            }
            Reason::Address(kind) => write!(f, "store.network = {network:?} refuses {kind} addresses"),
            Reason::LocalName => write!(f, "store.network = {network:?} refuses names of this machine"),
            Reason::LegacyIpv4 => {
                write!(f, "store.network = {network:?} accepts IPv4 addresses only as four decimal numbers")
            }
            Reason::Socket => write!(f, "store.network = {network:?} refuses Unix sockets"),
        }
    }
}

impl std::error::Error for Refusal {}
