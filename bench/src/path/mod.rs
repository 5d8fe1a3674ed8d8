//! A path between two hosts with sockets of their own, and one thing at a time between them:
//!
//! ```text
//!   client ──veth── device under test ──veth── server
//!      └──────────────────veth────────────────────┘
//! ```
//!
//! The second way is the limit: the same ends and nothing between. Who measures on it (`latency`, `connect`, `https`) decides
//! what goes over it.

pub mod contenders;
pub mod cpu;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use softdpu::host::ethtool::Ethtool;

use crate::net::cores;
use crate::net::topology::{self, Napi, Topology};

/// The server over the path that has nothing between.
pub const DIRECT: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 1);
const DIRECT_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 73, 0, 2);

/// The hosts, with stacks that answer.
pub struct Hosts {
    pub topology: Topology,
    direct_arrivals: File,
}

impl Hosts {
    /// As [`Topology::new`]; with a core in `napi`, both of the tested device's ports are polled there.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks veth.
    pub fn new(label: char, napi: Napi) -> Result<Self> {
        let topology = Topology::new(label, napi)?;
        let t = &topology;
        let mac = |m: [u8; 6]| m.map(|b| format!("{b:02x}")).join(":");
        // The topology's sink lets everything by; this one is to take what is sent to it.
        t.sink.ip(&format!("link set {} address {}", t.sink_if, mac(topology::SINK_MAC)))?;
        let far = [
            (&t.source, &t.source_if, "10.72.0.0/24", topology::NEAR, topology::NEAR_MAC),
            (&t.sink, &t.sink_if, "10.71.0.0/24", topology::FAR, topology::FAR_MAC),
        ];
        for (host, interface, net, gateway, station) in far {
            host.ip(&format!("neighbour replace {gateway} lladdr {} dev {interface} nud permanent", mac(station)))?;
            host.ip(&format!("route add {net} via {gateway} dev {interface}"))?;
        }
        // Frames come by XDP to the client, too, and to the far port.
        for (host, interface) in [(&t.source, &t.source_if), (&t.dut, &t.far_if)] {
            host.run(|| Ok(Ethtool::open()?.set_offload(interface, "gro", true)?)).context("switching GRO on")?;
        }
        if let Napi::Thread(core) = napi {
            poll_on(t, &t.far_if, core)?;
            // A veth hands what a socket sent to NAPI only where GRO can gain by it: not while the sender has TSO.
            for (host, interface) in [(&t.source, &t.source_if), (&t.sink, &t.sink_if)] {
                host.run(|| Ok(Ethtool::open()?.set_offload(interface, "tso", false)?)).context("switching TSO off")?;
            }
        }
        let id = std::process::id();
        let (ours, theirs) = (format!("s{label}x{id}"), format!("s{label}y{id}"));
        t.source.ip(&format!("link add {ours} type veth peer name {theirs} netns {}", t.sink.path()))?;
        for (host, interface, address) in [(&t.source, &ours, DIRECT_CLIENT), (&t.sink, &theirs, DIRECT)] {
            host.set(&format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1").ok();
            host.ip(&format!("address add {address}/24 dev {interface}"))?;
            host.ip(&format!("link set {interface} up"))?;
        }
        let path = format!("/sys/class/net/{theirs}/statistics/rx_packets");
        let direct_arrivals = t.sink.run(|| Ok(File::open(&path)?)).context("opening the server's counter")?;
        Ok(Self { topology, direct_arrivals })
    }

    /// Packets that have arrived at the server so far, by the way with nothing between or by the other.
    ///
    /// # Errors
    /// Where the counter cannot be read.
    pub fn arrived(&self, direct: bool) -> Result<u64> {
        if !direct {
            return self.topology.arrived();
        }
        let mut text = [0u8; 24];
        let n = self.direct_arrivals.read_at(&mut text, 0).context("reading the server's counter")?;
        Ok(std::str::from_utf8(&text[..n])?.trim().parse()?)
    }
}

/// Has a kernel thread on `core` poll `interface`.
fn poll_on(t: &Topology, interface: &str, core: usize) -> Result<()> {
    t.dut.set(&format!("/sys/class/net/{interface}/threaded"), "1")?;
    let patience = Instant::now() + Duration::from_secs(2);
    loop {
        let threads = cores::napi_threads(interface);
        for &tid in &threads {
            cores::pin(tid, core).context("pinning a NAPI thread")?;
            cores::prefer(tid);
        }
        if !threads.is_empty() {
            return Ok(());
        }
        if Instant::now() > patience {
            bail!("no NAPI thread of {interface} appeared");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
