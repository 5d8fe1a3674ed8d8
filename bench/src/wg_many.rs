//! WireGuard with many peers against one: whole packets through a whole worker, and what a peer costs in memory and to publish.
//!
//! Both sides carry the same packets of the same flows, as many as there are peers on the larger side, drawn at random. Only
//! whose the addresses are differs. What is held to the target is the worker's rate, in-memory ports included: no packet comes
//! without a port, and these cost less than any other kind. They are measured alone too, and the graph's own share is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use softdpu::config;
use softdpu::crypto::outer::{Encapsulation, Endpoints, Outer};
use softdpu::crypto::secret::{self, Secret};
use softdpu::crypto::wg::cookie::Jar;
use softdpu::crypto::wg::session::Plain;
use softdpu::crypto::wg::{Identity, Initiator, Message, PrivateKey, Psk, Remote, Session, SessionKeys, Tai64n};
use softdpu::tunnel::publisher::{Part, Publisher};
use softdpu::tunnel::wg_part::WgParts;
use softdpu::tunnel::wireguard::uapi::{AllowedIp, SetDevice, SetPeer};
use softdpu::tunnel::wireguard::{Action, Device, Limits, Now};
use softdpu::wire::ip::write_v4;
use softdpu::wire::prefix::Prefix;
use softdpu::worker::harness::Harness;

use crate::graph::ports;
use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};

/// Packets put on the wire before each timed stretch: some batches' worth.
const BURST: usize = 1024;
const LINK: usize = 14;
/// Of the inner packet.
const LENGTHS: [usize; 2] = [64, 1400];
const PORT: u16 = 51_820;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: [u8; 4] = [10, 0, 0, 1];
const APPS: usize = 0;
const UPLINK: usize = 1;
const SECOND: u64 = 1_000_000_000;

const POLICY: &str = r#"
[workers]
count = 1
batch = 64
frames = 4096

[[port]]
name = "apps"
kind = "loopback"
loop_to = "uplink"

[[port]]
name = "uplink"
kind = "loopback"
loop_to = "apps"

[[tunnel]]
name = "wg0"
type = "wireguard"

[[rule]]
name = "peers"
to = ["10.64.0.0/10"]
encrypt = "wg0"
"#;

/// Measures `many` peers against one.
///
/// # Errors
/// Where a device or a worker cannot be made: a mistake, not a circumstance.
pub fn run(effort: Effort, many: usize) -> Result<(Section, Vec<Target>)> {
    let title = format!("WireGuard with {many} peers at random and with one, through the graph, per packet, one core");
    let mut section = Section::new("wg-many", &title, "ns");
    let mut targets = Vec::new();
    let (mut one, mut all) = (Site::new(1, many)?, Site::new(many, many)?);
    for length in LENGTHS {
        for way in ["seal", "open"] {
            let (few, lots) = (format!("{way}-1-{length}"), format!("{way}-{many}-{length}"));
            let bare = format!("ports-{way}-{length}");
            let mut cases = [
                ports(&bare, &format!("the in-memory ports alone, {way}, {length} B"), LINK + length)?,
                case(&few, way, &one, length)?,
                case(&lots, way, &all, length)?,
            ];
            alternate(&mut section, &mut cases, effort);
            drop(cases);
            for name in [&few, &lots] {
                section.difference(&format!("graph-{name}"), &format!("{name}, graph alone"), name, &bare);
            }
            // Time of one over time of many is rate of many over rate of one.
            section.ratio(&format!("graph-{few}"), &format!("graph-{lots}"));
            let ratio = section.ratio(&few, &lots);
            let title = format!("WireGuard {way} at {length} B, packets/s with {many} peers / with one");
            targets.push(Target::new(title, Bound::AtLeast, 0.8, ratio));
        }
    }
    section.notes.push(format!("{many} flows on both sides; batches of 64 packets, each of a flow drawn at random."));
    section.notes.push(format!(
        "Memory of a peer with one session: {} B, of it {} B of key in secret pages; all of it on the control side included.",
        all.memory.0 / many,
        all.memory.1 / many
    ));
    section.notes.push(
        "That is without the peers' own ends of the sessions. The heap is in large pages where the kernel has any."
            .into(),
    );
    let mut publishing = [publish_case(&format!("publish-{many}"), &mut all), publish_case("publish-1", &mut one)];
    alternate(&mut section, &mut publishing, effort);
    drop(publishing);
    section
        .notes
        .push("publish: one peer's new session, from the device to what workers read, per publication.".into());
    Ok((section, targets))
}

fn clock(mono: u64) -> Now {
    Now { mono, wall: Duration::from_secs(1_700_000_000) + Duration::from_nanos(mono) }
}

fn key(n: usize) -> PrivateKey {
    let mut bytes = [7; 32];
    // Not the first byte: its low bits do not count (RFC 7748 §5).
    bytes[8..16].copy_from_slice(&(n as u64).to_le_bytes());
    PrivateKey::from_bytes(&bytes)
}

/// Flow `n`'s inner address.
fn inner(n: usize) -> [u8; 4] {
    (u32::from_be_bytes([10, 64, 0, 0]) + n as u32).to_be_bytes()
}

/// Peer `n`'s outer address.
fn endpoint(n: usize) -> SocketAddr {
    SocketAddr::from(((u32::from_be_bytes([198, 18, 0, 0]) + n as u32).to_be_bytes(), PORT))
}

/// A gateway with its peers, all of them with a session, and the peers' ends of these.
pub(crate) struct Site {
    device: Device,
    parts: WgParts,
    publisher: Publisher,
    clients: Vec<Session>,
    flows: usize,
    gateway: Identity,
    now: u64,
    /// Bytes of the gateway, and those of them in secret pages.
    memory: (usize, usize),
}

impl Site {
    pub(crate) fn new(peers: usize, flows: usize) -> Result<Self> {
        let mut keys = Vec::with_capacity(peers);
        let (gateway, private) = (Identity::new(key(usize::MAX / 2)), key(usize::MAX / 2));
        let before = memory();
        let limits = Limits { free_per_second: u32::MAX, ..Limits::default() };
        let mut device = Device::new(limits, clock(SECOND))?;
        let mut set = SetDevice {
            private_key: Some(Secret::new(private.expose())),
            listen_port: Some(PORT),
            ..SetDevice::default()
        };
        for n in 0..peers {
            let prefix = match peers {
                1 => Prefix::new(Ipv4Addr::from(inner(0)).into(), 10),
                _ => Prefix::new(Ipv4Addr::from(inner(n)).into(), 32),
            };
            let prefix = prefix.context("an allowed address")?;
            set.peers.push(SetPeer {
                public_key: *key(n).public().as_bytes(),
                endpoint: Some(endpoint(n)),
                allowed_ips: vec![AllowedIp { prefix, remove: false }],
                ..SetPeer::default()
            });
        }
        let mut out = Vec::new();
        device.set(&set, clock(SECOND), &mut out).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        drop(set);
        let mut parts = WgParts::new(0, Some(IpAddr::V4(GATEWAY)));
        let mut publisher = Publisher::new(vec![Part::default()])?;
        let (part, selection) = parts.build(&mut device);
        publisher.set(0, part, selection)?;
        for n in 0..peers {
            keys.push(shake(&mut device, &gateway, n, SECOND)?);
            if n % 256 == 255 {
                let (part, selection) = parts.build(&mut device);
                publisher.set(0, part, selection)?;
            }
        }
        drop(out);
        let (part, selection) = parts.build(&mut device);
        publisher.set(0, part, selection)?;
        let after = memory();
        let clients: Vec<Session> = keys.into_iter().map(|keys| Session::new(keys, SECOND, Arc::default())).collect();
        let mut site = Self {
            device,
            parts,
            publisher,
            clients,
            flows,
            gateway,
            now: SECOND,
            memory: (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1)),
        };
        for n in 0..peers {
            site.confirm(n)?;
        }
        site.publish()?;
        Ok(site)
    }

    /// The peer uses its session.
    fn confirm(&mut self, n: usize) -> Result<()> {
        let mut bytes = [0; 32];
        let sealed = self.clients[n].sealer(1, self.now).seal_message(&mut bytes, 16..16, 0);
        anyhow::ensure!(sealed.is_ok(), "a keepalive");
        let received = self.device.receive(clock(self.now), endpoint(n), Some(GATEWAY.into()), &mut bytes, &mut vec![]);
        received.map(|_| ()).map_err(|e| anyhow::anyhow!("{}", e.reason()))
    }

    fn publish(&mut self) -> Result<()> {
        let (part, selection) = self.parts.build(&mut self.device);
        self.device.published();
        Ok(self.publisher.set(0, part, selection)?)
    }

    /// A worker with this gateway's keys.
    pub(crate) fn worker(&self) -> Result<Harness> {
        let policy =
            config::parse(POLICY, "bench").map_err(|e| anyhow::anyhow!("{e}")).context("the bench's policy")?;
        let harness = Harness::new(policy)?;
        harness.shared.keys.store(self.publisher.keys().load_full());
        Ok(harness)
    }

    /// The peer that flow `n` belongs to.
    fn peer(&self, n: usize) -> usize {
        if self.clients.len() == 1 { 0 } else { n }
    }
}

/// A handshake that peer `n` begins; its end of the session.
fn shake(device: &mut Device, gateway: &Identity, n: usize, now: u64) -> Result<SessionKeys> {
    let error = |e: softdpu::crypto::wg::NoiseError| anyhow::anyhow!("handshake: {}", e.reason());
    let identity = Identity::new(key(n));
    let remote = Remote::new(&identity, *gateway.public(), Psk::default());
    let time = Tai64n::since_1970(clock(now).wall);
    let (initiator, message) =
        Initiator::start(&identity, &remote, n as u32, PrivateKey::generate()?, time).map_err(error)?;
    let mut bytes = message.to_bytes();
    Jar::default().stamp(&remote, &mut bytes, now);
    let mut out = Vec::new();
    device
        .receive(clock(now), endpoint(n), Some(GATEWAY.into()), &mut bytes, &mut out)
        .map_err(|e| anyhow::anyhow!("handshake: {}", e.reason()))?;
    for action in &out {
        if let Action::Send { bytes, .. } = action
            && let Ok(Message::Response(response)) = Message::parse(bytes)
        {
            return initiator.finish(&identity, &remote, &response).map_err(error);
        }
    }
    anyhow::bail!("the gateway did not respond")
}

/// Bytes in use: of the heap, and of the secret pages.
fn memory() -> (usize, usize) {
    // SAFETY: it reads the allocator's own figures.
    let heap = unsafe { libc::mallinfo2() };
    let secret = secret::usage().used;
    (heap.uordblks + heap.hblkhd + secret, secret)
}

/// An IPv4 packet of `length` bytes between the server and flow `n`'s address.
fn packet(from: [u8; 4], to: [u8; 4], bytes: &mut [u8]) {
    write_v4(bytes, from, to, 17, 64, bytes.len() as u16);
    let udp = (bytes.len() - 20) as u16;
    bytes[20..28].copy_from_slice(&[0x10, 0, 0x20, 0, (udp >> 8) as u8, udp as u8, 0, 0]);
}

fn outer(n: usize) -> Outer {
    let IpAddr::V4(local) = endpoint(n).ip() else { unreachable!("it is IPv4") };
    Outer::new(Endpoints::V4 { local, remote: GATEWAY }, Encapsulation::Udp { source: PORT, destination: PORT })
}

/// Puts a packet of flow `n` on the wire: from the server, or from its peer.
pub(crate) fn send(harness: &Harness, site: &Site, way: &str, n: usize, length: usize, buffer: &mut [u8]) {
    const FRONT: usize = 64;
    let sent = if way == "seal" {
        packet(SERVER, inner(n), &mut buffer[LINK..LINK + length]);
        harness.send(APPS, &buffer[..LINK + length])
    } else {
        let peer = site.peer(n);
        packet(inner(n), SERVER, &mut buffer[FRONT..FRONT + length]);
        let plain = Plain { place: FRONT..FRONT + length, tos: 0, mtu: 1420 };
        let sealed = site.clients[peer].sealer(1, site.now).seal_slice(buffer, &plain, &outer(peer));
        harness.send(UPLINK, &buffer[sealed.expect("there is room and a session")])
    };
    assert!(sent, "the wire holds a burst");
}

fn case<'a>(name: &str, way: &'static str, site: &'a Site, length: usize) -> Result<Case<'a>> {
    let mut harness = site.worker()?;
    let mut buffer = vec![0; 2048];
    buffer[..LINK].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0]);
    let out = if way == "seal" { UPLINK } else { APPS };
    // Every flow once and more, so that all are known and decided.
    for _ in 0..16 {
        for first in (0..site.flows).step_by(BURST) {
            let count = BURST.min(site.flows - first);
            (first..first + count).for_each(|n| send(&harness, site, way, n, length, &mut buffer));
            harness.settle();
            let arrived = std::iter::from_fn(|| harness.receive(out)).count();
            anyhow::ensure!(arrived == count, "{way}: {arrived} of {count} packets came through");
        }
    }
    let mut random = 7_u64;
    let prepare = move |h: &mut Harness| {
        while h.receive(out).is_some() {}
        for _ in 0..BURST {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            send(h, site, way, (random >> 33) as usize % site.flows, length, &mut buffer);
        }
    };
    let run = |h: &mut Harness| {
        let mut done = 0;
        while done < BURST {
            h.now += 10_000;
            done += h.worker.turn(h.now);
        }
    };
    let title = format!("{way}, {} peers, {length} B, with ports", site.clients.len());
    Ok(Case::batches(name, title, BURST, harness, prepare, run))
}

/// One peer makes a new session; publishing it is what is timed.
fn publish_case<'a>(name: &str, site: &'a mut Site) -> Case<'a> {
    let title = format!("publishing one peer's new session among {}", site.clients.len());
    let mut turn = 0;
    let prepare = move |site: &mut &mut Site| {
        // Initiations of one peer may not come too fast.
        site.now += SECOND / 10;
        turn += 1;
        let peer = turn % site.clients.len();
        let keys = shake(&mut site.device, &site.gateway, peer, site.now);
        let session = keys.map(|keys| Session::new(keys, site.now, Arc::default()));
        site.clients[peer] = session.expect("the first handshake worked");
    };
    let run = |site: &mut &mut Site| assert!(site.publish().is_ok());
    Case::batches(name, title, 1, site, prepare, run)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packets_go_through_both_ways() {
        let (section, targets) = run(Effort::new(1, 1000), 40).unwrap();
        assert_eq!((section.contenders.len(), targets.len()), (22, 4));
        assert!(section.median("seal-40-64").unwrap() > 0.0);
    }
}
