//! ESP tunnels with keys from files.

use super::keys::{EspIn, Seal, Selector, TunnelKeys, Way};
use super::publisher::Part;
use crate::config::policy::{self, EspTunnel, IpsecMode, Policy, SequenceMode};
use crate::crypto::esp::{Mode, NAT_T_PORT};
use crate::crypto::inbound::{InboundOptions, NatFix, Sequence};
use crate::crypto::outbound::{OutboundOptions, Start};
use crate::crypto::outer::{Encapsulation, Endpoints};
use crate::crypto::{Cipher, InboundConfig, InboundSa, OutboundConfig, OutboundSa, keyfile};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One part per tunnel of the policy; those of other types stay empty.
///
/// # Errors
/// A key file that is missing, readable by others or of the wrong size; a key that serves two associations.
pub fn parts(policy: &Policy) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = policy.tunnels.iter().map(|_| Part::default()).collect();
    let mut keys = HashMap::new();
    for (at, tunnel) in policy.esp_tunnels() {
        let name = &policy.tunnels[at].name;
        let (inbound, outbound) = build(tunnel).with_context(|| format!("tunnel `{name}`"))?;
        for (way, key) in [("out", outbound.key_id()), ("in", inbound.key_id())] {
            let here = format!("`{name}.{way}`");
            if let Some(other) = keys.insert(key, here.clone()) {
                bail!(
                    "{here} and {other} have the same key: their nonces would meet, which breaks the cipher; make one key for each"
                );
            }
        }
        let port = if tunnel.encapsulation == policy::Encapsulation::Udp { NAT_T_PORT } else { 0 };
        let way = Way {
            remote: SocketAddr::new(tunnel.remote, port),
            seal: Seal::Esp(Arc::new(outbound)),
            state: Arc::default(),
        };
        parts[at] = Part {
            inbound: vec![EspIn {
                sa: Arc::new(inbound),
                tunnel: at as u16,
                way: 0,
                local: tunnel.local,
                remote: SocketAddr::new(tunnel.remote, port),
                may_move: port != 0,
            }],
            ..Part::default()
        };
        parts[at].keys = TunnelKeys { selector: Selector::Only, ways: vec![Some(Arc::new(way))] };
    }
    Ok(parts)
}

/// The endpoints of a tunnel. `None`: of different families.
pub fn endpoints(local: IpAddr, remote: IpAddr) -> Option<Endpoints> {
    match (local, remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => Some(Endpoints::V4 { local, remote }),
        (IpAddr::V6(local), IpAddr::V6(remote)) => Some(Endpoints::V6 { local, remote }),
        _ => None,
    }
}

pub fn cipher(cipher: policy::Cipher) -> Cipher {
    match cipher {
        policy::Cipher::Aes128Gcm => Cipher::Aes128Gcm,
        policy::Cipher::Aes256Gcm => Cipher::Aes256Gcm,
        policy::Cipher::ChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
    }
}

fn build(tunnel: &EspTunnel) -> Result<(InboundSa, OutboundSa)> {
    let cipher = cipher(tunnel.cipher);
    let endpoints = endpoints(tunnel.local, tunnel.remote).context("`local` and `remote` are of different families")?;
    let encapsulation = match tunnel.encapsulation {
        policy::Encapsulation::None => Encapsulation::None,
        policy::Encapsulation::Udp => Encapsulation::Udp { source: NAT_T_PORT, destination: NAT_T_PORT },
    };
    let out_key = keyfile::read(&tunnel.out.key_file, cipher)?;
    let in_key = keyfile::read(&tunnel.inbound.key_file, cipher)?;
    // Keys from files outlive the process: whatever the peer understands, no IV may come twice.
    let (sequence, start) = match tunnel.sequence {
        SequenceMode::Iv => (Sequence::InIv, Start::Clock),
        SequenceMode::Extended => (Sequence::Extended, Start::ClockIv),
        SequenceMode::Short => (Sequence::Short, Start::ClockIv),
    };
    let mode = match tunnel.mode {
        IpsecMode::Tunnel => Mode::Tunnel,
        IpsecMode::Transport => Mode::Transport,
    };
    let outbound = OutboundSa::new(&OutboundConfig {
        spi: tunnel.out.spi,
        material: &out_key,
        endpoints,
        encapsulation,
        extended: sequence != Sequence::Short,
        start,
        options: OutboundOptions { mode, ..OutboundOptions::default() },
    })?;
    let inbound = InboundSa::new(&InboundConfig {
        spi: tunnel.inbound.spi,
        material: &in_key,
        sequence,
        window: tunnel.replay_window,
        // Nobody tells us the addresses that the peer saw; what was authenticated needs no other checksum.
        options: InboundOptions { mode, nat: NatFix::Recompute, ..InboundOptions::default() },
    })?;
    Ok((inbound, outbound))
}
