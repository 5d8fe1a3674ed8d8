//! Numbers in records become names. A record of another plan than the one at hand keeps its numbers.

use super::record::{End, Facts, Record};
use crate::graph::packet::{NO_FLOW, NONE};
use crate::l7::Class;
use crate::plan::Plan;
use softdpu_ebpf_common::walk::{Fragment, Headers, L3, proto};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

pub fn port(plan: &Plan, number: u8) -> String {
    plan.ports.get(usize::from(number)).map_or_else(|| format!("#{number}"), |port| port.name.clone())
}

/// `None`: in clear.
pub fn tunnel(plan: &Plan, number: u16) -> Option<String> {
    let name = || plan.tunnels.get(usize::from(number)).map_or_else(|| format!("#{number}"), |of| of.name.clone());
    (number != NONE).then(name)
}

/// `None`: no rule.
pub fn rule(plan: &Plan, facts: &Facts) -> Option<String> {
    let number = facts.meta.rule;
    if number == NONE {
        return None;
    }
    if plan.generation != facts.generation {
        return Some(format!("#{number} of plan {}", facts.generation));
    }
    plan.rules.get(usize::from(number)).map(|rule| rule.name.as_ref().to_owned())
}

/// `None`: it has no flow.
pub fn class(facts: &Facts) -> Option<&'static str> {
    facts.class.map(|class| Class::from_number(class).name())
}

/// `None`: no application, or not known yet.
pub fn application(plan: &Plan, facts: &Facts) -> Option<String> {
    let place = usize::from(facts.app).checked_sub(1)?;
    plan.applications.names().get(place).filter(|_| plan.generation == facts.generation).cloned()
}

/// As `softdpu flows --json` names it.
pub fn flow(record: &Record) -> Option<String> {
    let number = record.facts.meta.flow;
    (number != NO_FLOW).then(|| format!("{}:{number}", record.worker))
}

pub fn mac(mac: [u8; 6]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// Who with whom: protocol, addresses and ports.
pub fn ends(headers: &Headers) -> String {
    let address = |bytes: &[u8; 16]| match headers.l3 {
        L3::V4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
        _ => IpAddr::V6(Ipv6Addr::from(*bytes)),
    };
    let (from, to) = (address(&headers.src), address(&headers.dst));
    let name = match headers.proto {
        proto::ICMP => "icmp".to_owned(),
        proto::ICMPV6 => "icmpv6".to_owned(),
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        proto::ESP => "esp".to_owned(),
        other => format!("protocol {other}"),
    };
    let mut text = match headers.proto {
        proto::TCP | proto::UDP if headers.fragment != Fragment::Later => {
            let end = |at, port| std::net::SocketAddr::new(at, port);
            format!("{name} {} > {}", end(from, headers.sport), end(to, headers.dport))
        }
        _ => format!("{name} {from} > {to}"),
    };
    if headers.fragment != Fragment::No {
        text.push_str(", fragment");
    }
    if headers.spi != 0 {
        let _ = write!(text, ", SPI {:#010x}", headers.spi);
    }
    text
}

/// What a capture says of each packet, for people and for tshark's `frame.comment contains`.
pub fn comment(record: &Record, number: u64, plan: &Plan) -> String {
    let facts = &record.facts;
    let mut text = format!("packet={number} worker={}", record.worker);
    let mut say = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, " {key}={value}");
        }
    };
    say("tier", Some(facts.tier.name().to_owned()));
    say("flow", flow(record));
    say("class", class(facts).map(str::to_owned));
    say("application", application(plan, facts));
    say("rule", rule(plan, facts));
    say("tunnel_in", tunnel(plan, facts.meta.tunnel_in));
    say("tunnel_out", tunnel(plan, facts.meta.tunnel_out));
    match record.end {
        End::Sent => {
            say("verdict", Some("sent".to_owned()));
            say("port", Some(port(plan, facts.meta.port_out)));
        }
        End::Dropped(reason) => {
            say("verdict", Some("dropped".to_owned()));
            say("reason", Some(reason.code().to_owned()));
            say("node", Some(reason.node().to_owned()));
        }
        End::Held => say("verdict", Some("held".to_owned())),
        End::Gathered => say("verdict", Some("gathered".to_owned())),
        End::Going => say("verdict", Some("cut".to_owned())),
    }
    text
}
