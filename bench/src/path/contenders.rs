//! What stands between client and server. Each is started for its turns and gone after them.

use std::any::Any;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use softdpu::host::ethtool::Ethtool;
use softdpu::io::steer::{AttachMode, FlowKey, FlowVerdict, LoadOptions, Steer};
use softdpu::rig::instance::Instance;

use super::haproxy::Haproxy;
use super::ipvs::Ipvs;
use super::{DIRECT, Hosts};
use crate::net::namespace::ifindex;
use crate::net::topology::{self, Topology};
use crate::veth::contenders::Forwarding;

/// How softdpu is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// When it sleeps (`[workers] idle`).
    pub idle: &'static str,
    pub busy_poll: bool,
    /// Whether a rule asks for a class: then every flow is looked into.
    pub classify: bool,
    /// Whether flows go down into the driver once they are known. Senders must leave no checksums to their devices then.
    pub offload: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a veth from client to server.
    Direct,
    /// `ip_forward`, wherever the kernel does it: in the sender's softirq.
    Kernel,
    /// The same between hosts whose packets are whole when they are sent.
    KernelWhole,
    /// [`Kind::KernelWhole`], and nothing is put together on the way either: packet by packet, as softdpu takes them.
    KernelSingle,
    /// [`Kind::Kernel`], with both ports polled by kernel threads on the tested core.
    KernelOwnCore,
    /// `ip_forward` with nftables' masquerade.
    Nat,
    /// The kernel's IPVS, a service of the tested device.
    Ipvs,
    /// No forwarding: haproxy takes connections and makes others.
    Haproxy,
    Worker(Worker),
    /// The flows are in the steer program's table.
    Xdp,
}

#[derive(Clone, Copy, Debug)]
pub struct Contender {
    pub name: &'static str,
    pub title: &'static str,
    pub kind: Kind,
}

impl Contender {
    /// Where the client finds the server.
    pub fn server(&self) -> Ipv4Addr {
        match self.kind {
            Kind::Direct => DIRECT,
            Kind::Haproxy | Kind::Ipvs => topology::NEAR,
            _ => topology::SINK,
        }
    }

    /// Whether it is measured between hosts of [`Hosts::whole_packets`].
    pub fn needs_whole_packets(&self) -> bool {
        matches!(self.kind, Kind::KernelWhole | Kind::KernelSingle | Kind::Worker(Worker { offload: true, .. }))
    }
}

const ADAPTIVE: Worker = Worker { idle: "adaptive", busy_poll: false, classify: false, offload: false };

pub const DIRECT_VETH: Contender =
    Contender { name: "direct", title: "direct veth, nothing between (limit)", kind: Kind::Direct };
pub const KERNEL: Contender = Contender { name: "kernel", title: "kernel ip_forward", kind: Kind::Kernel };
pub const KERNEL_OWN_CORE: Contender = Contender {
    name: "kernel-own-core",
    title: "kernel ip_forward, NAPI threads on the tested core",
    kind: Kind::KernelOwnCore,
};
pub const KERNEL_WHOLE: Contender = Contender {
    name: "kernel-whole",
    title: "kernel ip_forward, hosts without TSO and checksum offload",
    kind: Kind::KernelWhole,
};
pub const KERNEL_SINGLE: Contender = Contender {
    name: "kernel-single",
    title: "kernel ip_forward, the same without GRO on the way",
    kind: Kind::KernelSingle,
};
pub const NAT: Contender = Contender { name: "nftables", title: "kernel, nftables masquerade", kind: Kind::Nat };
pub const WORKER: Contender =
    Contender { name: "worker", title: "softdpu, worker (idle = adaptive, the default)", kind: Kind::Worker(ADAPTIVE) };
pub const WORKER_BUSY: Contender = Contender {
    name: "worker-busy",
    title: "softdpu, worker, idle = busy",
    kind: Kind::Worker(Worker { idle: "busy", ..ADAPTIVE }),
};
pub const WORKER_INTERRUPT: Contender = Contender {
    name: "worker-interrupt",
    title: "softdpu, worker, idle = interrupt",
    kind: Kind::Worker(Worker { idle: "interrupt", ..ADAPTIVE }),
};
pub const WORKER_BUSY_POLL: Contender = Contender {
    name: "worker-busy-poll",
    title: "softdpu, worker, busy_poll = true",
    kind: Kind::Worker(Worker { busy_poll: true, ..ADAPTIVE }),
};
pub const CLASSIFY: Contender = Contender {
    name: "classify",
    title: "softdpu, worker, with classify",
    kind: Kind::Worker(Worker { classify: true, ..ADAPTIVE }),
};
pub const IPVS: Contender = Contender { name: "ipvs", title: "kernel IPVS, translated addresses", kind: Kind::Ipvs };
pub const HAPROXY: Contender =
    Contender { name: "haproxy", title: "haproxy, TCP proxy on the tested core", kind: Kind::Haproxy };
pub const OFFLOAD: Contender = Contender {
    name: "xdp",
    title: "softdpu, worker and XDP (flows go down), hosts without TSO and checksum offload",
    kind: Kind::Worker(Worker { offload: true, ..ADAPTIVE }),
};
pub const XDP: Contender = Contender { name: "xdp", title: "softdpu, XDP (flow offloaded)", kind: Kind::Xdp };

/// Its number as a protocol of IP.
pub const TCP: u8 = 6;

/// A flow from client to server, for contenders that are told each flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub protocol: u8,
    pub client_port: u16,
    pub server_port: u16,
}

/// What a contender is started with.
pub struct Start<'a> {
    pub hosts: &'a Hosts,
    /// The `softdpu` binary.
    pub softdpu: &'a Path,
    /// The worker's core.
    pub core: usize,
    pub flows: &'a [Flow],
}

/// A contender at work; dropping it stops it.
pub struct Running {
    /// Its control socket, where it has one.
    pub control: Option<PathBuf>,
    _parts: Box<dyn Any>,
}

impl Running {
    pub fn new(parts: impl Any) -> Self {
        Self { control: None, _parts: Box::new(parts) }
    }
}

impl Contender {
    /// # Errors
    /// What keeps it from running: then it is missing.
    pub fn start(&self, s: &Start<'_>) -> Result<Running> {
        let t = &s.hosts.topology;
        match self.kind {
            Kind::Direct => Ok(Running::new(())),
            Kind::Kernel | Kind::KernelWhole | Kind::KernelOwnCore => Ok(Running::new(Forwarding::on(t)?)),
            Kind::KernelSingle => Ok(Running::new((GroOff::on(t)?, Forwarding::on(t)?))),
            Kind::Nat => Ok(Running::new((Masquerade::on(t)?, Forwarding::on(t)?))),
            Kind::Ipvs => Ok(Running::new((Ipvs::on(t, s.flows)?, Forwarding::on(t)?))),
            Kind::Haproxy => Ok(Running::new(Haproxy::start(t, s.flows, s.core)?)),
            Kind::Worker(worker) => {
                let instance = Instance::start(Some(&t.dut), s.softdpu, None, |socket| {
                    policy(&t.near_if, &t.far_if, socket, s.core, worker)
                })
                .context("build it, or --softdpu")?;
                Ok(Running { control: Some(instance.socket()), _parts: Box::new(instance) })
            }
            Kind::Xdp => Ok(Running::new(offloaded(t, s.flows)?)),
        }
    }
}

/// The policy of an instance that forwards everything by its worker.
fn policy(near: &str, far: &str, socket: &Path, core: usize, worker: Worker) -> String {
    let Worker { idle, busy_poll, classify, offload } = worker;
    let checksum = if offload { "trust" } else { "auto" };
    let socket = socket.display();
    // A rule for a class that the traffic never is: each flow waits for its class, then the other rule has it.
    let class = if classify { "[[rule]]\nname = \"of-a-class\"\nclass = [\"quic\"]\naction = \"drop\"\n" } else { "" };
    format!(
        r#"name = "bench"

[control]
socket = "{socket}"

[workers]
cores = [{core}]
idle = "{idle}"

[offload]
enabled = {offload}
min_packets = 2
wait_for_class = false

[[port]]
name = "near"
kind = "xdp"
interface = "{near}"
busy_poll = {busy_poll}
checksum = "{checksum}"

[[port]]
name = "far"
kind = "xdp"
interface = "{far}"
busy_poll = {busy_poll}
checksum = "{checksum}"

[[steer]]
name = "udp"
protocol = "udp"
action = "worker"

[[steer]]
name = "tcp"
protocol = "tcp"
action = "worker"

{class}
[[rule]]
name = "all"
action = "forward"
"#
    )
}

/// The tested device puts no packets together; it does again when this goes.
struct GroOff {
    ports: [String; 2],
    enter: Option<Enter>,
}

impl GroOff {
    fn on(t: &Topology) -> Result<Self> {
        let this = Self { ports: [t.near_if.clone(), t.far_if.clone()], enter: Some(Box::new(t.dut.enter_later()?)) };
        t.dut.run(|| set_gro(&this.ports, false)).context("switching GRO off")?;
        Ok(this)
    }
}

fn set_gro(ports: &[String], on: bool) -> Result<()> {
    let ethtool = Ethtool::open()?;
    Ok(ports.iter().try_for_each(|port| ethtool.set_offload(port, "gro", on))?)
}

impl Drop for GroOff {
    fn drop(&mut self) {
        let Some(enter) = self.enter.take() else { return };
        let ports = std::mem::take(&mut self.ports);
        let back = move || -> Result<()> {
            enter()?;
            set_gro(&ports, true)
        };
        if let Ok(Err(e)) = std::thread::spawn(back).join() {
            eprintln!("softdpu-bench: switching GRO on: {e:#}");
        }
    }
}

/// nftables' table of the tested device; deleted when this goes.
struct Masquerade {
    /// Moves a thread to where the table is.
    enter: Option<Enter>,
}

pub(super) type Enter = Box<dyn FnOnce() -> Result<()> + Send>;

const RULES: &str = "table ip softdpu_bench {
    chain post {
        type nat hook postrouting priority 100
        masquerade
    }
}
";

impl Masquerade {
    fn on(t: &Topology) -> Result<Self> {
        let mut nft = t.dut.command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = nft.spawn().context("nft is not installed")?;
        child.stdin.take().context("nft's input")?.write_all(RULES.as_bytes())?;
        let done = child.wait_with_output()?;
        ensure!(done.status.success(), "nft: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(Self { enter: Some(Box::new(t.dut.enter_later()?)) })
    }
}

impl Drop for Masquerade {
    fn drop(&mut self) {
        let Some(enter) = self.enter.take() else { return };
        let delete = move || -> Result<()> {
            enter()?;
            let done = Command::new("nft").args(["delete", "table", "ip", "softdpu_bench"]).output()?;
            ensure!(done.status.success(), "nft: {}", String::from_utf8_lossy(&done.stderr).trim());
            Ok(())
        };
        if let Ok(Err(e)) = std::thread::spawn(delete).join() {
            eprintln!("softdpu-bench: {e:#}");
        }
    }
}

/// The steer program on both ports, with the flows' both directions in its table.
fn offloaded(t: &Topology, flows: &[Flow]) -> Result<Steer> {
    t.dut.run(|| {
        let mut steer = Steer::load(&LoadOptions { flow_capacity: 1024, ..LoadOptions::default() })?;
        let (near, far) = (ifindex(&t.near_if)?, ifindex(&t.far_if)?);
        for flow in flows {
            let ends = |from: Ipv4Addr, to: Ipv4Addr, sport, dport, station| {
                let mut key =
                    FlowKey { sport, dport, protocol: flow.protocol, version: 4, station, ..FlowKey::default() };
                key.src[..4].copy_from_slice(&from.octets());
                key.dst[..4].copy_from_slice(&to.octets());
                key
            };
            let (c, s) = (flow.client_port, flow.server_port);
            let there = ends(topology::SOURCE, topology::SINK, c, s, topology::NEAR_MAC);
            let back = ends(topology::SINK, topology::SOURCE, s, c, topology::FAR_MAC);
            let out = |ifindex, dst_mac, src_mac| FlowVerdict::Forward { ifindex, mtu: 1500, dst_mac, src_mac };
            steer.flow_insert(&there, out(far, topology::SINK_MAC, topology::FAR_MAC))?;
            steer.flow_insert(&back, out(near, topology::SOURCE_MAC, topology::NEAR_MAC))?;
        }
        steer.attach(near, AttachMode::Native)?;
        steer.attach(far, AttachMode::Native)?;
        Ok(steer)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn policies_hold() {
        for c in [WORKER, WORKER_BUSY, WORKER_INTERRUPT, WORKER_BUSY_POLL, CLASSIFY, OFFLOAD] {
            let Kind::Worker(worker) = c.kind else { panic!("{} is no worker", c.name) };
            let text = policy("near0", "far0", Path::new("/run/x"), 0, worker);
            let policy = softdpu::config::parse(&text, c.name).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(policy.rules.len(), 1 + usize::from(worker.classify));
        }
    }

    #[test]
    fn the_kinds_have_their_way() {
        assert_eq!(DIRECT_VETH.server(), DIRECT);
        assert_eq!(KERNEL.server(), topology::SINK);
        let all = [DIRECT_VETH, KERNEL, KERNEL_OWN_CORE, NAT, WORKER, WORKER_BUSY, WORKER_INTERRUPT, WORKER_BUSY_POLL];
        let names: std::collections::BTreeSet<_> =
            all.iter().chain(&[CLASSIFY, XDP, HAPROXY, IPVS, KERNEL_WHOLE, KERNEL_SINGLE]).map(|c| c.name).collect();
        assert_eq!(names.len(), 14);
        assert_eq!(HAPROXY.server(), topology::NEAR);
        assert!(OFFLOAD.needs_whole_packets() && KERNEL_WHOLE.needs_whole_packets() && !WORKER.needs_whole_packets());
    }
}
