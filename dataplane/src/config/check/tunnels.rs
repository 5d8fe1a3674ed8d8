//! Tunnels: keys that belong to their type, ends of one family, no index twice, and above all no key twice.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use crate::config::at::At;
use crate::config::policy::{EspTunnel, Lifetime, Sa, Tunnel, TunnelKind, WireGuardPeer, WireGuardTunnel, XfrmTunnel};
use crate::config::problem::{Code, Problem};
use crate::config::schema::{self, TunnelType};
use softdpu_ebpf_common::walk::ESP_IN_UDP_PORT;

pub fn tunnels(raw: &[schema::Tunnel], check: &mut Check<'_>) -> Vec<Tunnel> {
    check.unique("tunnel", raw.iter().map(|t| &t.name));
    let tunnels: Vec<Tunnel> = raw.iter().map(|t| tunnel(t, check)).collect();
    one_use_per_key(&tunnels, check);
    spi_once(raw, check);
    listen_once(raw, check);
    mirror_once(raw, check);
    tunnels
}

/// The kernel has one table of associations.
fn mirror_once(raw: &[schema::Tunnel], check: &mut Check<'_>) {
    let mut mirrors = raw.iter().filter(|tunnel| kind(tunnel) == TunnelType::Xfrm);
    if let (Some(first), Some(second)) = (mirrors.next(), mirrors.next()) {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                second.name.span(),
                "two tunnels of type xfrm",
                "one mirrors all that the kernel has; leave the other out",
            )
            .other(first.name.span(), "first here"),
        );
    }
}

fn tunnel(raw: &schema::Tunnel, check: &mut Check<'_>) -> Tunnel {
    let kind = kind(raw);
    foreign_keys(raw, kind, check);
    let kind = match kind {
        TunnelType::Esp => TunnelKind::Esp(esp(raw, check)),
        TunnelType::Wireguard => TunnelKind::WireGuard(wireguard(raw, check)),
        TunnelType::Xfrm => {
            TunnelKind::Xfrm(XfrmTunnel { fallback: raw.fallback.as_ref().map_or_else(Default::default, |f| **f) })
        }
    };
    Tunnel {
        name: raw.name.as_str().to_owned(),
        kind,
        mtu: raw.mtu.as_ref().map(|m| **m),
        mss_clamp: raw.mss_clamp.as_ref().is_none_or(|m| **m),
        fragment_outer: raw.fragment_outer.as_ref().is_some_and(|f| **f),
    }
}

fn kind(raw: &schema::Tunnel) -> TunnelType {
    raw.kind.as_ref().map_or_else(TunnelType::default, |k| **k)
}

fn word(kind: TunnelType) -> &'static str {
    match kind {
        TunnelType::Esp => "esp",
        TunnelType::Wireguard => "wireguard",
        TunnelType::Xfrm => "xfrm",
    }
}

/// Keys that say nothing for a tunnel of this type.
fn foreign_keys(raw: &schema::Tunnel, kind: TunnelType, check: &mut Check<'_>) {
    use TunnelType::{Esp, Wireguard, Xfrm};
    fn at<T>(key: &Option<At<T>>) -> Option<Range<usize>> {
        key.as_ref().map(At::span)
    }
    let limited = |limits: &schema::Lifetime| at(&limits.packets).or(at(&limits.bytes)).or(at(&limits.time));
    let sa = |sa: &Option<schema::Sa>| sa.as_ref().map(|sa| sa.spi.span());
    type Key<'a> = (&'a str, Option<Range<usize>>, &'a [TunnelType]);
    let keys: [Key<'_>; 15] = [
        ("local", at(&raw.local), &[Esp, Wireguard]),
        ("remote", at(&raw.remote), &[Esp]),
        ("encapsulation", at(&raw.encapsulation), &[Esp]),
        ("cipher", at(&raw.cipher), &[Esp]),
        ("sequence", at(&raw.sequence), &[Esp]),
        ("mode", at(&raw.mode), &[Esp]),
        ("replay_window", at(&raw.replay_window), &[Esp]),
        ("keepalive", at(&raw.keepalive), &[Esp]),
        ("lifetime", raw.lifetime.as_ref().and_then(limited), &[Esp]),
        ("out", sa(&raw.out), &[Esp]),
        ("in", sa(&raw.inbound), &[Esp]),
        ("listen_port", at(&raw.listen_port), &[Wireguard]),
        ("private_key_file", at(&raw.private_key_file), &[Wireguard]),
        ("peer", raw.peer.first().map(|peer| peer.public_key.span()), &[Wireguard]),
        ("fallback", at(&raw.fallback), &[Xfrm]),
    ];
    for (key, span, kinds) in keys {
        if let Some(span) = span.filter(|_| !kinds.contains(&kind)) {
            let belongs = kinds.iter().map(|kind| word(*kind)).collect::<Vec<_>>().join(" or ");
            check.error(
                Code::Conflict,
                span,
                format!("`{key}` says nothing for tunnel `{}` of type {}", *raw.name, word(kind)),
                format!("leave it out, or write type = \"{belongs}\""),
            );
        }
    }
}

fn needed(raw: &schema::Tunnel, key: &str, example: &str, check: &mut Check<'_>) {
    if check.misfit(&format!("tunnel.{key}")) {
        return;
    }
    check.problems.push(
        Problem::error(
            Code::MissingKey,
            raw.name.span(),
            format!("tunnel `{}` of type {} has no `{key}`", *raw.name, word(kind(raw))),
            format!("add {example}"),
        )
        .label(format!("`{key}` is missing")),
    );
}

fn esp(raw: &schema::Tunnel, check: &mut Check<'_>) -> EspTunnel {
    ends(raw, check);
    if let Some(window) = &raw.replay_window {
        check.power_of_two("tunnel.replay_window", window);
    }
    let encapsulation = raw.encapsulation.as_ref().map_or_else(Default::default, |e| **e);
    if let Some(keepalive) = raw.keepalive.as_ref().filter(|_| encapsulation == schema::Encapsulation::None) {
        check.problems.push(Problem::warning(
            Code::NoEffect,
            keepalive.span(),
            format!("`keepalive` says nothing for tunnel `{}`: it is not in UDP", *raw.name),
            "leave it out, or write encapsulation = \"udp\"",
        ));
    }
    let nowhere = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    EspTunnel {
        local: raw.local.as_ref().map_or(nowhere, |a| a.0),
        remote: raw.remote.as_ref().map_or(nowhere, |a| a.0),
        encapsulation,
        cipher: raw.cipher.as_ref().map_or_else(Default::default, |c| **c),
        sequence: raw.sequence.as_ref().map_or_else(Default::default, |s| **s),
        mode: raw.mode.as_ref().map_or_else(Default::default, |m| **m),
        replay_window: raw.replay_window.as_ref().map_or(1024, |w| **w),
        keepalive: raw.keepalive.as_ref().map_or(Duration::from_secs(20), |k| k.0),
        lifetime: raw.lifetime.as_ref().map_or_else(Default::default, lifetime),
        out: sa(raw, "out", &raw.out, check),
        inbound: sa(raw, "in", &raw.inbound, check),
    }
}

fn ends(raw: &schema::Tunnel, check: &mut Check<'_>) {
    let (Some(local_at), Some(remote_at)) = (&raw.local, &raw.remote) else {
        if raw.local.is_none() {
            needed(raw, "local", "local = \"192.0.2.1\", this end's outer address", check);
        }
        if raw.remote.is_none() {
            needed(raw, "remote", "remote = \"192.0.2.2\", the peer's outer address", check);
        }
        return;
    };
    let (local, remote) = (local_at.0, remote_at.0);
    if local.is_ipv4() != remote.is_ipv4() {
        let family = |a: IpAddr| if a.is_ipv4() { "IPv4" } else { "IPv6" };
        check.problems.push(
            Problem::error(
                Code::Conflict,
                remote_at.span(),
                format!("the ends of tunnel `{}` are of different families", *raw.name),
                format!("both must be {0}, or both {1}", family(local), family(remote)),
            )
            .label(family(remote))
            .other(local_at.span(), family(local)),
        );
    } else if local == remote {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                remote_at.span(),
                format!("tunnel `{}` leads to itself", *raw.name),
                "`remote` is the peer's outer address",
            )
            .other(local_at.span(), "the same"),
        );
    }
    if let Some(mtu) = raw.mtu.as_ref().filter(|m| local.is_ipv6() && ***m < 1280) {
        check.error(
            Code::ImpossibleValue,
            mtu.span(),
            format!("`mtu` cannot be {} over IPv6", **mtu),
            "IPv6 links carry at least 1280 bytes (RFC 8200 section 5)",
        );
    }
}

fn lifetime(raw: &schema::Lifetime) -> Lifetime {
    Lifetime {
        packets: raw.packets.as_ref().map(|packets| **packets),
        bytes: raw.bytes.as_ref().map(|bytes| **bytes),
        time: raw.time.as_ref().map(|time| time.0),
    }
}

fn sa(raw: &schema::Tunnel, key: &str, sa: &Option<schema::Sa>, check: &mut Check<'_>) -> Sa {
    let Some(sa) = sa else {
        needed(raw, key, &format!("[tunnel.{key}] spi = 0x1001 key_file = \"{key}.key\""), check);
        return Sa { spi: 0, key_file: PathBuf::new(), key_span: 0..0 };
    };
    Sa { spi: *sa.spi, key_file: check.path(&sa.key_file.0), key_span: sa.key_file.span() }
}

fn wireguard(raw: &schema::Tunnel, check: &mut Check<'_>) -> WireGuardTunnel {
    let mut keys: HashMap<[u8; 32], Range<usize>> = HashMap::new();
    for peer in &raw.peer {
        if let Some(earlier) = keys.insert(peer.public_key.0, peer.public_key.span()) {
            check.problems.push(
                Problem::error(
                    Code::DuplicateName,
                    peer.public_key.span(),
                    format!("two peers of tunnel `{}` have the same public key", *raw.name),
                    "a peer is its key: write its allowed IPs in one place",
                )
                .label("again")
                .other(earlier, "first here"),
            );
        }
    }
    allowed_once(raw, check);
    if let Some(port) = raw.listen_port.as_ref().filter(|port| ***port == u32::from(ESP_IN_UDP_PORT)) {
        check.error(
            Code::Conflict,
            port.span(),
            format!("tunnel `{}` cannot listen on UDP port {ESP_IN_UDP_PORT}", *raw.name),
            "what comes there is taken for ESP in UDP (RFC 3948): choose another `listen_port`",
        );
    }
    let peer = |peer: &schema::Peer| WireGuardPeer {
        name: peer.name.as_ref().map(|name| name.as_str().to_owned()),
        public_key: peer.public_key.0,
        preshared_key_file: peer.preshared_key_file.as_ref().map(|path| check.path(&path.0)),
        endpoint: peer.endpoint.as_ref().map(|endpoint| endpoint.0),
        allowed_ips: peer.allowed_ips.iter().map(|prefix| **prefix).collect(),
        persistent_keepalive: peer.persistent_keepalive.as_ref().map(|seconds| **seconds as u16),
    };
    WireGuardTunnel {
        local: raw.local.as_ref().map(|a| a.0),
        listen_port: raw.listen_port.as_ref().map_or(51_820, |port| **port as u16),
        private_key_file: raw.private_key_file.as_ref().map(|path| check.path(&path.0)),
        peers: raw.peer.iter().map(peer).collect(),
    }
}

/// A prefix leads to one peer: `wg` would silently give it to the last that claims it.
fn allowed_once(raw: &schema::Tunnel, check: &mut Check<'_>) {
    let mut first: HashMap<crate::wire::prefix::Prefix, Range<usize>> = HashMap::new();
    for prefix in raw.peer.iter().flat_map(|peer| &peer.allowed_ips) {
        if let Some(earlier) = first.insert(**prefix, prefix.span()) {
            check.problems.push(
                Problem::error(
                    Code::Conflict,
                    prefix.span(),
                    format!("{} is allowed for two peers of tunnel `{}`", **prefix, *raw.name),
                    "packets can be sent to one of them only: a longer prefix wins over a shorter, but these are the same",
                )
                .label("again")
                .other(earlier, "first here"),
            );
        }
    }
}

/// Two tunnels cannot hear on one port.
fn listen_once(raw: &[schema::Tunnel], check: &mut Check<'_>) {
    let mut first: HashMap<u32, Range<usize>> = HashMap::new();
    for tunnel in raw.iter().filter(|tunnel| kind(tunnel) == TunnelType::Wireguard) {
        let (port, span) =
            tunnel.listen_port.as_ref().map_or((51_820, tunnel.name.span()), |port| (**port, port.span()));
        if let Some(earlier) = first.insert(port, span.clone()) {
            check.problems.push(
                Problem::error(
                    Code::Conflict,
                    span,
                    format!("two tunnels listen on UDP port {port}"),
                    "give each a `listen_port` of its own",
                )
                .other(earlier, "first here"),
            );
        }
    }
}

/// Two security associations with one key count their packets alike, so their nonces repeat, and with a counter-mode cipher
/// that gives the plaintext away (RFC 4106 section 2).
fn one_use_per_key(tunnels: &[Tunnel], check: &mut Check<'_>) {
    let mut first: HashMap<&PathBuf, Range<usize>> = HashMap::new();
    let esp = tunnels.iter().filter_map(|t| match &t.kind {
        TunnelKind::Esp(esp) => Some(esp),
        TunnelKind::WireGuard(_) | TunnelKind::Xfrm(_) => None,
    });
    for sa in esp.flat_map(|t| [&t.out, &t.inbound]).filter(|sa| !sa.key_span.is_empty()) {
        if let Some(earlier) = first.get(&sa.key_file) {
            check.problems.push(
                Problem::error(
                    Code::KeyReuse,
                    sa.key_span.clone(),
                    format!("key file {} serves two security associations", sa.key_file.display()),
                    "each direction of each tunnel needs a key of its own: with one key the nonces repeat and the cipher breaks",
                )
                .label("again")
                .other(earlier.clone(), "first here"),
            );
        } else {
            first.insert(&sa.key_file, sa.key_span.clone());
        }
    }
}

/// A packet finds its inbound association by address and index alone (RFC 4303 section 2.1).
fn spi_once(raw: &[schema::Tunnel], check: &mut Check<'_>) {
    let esp: Vec<_> = raw.iter().filter_map(|t| Some((t, t.inbound.as_ref()?, t.out.as_ref()?))).collect();
    type First<'a> = (Range<usize>, &'a str);
    let mut received: HashMap<u32, First<'_>> = HashMap::new();
    let mut sent: HashMap<(u32, Option<IpAddr>), First<'_>> = HashMap::new();
    for (tunnel, inbound, out) in esp {
        let name = tunnel.name.as_str();
        if let Some((span, earlier)) = received.insert(*inbound.spi, (inbound.spi.span(), name)) {
            check.problems.push(
                Problem::error(
                    Code::Conflict,
                    inbound.spi.span(),
                    format!("index {:#x} is received by two tunnels", *inbound.spi),
                    "choose another `spi` for one of them, on both ends",
                )
                .label("again")
                .other(span, format!("tunnel `{earlier}`")),
            );
        }
        let remote = tunnel.remote.as_ref().map(|remote| remote.0);
        if let Some((span, earlier)) = sent.insert((*out.spi, remote), (out.spi.span(), name)) {
            check.problems.push(
                Problem::error(
                    Code::Conflict,
                    out.spi.span(),
                    format!(
                        "index {:#x} is sent to {} by two tunnels",
                        *out.spi,
                        remote.map_or_else(String::new, |remote| remote.to_string())
                    ),
                    "the peer cannot tell them apart: choose another `spi` for one of them, on both ends",
                )
                .label("again")
                .other(span, format!("tunnel `{earlier}`")),
            );
        }
    }
}
