//! When one match holds all packets of another, and when two have packets in common.

use super::policy::{Match, PortRange, Prefix, Protocol};

/// Whether every packet that `b` matches is matched by `a` too. May say no where several of `a`'s prefixes hold one of `b`'s
/// only together.
pub fn covers(a: &Match, b: &Match) -> bool {
    prefixes_cover(&a.from, &b.from)
        && prefixes_cover(&a.to, &b.to)
        && protocols_cover(a, b)
        && ports_cover(&a.source_ports, &b.source_ports)
        && ports_cover(&a.ports, &b.ports)
}

/// Whether some packet is matched by both.
pub fn overlaps(a: &Match, b: &Match) -> bool {
    let protocols = wanted(a).any(|p| wanted(b).any(|q| p.overlaps(q)));
    protocols
        && prefixes_overlap(&a.from, &b.from)
        && prefixes_overlap(&a.to, &b.to)
        && family(a).is_none_or(|v4| family(b).is_none_or(|w4| v4 == w4))
        && ports_overlap(&a.source_ports, &b.source_ports)
        && ports_overlap(&a.ports, &b.ports)
}

/// The one address family a match is confined to, as "is it IPv4".
fn family(m: &Match) -> Option<bool> {
    let one = |list: &[Prefix]| {
        let first = list.first()?.addr().is_ipv4();
        list.iter().all(|p| p.addr().is_ipv4() == first).then_some(first)
    };
    one(&m.from).or_else(|| one(&m.to))
}

/// A match on ports without a protocol means TCP and UDP.
fn wanted(m: &Match) -> impl Iterator<Item = Protocol> {
    let both = m.protocol == Protocol::ANY && !(m.ports.is_empty() && m.source_ports.is_empty());
    let (first, second) = if both { (Protocol::TCP, Some(Protocol::UDP)) } else { (m.protocol, None) };
    std::iter::once(first).chain(second)
}

fn protocols_cover(a: &Match, b: &Match) -> bool {
    wanted(b).all(|q| wanted(a).any(|p| p.covers(q)))
}

fn prefixes_cover(a: &[Prefix], b: &[Prefix]) -> bool {
    if a.is_empty() {
        return true;
    }
    !b.is_empty() && b.iter().all(|q| a.iter().any(|p| p.covers(q)))
}

fn prefixes_overlap(a: &[Prefix], b: &[Prefix]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|p| b.iter().any(|q| p.overlaps(q)))
}

/// Neighbouring ranges of `a` may hold a range of `b` together: 1-10 and 11-20 hold 5-15.
fn ports_cover(a: &[PortRange], b: &[PortRange]) -> bool {
    if a.is_empty() {
        return true;
    }
    if b.is_empty() {
        return false;
    }
    let mut sorted: Vec<PortRange> = a.to_vec();
    sorted.sort_by_key(|r| r.first);
    b.iter().all(|want| {
        let mut next = u32::from(want.first);
        for range in &sorted {
            if u32::from(range.first) <= next && u32::from(range.last) >= next {
                next = u32::from(range.last) + 1;
            }
        }
        next > u32::from(want.last)
    })
}

fn ports_overlap(a: &[PortRange], b: &[PortRange]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|p| b.iter().any(|q| p.first <= q.last && q.first <= p.last))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn matches(from: &[&str], protocol: &str, ports: &[&str]) -> Match {
        Match {
            from: from.iter().map(|p| p.parse().unwrap()).collect(),
            protocol: protocol.parse().unwrap(),
            ports: ports.iter().map(|p| p.parse().unwrap()).collect(),
            ..Match::default()
        }
    }

    #[test]
    fn neighbouring_port_ranges_cover_together() {
        assert!(covers(&matches(&[], "tcp", &["11-20", "1-10"]), &matches(&[], "tcp", &["5-15"])));
        assert!(!covers(&matches(&[], "tcp", &["12-20", "1-10"]), &matches(&[], "tcp", &["5-15"])));
        assert!(covers(&matches(&[], "any", &["1-65535", "0"]), &matches(&[], "udp", &["0-65535"])));
    }

    #[test]
    fn ports_without_protocol_leave_icmp_out() {
        assert!(!covers(&matches(&[], "any", &["0-65535"]), &matches(&[], "icmp", &[])));
        assert!(!overlaps(&matches(&[], "any", &["80"]), &matches(&[], "esp", &[])));
        assert!(overlaps(&matches(&[], "any", &[]), &matches(&[], "esp", &[])));
    }

    #[test]
    fn families_do_not_meet() {
        let v4 = matches(&["10.0.0.0/8"], "any", &[]);
        let v6 = Match { to: ["2001:db8::/32".parse().unwrap()].into(), ..Match::default() };
        assert!(!overlaps(&v4, &v6));
        assert!(!covers(&v4, &v6));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// What covers, holds every member; what overlaps with a single address, contains it.
        #[test]
        fn prefix_algebra(addr: u32, a in 0u8..=32, b in 0u8..=32, other: u32) {
            let ip = |n: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from(n));
            let (p, q) = (Prefix::new(ip(addr), a).unwrap(), Prefix::new(ip(other), b).unwrap());
            prop_assert!(p.contains(ip(addr)));
            if p.covers(&q) {
                prop_assert!(p.contains(ip(other)));
            }
            let mask = |n: u32, len: u8| if len == 0 { 0 } else { n >> (32 - u32::from(len)) };
            prop_assert_eq!(p.overlaps(&q), mask(addr, a.min(b)) == mask(other, a.min(b)));
            prop_assert_eq!(p.to_string().parse::<Prefix>(), Ok(p));
        }
    }
}
