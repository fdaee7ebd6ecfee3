//! Hosts in all their spellings, and each policy on them.

use std::net::IpAddr;

use super::super::host::Host;
use super::*;

fn parse_in(network: Network, host: &str) -> Result<Host, StoreUrlError> {
    match StoreUrl::parse(&format!("postgres://u:p@{host}/d"), network)? {
        StoreUrl::Postgres(target) => Ok(target.host),
        other => panic!("{other:?}"),
    }
}

fn refused(network: Network, reason: Reason) -> Option<StoreUrlError> {
    Some(StoreUrlError::Refused(Refusal { network, reason }))
}

fn address(text: &str) -> Host {
    Host::Address(text.parse::<IpAddr>().unwrap())
}

#[test]
fn hosts_are_parsed_in_every_spelling() {
    for (text, host) in [
        ("db.example.com", Host::Name("db.example.com".into())),
        ("DB.Example.COM.", Host::Name("db.example.com.".into())),
        ("my_db-1", Host::Name("my_db-1".into())),
        ("10.db", Host::Name("10.db".into())),
        ("%64b:5432", Host::Name("db".into())),
        ("10.0.0.1", address("10.0.0.1")),
        ("%31%30.0.0.1", address("10.0.0.1")),
        ("[2600::1]:5433", address("2600::1")),
        ("%2Fvar%2Frun%2Fpostgresql", Host::Socket("/var/run/postgresql".into())),
        ("%2Frun:5433", Host::Socket("/run".into())),
    ] {
        assert_eq!(parse_in(Network::Any, text).ok(), Some(host), "{text}");
    }
}

#[test]
fn a_text_that_is_no_host_is_refused() {
    for (text, expected) in [
        ("", StoreUrlError::NoHost),
        (":5432", StoreUrlError::NoHost),
        ("a b", StoreUrlError::BadHost),
        ("-a", StoreUrlError::BadHost),
        ("a..b", StoreUrlError::BadHost),
        ("a..", StoreUrlError::BadHost),
        ("..", StoreUrlError::BadHost),
        ("*", StoreUrlError::BadHost),
        ("bücher.example", StoreUrlError::BadHost),
        ("１27.0.0.1", StoreUrlError::BadHost),
        ("%40abstract", StoreUrlError::BadHost),
        ("[::1", StoreUrlError::BadHost),
        ("::1", StoreUrlError::BadHost),
        // Brackets are written as they are: a colon outside of them begins the port.
        ("%5B2600::1%5D", StoreUrlError::BadHost),
        ("[::g]", StoreUrlError::BadHost),
        ("[::1]5432", StoreUrlError::BadHost),
        ("256.0.0.1", StoreUrlError::BadHost),
        ("1.2.3.4.5", StoreUrlError::BadHost),
        ("09.0.0.1", StoreUrlError::BadHost),
        ("4294967296", StoreUrlError::BadHost),
        ("1.16777216", StoreUrlError::BadHost),
        ("db.0x1", StoreUrlError::BadHost),
        ("[fe80::1%25eth0]", StoreUrlError::Zone),
        ("a,b", StoreUrlError::SeveralHosts),
        ("a:1,b:2", StoreUrlError::SeveralHosts),
        ("%61%2Cb", StoreUrlError::SeveralHosts),
        ("a:0", StoreUrlError::BadPort),
        ("a:65536", StoreUrlError::BadPort),
        ("a:+1", StoreUrlError::BadPort),
        ("a:x", StoreUrlError::BadPort),
        ("%2", StoreUrlError::BadEscape),
        ("%zz", StoreUrlError::BadEscape),
        ("%ff", StoreUrlError::BadEscape),
        ("a%00", StoreUrlError::NulByte),
    ] {
        for network in [Network::Any, Network::Public, Network::Private] {
            assert_eq!(parse_in(network, text).err(), Some(expected.clone()), "{network:?} {text:?}");
        }
    }
}

#[test]
fn metadata_services_are_refused_everywhere_in_any_spelling() {
    let addresses = [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::169.254.169.254]",
        "[2002:a9fe:a9fe::]",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "025177524776",
        "0xa9.254.0251.254.",
        "%31%36%39.254.169.254",
    ];
    for network in [Network::Any, Network::Public, Network::Private] {
        for text in addresses {
            let expected = refused(network, Reason::Address(AddressKind::Metadata));
            assert_eq!(parse_in(network, text).err(), expected, "{network:?} {text}");
        }
        for text in
            ["metadata.google.internal", "METADATA.google.internal.", "metadata.goog", "instance-data"]
        {
            let expected = refused(network, Reason::MetadataName);
            assert_eq!(parse_in(network, text).err(), expected, "{network:?} {text}");
        }
    }
}

#[test]
fn each_refusal_has_its_reason() {
    use AddressKind::{
        Benchmark, Documentation, LinkLocal, Loopback, Multicast, Private, Public, Reserved, Shared,
        UniqueLocal, Unspecified,
    };
    let public = |text, reason| (Network::Public, text, reason);
    let private = |text, reason| (Network::Private, text, reason);
    for (network, text, reason) in [
        public("127.0.0.1", Reason::Address(Loopback)),
        public("[::1]", Reason::Address(Loopback)),
        public("[::ffff:127.0.0.1]", Reason::Address(Loopback)),
        public("10.0.0.1", Reason::Address(Private)),
        public("[64:ff9b::10.0.0.1]", Reason::Address(Private)),
        public("100.64.0.1", Reason::Address(Shared)),
        public("169.254.1.1", Reason::Address(LinkLocal)),
        public("[fe80::1]", Reason::Address(LinkLocal)),
        public("[fd00::1]", Reason::Address(UniqueLocal)),
        public("0.0.0.0", Reason::Address(Unspecified)),
        public("[::]", Reason::Address(Unspecified)),
        public("224.0.0.1", Reason::Address(Multicast)),
        public("[2001:db8::1]", Reason::Address(Documentation)),
        public("198.18.0.1", Reason::Address(Benchmark)),
        public("255.255.255.255", Reason::Address(Reserved)),
        // The reason is the address, not its legacy spelling.
        public("127.1", Reason::Address(Loopback)),
        public("127.0.0.1.", Reason::Address(Loopback)),
        public("0", Reason::Address(Unspecified)),
        public("0x7f000001", Reason::Address(Loopback)),
        public("01.1.1.1", Reason::LegacyIpv4),
        public("1.1.1.1.", Reason::LegacyIpv4),
        public("1.1", Reason::LegacyIpv4),
        public("0x1010101", Reason::LegacyIpv4),
        public("16843009", Reason::LegacyIpv4),
        public("localhost", Reason::LocalName),
        public("LOCALHOST.", Reason::LocalName),
        public("db.localhost", Reason::LocalName),
        public("localhost.localdomain", Reason::LocalName),
        public("localhost6.localdomain6", Reason::LocalName),
        public("ip6-localhost", Reason::LocalName),
        public("ip6-loopback", Reason::LocalName),
        public("%2Frun", Reason::Socket),
        private("1.1.1.1", Reason::Address(Public)),
        private("[::ffff:1.1.1.1]", Reason::Address(Public)),
        private("[2600::1]", Reason::Address(Public)),
        private("[fe80::1]", Reason::Address(LinkLocal)),
        private("0.0.0.0", Reason::Address(Unspecified)),
        private("127.1", Reason::LegacyIpv4),
    ] {
        assert_eq!(parse_in(network, text).err(), refused(network, reason), "{network:?} {text}");
        assert!(parse_in(Network::Any, text).is_ok(), "{text}");
    }
}

#[test]
fn each_policy_accepts_hosts_in_its_network() {
    for text in
        ["1.1.1.1", "[2600::1]", "[::ffff:1.1.1.1]", "[64:ff9b::1.1.1.1]", "db.example.com", "localhosts"]
    {
        assert!(parse_in(Network::Public, text).is_ok(), "{text}");
    }
    for text in ["127.0.0.1", "10.0.0.1", "100.64.0.1", "[fd00::1]", "[::1]", "localhost", "%2Frun", "db"] {
        assert!(parse_in(Network::Private, text).is_ok(), "{text}");
    }
}

#[test]
fn a_legacy_spelling_is_parsed_as_resolvers_do() {
    for (text, expected) in [
        ("127.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0x7f.0.0x0.01", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("10.1.258", "10.1.1.2"),
        ("10.0.0.1.", "10.0.0.1"),
        ("0x", "0.0.0.0"),
    ] {
        assert_eq!(parse_in(Network::Any, text).ok(), Some(address(expected)), "{text}");
    }
}

#[test]
fn a_host_in_a_parameter_is_checked_by_the_policy() {
    let network = Network::Public;
    let loopback = refused(network, Reason::Address(AddressKind::Loopback));
    let metadata = refused(network, Reason::Address(AddressKind::Metadata));
    for (rest, expected) in [
        ("/d?host=127.0.0.1", loopback.clone()),
        ("/d?host=%31%32%37.1", loopback.clone()),
        ("/d?host=::1", loopback.clone()),
        ("/d?host=localhost", refused(network, Reason::LocalName)),
        ("/d?host=/var/run/postgresql", refused(network, Reason::Socket)),
        ("/d?host=169.254.169.254", metadata.clone()),
        ("/d?host=db.example.com", None),
        ("db.example.com/d?hostaddr=127.0.0.1", loopback),
        ("db.example.com/d?hostaddr=169.254.169.254", metadata),
        ("db.example.com/d?hostaddr=/run", refused(network, Reason::Socket)),
        ("db.example.com/d?hostaddr=1.1.1.1", None),
        ("db.example.com/d?host=127.0.0.1", Some(StoreUrlError::GivenTwice("host"))),
        ("db.example.com/d?host=other.example.com", Some(StoreUrlError::GivenTwice("host"))),
        ("/d?host=a,b", Some(StoreUrlError::SeveralHosts)),
    ] {
        let result = StoreUrl::parse(&format!("postgres://u:p@{rest}"), network);
        assert_eq!(result.err(), expected, "{rest}");
    }
}
