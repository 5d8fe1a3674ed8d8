//! A topology with softdpu on both edges, for the end-to-end tests.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

pub mod plain;
pub mod stream;
pub mod traffic;

use std::{path::Path, time::Duration};

use softdpu_testbed::{
    bpf,
    capture::{Capture, NOT_ESP, Seen, describe},
    cleanup::RunDir,
    edge::Edge,
    netns::NetNs,
    policy::{self, EdgeFiles},
    process::{self, eventually},
    status::Figures,
    topology::{self, SERVER, Topology},
};

/// Time for what should take a moment; test machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_softdpu"))
}

/// Which of the two edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    A,
    B,
}

/// Hosts, files and the running edges. Edges are dropped first.
#[derive(Debug)]
pub struct World {
    edges: [Option<Edge>; 2],
    files: [EdgeFiles; 2],
    pub topology: Topology,
    pub folder: RunDir,
}

/// What to change of the usual before a world is made.
#[derive(Debug)]
pub struct Setup {
    pub topology: topology::Options,
    pub policy: policy::Options,
}

impl World {
    /// Hosts and policies, nothing running yet. `None`, said aloud, without root.
    pub fn idle(tag: &str, change: impl FnOnce(&mut Setup)) -> Option<Self> {
        if !softdpu_testbed::is_root() {
            eprintln!("SKIPPED: {tag} needs root for network namespaces");
            return None;
        }
        let mut setup = Setup { topology: topology::Options::new(tag), policy: policy::Options::default() };
        change(&mut setup);
        setup.topology.queues = setup.policy.queues;
        let folder = RunDir::new(tag).unwrap();
        let files = policy::write(&folder, &setup.policy).unwrap();
        let topology = Topology::new(&setup.topology).unwrap();
        Some(Self { edges: [None, None], files, topology, folder })
    }

    /// Hosts with softdpu running on both edges, and the server in reach.
    pub fn running(tag: &str, change: impl FnOnce(&mut Setup)) -> Option<Self> {
        let mut world = Self::idle(tag, change)?;
        world.start(At::A);
        world.start(At::B);
        world.topology.reachable(SERVER[0], PATIENCE).unwrap();
        Some(world)
    }

    /// The host of an edge.
    pub fn host(&self, at: At) -> &NetNs {
        match at {
            At::A => &self.topology.edge_a,
            At::B => &self.topology.edge_b,
        }
    }

    /// Policy and socket of an edge.
    pub fn files(&self, at: At) -> &EdgeFiles {
        &self.files[at as usize]
    }

    /// Starts softdpu on an edge and waits until it answers.
    pub fn start(&mut self, at: At) {
        self.start_with(at, &[]);
    }

    /// The same with more words for `run`.
    pub fn start_with(&mut self, at: At, words: &[&str]) {
        let edge = Edge::start_with(binary(), self.host(at), self.files(at), words).unwrap();
        self.edges[at as usize] = Some(edge);
    }

    /// A running edge.
    pub fn edge(&mut self, at: At) -> &mut Edge {
        self.edges[at as usize].as_mut().expect("the edge runs")
    }

    /// Takes an edge out, to stop or kill it.
    pub fn take(&mut self, at: At) -> Edge {
        self.edges[at as usize].take().expect("the edge runs")
    }

    /// What an edge counts now.
    pub fn figures(&mut self, at: At) -> Figures {
        Figures::read(&self.edge(at).status().unwrap())
    }

    /// Captures everything on the wire between the edges that is not ESP.
    pub fn watch_for_clear(&self) -> Capture {
        Capture::start(&self.topology.wire, "wire", NOT_ESP, 128, 0, &self.folder).unwrap()
    }

    /// Captures the ESP on the wire (bare or in UDP), up to `limit` whole frames.
    pub fn watch_esp(&self, limit: u32) -> Capture {
        let filter = "ip proto 50 or ip6 proto 50 or udp port 4500";
        Capture::start(&self.topology.wire, "wire", filter, 0, limit, &self.folder).unwrap()
    }

    /// Pings the server and fails the test when it does not answer.
    pub fn ping(&self, arguments: &[&str]) -> process::Said {
        let mut ping = self.topology.client.command("ping");
        process::run(ping.args(["-n"]).args(arguments), PATIENCE).unwrap()
    }

    /// No XDP program on either port of an edge.
    pub fn no_xdp(&self, at: At) -> bool {
        ["apps", "uplink"].iter().all(|link| !bpf::xdp_attached(self.host(at), link).unwrap())
    }

    /// Asserts that the account of frames balances once traffic has come to rest, and that both edges live.
    pub fn assert_sound(&mut self) {
        for at in [At::A, At::B] {
            assert!(self.edge(at).alive(), "{at:?} ended:\n{}", self.edge(at).said());
            let balanced = eventually(PATIENCE, || self.figures(at).balanced().then_some(()));
            assert!(balanced.is_some(), "{at:?}: frames are missing: {:?}", self.figures(at));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for edge in self.edges.iter().flatten() {
                eprintln!("an edge said:\n{}", process::tail(&edge.said(), 40));
            }
        }
    }
}

/// Asserts that a capture of [`World::watch_for_clear`] saw nothing and missed nothing.
pub fn assert_nothing_in_clear(seen: &Seen) {
    let examples: Vec<String> = seen.frames.iter().take(10).map(describe).collect();
    assert!(examples.is_empty(), "{} frames are not ESP: {examples:#?}", seen.frames.len());
    assert_eq!(seen.lost, 0, "the capture missed frames");
}
