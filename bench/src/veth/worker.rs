//! softdpu itself as a contender, and the bare loop that is its limit.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use softdpu::io::bare::{Touch, forward_loop};
use softdpu::io::pool::FramePool;
use softdpu::io::port::PortIo;
use softdpu::io::steer::{AttachMode, FlowVerdict, LoadOptions, Steer};
use softdpu::io::umem::Umem;
use softdpu::io::xdp::{XdpSpec, open_ports};
use softdpu::rig::instance::Instance;

use super::contenders::{Running, Start};
use crate::bpf::programs;
use crate::bpf::sys::{Program, SocketMap};
use crate::net::cores;
use crate::net::namespace::ifindex;
use crate::net::topology::{FAR_MAC, SINK_MAC, Topology};
use crate::steer::flow_key;

/// Frames and batch of the bare loop: a worker's defaults.
const FRAMES: u32 = 8192;
const BATCH: usize = 64;

/// Starts `softdpu run` in the topology's middle, with both ports and one rule that forwards.
///
/// # Errors
/// Where it ends, or says nothing within ten seconds.
pub fn start(topology: &Topology, binary: &std::path::Path, core: usize) -> Result<Instance> {
    Instance::start(Some(&topology.dut), binary, None, |socket| {
        policy_text(&topology.near_if, &topology.far_if, socket, core)
    })
    .context("build it, or --softdpu")
}

fn policy_text(near: &str, far: &str, socket: &std::path::Path, core: usize) -> String {
    let socket = socket.display();
    format!(
        r#"name = "bench"

[control]
socket = "{socket}"

[workers]
cores = [{core}]

[[port]]
name = "near"
kind = "xdp"
interface = "{near}"

[[port]]
name = "far"
kind = "xdp"
interface = "{far}"

[[steer]]
name = "udp"
protocol = "udp"
action = "worker"

[[rule]]
name = "all"
action = "forward"
"#
    )
}

pub fn worker(s: &Start<'_>) -> Result<Running> {
    let instance = start(s.topology, &s.options.softdpu, s.options.dut_core)?;
    Ok(Running::process(instance.pid(), instance))
}

/// The bare loop's thread.
struct Bare {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
    /// Puts every packet of the near port into the loop's socket.
    _redirect: (Program, OwnedFd),
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(e))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("bare loop: {e:#}");
        }
    }
}

/// softdpu's own sockets and rings with nothing between: the limit of the worker.
pub fn bare(s: &Start<'_>) -> Result<Running> {
    let topology = s.topology;
    let sockets = SocketMap::new(1).context("making an XSKMAP")?;
    let program = Program::load("to_socket", &programs::to_socket(sockets.fd()))?;
    let link = topology.attach_near(&program)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, is_ready) = mpsc::channel();
    let (core, stop_here, enter) = (s.options.dut_core, stop.clone(), topology.dut.enter_later()?);
    let (near, far) = (topology.near_if.clone(), topology.far_if.clone());
    let thread = std::thread::Builder::new().name("bare".into()).spawn(move || {
        enter()?;
        cores::pin(0, core)?;
        cores::prefer(0);
        // As many frames as a worker has by default.
        let mut pool = FramePool::new(Umem::map(FRAMES, 2048, false)?);
        let ports = open_ports(&mut pool, &[XdpSpec::new(&near, 0), XdpSpec::new(&far, 0)])?;
        let mut ports = ports.into_iter().map(PortIo::Xdp);
        let (Some(mut a), Some(mut b)) = (ports.next(), ports.next()) else { bail!("two ports were asked for") };
        ready.send(a.fd().context("the port's socket")?).ok();
        let moved = forward_loop(&mut a, &mut b, &mut pool, BATCH, Touch::SwapMacs, &stop_here);
        a.close(&mut pool)?;
        b.close(&mut pool)?;
        Ok(moved)
    })?;
    let mut bare = Bare { stop, thread: Some(thread), _redirect: (program, link) };
    match is_ready.recv_timeout(Duration::from_secs(5)) {
        Ok(socket) => sockets.set(0, socket)?,
        Err(_) => {
            bare.stop.store(true, Ordering::Relaxed);
            match bare.thread.take().map(JoinHandle::join) {
                Some(Ok(Err(e))) => return Err(e),
                _ => bail!("the bare loop did not start"),
            }
        }
    }
    Ok(Running::new((bare, sockets)))
}

/// softdpu's steer program forwards in the driver: every flow is in its table.
///
/// # Errors
/// Where it cannot be loaded, or the flows do not fit.
pub fn xdp(s: &Start<'_>) -> Result<Running> {
    xdp_with(s, s.options.flows)
}

/// The same with `entries` flows in the table, the traffic's among them.
///
/// # Errors
/// As [`xdp`].
pub fn xdp_with(s: &Start<'_>, entries: u32) -> Result<Running> {
    let topology = s.topology;
    let steer = topology.dut.run(|| {
        let mut steer = table(entries)?;
        fill(&mut steer, entries, ifindex(&topology.far_if)?)?;
        steer.attach(ifindex(&topology.near_if)?, AttachMode::Native).map_err(plain)?;
        Ok(steer)
    })?;
    // Its netlink socket belongs to the namespace, so it detaches from wherever it is dropped.
    Ok(Running::new(steer))
}

/// The steer program with room for so many flows.
///
/// # Errors
/// The kernel's refusal.
pub fn table(entries: u32) -> Result<Steer> {
    Steer::load(&LoadOptions { flow_capacity: entries, ..Default::default() }).map_err(plain)
}

/// Puts so many of the rig's flows into the table.
///
/// # Errors
/// Where one has no room.
pub fn fill(steer: &mut Steer, entries: u32, out: u32) -> Result<()> {
    for flow in 0..entries {
        let forward = FlowVerdict::Forward { ifindex: out, mtu: 1500, dst_mac: SINK_MAC, src_mac: FAR_MAC };
        steer.flow_insert(&flow_key(flow), forward).map_err(plain).with_context(|| format!("flow {flow}"))?;
    }
    Ok(())
}

fn plain(e: softdpu::io::steer::SteerError) -> anyhow::Error {
    anyhow::Error::new(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_holds() {
        let text = policy_text("near0", "far0", std::path::Path::new("/run/x"), 0);
        softdpu::config::parse(&text, "veth").unwrap_or_else(|e| panic!("{e}"));
    }
}
