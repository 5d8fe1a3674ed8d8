//! ESP tunnels with keys from files.

use super::keys::{EspIn, EspOut, Seal, Selector, TunnelKeys, Way, WayState};
use super::publisher::Part;
use crate::config::policy::{self, EspTunnel, IpsecMode, Policy, SequenceMode};
use crate::crypto::esp::{Mode, NAT_T_PORT};
use crate::crypto::inbound::{InboundOptions, NatFix, Sequence};
use crate::crypto::lifetime::{Lifetime, Limits};
use crate::crypto::outbound::{OutboundOptions, Start};
use crate::crypto::outer::{Encapsulation, Endpoints, Outer};
use crate::crypto::{Cipher, InboundConfig, InboundSa, OutboundConfig, OutboundSa, keyfile};
use crate::wire::natt;
use crate::worker::clock;
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
        parts[at] = StaticEsp::new(at as u16, tunnel, inbound, outbound).part();
    }
    Ok(parts)
}

/// A tunnel's two associations, and where its peer is now.
#[derive(Debug)]
pub struct StaticEsp {
    tunnel: u16,
    local: IpAddr,
    /// Port 0: not in UDP.
    remote: SocketAddr,
    moved: bool,
    inbound: Arc<InboundSa>,
    outbound: Arc<OutboundSa>,
    state: Arc<WayState>,
}

impl StaticEsp {
    fn new(tunnel: u16, policy: &EspTunnel, inbound: InboundSa, outbound: OutboundSa) -> Self {
        let port = if policy.encapsulation == policy::Encapsulation::Udp { NAT_T_PORT } else { 0 };
        Self {
            tunnel,
            local: policy.local,
            remote: SocketAddr::new(policy.remote, port),
            moved: false,
            inbound: Arc::new(inbound),
            outbound: Arc::new(outbound),
            state: Arc::default(),
        }
    }

    /// The one that a part was made of. `None`: it is not an ESP tunnel's.
    pub fn of(part: &Part) -> Option<Self> {
        let inbound = part.inbound.first()?;
        let way = part.keys.ways.first()?.as_deref()?;
        let Seal::Esp(out) = &way.seal else { return None };
        Some(Self {
            tunnel: inbound.tunnel,
            local: inbound.local,
            remote: way.remote,
            moved: out.via.is_some(),
            inbound: inbound.sa.clone(),
            outbound: out.sa.clone(),
            state: way.state.clone(),
        })
    }

    /// The peer is elsewhere now. `false`: it is not, or that could not be.
    pub fn move_to(&mut self, seen: SocketAddr) -> bool {
        // Only the newest packet was told of, and which of the two sides has the NAT, nobody told us.
        let Some(remote) = natt::moved(self.remote, seen, true, false) else { return false };
        (self.remote, self.moved, self.state) = (remote, true, Arc::new(self.state.elsewhere()));
        true
    }

    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// When the last packet was sealed, in monotonic nanoseconds; 0: none was.
    pub fn last_sent(&self) -> u64 {
        self.outbound.used().last_ns
    }

    pub fn local(&self) -> IpAddr {
        self.local
    }

    pub fn part(&self) -> Part {
        let port = self.remote.port();
        let udp = Encapsulation::Udp { source: NAT_T_PORT, destination: port };
        let via = endpoints(self.local, self.remote.ip()).filter(|_| self.moved);
        let way = Way {
            remote: self.remote,
            seal: Seal::Esp(EspOut {
                sa: self.outbound.clone(),
                via: via.map(|endpoints| Box::new(Outer::new(endpoints, udp))),
            }),
            state: self.state.clone(),
        };
        Part {
            inbound: vec![EspIn {
                sa: self.inbound.clone(),
                tunnel: self.tunnel,
                way: 0,
                local: self.local,
                remote: Some(self.remote),
                may_move: port != 0,
                state: None,
            }],
            keys: TunnelKeys { selector: Selector::Only, ways: vec![Some(Arc::new(way))] },
            ..Part::default()
        }
    }
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

/// The policy's limits as hard ones, and nine tenths of each as soft ones.
fn lifetime(limits: &policy::Lifetime) -> Lifetime {
    let no = u64::MAX;
    let age_ns = limits.time.map_or(no, |time| u64::try_from(time.as_nanos()).unwrap_or(no));
    let hard =
        Limits { packets: limits.packets.unwrap_or(no), bytes: limits.bytes.unwrap_or(no), age_ns, ..Limits::NONE };
    let soft = |limit: u64| if limit == no { no } else { limit - limit / 10 };
    let soft =
        Limits { packets: soft(hard.packets), bytes: soft(hard.bytes), age_ns: soft(hard.age_ns), ..Limits::NONE };
    Lifetime { soft, hard }
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
    let (lifetime, added_ns) = (lifetime(&tunnel.lifetime), clock::now());
    let outbound = OutboundSa::new(&OutboundConfig {
        spi: tunnel.out.spi,
        material: &out_key,
        endpoints,
        encapsulation,
        extended: sequence != Sequence::Short,
        start,
        options: OutboundOptions { mode, lifetime, added_ns, ..OutboundOptions::default() },
    })?;
    let inbound = InboundSa::new(&InboundConfig {
        spi: tunnel.inbound.spi,
        material: &in_key,
        sequence,
        window: tunnel.replay_window,
        // Nobody tells us the addresses that the peer saw; what was authenticated needs no other checksum.
        options: InboundOptions { mode, nat: NatFix::Recompute, lifetime, added_ns, ..InboundOptions::default() },
    })?;
    Ok((inbound, outbound))
}
