//! What addresses are, in each form that IPv6 has for an IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const KINDS: [(AddressKind, &[&str]); 12] = [
    (
        AddressKind::Public,
        &["1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "2600::1"],
    ),
    (
        AddressKind::Metadata,
        &[
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:808:808::5601:5601",
            "2600::5efe:169.254.169.254",
        ],
    ),
    (AddressKind::Loopback, &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "2002:7f00:1::"]),
    (AddressKind::Private, &["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1", "64:ff9b::10.0.0.1"]),
    (AddressKind::Shared, &["100.64.0.1", "100.127.255.255", "::ffff:100.64.0.1"]),
    (AddressKind::LinkLocal, &["169.254.0.1", "169.254.169.253", "fe80::1", "febf::1"]),
    (AddressKind::UniqueLocal, &["fc00::1", "fd12:3456::1"]),
    (AddressKind::Unspecified, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"]),
    (AddressKind::Multicast, &["224.0.0.1", "239.255.255.255", "ff02::1"]),
    (AddressKind::Documentation, &["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"]),
    (AddressKind::Benchmark, &["198.18.0.1", "198.19.255.255", "2001:2::1"]),
    (AddressKind::Reserved, &["240.0.0.1", "255.255.255.255", "192.0.0.1", "100::1", "4000::1", "fec0::1"]),
];

#[test]
fn each_address_has_its_kind() {
    for (kind, addresses) in KINDS {
        for text in addresses {
            assert_eq!(AddressKind::of(text.parse().unwrap()), kind, "{text}");
        }
    }
}

#[test]
fn each_policy_accepts_its_kinds_of_addresses() {
    use AddressKind::{Loopback, Metadata, Private, Public, Shared, UniqueLocal};
    for (kind, addresses) in KINDS {
        for address in addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()) {
            for (network, allowed) in [
                (Network::Any, kind != Metadata),
                (Network::Public, kind == Public),
                (Network::Private, [Loopback, Private, Shared, UniqueLocal].contains(&kind)),
            ] {
                let refusal = Refusal { network, reason: Reason::Address(kind) };
                let expected = if allowed { Ok(()) } else { Err(refusal) };
                assert_eq!(network.check_address(address), expected, "{network:?} {address}");
            }
        }
    }
}

#[test]
fn a_policy_is_parsed_from_its_name() {
    for network in [Network::Any, Network::Public, Network::Private] {
        assert_eq!(network.as_str().parse(), Ok(network));
    }
    assert_eq!("Public".parse::<Network>(), Err(UnknownNetwork));
}

/// Any address, and often one near the bounds of a range.
fn addresses() -> impl Strategy<Value = Ipv4Addr> {
    let near = KINDS
        .iter()
        .flat_map(|(_, addresses)| addresses.iter().filter_map(|text| text.parse::<Ipv4Addr>().ok()))
        .collect::<Vec<_>>();
    prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from_bits),
        (proptest::sample::select(near), -2i32..=2)
            .prop_map(|(address, by)| Ipv4Addr::from_bits(address.to_bits().wrapping_add_signed(by))),
    ]
}

proptest! {
    #[test]
    fn an_address_and_its_ipv6_forms_are_of_one_kind(v4 in addresses()) {
        let bits = u128::from(v4.to_bits());
        let kind = AddressKind::of(v4.into());
        let forms = [
            (0xffff << 32) | bits,
            (0xffff_0000 << 32) | bits,
            (0x64_ff9b << 96) | bits,
            (0x2002 << 112) | (bits << 80),
            (0x2001 << 112) | (0x0808_0808 << 64) | (!bits & 0xffff_ffff),
        ];
        for form in forms.map(Ipv6Addr::from_bits) {
            prop_assert_eq!(AddressKind::of(form.into()), kind, "{} as {}", v4, form);
        }
    }
}
