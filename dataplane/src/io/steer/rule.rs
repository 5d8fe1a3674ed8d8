//! A steering rule as user space has it, and the plain way to match one: what the tables must agree with.

use std::{net::IpAddr, ops::RangeInclusive};

use softdpu_ebpf_common::{
    maps::{OnLoss, RuleAction},
    walk::{Fragment, Headers, L3, proto},
};

/// One steering rule. Where a list is empty, everything matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteerRule {
    /// Unique.
    pub name: String,
    /// Interface indexes of the ports it applies to.
    pub interfaces: Vec<u32>,
    /// Prefixes of the source: address and length in bits. Host bits are ignored.
    pub from: Vec<(IpAddr, u8)>,
    pub to: Vec<(IpAddr, u8)>,
    /// `None` is any. 50 (ESP) also matches ESP in UDP port 4500 (RFC 3948).
    pub protocol: Option<u8>,
    /// Packets without ports (ICMP) match only where this and `ports` are empty; for later fragments see `fragments`.
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// Destination ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Later fragments have no ports. False: they match only where the rule asks for none. True: they match whatever it
    /// asks for, so that no fragment of what a rule protects gets past it (with some that are none of its business).
    pub fragments: bool,
    pub action: RuleAction,
    /// For action `worker`: what to do while the queue has no socket.
    pub on_loss: OnLoss,
}

impl SteerRule {
    /// A rule that matches everything.
    pub fn any(name: impl Into<String>, action: RuleAction) -> Self {
        SteerRule {
            name: name.into(),
            interfaces: Vec::new(),
            from: Vec::new(),
            to: Vec::new(),
            protocol: None,
            source_ports: Vec::new(),
            ports: Vec::new(),
            fragments: false,
            action,
            on_loss: OnLoss::Pass,
        }
    }

    /// Whether the packet matches, field by field. The steer program says the same by table.
    pub fn matches(&self, ifindex: u32, h: &Headers) -> bool {
        let port = |ranges: &[RangeInclusive<u16>], port: u16| {
            ranges.is_empty()
                || (h.has_ports() && ranges.iter().any(|r| r.contains(&port)))
                || (h.fragment == Fragment::Later && self.fragments)
        };
        (self.interfaces.is_empty() || self.interfaces.contains(&ifindex))
            && covers(&self.from, h.l3, &h.src)
            && covers(&self.to, h.l3, &h.dst)
            && self.protocol.is_none_or(|p| p == h.proto || (p == proto::ESP && h.is_esp_in_udp()))
            && port(&self.source_ports, h.sport)
            && port(&self.ports, h.dport)
    }
}

fn covers(prefixes: &[(IpAddr, u8)], l3: L3, address: &[u8; 16]) -> bool {
    prefixes.is_empty()
        || prefixes.iter().any(|&(prefix, length)| {
            let (bytes, family) = bytes_of(prefix);
            family == l3 && masked(bytes, length) == masked(*address, length)
        })
}

/// The address as [`Headers`] has it: IPv4 in the first four bytes.
pub(super) fn bytes_of(address: IpAddr) -> ([u8; 16], L3) {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, L3::V4)
        }
        IpAddr::V6(v6) => (v6.octets(), L3::V6),
    }
}

/// The first `length` bits, the rest zero.
pub(super) fn masked(bytes: [u8; 16], length: u8) -> [u8; 16] {
    let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
    (u128::from_be_bytes(bytes) & mask).to_be_bytes()
}
