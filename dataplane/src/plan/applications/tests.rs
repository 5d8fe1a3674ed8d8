#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::policy::{HostGlob, PortRange, Prefix, Protocol};
use crate::l7::Class;
use proptest::prelude::*;

fn app(name: &str, hosts: &[&str]) -> Application {
    Application {
        name: name.into(),
        hosts: hosts.iter().map(|h| h.parse::<HostGlob>().unwrap()).collect(),
        ..Application::default()
    }
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

const SERVER: &str = "192.0.2.7";
const CLIENT: &str = "10.0.0.1";

fn facts(host: Option<&str>) -> Facts<'_> {
    Facts {
        ends: [(SERVER.parse().unwrap(), 443), (CLIENT.parse().unwrap(), 50_000)],
        protocol: 6,
        class: Class::Tls.number(),
        alpn: Alpn::H2,
        host,
        ja4: Some("t13d1516h2_8daaf6152771_e5627efa2ab1"),
    }
}

fn found<'a>(all: &'a Applications, facts: &Facts<'_>) -> Option<&'a str> {
    all.find(facts).map(|id| all.name(id))
}

fn all(list: &[Application]) -> Applications {
    Applications::compile(list).unwrap()
}

#[test]
fn the_longest_pattern_wins_and_a_name_over_patterns() {
    let all = all(&[
        app("anything", &["*"]),
        app("pay", &["*.pay.example", "pay.example"]),
        app("api", &["api-*.pay.example"]),
        app("one", &["api-7.pay.example"]),
        app("loose", &["foo.*"]),
    ]);
    for (host, wanted) in [
        ("x.org", "anything"),
        ("pay.example", "pay"),
        ("a.b.pay.example", "pay"),
        ("xpay.example", "anything"),
        ("api-3.pay.example", "api"),
        ("api-7.pay.example", "one"),
        ("foo.example", "loose"),
        (".pay.example", "anything"),
    ] {
        assert_eq!(found(&all, &facts(Some(host))), Some(wanted), "{host}");
    }
    assert_eq!(found(&all, &facts(None)), None);
    assert_eq!(all.by_name("api").map(AppId::number), Some(3));
}

#[test]
fn kinds_hold_together_and_values_of_a_kind_are_alternatives() {
    let whole = Application {
        prefixes: vec![prefix("198.51.100.0/24"), prefix("192.0.2.0/28")],
        ports: vec![range(80, 80), range(443, 444)],
        protocol: Protocol::TCP,
        classes: vec!["http".into(), "tls".into()],
        alpn: vec!["http/1.1".into(), "h2".into()],
        ja4: vec!["t13d1516h2_8daaf6152771_e5627efa2ab1".into()],
        ..app("a", &["*.example"])
    };
    let all = all(&[whole]);
    let good = facts(Some("x.example"));
    assert_eq!(found(&all, &good), Some("a"));
    let turned = Facts { ends: [good.ends[1], good.ends[0]], ..good };
    assert_eq!(found(&all, &turned), Some("a"), "whoever spoke first");
    let elsewhere = "192.0.2.99".parse().unwrap();
    for bad in [
        Facts { host: Some("x.example.org"), ..good },
        Facts { host: None, ..good },
        Facts { ends: [(elsewhere, 443), good.ends[1]], ..good },
        Facts { ends: [(good.ends[0].0, 445), good.ends[1]], ..good },
        Facts { ends: [(good.ends[0].0, 445), (good.ends[1].0, 443)], ..good },
        Facts { protocol: 17, ..good },
        Facts { class: Class::Dns.number(), ..good },
        Facts { alpn: Alpn::H3, ..good },
        Facts { ja4: None, ..good },
    ] {
        assert_eq!(found(&all, &bad), None, "{bad:?}");
    }
}

#[test]
fn prefix_then_kinds_then_order() {
    let net = |name: &str, text: &str| Application { prefixes: vec![prefix(text)], ..app(name, &[]) };
    let all = all(&[
        Application { ports: vec![range(1, 1000)], ..app("low", &[]) },
        Application { ports: vec![range(443, 443)], classes: vec!["tls".into()], ..app("tls443", &[]) },
        Application { ports: vec![range(0, 65_535)], ..app("any-port", &[]) },
        net("wide", "192.0.0.0/8"),
        Application { ports: vec![range(443, 443)], ..net("wide-https", "192.0.0.0/8") },
        net("narrow", "192.0.2.0/24"),
        net("narrow-too", "192.0.2.0/24"),
        Application { prefixes: vec![prefix("10.0.0.0/30")], ..app("client", &["a.example"]) },
    ]);
    let at = |address: &str, port: u16| Facts {
        ends: [(address.parse().unwrap(), port), facts(None).ends[1]],
        ..facts(None)
    };
    assert_eq!(found(&all, &at(SERVER, 443)), Some("narrow"));
    assert_eq!(found(&all, &at("192.1.0.1", 443)), Some("wide-https"));
    assert_eq!(found(&all, &at("192.1.0.1", 80)), Some("wide"));
    assert_eq!(found(&all, &at("203.0.113.1", 443)), Some("tls443"));
    assert_eq!(found(&all, &at("203.0.113.1", 80)), Some("low"));
    assert_eq!(found(&all, &at("203.0.113.1", 8080)), Some("any-port"));
    let icmp = Facts { protocol: 1, ..at("203.0.113.1", 8080) };
    assert_eq!(found(&all, &icmp), None, "what stands for a port there is none");
    assert_eq!(found(&all, &facts(Some("a.example"))), Some("client"), "a host wins over all prefixes");
}

#[test]
fn what_is_too_much_is_refused_with_the_place() {
    let error = |list: &[Application]| Applications::compile(list).unwrap_err();
    let many: Vec<_> = (0..=MAX_APPLICATIONS).map(|n| app(&format!("a{n}"), &["a.example"])).collect();
    assert_eq!(error(&many).application, MAX_APPLICATIONS);
    assert_eq!(error(&many[..=MAX_SHARED]).application, MAX_SHARED);
    let globs: Vec<String> = (0..=MAX_GLOBS_PER_ENDING).map(|n| format!("a{n}*.example")).collect();
    let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
    let error = error(&[app("a", &["b"]), app("b", &globs)]);
    assert!(error.application == 1 && error.message.contains("a64*.example"), "{error}");
}

#[test]
fn marks_of_another_plan_are_none() {
    let all = all(&[app("a", &["*"])]);
    let (one, two) = (all.clone().for_generation(4), all.for_generation(5));
    let mark = one.epoch << 12 | 1;
    assert_eq!((one.marked(mark), two.marked(mark), one.marked(0)), (Some(1), None, None));
}

#[test]
fn every_class_has_its_bit() {
    for class in Class::ALL {
        let all = all(&[Application { classes: vec![class.name().into()], ..app("a", &[]) }]);
        assert!(all.find(&Facts { class: class.number(), ..facts(None) }).is_some(), "{class}");
        assert!(all.find(&Facts { class: class.number() + 1, ..facts(None) }).is_none(), "{class}");
    }
}

/// The definition, word by word.
fn naive(list: &[Application], facts: &Facts<'_>) -> Option<usize> {
    let fit = |at: usize, app: &Application| {
        let rank = if app.hosts.is_empty() {
            0
        } else {
            app.hosts.iter().filter(|p| facts.host.is_some_and(|h| p.matches(h))).map(HostGlob::rank).max()?
        };
        let ported = matches!(facts.protocol, 6 | 17 | 132);
        let end = |(address, port): (IpAddr, u16)| {
            let port = app.ports.is_empty() || ported && app.ports.iter().any(|r| r.contains(port));
            let len = if app.prefixes.is_empty() {
                Some(0)
            } else {
                app.prefixes.iter().filter(|p| p.contains(address)).map(|p| p.prefix_len() + 1).max()
            };
            len.filter(|_| port)
        };
        let len = facts.ends.into_iter().filter_map(end).max()?;
        let class = Class::from_number(facts.class).name();
        let holds = app.protocol.0.is_none_or(|p| p == facts.protocol)
            && (app.classes.is_empty() || app.classes.iter().any(|c| c == class))
            && (app.alpn.is_empty() || app.alpn.iter().any(|a| a == facts.alpn.name()))
            && (app.ja4.is_empty() || app.ja4.iter().any(|j| Some(j.as_str()) == facts.ja4));
        let kinds = [
            !app.hosts.is_empty(),
            !app.prefixes.is_empty(),
            !app.ports.is_empty(),
            app.protocol.0.is_some(),
            !app.classes.is_empty(),
            !app.alpn.is_empty(),
            !app.ja4.is_empty(),
        ];
        holds.then(|| (rank, len, kinds.iter().filter(|k| **k).count(), Reverse(at)))
    };
    list.iter().enumerate().filter_map(|(at, app)| fit(at, app)).max().map(|(.., Reverse(at))| at)
}

fn host() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab]{1,2}", 1..4).prop_map(|labels| labels.join("."))
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        host(),
        host().prop_map(|h| format!("*.{h}")),
        ("[ab]?\\*[ab]?", host()).prop_map(|(label, h)| format!("{label}.{h}")),
        (host(), "[ab]?\\*[ab]?").prop_map(|(h, label)| format!("{h}.{label}")),
        (host(), "[ab]\\*", host()).prop_map(|(h, label, rest)| format!("*.{h}.{label}.{rest}")),
        Just("*".to_owned()),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..16).prop_map(|n| IpAddr::V4((n << 28 | n).into())),
        (0u128..16).prop_map(|n| IpAddr::V6((n << 124 | n).into())),
        Just(IpAddr::V4(u32::MAX.into())),
        Just(IpAddr::V6(u128::MAX.into())),
    ]
}

fn some_prefix() -> impl Strategy<Value = Prefix> {
    (address(), 0u8..=128).prop_map(|(a, len)| Prefix::new(a, if a.is_ipv4() { len % 33 } else { len }).unwrap())
}

fn words(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(0..of.len(), 1..3)
        .prop_map(move |list| list.into_iter().map(|i| of[i].to_owned()).collect())]
}

fn some_app() -> impl Strategy<Value = Application> {
    use proptest::collection::vec;
    let hosts = prop_oneof![1 => Just(Vec::new()), 2 => vec(pattern(), 1..4)];
    let prefixes = prop_oneof![2 => Just(Vec::new()), 1 => vec(some_prefix(), 1..4)];
    let ports = prop_oneof![2 => Just(Vec::new()), 1 => vec((0u16..12, 0u16..4), 1..4)];
    let protocol = prop_oneof![3 => Just(None), 1 => Just(Some(6)), 1 => Just(Some(17))];
    let rest = (words(&["tls", "http"]), words(&["h2", "h3"]), words(&["x", "y"]));
    (hosts, prefixes, ports, protocol, rest).prop_map(|(hosts, prefixes, ports, protocol, (classes, alpn, ja4))| {
        Application {
            name: "a".into(),
            hosts: hosts.iter().map(|h| h.parse::<HostGlob>().unwrap()).collect(),
            prefixes,
            ports: ports.into_iter().map(|(first, more)| range(first, first + more)).collect(),
            protocol: Protocol(protocol),
            classes,
            alpn,
            ja4,
            ..Application::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_definition(
        list in proptest::collection::vec(some_app(), 0..12),
        probes in proptest::collection::vec(
            (proptest::option::of(host()), [address(), address()], [0u16..16, 0u16..16], 0usize..3, 0usize..3, 0usize..3, 0usize..3),
            1..30,
        ),
    ) {
        let all = all(&list);
        for (host, ends, ports, proto, class, alpn, ja4) in &probes {
            let facts = Facts {
                ends: [(ends[0], ports[0]), (ends[1], ports[1])],
                protocol: [6, 17, 1][*proto],
                class: [Class::Tls, Class::Http, Class::Unknown][*class].number(),
                alpn: [Alpn::H2, Alpn::H3, Alpn::None][*alpn],
                host: host.as_deref(),
                ja4: [Some("x"), Some("z"), None][*ja4],
            };
            prop_assert_eq!(all.find(&facts).map(AppId::place), naive(&list, &facts), "{:?} in {:?}", facts, list);
        }
    }

    /// Whatever a client writes into its hello.
    #[test]
    fn any_name_is_looked_up(host in "[ -~]{0,253}") {
        let all = all(&[app("a", &["*.example", "a*.b", "*"])]);
        let facts = facts(Some(&host));
        prop_assert_eq!(all.find(&facts).is_some(), !host.is_empty());
    }
}

#[test]
fn a_hundred_thousand_patterns() {
    let hosts: Vec<HostGlob> = (0..100_000u32)
        .map(|n| format!("{}s{n}.d{}.example", if n % 3 == 0 { "*." } else { "" }, n % 977).parse().unwrap())
        .collect();
    let list: Vec<Application> = hosts
        .chunks(100)
        .enumerate()
        .map(|(n, part)| Application { name: format!("a{n}"), hosts: part.into(), ..Application::default() })
        .collect();
    let all = all(&list);
    for n in (0..100_000u32).step_by(37) {
        let name = format!("{}s{n}.d{}.example", if n % 3 == 0 { "x." } else { "" }, n % 977);
        assert_eq!(all.find(&facts(Some(&name))).map(AppId::place), Some(n as usize / 100), "{name}");
        assert_eq!(all.find(&facts(Some(&format!("{n}.{name}x")))), None);
    }
    let (text, per) = (hosts.iter().map(|h| h.as_str().len()).sum::<usize>(), 70);
    assert!(all.memory() < text + per * hosts.len(), "{} bytes for {text} of text", all.memory());
}
