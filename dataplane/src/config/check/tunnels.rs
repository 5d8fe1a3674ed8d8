//! Tunnels: ends of one family, no index twice, and above all no key twice.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use super::Check;
use crate::config::policy::{Sa, Tunnel};
use crate::config::problem::{Code, Problem};
use crate::config::schema;

pub fn tunnels(raw: &[schema::Tunnel], check: &mut Check<'_>) -> Vec<Tunnel> {
    check.unique("tunnel", raw.iter().map(|t| &t.name));
    let tunnels: Vec<Tunnel> = raw.iter().map(|t| tunnel(t, check)).collect();
    one_use_per_key(&tunnels, check);
    spi_once(raw, check);
    tunnels
}

fn tunnel(raw: &schema::Tunnel, check: &mut Check<'_>) -> Tunnel {
    let (local, remote) = (raw.local.0, raw.remote.0);
    if local.is_ipv4() != remote.is_ipv4() {
        let family = |a: IpAddr| if a.is_ipv4() { "IPv4" } else { "IPv6" };
        check.problems.push(
            Problem::error(
                Code::Conflict,
                raw.remote.span(),
                format!("the ends of tunnel `{}` are of different families", *raw.name),
                format!("both must be {0}, or both {1}", family(local), family(remote)),
            )
            .label(family(remote))
            .other(raw.local.span(), family(local)),
        );
    } else if local == remote {
        check.problems.push(
            Problem::error(
                Code::Conflict,
                raw.remote.span(),
                format!("tunnel `{}` leads to itself", *raw.name),
                "`remote` is the peer's outer address",
            )
            .other(raw.local.span(), "the same"),
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
    if let Some(window) = &raw.replay_window {
        check.power_of_two("tunnel.replay_window", window);
    }
    Tunnel {
        name: raw.name.as_str().to_owned(),
        kind: raw.kind.as_ref().map_or_else(Default::default, |k| **k),
        local,
        remote,
        encapsulation: raw.encapsulation.as_ref().map_or_else(Default::default, |e| **e),
        cipher: raw.cipher.as_ref().map_or_else(Default::default, |c| **c),
        replay_window: raw.replay_window.as_ref().map_or(1024, |w| **w),
        mtu: raw.mtu.as_ref().map(|m| **m),
        out: sa(&raw.out, check),
        inbound: sa(&raw.inbound, check),
    }
}

fn sa(raw: &schema::Sa, check: &mut Check<'_>) -> Sa {
    Sa { spi: *raw.spi, key_file: check.path(&raw.key_file.0), key_span: raw.key_file.span() }
}

/// Two security associations with one key count their packets alike, so their nonces repeat, and with a counter-mode cipher
/// that gives the plaintext away (RFC 4106 section 2).
fn one_use_per_key(tunnels: &[Tunnel], check: &mut Check<'_>) {
    let mut first: HashMap<&PathBuf, Range<usize>> = HashMap::new();
    for sa in tunnels.iter().flat_map(|t| [&t.out, &t.inbound]) {
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
    for (i, tunnel) in raw.iter().enumerate() {
        let clash = raw[..i].iter().find(|t| *t.inbound.spi == *tunnel.inbound.spi);
        if let Some(earlier) = clash {
            check.problems.push(
                Problem::error(
                    Code::Conflict,
                    tunnel.inbound.spi.span(),
                    format!("index {:#x} is received by two tunnels", *tunnel.inbound.spi),
                    "choose another `spi` for one of them, on both ends",
                )
                .label("again")
                .other(earlier.inbound.spi.span(), format!("tunnel `{}`", *earlier.name)),
            );
        }
        let out = raw[..i].iter().find(|t| *t.out.spi == *tunnel.out.spi && t.remote.0 == tunnel.remote.0);
        if let Some(earlier) = out {
            check.problems.push(
                Problem::error(
                    Code::Conflict,
                    tunnel.out.spi.span(),
                    format!("index {:#x} is sent to {} by two tunnels", *tunnel.out.spi, tunnel.remote.0),
                    "the peer cannot tell them apart: choose another `spi` for one of them, on both ends",
                )
                .label("again")
                .other(earlier.out.spi.span(), format!("tunnel `{}`", *earlier.name)),
            );
        }
    }
}
