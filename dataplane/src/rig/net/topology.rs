//! The rig's hosts:
//!
//! ```text
//!  source            device under test            sink
//!  ┌──────────┐ veth ┌──────────────────┐ veth ┌──────────┐
//!  │ out      ├──────┤ in    →    out   ├──────┤ in       │
//!  └──────────┘      └──────────────────┘      └──────────┘
//!   10.71.0.2         10.71.0.1  10.72.0.1      10.72.0.2
//! ```
//!
//! Interface names carry the process id, so that the kernel threads which poll them (threaded NAPI) can be told apart
//! from those of another run on the machine.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cores;
use super::namespace::{Namespace, ifindex};
use crate::host::ethtool::Ethtool;
use crate::rig::bpf::programs::{self, Traffic};
use crate::rig::bpf::sys::{Program, Words};

pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 2);
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);
pub const SINK: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 2);
/// UDP port the traffic goes to. Nothing listens.
pub const PORT: u16 = 9;
/// First source port of the traffic.
pub const SOURCE_PORT: u16 = 10000;

/// MAC addresses, fixed so that programs can be built before the links are.
pub const SOURCE_MAC: [u8; 6] = [0x02, 0x71, 0, 0, 0, 2];
pub const NEAR_MAC: [u8; 6] = [0x02, 0x71, 0, 0, 0, 1];
pub const FAR_MAC: [u8; 6] = [0x02, 0x72, 0, 0, 0, 1];
pub const SINK_MAC: [u8; 6] = [0x02, 0x72, 0, 0, 0, 2];
/// What the sink really has: packets that reach its stack are for "another host", so IP drops them first thing and
/// answers nothing.
const SINK_TRUE_MAC: [u8; 6] = [0x02, 0x72, 0, 0, 0, 3];

/// Who polls a receiving veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Napi {
    /// Softirq, on whichever core sends to it.
    Inline,
    /// A kernel thread, pinned to this core.
    Thread(usize),
}

/// The hosts, up and addressed.
pub struct Topology {
    pub source: Namespace,
    pub dut: Namespace,
    pub sink: Namespace,
    pub source_if: String,
    pub near_if: String,
    pub far_if: String,
    pub sink_if: String,
    /// The sink interface's `rx_packets`.
    arrivals: File,
    program: Program,
    _counters: Words,
}

/// While it lives, packets are counted and dropped by an XDP program at the sink. Cheapest for frames that came by XDP; what
/// came as an skb from a socket the kernel would first copy, so those contenders do without.
pub struct XdpSink {
    _link: OwnedFd,
}

fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

impl Topology {
    /// Builds it, with the near link polled by `near`. `label` (one letter) tells it from others of this process. `Drop`
    /// (or the end of the process) takes everything away.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks veth or XDP.
    pub fn new(label: char, near: Napi) -> Result<Self> {
        let id = std::process::id();
        let [source_if, near_if, far_if, sink_if] = ["g", "i", "o", "k"].map(|n| format!("s{label}{n}{id}"));
        let (source, dut, sink) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        let pairs = [
            (&dut, &near_if, NEAR_MAC, &source, &source_if, SOURCE_MAC),
            (&dut, &far_if, FAR_MAC, &sink, &sink_if, SINK_TRUE_MAC),
        ];
        for (a, a_if, a_mac, b, b_if, b_mac) in pairs {
            // One queue each way: one core is under test.
            a.ip(&format!(
                "link add {a_if} address {} numrxqueues 1 numtxqueues 1 type veth peer name {b_if} address {} numrxqueues 1 numtxqueues 1 netns {}",
                mac(a_mac),
                mac(b_mac),
                b.path()
            ))?;
        }
        for (ns, interface, address) in
            [(&source, &source_if, SOURCE), (&dut, &near_if, NEAR), (&dut, &far_if, FAR), (&sink, &sink_if, SINK)]
        {
            // No IPv6: its router solicitations and duplicate checks would be counted as traffic.
            ns.set(&format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1").ok();
            ns.ip(&format!("address add {address}/24 dev {interface}"))?;
            ns.ip("link set lo up")?;
            ns.ip(&format!("link set {interface} up"))?;
        }
        dut.ip(&format!("neighbour replace {SINK} lladdr {} dev {far_if} nud permanent", mac(SINK_MAC)))?;
        dut.ip(&format!("neighbour replace {SOURCE} lladdr {} dev {near_if} nud permanent", mac(SOURCE_MAC)))?;
        // NAPI on both receiving sides even without a program: XDP frames come to them.
        for (ns, interface) in [(&dut, &near_if), (&sink, &sink_if)] {
            ns.run(|| Ok(Ethtool::open()?.set_offload(interface, "gro", true)?)).context("switching GRO on")?;
        }
        let counters = Words::new(2).context("making a BPF map (needs CAP_BPF)")?;
        let program = Program::load("sink", &programs::sink(counters.fd(), PORT))?;
        let path = format!("/sys/class/net/{sink_if}/statistics/rx_packets");
        let arrivals = sink.run(|| Ok(File::open(&path)?)).context("opening the sink's counter")?;
        let topology =
            Self { source, dut, sink, source_if, near_if, far_if, sink_if, arrivals, program, _counters: counters };
        topology.place(near)?;
        Ok(topology)
    }

    /// Switches the sink's XDP program on.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn xdp_sink(&self) -> Result<XdpSink> {
        let link = self.sink.run(|| Ok(self.program.attach(ifindex(&self.sink_if)?)?)).context("attaching the sink")?;
        Ok(XdpSink { _link: link })
    }

    /// Attaches `program` to the near port in the driver, until the link is dropped.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach_near(&self, program: &Program) -> Result<OwnedFd> {
        self.dut.run(|| Ok(program.attach(ifindex(&self.near_if)?)?)).context("attaching to the near port")
    }

    /// Puts the near port's NAPI where `napi` says.
    fn place(&self, napi: Napi) -> Result<()> {
        let Napi::Thread(core) = napi else { return Ok(()) };
        let interface = &self.near_if;
        self.dut.set(&format!("/sys/class/net/{interface}/threaded"), "1")?;
        let patience = Instant::now() + Duration::from_secs(2);
        loop {
            let threads = cores::napi_threads(interface);
            if !threads.is_empty() {
                for tid in threads {
                    cores::pin(tid, core).context("pinning a NAPI thread")?;
                    cores::prefer(tid);
                }
                return Ok(());
            }
            if Instant::now() > patience {
                bail!("no NAPI thread of {interface} appeared");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The traffic this topology forwards from source to sink.
    pub fn traffic(&self, flows: u32, length: usize) -> Traffic {
        Traffic {
            source_mac: SOURCE_MAC,
            destination_mac: NEAR_MAC,
            source: SOURCE,
            destination: SINK,
            source_port: SOURCE_PORT,
            destination_port: PORT,
            flows,
            length,
        }
    }

    /// Packets that have arrived at the sink so far, whoever took them there (its program too is behind this counter).
    ///
    /// # Errors
    /// Where the counter cannot be read.
    pub fn arrived(&self) -> Result<u64> {
        let mut text = [0u8; 24];
        let n = self.arrivals.read_at(&mut text, 0).context("reading the sink's counter")?;
        Ok(std::str::from_utf8(&text[..n])?.trim().parse()?)
    }
}
