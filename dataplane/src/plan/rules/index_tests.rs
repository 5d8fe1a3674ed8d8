//! The index finds what the walk finds, in rules that overlap as much as they can.
#![allow(clippy::unwrap_used)]

use super::index::Index;
use super::*;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};

/// Few values of everything, so that most rules have something in common with most packets.
const HOSTS: [&str; 8] =
    ["*", "*.example", "*.shop.example", "shop.example", "eu.shop.example", "*.eu.shop.example", "other.test", "x"];
const NAMES: [&str; 8] =
    ["shop.example", "eu.shop.example", "a.eu.shop.example", "example", "other.test", "x", "", ".example"];
const PROTOS: [u8; 6] = [1, 6, 17, 50, 58, 132];

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0u8..3, 0u8..3, 0u8..4).prop_map(|(a, b, c)| IpAddr::from([10, a, b, c]));
    let v6 = (0u16..3, 0u16..3).prop_map(|(a, b)| IpAddr::from([0x2001, a, 0, 0, 0, 0, 0, b]));
    prop_oneof![3 => v4, 1 => v6]
}

fn prefixes() -> impl Strategy<Value = Vec<Prefix>> {
    let one = (address(), any::<Pick>()).prop_map(|(addr, pick)| {
        let lens: &[u8] = if addr.is_ipv4() { &[0, 8, 15, 16, 23, 24, 31, 32] } else { &[0, 16, 31, 32, 127, 128] };
        Prefix::new(addr, lens[pick.index(lens.len())]).unwrap()
    });
    prop_oneof![1 => Just(Vec::new()), 3 => vec(one, 1..4)]
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let one = (0u16..6, 0u16..4).prop_map(|(first, more)| PortRange { first, last: first + more });
    let wide = Just(PortRange { first: 1, last: u16::MAX });
    prop_oneof![3 => Just(Vec::new()), 2 => vec(prop_oneof![5 => one, 1 => wide], 1..3)]
}

fn some<T: Clone + std::fmt::Debug + 'static>(values: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => Just(Vec::new()), 1 => vec(select(values), 1..3)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let hosts: Vec<HostPattern> = HOSTS.iter().map(|host| host.parse().unwrap()).collect();
    let terms = (prefixes(), prefixes(), weighted(0.4, select(&PROTOS[..])), ports(), ports());
    let payload = (some(vec![1u16, 2, 3]), some(hosts), some(vec![1u16, 2]));
    let does = (weighted(0.3, 0u16..3), weighted(0.3, Just(())), 0u8..12);
    (terms, payload, does).prop_map(
        |((from, to, protocol, source_ports, ports), (classes, hosts, applications), does)| {
            let (tunnel, drop, odd) = does;
            let drop = drop.is_some() && tunnel.is_none();
            let mirrored = odd == 0;
            Rule {
                from: from.into(),
                to: to.into(),
                protocol,
                source_ports: source_ports.into(),
                ports: ports.into(),
                classes,
                hosts: hosts.into(),
                applications,
                tunnel,
                drop,
                mirrored,
                ..Rule::default()
            }
        },
    )
}

fn packet() -> impl Strategy<Value = Headers> {
    let fragments = prop_oneof![4 => Just(Fragment::No), 1 => Just(Fragment::First), 2 => Just(Fragment::Later)];
    let protos = prop_oneof![4 => select(vec![6u8, 17]), 2 => select(&PROTOS[..]), 1 => Just(proto::DEST_OPTS)];
    (address(), address(), protos, 0u16..8, 0u16..8, fragments).prop_map(|(src, dst, proto, sport, dport, fragment)| {
        let mut headers = Headers { proto, sport, dport, fragment, ..Headers::default() };
        headers.l3 = if src.is_ipv4() { L3::V4 } else { L3::V6 };
        for (bytes, address) in [(&mut headers.src, src), (&mut headers.dst, dst)] {
            match address {
                IpAddr::V4(addr) => bytes[..4].copy_from_slice(&addr.octets()),
                IpAddr::V6(addr) => bytes.copy_from_slice(&addr.octets()),
            }
        }
        headers
    })
}

fn known() -> impl Strategy<Value = Known<'static>> {
    let unread = prop_oneof![3 => Just(Unread::No), 1 => Just(Unread::CutShort), 1 => Just(Unread::Headless)];
    let parts = (weighted(0.6, 1u16..5), weighted(0.6, select(&NAMES[..])), weighted(0.6, 0u16..4), unread);
    parts.prop_map(|(class, host, application, unread)| Known { class, host, application, unread })
}

fn agree(rules: &[Rule], index: &Index, headers: &Headers, known: &Known<'static>) -> Result<(), TestCaseError> {
    let ends = Ends::of(headers);
    for tunnel_in in [None, Some(0), Some(1)] {
        let want = look_up(rules, headers, known, tunnel_in);
        prop_assert_eq!(
            index.look_up(rules, &ends, known, tunnel_in),
            want,
            "{:?} {:?} {:?}",
            headers,
            known,
            tunnel_in
        );
    }
    let want: Vec<Onward> = onward(rules, headers, *known, 1).collect();
    prop_assert_eq!(index.onward(rules, &ends, known, 1).collect::<Vec<_>>(), want);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn few_rules_are_found_as_by_walking(
        rules in vec(rule(), 1..12), packets in vec((packet(), known()), 1..40)
    ) {
        let index = Index::new(&rules);
        for (headers, known) in &packets {
            agree(&rules, &index, headers, known)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Over several words and blocks. Most say too much to hold for many packets, so the last are reached too.
    #[test]
    fn many_rules_are_found_as_by_walking(
        some in vec(rule(), 20..40), packets in vec((packet(), known()), 20..60), count in 100usize..9000, step in 1usize..40
    ) {
        let narrow = Rule { from: ["203.0.113.0/24".parse().unwrap()].into(), ..Rule::default() };
        let rules: Vec<Rule> = (0..count)
            .map(|at| if at % (step * 61) == step { some[at % some.len()].clone() } else { narrow.clone() })
            .collect();
        let index = Index::new(&rules);
        for (headers, known) in &packets {
            agree(&rules, &index, headers, known)?;
        }
    }
}

#[test]
fn rules_say_nothing_at_all_and_none_is_beyond_the_last() {
    for count in [1, 63, 64, 65, 4096, 4097] {
        let rules = vec![Rule { mirrored: true, ..Rule::default() }; count];
        let index = Index::new(&rules);
        let found = |index: &Index, rules: &[Rule]| {
            index.look_up(rules, &Ends::of(&Headers::default()), &Known::default(), None).rule
        };
        assert_eq!(found(&index, &rules), NONE);
        let mut rules = rules;
        rules[count - 1].mirrored = false;
        assert_eq!(found(&Index::new(&rules), &rules), count as u16 - 1);
    }
}
