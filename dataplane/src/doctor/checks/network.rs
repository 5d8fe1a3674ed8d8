//! The network around the ports: sizes, and what the kernel does with what it sees half of.

use crate::config::policy::{Encapsulation, OnLoss, PortKind, SteerAction, TunnelKind};
use crate::config::{Policy, Tunnel};
use crate::doctor::fix::{Change, Setting};
use crate::doctor::{Check, Found, Situation};

/// IPv6's least MTU (RFC 8200 §5).
const LEAST_V6: u32 = 1280;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "mtu-peer",
        title: "Both ends of a veth have one MTU",
        meaning: "Packets that fit one end are too large for the other, which drops them without a word to the sender: small requests pass, large answers hang.",
        remedy: "`ip link set dev IF mtu N`, the same at both ends.",
        run: mtu_peer,
    },
    Check {
        id: "mtu-tunnel",
        title: "What the applications' links carry fits the tunnel",
        meaning: "Full-size packets do not fit once sealed: TCP is told by its MSS, everything else by ICMP or in fragments, and where ICMP is filtered it hangs.",
        remedy: "A larger MTU on the uplink (by the overhead given), a smaller one on the applications' links, or `mss_clamp = true`.",
        run: mtu_tunnel,
    },
    Check {
        id: "rp-filter",
        title: "The kernel does not demand to see both directions (rp_filter)",
        meaning: "The kernel drops, without a log, packets whose answers would take another way: those that steering rules leave to it while their answers go by a worker, and everything that comes up by a tap.",
        remedy: "`sysctl -w net.ipv4.conf.IF.rp_filter=2` (loose) for the ports; the larger of this and `all` holds.",
        run: rp_filter,
    },
    Check {
        id: "forwarding",
        title: "The kernel forwards what softdpu leaves to it",
        meaning: "Workers forward whatever this setting says. But what no rule steers, and with `on_loss = \"pass\"` everything while softdpu is down, is the kernel's, and it forwards nothing.",
        remedy: "`sysctl -w net.ipv4.ip_forward=1` and `net.ipv6.conf.all.forwarding=1`, if this host is to be a router without softdpu too.",
        run: forwarding,
    },
    Check {
        id: "least-mtu",
        title: "IPv6 links have its least MTU, 1280",
        meaning: "IPv6 is switched off by the kernel on links below, and a tunnel below cannot carry it without fragments.",
        remedy: "`ip link set dev IF mtu 1280` or more; the tunnel's `mtu`.",
        run: least,
    },
];

fn mtu_peer(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        match nic.peer.as_ref().filter(|p| p.seen) {
            None => found.not_applicable(name, "not a veth, or its other end cannot be seen"),
            Some(peer) if peer.mtu == nic.mtu => found.ok(name, format!("{} at both ends", nic.mtu)),
            Some(peer) => {
                let setting = Setting::Mtu { interface: name.to_owned() };
                found
                    .fail(name, format!("{} here, {} at {}", nic.mtu, peer.mtu, peer.name))
                    .change(Change::here(setting, peer.mtu));
            }
        }
    });
}

/// Most bytes that a tunnel adds to a packet, outer IP header included; `None`: not known before there are associations.
fn overhead(tunnel: &Tunnel) -> Option<u32> {
    let outer = |v6| if v6 { 40 } else { 20 };
    match &tunnel.kind {
        TunnelKind::Esp(esp) => {
            let udp = if esp.encapsulation == Encapsulation::None { 0 } else { 8 };
            // RFC 4303 §2: SPI and sequence number, IV, padding to 4 bytes with its length and next header, ICV.
            Some(outer(esp.local.is_ipv6()) + udp + 8 + 8 + 5 + 16)
        }
        TunnelKind::WireGuard(wg) => {
            let v6 = wg.local.is_some_and(|l| l.is_ipv6())
                || wg.peers.iter().any(|p| p.endpoint.is_some_and(|e| e.is_ipv6()));
            // UDP, header of a transport message, tag, and padding to 16 bytes.
            Some(outer(v6) + 8 + 16 + 16 + 15)
        }
        TunnelKind::Xfrm(_) => None,
    }
}

fn mtu_tunnel(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy.filter(|p| !p.tunnels.is_empty()) else {
        found.not_applicable(None, "no tunnel");
        return;
    };
    let mut sizes: Vec<(String, u32)> = Vec::new();
    for port in &policy.ports {
        match &port.kind {
            PortKind::Xdp(xdp) => sizes.extend(s.host.interface(&xdp.interface).map(|n| (n.name.clone(), n.mtu))),
            PortKind::Tap(tap) => sizes.push((tap.interface.clone(), tap.mtu)),
            PortKind::Pcap { .. } | PortKind::Loopback { .. } => {}
        }
    }
    // The way out is the link of the largest MTU at best; where several are alike it cannot be told from here.
    let Some(widest) = sizes.iter().map(|(_, mtu)| *mtu).max().filter(|_| sizes.len() > 1) else {
        found.not_applicable(None, "fewer than two ports with an MTU");
        return;
    };
    for tunnel in &policy.tunnels {
        let Some(overhead) = overhead(tunnel) else {
            found.not_applicable(tunnel.name.as_str(), "depends on the associations");
            continue;
        };
        let carries = tunnel.mtu.unwrap_or(widest).min(widest).saturating_sub(overhead);
        let narrow = sizes.iter().filter(|(_, mtu)| *mtu <= carries).count();
        if narrow > 0 {
            found.ok(tunnel.name.as_str(), format!("carries {carries} bytes whole"));
        } else if tunnel.mss_clamp {
            found.ok(tunnel.name.as_str(), format!("carries {carries} bytes whole; TCP is told so (mss_clamp)"));
        } else {
            let (link, mtu) = sizes.iter().min_by_key(|(_, mtu)| *mtu).expect("there are two");
            found
                .warn(tunnel.name.as_str(), format!("carries {carries} bytes whole, and {link} has an MTU of {mtu}"))
                .command(format!("ip link set dev {link} mtu {carries}, at both ends"))
                .command("mss_clamp = true in the tunnel");
        }
    }
}

fn rp_filter(s: &Situation<'_>, found: &mut Found) {
    let number = |text: Option<&String>| text.and_then(|t| t.parse::<u32>().ok());
    let all = number(s.host.sysctl.get("net.ipv4.conf.all.rp_filter"));
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        let Some(own) = number(nic.sysctl.get("ipv4.rp_filter")) else {
            found.not_applicable(name, "the kernel does not say");
            return;
        };
        // The kernel takes the larger (ip-sysctl.rst).
        match own.max(all.unwrap_or(0)) {
            1 => {
                found
                    .warn(name, format!("strict (interface {own}, all {})", all.unwrap_or(0)))
                    .change(Change::file(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), 2));
            }
            0 => found.ok(name, "off"),
            _ => found.ok(name, "loose"),
        }
    });
}

fn forwarding(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy else {
        found.not_applicable(None, "no policy");
        return;
    };
    let ports = policy.ports.iter().filter(|p| matches!(p.kind, PortKind::Xdp(_))).count();
    let passes = policy.steer.iter().any(|r| r.on_loss == OnLoss::Pass || r.action == SteerAction::Pass);
    let tap = policy.ports.iter().any(|p| matches!(p.kind, PortKind::Tap(_)));
    if !(tap || ports >= 2 && passes) {
        found.not_applicable(None, "nothing is left to the kernel to forward");
        return;
    }
    for (family, key) in [("IPv4", "net.ipv4.ip_forward"), ("IPv6", "net.ipv6.conf.all.forwarding")] {
        match s.host.sysctl.get(key).map(String::as_str) {
            Some("0") => {
                let six = family == "IPv6";
                if six && !uses_v6(policy) {
                    found.not_applicable(family, "the policy has no IPv6");
                } else {
                    // No change: that makes a host a router, which is its operator's to decide.
                    found.warn(family, "off").command(format!("sysctl -w {key}=1"));
                }
            }
            Some(_) => found.ok(family, "on"),
            None => found.not_applicable(family, "the kernel does not have it"),
        }
    }
}

fn uses_v6(policy: &Policy) -> bool {
    let steer = policy.steer.iter().map(|r| &r.matches);
    let rules = policy.rules.iter().map(|r| &r.matches);
    steer.chain(rules).any(|m| m.from.iter().chain(m.to.iter()).any(|p| p.addr().is_ipv6()))
}

fn least(s: &Situation<'_>, found: &mut Found) {
    if s.policy.is_some_and(|p| !uses_v6(p)) {
        found.not_applicable(None, "the policy has no IPv6");
        return;
    }
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        if nic.mtu >= LEAST_V6 {
            found.ok(name, format!("{}", nic.mtu));
        } else {
            let setting = Setting::Mtu { interface: name.to_owned() };
            found.warn(name, format!("{}", nic.mtu)).change(Change::here(setting, LEAST_V6));
        }
    });
}
