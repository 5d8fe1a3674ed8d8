//! Workers in memory with something to do: who sends what to them, and what comes of it.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use softdpu::config::policy::{IpsecMode, TunnelKind};
use softdpu::config::{self, Policy};
use softdpu::wire::fragment::{pieces, write_header};
use softdpu::wire::prefix::Prefix;
use softdpu::worker::build::wire_fib;
use softdpu::worker::harness::Harness;
use softdpu_testbed::packet::{Ends, SYN, frame, ipv4, sum, tcp, udp};

use crate::gain::function::Keys;
use crate::wg_many::{self, Site};

/// Packets that are sent at a time: some batches' worth.
pub const BURST: u32 = 256;
/// The applications' side, and the others'.
pub const APPS: usize = 0;
pub const UPLINK: usize = 1;
/// Flows that take turns.
const FLOWS: u32 = 64;

/// A worker, and what puts a burst on one of its wires.
pub struct Scene {
    pub harness: Harness,
    /// Where packets come in.
    pub port: usize,
    /// Nanoseconds between bursts.
    pub pause: u64,
    fill: Box<dyn FnMut(&mut Harness)>,
}

impl Scene {
    fn new(harness: Harness, port: usize, fill: impl FnMut(&mut Harness) + 'static) -> Self {
        Self { harness, port, pause: 1_000_000, fill: Box::new(fill) }
    }

    /// Sends the same packets again and again.
    fn of(harness: Harness, port: usize, packets: Vec<Vec<u8>>) -> Self {
        Self::new(harness, port, move |h| send(h, port, &packets))
    }

    /// Takes what is left of the burst before, and puts the next on the wire.
    pub fn prepare(&mut self) {
        for port in [APPS, UPLINK] {
            while self.harness.receive(port).is_some() {}
        }
        self.harness.now += self.pause;
        (self.fill)(&mut self.harness);
    }

    /// Until its flows are known and decided.
    fn settled(mut self) -> Result<Self> {
        for _ in 0..16 {
            self.prepare();
            self.harness.settle();
        }
        let left = self.harness.left().len();
        ensure!(left > 0, "nothing came through");
        Ok(self)
    }
}

fn send(harness: &Harness, port: usize, packets: &[Vec<u8>]) {
    for packet in packets {
        assert!(harness.send(port, packet), "the wire holds a burst");
    }
}

fn parse(text: &str) -> Result<Policy> {
    config::parse(text, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")
}

const PORTS: &str = r#"
[workers]
count = 1
batch = 64
frames = 4096

[[port]]
name = "apps"
kind = "loopback"
loop_to = "uplink"
checksum = "trust"
mtu = 1500

[[port]]
name = "uplink"
kind = "loopback"
loop_to = "apps"
checksum = "trust"
mtu = 1600
"#;

/// A policy of forwarding everything. `rule`: further keys of its rule.
fn forwarding(rule: &str) -> Result<Policy> {
    parse(&format!("{PORTS}\n[[rule]]\nname = \"all\"\naction = \"forward\"\n{rule}\n"))
}

/// Site 1 or 2 of an ESP tunnel between 10.1.0.0/16 and 10.2.0.0/16.
fn site(keys: &Keys, me: u8, rule: &str, tunnel: &str) -> Result<Policy> {
    let (other, folder) = (3 - me, keys.folder().display());
    let mut text = PORTS.to_owned();
    write!(
        text,
        r#"
[[tunnel]]
name = "peer"
local = "192.0.2.{me}"
remote = "192.0.2.{other}"
{tunnel}
[tunnel.out]
spi = 0x100{me}
key_file = "{folder}/{me}.key"
[tunnel.in]
spi = 0x100{other}
key_file = "{folder}/{other}.key"

[[rule]]
name = "protect"
from = ["10.{me}.0.0/16"]
to = ["10.{other}.0.0/16"]
encrypt = "peer"
{rule}
"#
    )?;
    parse(&text)
}

/// Both ends of the tunnel.
fn sites(rule: &str, tunnel: &str) -> Result<(Harness, Harness)> {
    let keys = Keys::new()?;
    let make = |me: u8| -> Result<Harness> {
        let policy = site(&keys, me, rule, tunnel)?;
        let mut fib = wire_fib(&policy);
        fib.set_link_address(UPLINK as u8, IpAddr::from([192, 0, 2, me]));
        Harness::with_fib(policy, fib)
    };
    Ok((make(1)?, make(2)?))
}

fn ends(n: u32) -> Ends {
    Ends { src: [10, 1, (n >> 8) as u8, n as u8], dst: [10, 2, 0, 2], ports: (40_000, 9000) }
}

/// A burst of IPv4 packets of `length` bytes, of flows that take turns. `text`: what LZ4 makes something of.
fn burst(length: usize, text: bool) -> Vec<Vec<u8>> {
    let words = b"the quick brown fox jumps over the lazy dog, and then once more; ";
    let payload: Vec<u8> =
        if text { words.iter().copied().cycle().take(length - 28).collect() } else { noise(length - 28) };
    (0..BURST).map(|n| frame(&udp(ends(n % FLOWS), &payload))).collect()
}

/// Bytes that look random and are the same each time (xorshift).
pub fn noise(length: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..length).map(next).collect()
}

/// Small packets of old flows, forwarded.
pub fn forward() -> Result<Scene> {
    Scene::of(Harness::new(forwarding("")?)?, APPS, burst(60, false)).settled()
}

/// The same in IPv6.
pub fn forward_v6() -> Result<Scene> {
    let packet = |n: u32| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, 17, 64];
        let address = |site: u8, n: u32| [&[0xfd, 0, 0, site, 0, 0, 0, 0, 0, 0, 0, 0][..], &n.to_be_bytes()].concat();
        packet.extend(address(1, n % FLOWS));
        packet.extend(address(2, 2));
        packet.extend([0x9c, 0x40, 0x23, 0x28, 0, 20, 0, 1]);
        packet.extend([7; 12]);
        frame(&packet)
    };
    Scene::of(Harness::new(forwarding("")?)?, APPS, (0..BURST).map(packet).collect()).settled()
}

/// The same, metered, sampled and marked.
pub fn treated() -> Result<Scene> {
    let rule = "meter_rate = 1_000_000_000\ndscp = 10\nsample = 16";
    Scene::of(Harness::new(forwarding(rule)?)?, APPS, burst(60, false)).settled()
}

/// Each packet begins a flow.
pub fn fresh() -> Result<Scene> {
    let mut n = 0;
    let fill = move |h: &mut Harness| {
        let packets: Vec<_> = (n..n + BURST).map(|n| frame(&udp(ends(n), &[7; 18]))).collect();
        n = (n + BURST) % 60_000;
        send(h, APPS, &packets);
    };
    Scene::new(Harness::new(forwarding("")?)?, APPS, fill).settled()
}

/// SYNs that offer large segments, into a tunnel.
pub fn syns() -> Result<Scene> {
    let (here, _) = sites("", "mss_clamp = true")?;
    let packet = |n: u32| {
        let mut packet = tcp(ends(n % FLOWS), SYN, n, 0, &[2, 4, 0x05, 0xb4]);
        // The option is part of the header.
        packet[32] = 0x60;
        frame(&packet)
    };
    Scene::of(here, APPS, (0..BURST).map(packet).collect()).settled()
}

/// Into an ESP tunnel.
pub fn esp_out(length: usize) -> Result<Scene> {
    Scene::of(sites("", "")?.0, APPS, burst(length, false)).settled()
}

/// Out of an ESP tunnel. `cut`: the sealed packets come in two fragments each, out of those of half the burst.
pub fn esp_in(length: usize, cut: bool, rule: &str) -> Result<Scene> {
    let (mut peer, here) = sites(rule, "")?;
    let mut packets = burst(length, rule.contains("lz4"));
    if cut {
        packets.truncate(packets.len() / 2);
    }
    let mut id = 0_u16;
    let fill = move |h: &mut Harness| {
        send(&peer, APPS, &packets);
        peer.settle();
        while let Some(sealed) = peer.receive(UPLINK) {
            if cut {
                id = id.wrapping_add(1);
                send(h, UPLINK, &halves(&sealed, id));
            } else {
                assert!(h.send(UPLINK, &sealed), "the wire holds a burst");
            }
        }
    };
    Scene::new(here, UPLINK, fill).settled()
}

/// An IPv4 frame in two.
fn halves(frame: &[u8], id: u16) -> Vec<Vec<u8>> {
    let payload = frame.len() - 34;
    let cut = pieces(20, payload, 20 + (payload / 2).next_multiple_of(8)).into_iter().flatten();
    cut.map(|piece| {
        let mut part = frame[..34].to_vec();
        part.extend(&frame[34 + piece.start..34 + piece.start + piece.len]);
        part[18..20].copy_from_slice(&id.to_be_bytes());
        write_header(&mut part[14..], 0, false, piece);
        part
    })
    .collect()
}

/// Into an ESP tunnel, compressed: text, which becomes smaller.
pub fn compressed() -> Result<Scene> {
    Scene::of(sites("compress = \"lz4\"", "")?.0, APPS, burst(1400, true)).settled()
}

/// Fragments of datagrams under a rule that asks for ports.
pub fn gathered() -> Result<Scene> {
    let policy = forwarding("ports = [9000]")?;
    fragments(Harness::new(policy)?)
}

/// Fragments of datagrams into a tunnel in transport mode, which seals what whole ones carry.
pub fn joined() -> Result<Scene> {
    let (keys, ends) = (Keys::new()?, Ends { src: [192, 0, 2, 1], dst: [192, 0, 2, 2], ports: (40_000, 9000) });
    let mut policy = site(&keys, 1, "", "")?;
    // Transport mode is between the tunnel's own ends (RFC 4301 §4.1).
    policy.rules[0].matches.from = [Prefix::host(ends.src.into())].into();
    policy.rules[0].matches.to = [Prefix::host(ends.dst.into())].into();
    if let TunnelKind::Esp(esp) = &mut policy.tunnels[0].kind {
        esp.mode = IpsecMode::Transport;
    }
    fragments_of(Harness::new(policy)?, move |_| ends)
}

fn fragments(harness: Harness) -> Result<Scene> {
    fragments_of(harness, |n| ends(n % FLOWS))
}

fn fragments_of(harness: Harness, ends: impl Fn(u32) -> Ends + 'static) -> Result<Scene> {
    let mut id = 0_u16;
    let fill = move |h: &mut Harness| {
        for n in 0..BURST / 2 {
            id = id.wrapping_add(1);
            send(h, APPS, &halves(&frame(&udp(ends(n), &[7; 972])), id));
        }
    };
    Scene::new(harness, APPS, fill).settled()
}

/// Larger than what the link behind carries; they may be cut.
pub fn too_large() -> Result<Scene> {
    Scene::of(narrow()?, APPS, burst(1400, false)).settled()
}

/// The same; they may not be cut, and their senders are told.
pub fn told() -> Result<Scene> {
    let mut packets = burst(1400, false);
    for packet in &mut packets {
        packet[20] = 0x40;
        packet[24..26].fill(0);
        let sum = sum(&packet[14..34]).to_be_bytes();
        packet[24..26].copy_from_slice(&sum);
    }
    // There are 1,000 such messages a second.
    Ok(Scene { pause: 1_000_000_000, ..Scene::of(narrow()?, APPS, packets) })
}

fn narrow() -> Result<Harness> {
    let policy = forwarding("")?;
    let mut fib = wire_fib(&policy);
    fib.set_link_mtu(UPLINK as u8, 1000);
    fib.set_link_address(APPS as u8, IpAddr::from([10, 1, 255, 1]));
    Harness::with_fib(policy, fib)
}

/// Packets that fit the link behind, but not once they are sealed.
pub fn outer_cut() -> Result<Scene> {
    let (here, _) = sites("", "fragment_outer = true\nmtu = 1000")?;
    Scene::of(here, APPS, burst(990, false)).settled()
}

/// Through WireGuard, with one peer: `seal` or `open`.
pub fn wireguard(way: &'static str, length: usize) -> Result<Scene> {
    // Its session's ends are wanted as long as packets are.
    let site: &'static Site = Box::leak(Box::new(Site::new(1, FLOWS as usize)?));
    let mut buffer = vec![0; 2048];
    buffer[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0]);
    let fill = move |h: &mut Harness| {
        for n in 0..BURST {
            wg_many::send(h, site, way, (n % FLOWS) as usize, length, &mut buffer);
        }
    };
    Scene::new(site.worker()?, if way == "seal" { APPS } else { UPLINK }, fill).settled()
}

/// An ICMP error from the way, about a packet of a flow.
pub fn relayed() -> Result<Scene> {
    let about = |n: u32| {
        let sent = udp(ends(n % FLOWS), &[7; 18]);
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0];
        message.extend(&sent[..28]);
        let check = sum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&check);
        frame(&ipv4(1, [10, 2, 255, 1], ends(n % FLOWS).src, &message))
    };
    let mut scene = forward()?;
    let packets: Vec<_> = (0..BURST).map(about).collect();
    (scene.port, scene.fill) = (UPLINK, Box::new(move |h: &mut Harness| send(h, UPLINK, &packets)));
    scene.settled()
}
