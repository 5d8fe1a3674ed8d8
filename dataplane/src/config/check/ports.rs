//! Ports: keys that belong to their kind, one port per interface, loops that close.

use std::ops::Range;

use super::{Check, tap};
use crate::config::policy::{Port, PortKind, Workers, XdpPort};
use crate::config::problem::{Code, Problem};
use crate::config::schema::{self, Kind};

pub fn ports(raw: &[schema::Port], workers: &Workers, check: &mut Check<'_>) -> Vec<Port> {
    if raw.is_empty() && check.named.ports.is_empty() && check.problems.iter().all(|p| p.warning) {
        check.error(
            Code::MissingKey,
            0..0,
            "the policy has no [[port]]",
            "add one, for example [[port]] name = \"apps\" interface = \"eth0\"",
        );
    }
    check.unique("port", raw.iter().map(|p| &p.name));
    one_port_per_interface(raw, check);
    tap::one(raw, check);
    let loops: Vec<&str> = raw.iter().filter(|p| kind(p) == Kind::Loopback).map(|p| p.name.as_str()).collect();
    let ports: Vec<Port> = raw.iter().map(|p| port(p, raw, &loops, check)).collect();
    enough_frames(raw, workers, check);
    ports
}

pub(super) fn kind(port: &schema::Port) -> Kind {
    port.kind.as_ref().map_or_else(Kind::default, |k| **k)
}

fn port(raw: &schema::Port, all: &[schema::Port], loops: &[&str], check: &mut Check<'_>) -> Port {
    foreign_keys(raw, check);
    if let Some(ring) = &raw.ring {
        check.power_of_two("port.ring", ring);
    }
    let mtu = raw.mtu.as_ref().map_or(1500, |m| **m);
    let kind = match kind(raw) {
        Kind::Xdp => {
            if raw.interface.is_none() {
                needed(raw, "interface", "interface = \"eth0\"; `ip link` lists the names", check);
            }
            PortKind::Xdp(XdpPort {
                interface: raw.interface.as_ref().map_or_else(String::new, |i| i.0.clone()),
                queues: raw.queues.as_ref().map(|q| **q),
                mode: raw.mode.as_ref().map_or_else(Default::default, |m| **m),
                zero_copy: raw.zero_copy.as_ref().map_or_else(Default::default, |z| **z),
                busy_poll: raw.busy_poll.as_ref().is_some_and(|b| **b),
                ring: raw.ring.as_ref().map_or(2048, |r| **r),
            })
        }
        Kind::Tap => PortKind::Tap(tap::tap(raw, mtu, check)),
        Kind::Pcap => PortKind::Pcap {
            read: raw.read.as_ref().map(|p| check.path(&p.0)),
            write: raw.write.as_ref().map(|p| check.path(&p.0)),
            mtu,
        },
        Kind::Loopback => PortKind::Loopback { to: loop_target(raw, all, loops, check), mtu },
    };
    Port {
        name: raw.name.as_str().to_owned(),
        checksum: raw.checksum.as_ref().map_or_else(Default::default, |c| **c),
        kind,
    }
}

fn needed(raw: &schema::Port, key: &str, example: &str, check: &mut Check<'_>) {
    let kind = word(kind(raw));
    if check.misfit(&format!("port.{key}")) {
        return;
    }
    check.problems.push(
        Problem::error(
            Code::MissingKey,
            raw.name.span(),
            format!("port `{}` of kind {kind} has no `{key}`", *raw.name),
            format!("add {example}"),
        )
        .label(format!("`{key}` is missing")),
    );
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Xdp => "xdp",
        Kind::Pcap => "pcap",
        Kind::Loopback => "loopback",
        Kind::Tap => "tap",
    }
}

/// Index of the port that receives, 0 when it was reported.
fn loop_target(raw: &schema::Port, all: &[schema::Port], loops: &[&str], check: &mut Check<'_>) -> usize {
    let Some(to) = &raw.loop_to else {
        needed(raw, "loop_to", "loop_to = \"other-port\"", check);
        return 0;
    };
    if let Some(target) = all.iter().position(|p| p.name.as_str() == to.as_str()) {
        if kind(&all[target]) == Kind::Loopback {
            return target;
        }
        check.problems.push(
            Problem::error(
                Code::Conflict,
                to.span(),
                format!("port `{}` is not of kind loopback", **to),
                "a loopback port loops to a loopback port, possibly to itself",
            )
            .other(all[target].name.span(), "of another kind"),
        );
        return 0;
    }
    let in_file = check.named.ports.clone();
    check.resolve("port", to, loops, &in_file);
    0
}

/// Keys that say something only for another kind of port.
fn foreign_keys(raw: &schema::Port, check: &mut Check<'_>) {
    fn at<T>(key: &Option<crate::config::at::At<T>>) -> Option<Range<usize>> {
        key.as_ref().map(|k| k.span())
    }
    let mine = kind(raw);
    type Key = (&'static str, Option<Range<usize>>, &'static [Kind]);
    let keys: [Key; 14] = [
        ("interface", at(&raw.interface), &[Kind::Xdp, Kind::Tap]),
        ("queues", at(&raw.queues), &[Kind::Xdp]),
        ("mode", at(&raw.mode), &[Kind::Xdp]),
        ("zero_copy", at(&raw.zero_copy), &[Kind::Xdp]),
        ("busy_poll", at(&raw.busy_poll), &[Kind::Xdp]),
        ("ring", at(&raw.ring), &[Kind::Xdp]),
        ("mtu", at(&raw.mtu), &[Kind::Pcap, Kind::Loopback, Kind::Tap]),
        ("checksum", at(&raw.checksum), &[Kind::Xdp, Kind::Pcap, Kind::Loopback]),
        ("read", at(&raw.read), &[Kind::Pcap]),
        ("write", at(&raw.write), &[Kind::Pcap]),
        ("loop_to", at(&raw.loop_to), &[Kind::Loopback]),
        ("addresses", raw.addresses.first().map(|a| a.span()), &[Kind::Tap]),
        ("routes", raw.routes.first().map(|a| a.span()), &[Kind::Tap]),
        ("on_loss", at(&raw.on_loss), &[Kind::Tap]),
    ];
    for (key, span, kinds) in keys {
        let Some(span) = span.filter(|_| !kinds.contains(&mine)) else { continue };
        let help = match (key, mine) {
            ("mtu", _) => "set it on the interface: ip link set IFACE mtu N".to_owned(),
            _ => format!("leave it out, or write kind = \"{}\"", word(kinds[0])),
        };
        check.error(Code::Conflict, span, format!("`{key}` says nothing for a port of kind {}", word(mine)), help);
    }
}

fn one_port_per_interface(raw: &[schema::Port], check: &mut Check<'_>) {
    for (i, port) in raw.iter().enumerate() {
        let Some(interface) = &port.interface else { continue };
        let earlier = raw[..i].iter().filter_map(|p| p.interface.as_ref()).find(|e| ***e == **interface);
        if let Some(earlier) = earlier {
            check.problems.push(
                Problem::error(
                    Code::Conflict,
                    interface.span(),
                    format!("two ports own interface {}", **interface),
                    "one XDP program and one socket per queue fit on an interface: use one port for it",
                )
                .label("again")
                .other(earlier.span(), "first here"),
            );
        }
    }
}

/// A worker keeps the fill ring of each of its ports full, and needs as many frames again for what is under way.
fn enough_frames(raw: &[schema::Port], workers: &Workers, check: &mut Check<'_>) {
    let rings: u64 =
        raw.iter().filter(|p| kind(p) == Kind::Xdp).map(|p| p.ring.as_ref().map_or(2048, |r| u64::from(**r))).sum();
    if rings * 2 > u64::from(workers.frames) {
        let span = raw.iter().find_map(|p| p.ring.as_ref()).map_or(0..0, |r| r.span());
        check.problems.push(Problem::warning(
            Code::NoEffect,
            span,
            format!("{} frames per worker do not fill rings of {rings} descriptors in all", workers.frames),
            format!("write [workers] frames = {}, or smaller rings", (rings * 2).next_power_of_two()),
        ));
    }
}
