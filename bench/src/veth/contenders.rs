//! Who forwards. Each is started for its turn and gone after it.

use std::any::Any;

use anyhow::Result;

use super::{Options, worker};
use crate::bpf::asm::{Asm, Op, Reg};
use crate::bpf::programs;
use crate::bpf::sys::{Program, Words};
use crate::net::namespace::ifindex;
use crate::net::topology::{PORT, Topology};

/// Where the near port's softirq work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the generator's core, as veths do.
    Sender,
    /// By a kernel thread on the tested core.
    OwnCore,
}

pub struct Start<'a> {
    pub topology: &'a Topology,
    pub options: &'a Options,
}

/// A contender at work. Dropping it stops it.
pub struct Running {
    /// Counts where packets do not reach the sink.
    own_count: Option<Words>,
    /// Of softdpu, where it is a process of its own.
    pub pid: Option<u32>,
    _parts: Box<dyn Any>,
}

impl Running {
    pub fn new(parts: impl Any) -> Self {
        Self { own_count: None, pid: None, _parts: Box::new(parts) }
    }

    /// A process of softdpu.
    pub fn process(pid: u32, parts: impl Any) -> Self {
        Self { pid: Some(pid), ..Self::new(parts) }
    }

    /// Packets delivered so far.
    pub fn count(&self, topology: &Topology) -> Result<u64> {
        match &self.own_count {
            Some(words) => Ok(words.read()?[1]),
            None => topology.arrived(),
        }
    }
}

pub struct Contender {
    pub name: &'static str,
    pub title: &'static str,
    pub placement: Placement,
    /// Packets per second offered; `None`: as many as it takes. Those that drop what they cannot take get a bounded
    /// offer, well above what any of them forwards.
    pub offered: Option<f64>,
    /// Whether the sink counts by XDP (see [`crate::net::topology::XdpSink`]).
    pub xdp_sink: bool,
    pub start: fn(&Start<'_>) -> Result<Running>,
}

const OFFERED: Option<f64> = Some(4e6);

/// All contenders, in the order of their turns.
pub fn all() -> Vec<Contender> {
    let c = |name, title, placement, offered, xdp_sink, start: fn(&Start<'_>) -> Result<Running>| Contender {
        name,
        title,
        placement,
        offered,
        xdp_sink,
        start,
    };
    use Placement::{OwnCore, Sender};
    vec![
        c("generator", "generator's limit (dropped at the near port)", Sender, None, false, drop_near),
        c("kernel", "kernel ip_forward, in the sender's softirq", Sender, None, false, kernel),
        c("kernel-own-core", "kernel ip_forward, on the tested core", OwnCore, OFFERED, false, kernel),
        c("bare", "bare AF_XDP receive and send", Sender, OFFERED, false, worker::bare),
        c("worker", "softdpu, worker forward", Sender, OFFERED, false, worker::worker),
        c("xdp", "softdpu, XDP forward", Sender, None, true, worker::xdp),
        c("bare-xdp", "bare XDP redirect", Sender, None, true, bare_xdp),
    ]
}

fn drop_near(s: &Start<'_>) -> Result<Running> {
    let words = Words::new(2)?;
    let program = Program::load("drop", &programs::sink(words.fd(), PORT))?;
    let link = s.topology.attach_near(&program)?;
    Ok(Running { pid: None, own_count: Some(words), _parts: Box::new((program, link)) })
}

/// The kernel's forwarding; switched off again when this goes.
pub struct Forwarding(std::fs::File);

impl Forwarding {
    /// # Errors
    /// Where it cannot be switched on.
    pub fn on(topology: &Topology) -> Result<Self> {
        use std::os::unix::fs::FileExt;
        let file = topology
            .dut
            .run(|| Ok(std::fs::OpenOptions::new().write(true).open("/proc/sys/net/ipv4/ip_forward")?))?;
        file.write_at(b"1", 0)?;
        Ok(Self(file))
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        use std::os::unix::fs::FileExt;
        self.0.write_at(b"0", 0).ok();
    }
}

fn kernel(s: &Start<'_>) -> Result<Running> {
    Ok(Running::new(Forwarding::on(s.topology)?))
}

/// A program that redirects whatever comes, and looks at nothing.
///
/// # Errors
/// Where it cannot be loaded.
pub fn bare_xdp(s: &Start<'_>) -> Result<Running> {
    let out = s.topology.dut.run(|| ifindex(&s.topology.far_if))?;
    let mut a = Asm::new();
    a.alu(Op::Mov, Reg::R1, out as i32).alu(Op::Mov, Reg::R2, 0).call(programs::HELPER_REDIRECT).exit();
    let program = Program::load("redirect", &a.finish())?;
    let link = s.topology.attach_near(&program)?;
    Ok(Running::new((program, link)))
}
