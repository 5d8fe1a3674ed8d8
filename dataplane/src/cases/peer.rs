//! The other end of a tunnel: a worker of its own, with the tunnel turned round and one rule for everything. It opens what was
//! sealed to it, and seals what is to come by the tunnel.

use std::sync::Arc;

use anyhow::Result;

use super::expect::ip_of;
use super::keys::{ThrowAway, WgPair, their_part};
use crate::config::policy::{
    Checksum, Compress, Match, Policy, Port, PortKind, Rule, RuleAction, RuleOffload, Sa, TunnelKind,
};
use crate::wire::checksum;
use crate::worker::build::wire_fib;
use crate::worker::harness::Harness;

const INSIDE: usize = 0;
const OUTSIDE: usize = 1;

pub struct Peer {
    /// Index of the tunnel in the policy.
    pub tunnel: usize,
    harness: Harness,
}

impl Peer {
    /// `pair`: of WireGuard, which peer of the tunnel.
    ///
    /// # Errors
    /// Keys that cannot be used.
    pub fn new(policy: &Policy, tunnel: usize, keys: &ThrowAway, pair: Option<&WgPair>) -> Result<Self> {
        let mut turned = policy.tunnels[tunnel].clone();
        turned.mss_clamp = false;
        turned.mtu = None;
        turned.fragment_outer = false;
        match &mut turned.kind {
            TunnelKind::Esp(esp) => {
                std::mem::swap(&mut esp.local, &mut esp.remote);
                std::mem::swap(&mut esp.out, &mut esp.inbound);
                if let Some([out, inward]) = &keys.files[tunnel] {
                    set_key(&mut esp.out, inward);
                    set_key(&mut esp.inbound, out);
                }
            }
            TunnelKind::WireGuard(wireguard) => wireguard.local = pair.map(|pair| pair.remote.ip()),
            TunnelKind::Xfrm(_) => {}
        }
        let port = |name: &str, to| Port {
            name: name.to_owned(),
            checksum: Checksum::Trust,
            kind: PortKind::Loopback { to, mtu: 65_535 },
        };
        let everything = Rule {
            name: "everything".into(),
            matches: Match::default(),
            classes: Arc::default(),
            hosts: Arc::default(),
            applications: Vec::new(),
            encrypt: Some(0),
            compress: Compress::default(),
            action: RuleAction::Forward,
            offload: RuleOffload::Never,
            meter: None,
            dscp: None,
            sample: 0,
            mirror: None,
            ceiling: None,
        };
        let mut other = Policy {
            ports: vec![port("inside", 1), port("outside", 0)],
            steer: Vec::new(),
            tunnels: vec![turned],
            applications: Vec::new(),
            rules: vec![everything],
            intents: Vec::new(),
            export: None,
            ..policy.clone()
        };
        other.workers.frames = 512;
        other.flows.capacity = 256;
        let fib = wire_fib(&other);
        let harness = Harness::with_checksums(other, fib, |_, _| false)?;
        if let (Some(pair), Ok(mut publisher)) = (pair, harness.publisher.lock()) {
            publisher.set(0, their_part(pair), true)?;
        }
        Ok(Self { tunnel, harness })
    }

    /// The IP packets that come of a frame, as they were before they were sealed. Empty: it was not for this peer, or more
    /// fragments are awaited.
    pub fn open(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let opened = self.opened();
        let out = self.harness.pass(OUTSIDE, frame);
        if self.opened() == opened {
            return Vec::new();
        }
        let inside = out.into_iter().filter(|(port, _)| *port == INSIDE);
        inside.map(|(_, frame)| with_ttl(ip_of(&frame), 1)).collect()
    }

    fn opened(&self) -> u64 {
        self.harness.worker.counters.tunnels.first().map_or(0, |tunnel| tunnel.opened.packets.get())
    }

    /// The frames that bring an IP packet by the tunnel.
    pub fn seal(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let ip = with_ttl(ip_of(frame), 1);
        let ethertype: [u8; 2] = if ip.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0x00] };
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xee][..], &ethertype, &ip].concat();
        let out = self.harness.pass(INSIDE, &frame);
        out.into_iter().filter(|(port, _)| *port == OUTSIDE).map(|(_, frame)| frame).collect()
    }
}

/// The same policy with these keys.
pub fn with_keys(policy: &Policy, keys: &ThrowAway) -> Policy {
    let mut policy = policy.clone();
    for (tunnel, files) in policy.tunnels.iter_mut().zip(&keys.files) {
        if let (TunnelKind::Esp(esp), Some([out, inward])) = (&mut tunnel.kind, files) {
            set_key(&mut esp.out, out);
            set_key(&mut esp.inbound, inward);
        }
    }
    policy
}

fn set_key(sa: &mut Sa, file: &std::path::Path) {
    sa.key_file = file.to_owned();
}

/// The peer is a router too: what it takes of the TTL is given back, so that a test sees the packet itself.
fn with_ttl(ip: &[u8], more: u8) -> Vec<u8> {
    let mut ip = ip.to_vec();
    match ip.first().map(|b| b >> 4) {
        Some(4) if ip.len() >= 20 => {
            ip[8] = ip[8].saturating_add(more);
            let length = usize::from(ip[0] & 15) * 4;
            if let Some(header) = ip.get_mut(..length.max(20)) {
                header[10..12].fill(0);
                let sum = checksum::of(header);
                header[10..12].copy_from_slice(&sum);
            }
        }
        Some(6) if ip.len() >= 40 => ip[7] = ip[7].saturating_add(more),
        _ => {}
    }
    ip
}
