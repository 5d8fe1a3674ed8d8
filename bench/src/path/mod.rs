//! A path between two hosts with sockets of their own, and one thing at a time between them:
//!
//! ```text
//!   client ──veth── device under test ──veth── server
//!      └──────────────────veth────────────────────┘
//! ```
//!
//! The second way is the limit: the same ends and nothing between. Who measures on it (`latency`, `connect`, `https`) decides
//! what goes over it.

pub mod ask;
pub mod contenders;
pub mod cpu;
pub mod haproxy;
pub mod ipvs;
pub mod turns;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
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
    /// The server's interface on the way that has nothing between.
    direct_if: String,
}

/// What the server's interface counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Bytes to the server.
    In,
    /// Bytes from the server.
    Out,
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
        // A client may have this many connections; a port that was used a moment ago is not used again at once.
        for host in [&t.source, &t.dut] {
            host.set("/proc/sys/net/ipv4/ip_local_port_range", "10240 60999")?;
        }
        Ok(Self { topology, direct_arrivals, direct_if: theirs })
    }

    /// The same where client and server leave nothing to their devices: packets are whole, with checksums, when they are sent, and of
    /// the size that a wire takes. What only moves packets on, as XDP does, needs them so.
    ///
    /// # Errors
    /// As [`Hosts::new`].
    pub fn whole_packets(label: char) -> Result<Self> {
        let hosts = Self::new(label, Napi::Inline)?;
        let t = &hosts.topology;
        for (host, interface) in [(&t.source, &t.source_if), (&t.sink, &t.sink_if)] {
            let off = || {
                let ethtool = Ethtool::open()?;
                ["tso", "gso", "tx"].iter().try_for_each(|what| ethtool.set_offload(interface, what, false))?;
                Ok(())
            };
            host.run(off).with_context(|| format!("switching what {interface} does for its host off"))?;
        }
        Ok(hosts)
    }

    /// Bytes at the server's interface so far, by the way with nothing between or by the other.
    ///
    /// # Errors
    /// Where the counter cannot be read.
    pub fn carried(&self, direct: bool, what: Carried) -> Result<u64> {
        let t = &self.topology;
        let interface = if direct { &self.direct_if } else { &t.sink_if };
        let counter = if what == Carried::In { "rx_bytes" } else { "tx_bytes" };
        let path = format!("/sys/class/net/{interface}/statistics/{counter}");
        let text = t.sink.run(|| Ok(std::fs::read_to_string(&path)?)).context("reading the server's counter")?;
        Ok(text.trim().parse()?)
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

/// Says how to get a program that is not there.
pub fn not_installed(program: &str, package: &str) -> String {
    format!("{program} is not installed (apt-get install --no-install-recommends {package})")
}

/// Where a program is, if it is there. Debian keeps some in folders that only root looks into.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// What to start for a program: where it is, or its name for the error to have.
pub fn program(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| name.into())
}

/// A command that runs on `core`, in front of what else wants it.
pub fn on_core(mut command: Command, core: usize) -> Command {
    // SAFETY: system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            cores::pin(0, core)?;
            cores::prefer(0);
            Ok(())
        })
    };
    command
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
