//! Which rule a packet's flow falls under, and what that means for this packet. Pure; asked once per flow and cached there.

mod index;
#[cfg(test)]
mod index_tests;
mod sets;

use crate::config::policy::{HostPattern, PortRange};
use crate::graph::packet::NONE;
use crate::io::steer::Meter;
use crate::wire::prefix::Prefix;
use index::Index;
use softdpu_ebpf_common::walk::{Fragment, Headers, L3, proto};
use std::net::IpAddr;
use std::sync::Arc;

/// Most rules of a plan: a flow remembers its rule in 15 bits, one value of which says "none".
pub const MAX_RULES: usize = (1 << 15) - 1;

/// From so many rules on they are looked up in an index; few are walked faster.
const INDEXED: usize = 24;

/// What a rule asks of every packet; those of several rules are in one cache line.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// [`NONE`]: none.
    pub tunnel: u16,
    pub drop: bool,
    pub compress: bool,
    /// As [`Rule::treats`].
    pub treats: bool,
}

/// A plan's rules, in order, and what finds one of many.
#[derive(Debug, Default)]
pub struct Rules {
    list: Box<[Rule]>,
    acts: Box<[Act]>,
    index: Option<Index>,
}

impl From<Vec<Rule>> for Rules {
    fn from(list: Vec<Rule>) -> Self {
        let index = (list.len() >= INDEXED).then(|| Index::new(&list));
        let act = |rule: &Rule| Act {
            tunnel: rule.tunnel.unwrap_or(NONE),
            drop: rule.drop,
            compress: rule.compress,
            treats: rule.treats(),
        };
        Self { acts: list.iter().map(act).collect(), list: list.into(), index }
    }
}

impl std::ops::Deref for Rules {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.list
    }
}

impl Rules {
    #[inline]
    pub fn act(&self, rule: u16) -> Option<&Act> {
        self.acts.get(usize::from(rule))
    }

    /// So many that what packets need of them is not all in the cache.
    pub fn are_many(&self) -> bool {
        self.index.is_some()
    }

    /// As [`look_up`], in about the same time however many there are.
    pub fn look_up(&self, headers: &Headers, known: &Known<'_>, tunnel_in: Option<u16>) -> Match {
        match &self.index {
            Some(index) => index.look_up(&self.list, &Ends::of(headers), known, tunnel_in),
            None => look_up(&self.list, headers, known, tunnel_in),
        }
    }

    /// As [`onward`].
    pub fn onward<'a>(
        &'a self,
        headers: &Headers,
        known: &Known<'a>,
        tunnel_in: u16,
    ) -> impl Iterator<Item = Onward> + use<'a> {
        let indexed = self.index.as_ref().map(|index| index.onward(&self.list, &Ends::of(headers), known, tunnel_in));
        let walked = self.index.is_none().then(|| onward(&self.list, headers, *known, tunnel_in));
        indexed.into_iter().flatten().chain(walked.into_iter().flatten())
    }
}

/// A rule of the policy, names resolved to indices.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub name: Arc<str>,
    pub from: Arc<[Prefix]>,
    pub to: Arc<[Prefix]>,
    pub protocol: Option<u8>,
    pub source_ports: Arc<[PortRange]>,
    pub ports: Arc<[PortRange]>,
    /// Class numbers; empty: any.
    pub classes: Vec<u16>,
    /// Empty: any.
    pub hosts: Arc<[HostPattern]>,
    /// Numbers of applications, from 1. Empty: any, and none.
    pub applications: Vec<u16>,
    pub tunnel: Option<u16>,
    pub compress: bool,
    pub drop: bool,
    /// Its flows stay with the worker.
    pub keep: bool,
    /// Of each direction of each flow; what is over is dropped.
    pub meter: Option<RuleMeter>,
    /// Index of what its flows share with those of other rules: a ceiling.
    pub share: Option<u16>,
    /// Index of the most connections that its application may have.
    pub limit: Option<u16>,
    /// 0..=63.
    pub dscp: Option<u8>,
    /// One of so many packets is counted, and seen by a worker; 0: none.
    pub sample: u32,
    /// Port that gets copies of its packets, of one in `sample` where there is one.
    pub mirror: Option<u16>,
    /// Stands for the kernel's policies: never found by its own terms.
    pub mirrored: bool,
}

/// A token bucket, and what of it can be computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMeter {
    pub meter: Meter,
    /// Nanoseconds that one byte takes, in 1/2^16.
    pub per_byte: u64,
    /// Nanoseconds' worth of burst.
    pub burst: u64,
}

impl RuleMeter {
    pub fn new(meter: Meter) -> Self {
        Self { meter, per_byte: meter.per_byte(), burst: meter.burst_nanos() }
    }
}

/// What is known of a flow when a rule is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The class, once it is settled; `None` while it may still change.
    pub class: Option<u16>,
    pub host: Option<&'a str>,
    /// Number of the application, 0 none, once it is settled.
    pub application: Option<u16>,
    /// What these do not say will never be known.
    pub unread: Unread,
}

/// Whether, and why, less was read of a flow than would have told its class and host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unread {
    #[default]
    No,
    /// Room ran out. Whoever wants to hide can see to that, so rules that drop hold too.
    CutShort,
    /// It is older than what is known of it: from before the start, or from before its entry made way for another.
    Headless,
}

/// How a packet stands to a rule: `from → to` is the way out (into the tunnel), the reverse the way in (out of it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Out,
    In,
}

/// The outcome of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Index of the rule, or [`NONE`].
    pub rule: u16,
    pub side: Side,
    /// An earlier rule might match once the flow's class is known: not to be cached.
    pub provisional: bool,
}

impl Match {
    const NOTHING: Self = Self { rule: NONE, side: Side::Out, provisional: false };
}

impl Rule {
    /// Whether packets that go on are metered, sampled, copied or marked.
    pub fn treats(&self) -> bool {
        let copied = self.mirror.is_some();
        self.meter.is_some() || self.share.is_some() || self.dscp.is_some() || self.sample > 0 || copied
    }

    /// Which flows may not go on in clear, or at all, is told from what they carry.
    pub fn guards_by_class(&self) -> bool {
        self.has_payload_terms() && (self.tunnel.is_some() || self.drop)
    }

    fn has_payload_terms(&self) -> bool {
        !self.classes.is_empty() || !self.hosts.is_empty() || !self.applications.is_empty()
    }

    /// `None`: cannot be said before the flow is classified.
    fn payload_terms_hold(&self, known: &Known<'_>) -> Option<bool> {
        if !self.has_payload_terms() {
            return Some(true);
        }
        if known.unread != Unread::No {
            return Some(self.may_hold(known) && self.holds_unread(known.unread));
        }
        let class = known.class?;
        let class_holds = self.classes.is_empty() || self.classes.contains(&class);
        let host_holds =
            self.hosts.is_empty() || known.host.is_some_and(|host| self.hosts.iter().any(|p| p.matches(host)));
        if !class_holds || !host_holds {
            return Some(false);
        }
        Some(self.applications.is_empty() || self.applications.contains(&known.application?))
    }

    /// Nothing that is known speaks against it.
    fn may_hold(&self, known: &Known<'_>) -> bool {
        let class = known.class.is_none_or(|class| self.classes.is_empty() || self.classes.contains(&class));
        let host = known.host.is_none_or(|host| self.hosts.is_empty() || self.hosts.iter().any(|p| p.matches(host)));
        let application = known.application;
        let application = application.is_none_or(|n| self.applications.is_empty() || self.applications.contains(&n));
        class && host && application
    }

    /// Whether it holds for a flow that it may be meant for, of which nobody will ever know: what must be encrypted never
    /// leaves in clear because too little of it was read.
    fn holds_unread(&self, unread: Unread) -> bool {
        self.tunnel.is_some() || self.drop && unread == Unread::CutShort
    }

    fn has_port_terms(&self) -> bool {
        !self.source_ports.is_empty() || !self.ports.is_empty()
    }

    /// `tunnel_in` settles the side where the rule holds both ways.
    fn side(&self, packet: &Ends, tunnel_in: Option<u16>) -> Option<Side> {
        if let (Some(wanted), Some(proto)) = (self.protocol, packet.proto)
            && wanted != proto
        {
            return None;
        }
        let out = self.fits(packet.src, packet.dst, packet.sport, packet.dport);
        if out && (self.tunnel.is_none() || self.tunnel != tunnel_in) {
            return Some(Side::Out);
        }
        let back = self.fits(packet.dst, packet.src, packet.dport, packet.sport);
        if back { Some(Side::In) } else { out.then_some(Side::Out) }
    }

    /// Whether the rule lets this packet come out of its tunnel (RFC 4301 §5.2): one that goes `from → to` has no business
    /// there, and would leave again in clear.
    pub fn lets_in(&self, headers: &Headers) -> bool {
        !self.mirrored && self.side(&Ends::of(headers), self.tunnel) == Some(Side::In)
    }

    fn fits(&self, src: IpAddr, dst: IpAddr, sport: Option<u16>, dport: Option<u16>) -> bool {
        let within = |prefixes: &[Prefix], addr| prefixes.is_empty() || prefixes.iter().any(|p| p.contains(addr));
        let among = |ranges: &[PortRange], port: Option<u16>| {
            // A later fragment has no ports: the rule may hold, see `look_up`.
            ranges.is_empty() || port.is_none_or(|port| ranges.iter().any(|range| range.contains(port)))
        };
        within(&self.from, src)
            && within(&self.to, dst)
            && among(&self.source_ports, sport)
            && among(&self.ports, dport)
    }
}

struct Ends {
    src: IpAddr,
    dst: IpAddr,
    sport: Option<u16>,
    dport: Option<u16>,
    /// `None`: a later fragment whose transport is behind further extension headers, in its first.
    proto: Option<u8>,
}

impl Ends {
    fn of(headers: &Headers) -> Self {
        let ports = headers.fragment != Fragment::Later && matches!(headers.proto, 6 | 17 | 132);
        Self {
            src: ip(headers.l3, &headers.src),
            dst: ip(headers.l3, &headers.dst),
            sport: if headers.fragment == Fragment::Later { None } else { Some(if ports { headers.sport } else { 0 }) },
            dport: if headers.fragment == Fragment::Later { None } else { Some(if ports { headers.dport } else { 0 }) },
            proto: (headers.fragment != Fragment::Later || !is_extension(headers.proto)).then_some(headers.proto),
        }
    }

    /// Whether all is known that the rule asks for.
    fn suffice_for(&self, rule: &Rule) -> bool {
        (self.dport.is_some() || !rule.has_port_terms()) && (self.proto.is_some() || rule.protocol.is_none())
    }
}

/// IPv6 extension headers that may stand between a fragment header and the transport's (RFC 8200 §4.1, RFC 7045 §2).
fn is_extension(number: u8) -> bool {
    matches!(number, proto::HOP_BY_HOP | proto::ROUTING | proto::FRAGMENT | proto::DEST_OPTS | 51 | 135 | 139 | 140)
}

/// An address as [`Headers`] holds it.
#[inline]
pub fn ip(l3: L3, bytes: &[u8; 16]) -> IpAddr {
    match l3 {
        L3::V6 => IpAddr::V6((*bytes).into()),
        _ => IpAddr::V4([bytes[0], bytes[1], bytes[2], bytes[3]].into()),
    }
}

/// First match wins. While it is open whether a rule holds (the class is not known yet, a fragment has no ports), one that
/// encrypts does so at once, and one that lets pass in clear does not count: what must be encrypted never leaves in clear
/// because too little was known of it.
///
/// `tunnel_in`: the tunnel the packet came by; it settles the side where a rule's `from` and `to` overlap.
///
/// Walks them all: [`Rules::look_up`] finds the same in many.
pub fn look_up(rules: &[Rule], headers: &Headers, known: &Known<'_>, tunnel_in: Option<u16>) -> Match {
    let ends = Ends::of(headers);
    let mut open = false;
    for (at, rule) in rules.iter().enumerate() {
        let Some(side) = rule.side(&ends, tunnel_in).filter(|_| !rule.mirrored) else { continue };
        let found = Match { rule: at as u16, side, provisional: open };
        match rule.payload_terms_hold(known) {
            Some(false) => {}
            Some(true) if ends.suffice_for(rule) => return found,
            Some(true) if rule.drop => return Match { provisional: true, ..found },
            _ if rule.tunnel.is_some() => return Match { provisional: true, ..found },
            _ => open = true,
        }
    }
    Match { provisional: open, ..Match::NOTHING }
}

/// A rule that could mean what came out of a tunnel for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    /// Index of the rule.
    pub rule: u16,
    /// It holds for this packet the other way too, and so could mean as well that such packets come out of its tunnel.
    pub both_ways: bool,
}

/// The rules that want what came out of `tunnel_in` in another tunnel, in order. What a flow remembers is one rule, whose
/// answers are let in by it and may have to go on by another.
fn onward<'a>(
    rules: &'a [Rule],
    headers: &Headers,
    known: Known<'a>,
    tunnel_in: u16,
) -> impl Iterator<Item = Onward> + use<'a> {
    let ends = Ends::of(headers);
    let wants = move |(at, rule): (usize, &Rule)| {
        let other = rule.tunnel.is_some_and(|tunnel| tunnel != tunnel_in) && !rule.mirrored;
        (other && rule.side(&ends, None) == Some(Side::Out) && rule.payload_terms_hold(&known) != Some(false))
            .then(|| Onward { rule: at as u16, both_ways: rule.fits(ends.dst, ends.src, ends.dport, ends.sport) })
    };
    rules.iter().enumerate().filter_map(wants)
}

/// Length of the longest of these prefixes that an address is in.
pub fn longest(prefixes: &[Prefix], address: IpAddr) -> Option<u8> {
    prefixes.iter().filter(|prefix| prefix.contains(address)).map(Prefix::prefix_len).max()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn prefix(text: &str) -> Arc<[Prefix]> {
        [text.parse().unwrap()].into()
    }

    fn tcp(src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16) -> Headers {
        let mut headers = Headers { l3: L3::V4, proto: 6, sport, dport, ..Headers::default() };
        headers.src[..4].copy_from_slice(&src);
        headers.dst[..4].copy_from_slice(&dst);
        headers
    }

    fn protect() -> Rule {
        Rule {
            name: "protect".into(),
            from: prefix("10.1.0.0/24"),
            to: prefix("10.2.0.0/24"),
            tunnel: Some(0),
            ..Rule::default()
        }
    }

    const CLIENT: [u8; 4] = [10, 1, 0, 2];
    const SERVER: [u8; 4] = [10, 2, 0, 2];

    #[test]
    fn one_rule_holds_for_both_directions() {
        let rules = [Rule { ports: [PortRange { first: 443, last: 443 }].into(), ..protect() }];
        let out = look_up(&rules, &tcp(CLIENT, SERVER, 40000, 443), &Known::default(), None);
        assert_eq!(out, Match { rule: 0, side: Side::Out, provisional: false });
        let back = look_up(&rules, &tcp(SERVER, CLIENT, 443, 40000), &Known::default(), Some(0));
        assert_eq!(back.side, Side::In);
        assert_eq!(look_up(&rules, &tcp(SERVER, CLIENT, 40000, 443), &Known::default(), None).rule, NONE);
    }

    #[test]
    fn what_came_by_the_rules_tunnel_does_not_go_back_into_it() {
        let everything = [Rule { tunnel: Some(0), ..Rule::default() }];
        let packet = tcp(SERVER, CLIENT, 443, 40000);
        assert_eq!(look_up(&everything, &packet, &Known::default(), Some(0)).side, Side::In);
        assert_eq!(look_up(&everything, &packet, &Known::default(), None).side, Side::Out);
    }

    #[test]
    fn an_open_class_is_encrypted_until_it_is_known() {
        let clear = Rule { name: "rest".into(), ..Rule::default() };
        let rules = [Rule { classes: vec![7], ..protect() }, clear];
        let packet = tcp(CLIENT, SERVER, 40000, 443);
        let open = look_up(&rules, &packet, &Known::default(), None);
        assert_eq!((open.rule, open.provisional), (0, true));
        let other = look_up(&rules, &packet, &Known { class: Some(3), ..Known::default() }, None);
        assert_eq!((other.rule, other.provisional), (1, false));
        let same = look_up(&rules, &packet, &Known { class: Some(7), ..Known::default() }, None);
        assert_eq!((same.rule, same.provisional), (0, false));
    }

    #[test]
    fn a_clear_rule_that_may_still_win_does_not_hide_an_encrypting_one() {
        let video =
            Rule { name: "video".into(), hosts: ["*.video.example".parse().unwrap()].into(), ..Rule::default() };
        let rules = [video, protect()];
        let packet = tcp(CLIENT, SERVER, 40000, 443);
        let open = look_up(&rules, &packet, &Known::default(), None);
        assert_eq!((open.rule, open.provisional), (1, true));
        let known = Known { class: Some(1), host: Some("a.video.example"), ..Known::default() };
        assert_eq!(look_up(&rules, &packet, &known, None).rule, 0);
    }

    #[test]
    fn what_was_never_read_holds_against_a_flow_and_never_for_it() {
        let clear =
            Rule { name: "video".into(), hosts: ["*.video.example".parse().unwrap()].into(), ..Rule::default() };
        let shop = Rule { hosts: ["shop.example".parse().unwrap()].into(), classes: vec![7], ..protect() };
        let rules = [clear, shop, Rule { name: "rest".into(), ..Rule::default() }];
        let packet = tcp(CLIENT, SERVER, 40000, 443);
        let under = |class, host, unread| {
            let found = look_up(&rules, &packet, &Known { class, host, unread, ..Known::default() }, None);
            assert_eq!(found.provisional, unread == Unread::No && class.is_none(), "nothing more is to be learnt");
            found.rule
        };
        for unread in [Unread::CutShort, Unread::Headless] {
            assert_eq!(under(None, None, unread), 1);
            assert_eq!(under(Some(7), None, unread), 1);
            assert_eq!(under(None, Some("shop.example"), unread), 1);
            assert_eq!(under(Some(3), None, unread), 2, "what is known speaks against it");
            assert_eq!(under(None, Some("other.example"), unread), 2);
        }
        assert_eq!(under(Some(7), None, Unread::No), 2, "read to the end, it has no name");
        let drop = [Rule { classes: vec![7], drop: true, ..Rule::default() }];
        let of = |unread| look_up(&drop, &packet, &Known { unread, ..Known::default() }, None).rule;
        assert_eq!((of(Unread::CutShort), of(Unread::Headless), of(Unread::No)), (0, NONE, NONE));
    }

    #[test]
    fn an_application_holds_provisionally_until_it_is_known() {
        let clear = Rule { name: "rest".into(), ..Rule::default() };
        let guest = Rule { name: "guest".into(), applications: vec![4], ..Rule::default() };
        let rules = [guest, Rule { applications: vec![2, 3], ..protect() }, clear];
        assert!(rules[1].guards_by_class() && !rules[0].guards_by_class());
        let packet = tcp(CLIENT, SERVER, 40000, 443);
        let under = |class, application| {
            let found = look_up(&rules, &packet, &Known { class, application, ..Known::default() }, None);
            (found.rule, found.provisional)
        };
        assert_eq!(under(None, None), (1, true));
        assert_eq!(under(Some(1), None), (1, true), "as long as the application is open");
        assert_eq!(under(Some(1), Some(3)), (1, false));
        assert_eq!(under(Some(1), Some(4)), (0, false));
        assert_eq!(under(Some(1), Some(0)), (2, false));
    }

    #[test]
    fn a_later_fragment_falls_under_the_port_rule() {
        let rules = [Rule { ports: [PortRange { first: 443, last: 443 }].into(), ..protect() }];
        let fragment = Headers { fragment: Fragment::Later, sport: 0, dport: 0, ..tcp(CLIENT, SERVER, 0, 0) };
        assert_eq!(look_up(&rules, &fragment, &Known::default(), None).rule, 0);
    }

    #[test]
    fn a_later_fragment_does_not_slip_through_a_clear_port_rule() {
        let dns = Rule { name: "dns".into(), ports: [PortRange { first: 53, last: 53 }].into(), ..Rule::default() };
        let rules = [dns.clone(), protect()];
        let fragment = Headers { fragment: Fragment::Later, ..tcp(CLIENT, SERVER, 0, 0) };
        let found = look_up(&rules, &fragment, &Known::default(), None);
        assert_eq!(found, Match { rule: 1, side: Side::Out, provisional: true });
        let drop = [Rule { drop: true, ..dns }, protect()];
        assert_eq!(look_up(&drop, &fragment, &Known::default(), None).rule, 0, "dropping is as strict");
        let tcp_only = [Rule { protocol: Some(6), ..protect() }, Rule::default()];
        let hidden = Headers { proto: proto::DEST_OPTS, ..fragment };
        assert_eq!(
            look_up(&tcp_only, &hidden, &Known::default(), None).rule,
            0,
            "what is behind the options may be TCP"
        );
        let icmp = Headers { proto: proto::ICMP, ..fragment };
        assert_eq!(look_up(&tcp_only, &icmp, &Known::default(), None).rule, 1);
    }

    #[test]
    fn a_tunnel_does_not_bring_packets_of_the_way_out() {
        let rules = [protect()];
        let outward = tcp(CLIENT, SERVER, 40000, 443);
        assert_eq!(look_up(&rules, &outward, &Known::default(), Some(0)).side, Side::Out);
        assert!(!rules[0].lets_in(&outward));
        assert!(rules[0].lets_in(&tcp(SERVER, CLIENT, 443, 40000)));
    }
}
