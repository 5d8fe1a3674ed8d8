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

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cores;
use super::namespace::{Namespace, ifindex};
use crate::bpf::programs::{self, Traffic};
use crate::bpf::sys::{Program, Words};

pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 2);
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);
pub const SINK: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 2);
/// UDP port the traffic goes to. Nothing listens.
pub const PORT: u16 = 9;

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

/// What takes the packets at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// An XDP program counts and drops. What came as an skb from a socket is copied once to become an XDP buffer.
    Xdp(Napi),
    /// GRO's NAPI without a program: skbs go up and are dropped by the IP layer. Needed to be there for XDP senders.
    Gro(Napi),
    /// As a veth is by default: no NAPI; XDP senders cannot reach it.
    Plain,
}

#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub near: Napi,
    pub far: Far,
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
    counters: Words,
    _program: Option<(Program, OwnedFd)>,
}

fn mac(m: [u8; 6]) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

impl Topology {
    /// Builds it. `Drop` (or the end of the process) takes everything away.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks veth or XDP.
    pub fn new(setup: Setup) -> Result<Self> {
        let id = std::process::id();
        let [source_if, near_if, far_if, sink_if] = ["sg", "si", "so", "sk"].map(|n| format!("{n}{id}"));
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
        // NAPI on the near side even without a program: the generator sends XDP frames.
        dut.tool("ethtool", &format!("-K {near_if} gro on"))?;
        let counters = Words::new(2).context("making a BPF map (needs CAP_BPF)")?;
        let mut program = None;
        match setup.far {
            Far::Xdp(_) => {
                let p = Program::load("sink", &programs::sink(counters.fd(), PORT))?;
                let link = sink.run(|| Ok(p.attach(ifindex(&sink_if)?)?)).context("attaching the sink")?;
                program = Some((p, link));
            }
            Far::Gro(_) => sink.tool("ethtool", &format!("-K {sink_if} gro on"))?,
            Far::Plain => {}
        }
        let topology = Self { source, dut, sink, source_if, near_if, far_if, sink_if, counters, _program: program };
        topology.place(&topology.dut, &topology.near_if, setup.near)?;
        if let Far::Xdp(napi) | Far::Gro(napi) = setup.far {
            topology.place(&topology.sink, &topology.sink_if, napi)?;
        }
        Ok(topology)
    }

    /// Puts `interface`'s NAPI where `napi` says. Where the thread does not exist yet (no NAPI until a program is
    /// attached), call it again then.
    ///
    /// # Errors
    /// Where the kernel has no threaded NAPI, or its thread does not appear.
    pub fn place(&self, ns: &Namespace, interface: &str, napi: Napi) -> Result<()> {
        let Napi::Thread(core) = napi else { return Ok(()) };
        ns.set(&format!("/sys/class/net/{interface}/threaded"), "1")?;
        let patience = Instant::now() + Duration::from_secs(2);
        loop {
            let threads = cores::napi_threads(interface);
            if !threads.is_empty() {
                for tid in threads {
                    cores::pin(tid, core).context("pinning a NAPI thread")?;
                }
                return Ok(());
            }
            if Instant::now() > patience {
                bail!("no NAPI thread of {interface} appeared");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The kernel forwards (or no longer does).
    ///
    /// # Errors
    /// Where the setting cannot be written.
    pub fn kernel_forwarding(&self, on: bool) -> Result<()> {
        self.dut.set("/proc/sys/net/ipv4/ip_forward", if on { "1" } else { "0" })
    }

    /// The traffic this topology forwards from source to sink.
    pub fn traffic(&self, flows: u16, length: usize) -> Traffic {
        Traffic {
            source_mac: SOURCE_MAC,
            destination_mac: NEAR_MAC,
            source: SOURCE,
            destination: SINK,
            source_port: 10000,
            destination_port: PORT,
            flows,
            length,
        }
    }

    /// Packets that have arrived at the sink so far: as its program counted, or its interface.
    ///
    /// # Errors
    /// Where counters cannot be read.
    pub fn arrived(&self) -> Result<u64> {
        if self._program.is_some() {
            return Ok(self.counters.read()?[1]);
        }
        let path = format!("/sys/class/net/{}/statistics/rx_packets", self.sink_if);
        self.sink.run(|| Ok(std::fs::read_to_string(path)?.trim().parse()?))
    }
}
