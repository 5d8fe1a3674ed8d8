//! softdpu on edge-a, a stranger on edge-b:
//!
//! ```text
//!   client ── edge-a (softdpu) ══ wire ══ edge-b (peer, TUN device, kernel forwards) ── server
//! ```

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use softdpu_testbed::{
    capture::{Capture, describe},
    cleanup::RunDir,
    edge::Edge,
    generator::Generator,
    peers::{
        probe::{Arrived, Iperf, Numbered},
        shuffle::Shuffle,
    },
    policy::EdgeFiles,
    process,
    status::Figures,
    topology::{self, SERVER, Topology},
};

use crate::common::{PATIENCE, binary, traffic};

/// Everything of the client's and server's networks: in clear on the wire it is an escape.
pub const CLEAR: &str = "(net 10.0.0.0/8 or net fd01::/64 or net fd02::/64)";

/// Hosts with nothing running. softdpu is dropped first.
pub struct Lone {
    edge: Option<Edge>,
    pub topology: Topology,
    pub folder: RunDir,
}

impl Lone {
    /// The hosts. `None`, said aloud, without root.
    pub fn new(tag: &str) -> Option<Self> {
        if !softdpu_testbed::is_root() {
            eprintln!("SKIPPED: {tag} needs root for network namespaces");
            return None;
        }
        let topology = Topology::new(&topology::Options::new(tag)).unwrap();
        Some(Self { edge: None, topology, folder: RunDir::new(tag).unwrap() })
    }

    /// Starts softdpu on edge-a.
    pub fn start(&mut self, files: &EdgeFiles) {
        self.edge = Some(Edge::start(binary(), &self.topology.edge_a, files).unwrap());
    }

    pub fn edge(&mut self) -> &mut Edge {
        self.edge.as_mut().expect("softdpu runs")
    }

    pub fn figures(&mut self) -> Figures {
        Figures::read(&self.edge().status().unwrap())
    }

    /// Captures what must not be on the wire.
    pub fn watch(&self) -> Capture {
        Capture::start(&self.topology.wire, "wire", CLEAR, 128, 0, &self.folder).unwrap()
    }

    /// Waits until a ping of the side that is to speak first is answered. The first packets may be lost to negotiating.
    pub fn first_packet(&self, from_client: bool) {
        let (host, to) =
            if from_client { (&self.topology.client, SERVER[0]) } else { (&self.topology.server, topology::CLIENT[0]) };
        let answered = process::eventually(Duration::from_secs(12), || {
            let mut ping = host.command("ping");
            ping.args(["-n", "-c", "1", "-W", "0.5", to]);
            process::run(&mut ping, PATIENCE).ok()?.ok().ok()
        });
        assert!(answered.is_some(), "no answer through the tunnel; softdpu counts {:?}", self.counts());
    }

    fn counts(&self) -> Option<(u64, u64, std::collections::BTreeMap<String, u64>)> {
        let figures = Figures::read(&self.edge.as_ref()?.status().ok()?);
        Some((figures.packets_encrypted, figures.packets_decrypted, figures.drops_by_reason))
    }

    /// TCP and UDP of both families there and back with checked content, and iperf3 both ways; nothing in clear, nothing lost
    /// without a reason. `mtu` of the peer's TUN device.
    pub fn exchange(&mut self, allowed: &[&str]) {
        let clear = self.watch();
        let before = self.figures();
        for v6 in [false, true] {
            self.topology.reachable(SERVER[usize::from(v6)], PATIENCE).unwrap();
            traffic::tcp(&self.topology, v6, &traffic::bytes(1, 1 << 20, true));
            traffic::tcp(&self.topology, v6, &traffic::bytes(2, 1 << 20, false));
            traffic::udp(&self.topology, v6, (0..60).map(|step| 1 + step * 21));
        }
        let iperf = Iperf::start(&self.topology, &self.folder).unwrap();
        for reverse in [false, true] {
            let tcp = iperf.tcp(&self.topology, false, reverse, Duration::from_secs(1)).unwrap();
            eprintln!("  iperf3{}: {:.2} Gbit/s", if reverse { " back" } else { "" }, tcp.gbit_s);
        }
        let clear: Vec<String> = clear.stop().unwrap().frames.iter().map(describe).collect();
        assert!(clear.is_empty(), "in clear: {:#?}", &clear[..clear.len().min(5)]);
        let after = self.figures();
        assert!(after.packets_encrypted > before.packets_encrypted + 1000, "{after:?}");
        assert!(after.packets_decrypted > before.packets_decrypted + 1000, "{after:?}");
        assert_eq!(after.escaped_bytes, 0);
        let mut odd = after.unexplained();
        odd.retain(|reason, _| !allowed.contains(&reason.as_str()));
        assert!(odd.is_empty(), "{odd:?}");
        assert_eq!(traffic::checksum_errors(&self.topology), 0);
        let balanced = process::eventually(PATIENCE, || self.figures().balanced().then_some(()));
        assert!(balanced.is_some(), "frames are missing: {:?}", self.figures());
        assert!(self.edge().alive());
    }

    /// Sends again, unchanged, every tunnel packet that the peer sent us during an exchange; each must be counted as `replay` and
    /// none may come through. `filter`: tcpdump's, for the tunnel's data packets.
    pub fn replay(&mut self, filter: &str) {
        // What raw sockets see must be whole, checksum included.
        let mut ethtool = self.topology.edge_b.command("ethtool");
        ethtool.args(["-K", "uplink", "tx", "off", "tso", "off", "gso", "off"]);
        process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
        let capture = Capture::start(&self.topology.wire, "to-b", filter, 0, 0, &self.folder).unwrap();
        traffic::tcp(&self.topology, false, &traffic::bytes(3, 200_000, false));
        traffic::udp(&self.topology, true, (0..100).map(|step| 1 + step * 13));
        let seen = capture.stop().unwrap();
        assert!(seen.frames.len() > 200 && seen.lost == 0, "{} frames, {} lost", seen.frames.len(), seen.lost);
        let before = self.figures();
        let replays = |figures: &Figures| figures.drops_by_reason.get("replay").copied().unwrap_or(0);
        let generator = Generator::open(&self.topology.wire, "to-a").unwrap();
        let mut sent = replays(&before);
        for frames in seen.frames.chunks(64) {
            sent += generator.send(frames.iter().map(|frame| frame.bytes.as_slice())).unwrap();
            process::eventually(PATIENCE, || (replays(&self.figures()) >= sent).then_some(()));
        }
        let after = self.figures();
        assert_eq!(replays(&after) - replays(&before), seen.frames.len() as u64, "{:?}", after.drops_by_reason);
        assert_eq!(after.packets_decrypted, before.packets_decrypted);
        // It goes on as if nothing had been.
        traffic::tcp(&self.topology, false, &traffic::bytes(4, 50_000, false));
    }

    /// Numbered datagrams both ways over a wire that delivers out of order, within the window: none is lost.
    pub fn reordered(&mut self) {
        let wire = Shuffle::start(&self.topology, 32).unwrap();
        for reverse in [false, true] {
            let load = Numbered { rate: 4000, length: 400, time: Duration::from_secs(1), v6: false, reverse };
            let all = load.run(&self.topology, || Ok(())).unwrap();
            assert!(all.missing() == 0 && all.duplicates == 0, "reverse {reverse}: {all:?}");
            assert!(all.overtaken > 500, "the wire did not shuffle: {all:?}");
        }
        assert!(wire.moved() > 1000);
        drop(wire);
        let figures = self.figures();
        assert_eq!(figures.drops_by_reason.get("replay"), None, "{:?}", figures.drops_by_reason);
    }

    /// Numbered datagrams while `meanwhile` runs.
    pub fn numbered(&mut self, load: Numbered, meanwhile: impl FnOnce(&mut Edge) -> anyhow::Result<()>) -> Arrived {
        let edge = self.edge.as_mut().expect("softdpu runs");
        load.run(&self.topology, || meanwhile(edge)).unwrap()
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        if let Some(edge) = self.edge.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!("softdpu said:\n{}", process::tail(&edge.said(), 40));
        }
    }
}
