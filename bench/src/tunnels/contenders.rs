//! Who carries the traffic. Each is started on both edges for its turn and gone after it.

use std::{any::Any, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use softdpu_testbed::{
    cleanup::RunDir,
    edge::Edge,
    peers::{
        kernel,
        keys::{Child, ChildSa},
        ours::{self, Apps},
        strongswan::{self, Ciphers, Proposal, StrongSwan},
        wireguard::{Config, KeyPair, PORT, Program, WireGuard},
    },
    policy::{EdgeFiles, Side},
    topology::{CLIENT_NET, EDGE_A, EDGE_B, SERVER_NET, Topology},
};

use super::Options;

/// What a contender is started with.
pub struct Start<'a> {
    pub topology: &'a Topology,
    pub folder: &'a RunDir,
    pub options: &'a Options,
}

/// A contender at work; dropping it stops it.
pub type Running = Box<dyn Any>;

/// What carries the traffic between the edges.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// The kernel forwards, nothing is encrypted: what the topology and iperf3 can do.
    Clear,
    OurWireGuard(Apps),
    /// softdpu's ESP in UDP with this cipher and length of key and salt.
    OurEsp(&'static str, usize, Apps),
    Program(Program),
    KernelWireGuard,
    /// The kernel's ESP in UDP with this cipher, as `ip xfrm` names it, and length of key and salt.
    KernelEsp(&'static str, usize),
    StrongSwan(Proposal, Ciphers),
}

#[derive(Debug, Clone, Copy)]
pub struct Contender {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
}

/// All, in the order of their turns.
pub const ALL: [Contender; 15] = [
    Contender { name: "clear", title: "kernel forwards, in clear", kind: Kind::Clear },
    Contender { name: "softdpu-wireguard", title: "softdpu WireGuard", kind: Kind::OurWireGuard(Apps::Tap) },
    Contender {
        name: "softdpu-wireguard-xdp",
        title: "softdpu WireGuard, XDP on both ports",
        kind: Kind::OurWireGuard(Apps::Xdp),
    },
    Contender {
        name: "softdpu-esp-aes128",
        title: "softdpu ESP, AES-128-GCM",
        kind: Kind::OurEsp("aes-128-gcm", 20, Apps::Tap),
    },
    Contender {
        name: "softdpu-esp-aes128-xdp",
        title: "softdpu ESP, AES-128-GCM, XDP on both ports",
        kind: Kind::OurEsp("aes-128-gcm", 20, Apps::Xdp),
    },
    Contender {
        name: "softdpu-esp-chacha",
        title: "softdpu ESP, ChaCha20-Poly1305",
        kind: Kind::OurEsp("chacha20-poly1305", 36, Apps::Tap),
    },
    Contender { name: "wireguard-go", title: "wireguard-go", kind: Kind::Program(Program::WireGuardGo) },
    Contender { name: "boringtun-cli", title: "boringtun-cli", kind: Kind::Program(Program::BoringTun) },
    Contender { name: "gotatun", title: "gotatun", kind: Kind::Program(Program::GotaTun) },
    Contender { name: "kernel-wireguard", title: "kernel WireGuard", kind: Kind::KernelWireGuard },
    Contender {
        name: "kernel-esp-aes128",
        title: "kernel ESP, AES-128-GCM",
        kind: Kind::KernelEsp("rfc4106(gcm(aes))", 20),
    },
    Contender {
        name: "strongswan-aes128",
        title: "strongSwan kernel-libipsec, AES-128-GCM of OpenSSL",
        kind: Kind::StrongSwan(Proposal::Aes128Gcm16, Ciphers::OpenSsl),
    },
    Contender {
        name: "strongswan-aes128-own",
        title: "strongSwan kernel-libipsec, AES-128-GCM of its own",
        kind: Kind::StrongSwan(Proposal::Aes128Gcm16, Ciphers::Own),
    },
    Contender {
        name: "strongswan-aes128-sha256",
        title: "strongSwan kernel-libipsec, AES-128-CBC and SHA-256 of OpenSSL",
        kind: Kind::StrongSwan(Proposal::Aes128Sha256, Ciphers::OpenSsl),
    },
    Contender {
        name: "strongswan-chacha",
        title: "strongSwan kernel-libipsec, ChaCha20-Poly1305",
        kind: Kind::StrongSwan(Proposal::ChaCha20Poly1305, Ciphers::OpenSsl),
    },
];

impl Contender {
    /// Whether the wire must show nothing in clear.
    pub fn encrypts(&self) -> bool {
        !matches!(self.kind, Kind::Clear)
    }

    /// Its version, where it is not ours.
    pub fn version(&self) -> Option<String> {
        match self.kind {
            Kind::Program(program) => program.version(),
            Kind::StrongSwan(..) => strongswan::version(),
            // The machine's kernel is in the report.
            Kind::Clear | Kind::OurWireGuard(_) | Kind::OurEsp(..) | Kind::KernelWireGuard | Kind::KernelEsp(..) => {
                None
            }
        }
    }

    /// Starts it on both edges. The first packet may still have to wait for a handshake.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(&self, s: &Start<'_>) -> Result<Running> {
        let Start { topology, folder, .. } = s;
        match self.kind {
            Kind::Clear => Ok(Box::new(())),
            Kind::OurWireGuard(apps) => edges(s, our_wireguard(folder, apps)?),
            Kind::OurEsp(cipher, length, apps) => edges(s, our_esp(folder, cipher, length, apps)?),
            Kind::Program(program) => {
                let (a, b) = wireguard_configs()?;
                let a = WireGuard::start(program, &topology.edge_a, folder, &a)?;
                let b = WireGuard::start(program, &topology.edge_b, folder, &b)?;
                Ok(Box::new((a, b)))
            }
            Kind::KernelWireGuard => {
                let (a, b) = wireguard_configs()?;
                kernel::wireguard(&topology.edge_a, Side::A, folder, &a)?;
                kernel::wireguard(&topology.edge_b, Side::B, folder, &b)?;
                // The links go with their hosts.
                Ok(Box::new(()))
            }
            Kind::KernelEsp(cipher, length) => {
                let (there, back) = (ChildSa::random(0x1001, length)?, ChildSa::random(0x1002, length)?);
                let child = Child { inbound: back, outbound: there };
                let a = kernel::esp(&topology.edge_a, Side::A, cipher, &child)?;
                let b = kernel::esp(&topology.edge_b, Side::B, cipher, &child.flipped())?;
                Ok(Box::new((a, b)))
            }
            Kind::StrongSwan(proposal, ciphers) => {
                ensure!(strongswan::version().is_some(), "strongSwan is not installed");
                let with = strongswan::Options { ciphers, ..strongswan::Options::new(proposal) };
                let a = StrongSwan::start(&topology.edge_a, Side::A, folder, &with)?;
                let b = StrongSwan::start(&topology.edge_b, Side::B, folder, &with)?;
                a.initiate(&topology.edge_a)?;
                b.established(1)?;
                Ok(Box::new((a, b)))
            }
        }
    }
}

/// Policies of softdpu on both edges.
fn our_wireguard(folder: &RunDir, apps: Apps) -> Result<[EdgeFiles; 2]> {
    let (a, b) = wireguard_configs()?;
    let [a, b] = [(Side::A, "a", a), (Side::B, "b", b)].map(|(side, end, config)| {
        ours::wireguard_of(folder, side, &format!("wg{}{end}", std::process::id()), &config, apps)
    });
    Ok([a?, b?])
}

fn our_esp(folder: &RunDir, cipher: &str, length: usize, apps: Apps) -> Result<[EdgeFiles; 2]> {
    let (there, back) = (ChildSa::random(0x1001, length)?, ChildSa::random(0x1002, length)?);
    let child = Child { inbound: back, outbound: there };
    let of = |side, child: &Child| ours::esp_of(folder, side, cipher, "short", false, child, apps);
    Ok([of(Side::A, &child)?, of(Side::B, &child.flipped())?])
}

fn edges(s: &Start<'_>, [a, b]: [EdgeFiles; 2]) -> Result<Running> {
    let binary = &s.options.softdpu;
    ensure!(binary.exists(), "{} is not there (build it, or --softdpu)", binary.display());
    let a = Edge::start(binary, &s.topology.edge_a, &a).context("edge-a")?;
    let b = Edge::start(binary, &s.topology.edge_b, &b).context("edge-b")?;
    Ok(Box::new((a, b)))
}

/// Both sides know where the other is.
fn wireguard_configs() -> Result<(Config, Config)> {
    let (a, b) = (KeyPair::new()?, KeyPair::new()?);
    let mut for_a = Config::new(&a, &b.public, &SERVER_NET);
    let mut for_b = Config::new(&b, &a.public, &CLIENT_NET);
    for_a.endpoint = Some(SocketAddr::new(EDGE_B[0].parse()?, PORT));
    for_b.endpoint = Some(SocketAddr::new(EDGE_A[0].parse()?, PORT));
    Ok((for_a, for_b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn our_policies_hold() {
        let mut seen = 0;
        for c in &ALL {
            let folder = RunDir::new("unit-tunnels").unwrap();
            let files = match c.kind {
                Kind::OurWireGuard(apps) => our_wireguard(&folder, apps).unwrap(),
                Kind::OurEsp(cipher, length, apps) => our_esp(&folder, cipher, length, apps).unwrap(),
                _ => continue,
            };
            for file in &files {
                softdpu::config::load(&file.policy).unwrap_or_else(|e| panic!("{}: {e}", c.name));
            }
            seen += 1;
        }
        assert_eq!(seen, 5);
    }
}
