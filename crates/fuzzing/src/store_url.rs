//! Store URLs: what a network policy accepts never leads to an address that it refuses, by a check of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use antiphon_store::{AddressKind, Network, PostgresTarget, Reason, Refusal, StoreUrl, StoreUrlError};
use url::Host;

/// A text is a whole URL, or a host. Four bytes and sixteen bytes are an address as well.
pub fn check(input: &[u8]) {
    if let Ok(octets) = <[u8; 4]>::try_from(input) {
        check_address(IpAddr::from(octets));
    }
    if let Ok(octets) = <[u8; 16]>::try_from(input) {
        check_address(IpAddr::from(octets));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    check_url(text);
    check_url(&format!("postgres://user@{text}/database"));
    check_spelling(text);
}

fn check_address(address: IpAddr) {
    let kind = AddressKind::of(address);
    if is_refused_in_public(address) {
        assert_ne!(kind, AddressKind::Public, "{address}");
    }
    if is_metadata(address) {
        assert_eq!(kind, AddressKind::Metadata, "{address}");
    }
}

fn check_url(text: &str) {
    let any = StoreUrl::parse(text, Network::Any);
    for network in [Network::Any, Network::Public, Network::Private] {
        match StoreUrl::parse(text, network) {
            Ok(StoreUrl::Postgres(target)) => {
                let all = any.as_ref().expect("what one network accepts, any does");
                assert_eq!(all.to_string(), target.to_string());
                check_target(&target, network);
            }
            Ok(url @ StoreUrl::Sqlite(_)) => {
                assert_eq!(any.as_ref(), Ok(&url));
                assert_eq!(url.to_string().parse().as_ref(), Ok(&url), "an SQLite URL is shown as it is");
                assert!(!url.to_string().split('/').any(|segment| segment == ".."), "{url}");
            }
            Err(error) => assert!(any.is_err() || matches!(error, StoreUrlError::Refused(_)), "{error}"),
        }
    }
}

fn check_target(target: &PostgresTarget, network: Network) {
    let shown = target.to_string();
    let rest = shown.strip_prefix("postgres://").expect("a PostgreSQL URL is shown as one");
    let again = StoreUrl::parse(&format!("postgres://user@{rest}"), network);
    assert_eq!(again.map(|again| again.to_string()), Ok(shown.clone()), "what is shown is accepted");

    let (host, _) = rest.rsplit_once(':').expect("a port is shown");
    if let Some(address) = target.address() {
        assert!(!is_metadata(address), "{address} serves metadata");
        assert!(network != Network::Public || !is_refused_in_public(address), "{address} is not public");
    }
    if network == Network::Public {
        assert!(!host.starts_with("%2F"), "{host} is a socket");
        let name = host.trim_end_matches('.');
        assert!(name != "localhost" && !name.ends_with(".localhost"), "{host} is this machine");
    }
    if !host.starts_with("%2F") && target.address().is_none() {
        let is_address = matches!(Host::parse(host), Ok(Host::Ipv4(_) | Host::Ipv6(_)));
        assert!(!is_address, "{host} is taken for a name");
    }
}

/// Another parser reads the same address from an IPv4 host in any spelling.
fn check_spelling(host: &str) {
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    let Some(Host::Ipv4(address)) = Host::parse(host).ok().filter(|_| is_plain) else { return };
    match StoreUrl::parse(&format!("postgres://user@{host}/database"), Network::Any) {
        Ok(StoreUrl::Postgres(target)) => assert_eq!(target.address(), Some(address.into()), "{host}"),
        Err(StoreUrlError::Refused(Refusal { reason: Reason::Address(AddressKind::Metadata), .. })) => {
            assert!(AddressKind::of(address.into()) == AddressKind::Metadata, "{host}");
        }
        other => panic!("{host} is {address}, not {other:?}"),
    }
}

/// The addresses that docs/database-urls.md calls not public.
fn is_refused_in_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_special_v4(address),
        IpAddr::V6(address) => is_special_v6(address) || v4_inside(address).is_some_and(is_special_v4),
    }
}

fn is_special_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_benchmark = a == 198 && (b == 18 || b == 19);
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || is_shared
        || is_benchmark
        || a == 0
        || a >= 240
        || is_metadata_v4(address)
}

fn is_special_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_multicast()
        || address.segments()[..2] == [0x2001, 0xdb8]
        || address.segments()[..3] == [0x2001, 2, 0]
}

/// The IPv4 address in a mapped, compatible, NAT64 or 6to4 one.
fn v4_inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let at = |from: usize| Ipv4Addr::new(octets[from], octets[from + 1], octets[from + 2], octets[from + 3]);
    let is_nat64 = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    match address.segments()[0] {
        0x2002 => Some(at(2)),
        _ if is_nat64 => Some(at(12)),
        _ => address.to_ipv4(),
    }
}

fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_metadata_v4(address),
        IpAddr::V6(address) => v4_inside(address).is_some_and(is_metadata_v4),
    }
}

fn is_metadata_v4(address: Ipv4Addr) -> bool {
    matches!(
        address.octets(),
        [169, 254, 169, 254]
            | [169, 254, 170, 2]
            | [100, 100, 100, 200]
            | [168, 63, 129, 16]
            | [192, 0, 0, 192]
    )
}
