//! The plan: the policy made ready for the packet path. Names are indices, keys are read, what can be computed once is.

pub mod rules;
pub mod steering;

use crate::config::policy::{self, Policy, RuleAction};
use crate::crypto::esp::NAT_T_PORT;
use crate::crypto::inbound::Sequence;
use crate::crypto::outbound::Start;
use crate::crypto::outer::{Encapsulation, Endpoints};
use crate::crypto::sadb::Sadb;
use crate::crypto::{
    Cipher, InboundConfig, InboundOptions, InboundSa, KeyMaterial, OutboundConfig, OutboundOptions, OutboundSa, keyfile,
};
use crate::io::pool::MAX_PORTS;
use crate::l7::Class;
use anyhow::{Context, Result, bail};
use rules::Rule;
use std::net::IpAddr;
use std::sync::Arc;

/// What all workers run. Immutable; a change is a new plan with another generation.
#[derive(Debug, Default)]
pub struct Plan {
    /// Never 0, which in a flow means "not decided yet".
    pub generation: u32,
    pub name: String,
    pub ports: Vec<Port>,
    pub tunnels: Vec<Tunnel>,
    /// First match wins.
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default)]
pub struct Port {
    pub name: String,
    /// L4 checksums may have been left to offload by whoever sends here.
    pub finish_checksums: bool,
}

/// An ESP tunnel. Packets are sealed with `outbound` by any worker; each worker has its own inbound side (see [`Inbound`]).
#[derive(Debug)]
pub struct Tunnel {
    pub name: String,
    pub local: IpAddr,
    pub remote: IpAddr,
    pub encapsulation: Encapsulation,
    pub cipher: Cipher,
    pub in_spi: u32,
    pub outbound: Arc<OutboundSa>,
    /// Largest outer packet, where the policy sets one.
    pub mtu: Option<usize>,
}

impl Tunnel {
    /// Longest inner packet, in bytes, over a link with this MTU.
    #[inline]
    pub fn inner_mtu(&self, link: usize) -> usize {
        self.outbound.max_inner(self.mtu.map_or(link, |mtu| mtu.min(link)))
    }
}

/// What a worker's inbound associations are made from. Kept by the control side, keys and all, so that workers can be
/// built one after the other.
#[derive(Debug)]
pub struct Inbound {
    spi: u32,
    window: u32,
    material: KeyMaterial,
}

/// Builds the plan of a policy, and reads the keys it names.
///
/// # Errors
/// A key file that is missing, readable by others or of the wrong size; a key that serves two associations; more rules,
/// tunnels or ports than can be numbered.
pub fn build(policy: &Policy, generation: u32) -> Result<(Plan, Vec<Inbound>)> {
    for (what, count, most) in [
        ("rules", policy.rules.len(), rules::MAX_RULES),
        ("tunnels", policy.tunnels.len(), usize::from(u16::MAX)),
        ("ports", policy.ports.len(), MAX_PORTS),
    ] {
        if count > most {
            bail!("{count} {what} are more than the {most} there can be");
        }
    }
    let mut inbound = Vec::with_capacity(policy.tunnels.len());
    let mut tunnels = Vec::with_capacity(policy.tunnels.len());
    let mut keys = std::collections::HashMap::new();
    for tunnel in &policy.tunnels {
        let (built, material) = build_tunnel(tunnel).with_context(|| format!("tunnel `{}`", tunnel.name))?;
        for (way, key) in [("out", built.outbound.key_id()), ("in", material.id())] {
            let here = format!("`{}.{way}`", tunnel.name);
            if let Some(other) = keys.insert(key, here.clone()) {
                bail!(
                    "{here} and {other} have the same key: their nonces would meet, which breaks the cipher; make one key for each"
                );
            }
        }
        inbound.push(Inbound { spi: tunnel.inbound.spi, window: tunnel.replay_window, material });
        tunnels.push(built);
    }
    let ports = policy.ports.iter().map(|port| Port { name: port.name.clone(), finish_checksums: false }).collect();
    let rules = policy.rules.iter().map(rule).collect::<Result<_>>()?;
    Ok((Plan { generation: generation.max(1), name: policy.name.clone(), ports, tunnels, rules }, inbound))
}

fn build_tunnel(tunnel: &policy::Tunnel) -> Result<(Tunnel, KeyMaterial)> {
    let cipher = match tunnel.cipher {
        policy::Cipher::Aes128Gcm => Cipher::Aes128Gcm,
        policy::Cipher::Aes256Gcm => Cipher::Aes256Gcm,
        policy::Cipher::ChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
    };
    let endpoints = match (tunnel.local, tunnel.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => Endpoints::V4 { local, remote },
        (IpAddr::V6(local), IpAddr::V6(remote)) => Endpoints::V6 { local, remote },
        _ => bail!("`local` and `remote` are of different families"),
    };
    let encapsulation = match tunnel.encapsulation {
        policy::Encapsulation::None => Encapsulation::None,
        policy::Encapsulation::Udp => Encapsulation::Udp { source: NAT_T_PORT, destination: NAT_T_PORT },
    };
    let out_key = keyfile::read(&tunnel.out.key_file, cipher)?;
    let in_key = keyfile::read(&tunnel.inbound.key_file, cipher)?;
    let outbound = OutboundSa::new(&OutboundConfig {
        spi: tunnel.out.spi,
        material: &out_key,
        endpoints,
        encapsulation,
        extended: true,
        start: Start::Clock,
        options: OutboundOptions::default(),
    })?;
    let built = Tunnel {
        name: tunnel.name.clone(),
        local: tunnel.local,
        remote: tunnel.remote,
        encapsulation,
        cipher,
        in_spi: tunnel.inbound.spi,
        outbound: Arc::new(outbound),
        mtu: tunnel.mtu.map(|mtu| mtu as usize),
    };
    Ok((built, in_key))
}

/// One worker's security associations.
pub fn sadb(plan: &Plan, inbound: &[Inbound]) -> Result<Sadb> {
    let mut associations = Vec::with_capacity(inbound.len());
    for (tunnel, inbound) in inbound.iter().enumerate() {
        let config = InboundConfig {
            spi: inbound.spi,
            material: &inbound.material,
            sequence: Sequence::InIv,
            window: inbound.window,
            options: InboundOptions::default(),
        };
        associations.push((tunnel, InboundSa::new(&config)?));
    }
    Ok(Sadb::new(associations, plan.tunnels.iter().map(|tunnel| Some(tunnel.outbound.clone())))?)
}

fn rule(rule: &policy::Rule) -> Result<Rule> {
    let classes = rule.classes.iter().map(|name| {
        Class::from_name(name)
            .map(Class::number)
            .with_context(|| format!("rule `{}`: unknown class `{name}`", rule.name))
    });
    Ok(Rule {
        name: rule.name.clone(),
        from: rule.matches.from.clone(),
        to: rule.matches.to.clone(),
        protocol: rule.matches.protocol.0,
        source_ports: rule.matches.source_ports.clone(),
        ports: rule.matches.ports.clone(),
        classes: classes.collect::<Result<_>>()?,
        hosts: rule.hosts.clone(),
        tunnel: rule.encrypt.map(|tunnel| tunnel as u16),
        compress: rule.compress == policy::Compress::Lz4,
        drop: rule.action == RuleAction::Drop,
    })
}
