//! The tier `xdp` without a wire: what the driver's program costs per packet of an offloaded flow (`BPF_PROG_TEST_RUN`, as the
//! kernel times it), and what an entry costs to put in and to take out. Needs root.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use softdpu::io::steer::{AttachMode, FlowKey, FlowVerdict, LoadOptions, Steer, SteerError, SteerRule, compile};
use softdpu_ebpf_common::maps::RuleAction;
use softdpu_ebpf_common::walk::walk;

use crate::bpf::asm::{Asm, Op, Reg};
use crate::bpf::sys::{Program, test_run};
use crate::clock::thread_cpu;
use crate::net::namespace::{Namespace, ifindex};
use crate::net::topology;
use crate::stop;

const XDP_PASS: i32 = 2;
const XDP_REDIRECT: u32 = 4;
/// Runs in a row: each takes one off the TTL.
const REPEAT: u32 = 60;
const RUNS: usize = 300;
/// Entries put in and taken out at a time.
const ENTRIES: u32 = 4096;

pub struct Driver {
    steer: Steer,
    /// What the test itself costs.
    empty: Program,
    /// Its place in the kernel's dispatcher.
    _kept: OwnedFd,
    namespace: Namespace,
}

impl Driver {
    /// # Errors
    /// Without root, or without the eBPF object.
    pub fn new() -> Result<Self> {
        // SAFETY: no pointers.
        ensure!(unsafe { libc::geteuid() } == 0, "needs root");
        let mut a = Asm::new();
        a.alu(Op::Mov, Reg::R0, XDP_PASS).exit();
        let empty = Program::load("empty", &a.finish()).context("loading a program")?;
        let namespace = Namespace::new()?;
        namespace.ip("link set lo up")?;
        namespace.ip("link add quiet type veth peer name other")?;
        let options = LoadOptions { flow_capacity: 2 * ENTRIES, ..Default::default() };
        let (steer, kept) = namespace.run(|| {
            let mut steer = Steer::load(&options).map_err(plain)?;
            // What is not in the table is dropped: another verdict than of what is.
            let tables = compile(&[SteerRule::any("all", RuleAction::Drop)]).map_err(|e| anyhow::anyhow!("{e}"))?;
            steer.set_rules(&tables).map_err(plain)?;
            // Else the kernel patches its XDP dispatcher for every test, and waits for a grace period each time (`bpf_dispatcher`
            // in kernel/bpf/dispatcher.c): half a minute for a class of flows.
            steer.attach(ifindex("quiet")?, AttachMode::Generic).map_err(plain)?;
            let kept = empty.attach_generic(ifindex("other")?).context("attaching a program")?;
            Ok((steer, kept))
        })?;
        Ok(Self { steer, empty, _kept: kept, namespace })
    }

    /// With the next hop's address the station's own: the kernel's repeat sees the frame as the last run left it.
    fn forward(station: [u8; 6]) -> Result<FlowVerdict> {
        Ok(FlowVerdict::Forward { ifindex: ifindex("lo")?, mtu: 1500, dst_mac: station, src_mac: topology::FAR_MAC })
    }

    /// ns for a packet that is in the table, without what the test costs.
    ///
    /// # Errors
    /// The program does not act on such packets.
    pub fn packet(&mut self, frame: &[u8]) -> Result<f64> {
        let h = walk(frame).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        let station = std::array::from_fn(|i| frame[i]);
        let Self { steer, empty, namespace, .. } = self;
        let key = FlowKey::of(&h, station);
        let id = namespace.run(|| steer.flow_insert(&key, Self::forward(station)?).map_err(plain))?;
        let measured = (|| {
            let (mut with, mut without) = (Vec::with_capacity(RUNS), Vec::with_capacity(RUNS));
            for _ in 0..RUNS {
                let (verdict, ns) = again(|| {
                    steer
                        .test_run(frame, None, REPEAT)
                        .map(|r| (r.action, r.time.as_nanos() as f64))
                        .map_err(|e| (matches!(e, SteerError::Load { errno: Some(libc::EINTR), .. }), plain(e)))
                })?;
                ensure!(
                    verdict == XDP_REDIRECT,
                    "the driver's program gives such packets to a worker (verdict {verdict})"
                );
                with.push(ns);
                let (_, ns) = again(|| {
                    test_run(empty.fd(), frame, REPEAT)
                        .map(|r| (r.verdict, f64::from(r.nanoseconds)))
                        .map_err(|e| (e.kind() == std::io::ErrorKind::Interrupted, e.into()))
                })?;
                without.push(ns);
            }
            Ok(quiet(&mut with) - quiet(&mut without))
        })();
        steer.flow_remove(id).map_err(plain)?;
        steer.flows().settle(|_, _| {});
        measured
    }

    /// ns of CPU time per entry: put in, and taken out.
    ///
    /// # Errors
    /// The table takes none.
    pub fn entry(&mut self) -> Result<(f64, f64)> {
        let Self { steer, namespace, .. } = self;
        namespace.run(|| {
            let forward = Self::forward(topology::NEAR_MAC)?;
            let mut ids = Vec::with_capacity(ENTRIES as usize);
            let begun = thread_cpu();
            for n in 0..ENTRIES {
                ids.push(steer.flow_insert(&crate::steer::flow_key(n), forward).map_err(plain)?);
            }
            let put = (thread_cpu() - begun) as f64 / f64::from(ENTRIES);
            let begun = thread_cpu();
            for id in ids {
                std::hint::black_box(steer.flows().count(id));
                steer.flow_remove(id).map_err(plain)?;
            }
            steer.flows().settle(|_, _| {});
            Ok((put, (thread_cpu() - begun) as f64 / f64::from(ENTRIES)))
        })
    }
}

fn plain(e: SteerError) -> anyhow::Error {
    anyhow::Error::new(e)
}

/// The kernel gives up a test whose task has anything pending.
fn again<T>(mut once: impl FnMut() -> Result<T, (bool, anyhow::Error)>) -> Result<T> {
    let mut left = 200;
    loop {
        match once() {
            Err((true, _)) if left > 0 && !stop::asked() => {
                left -= 1;
                std::thread::sleep(Duration::from_micros(50));
            }
            other => return other.map_err(|(_, e)| e),
        }
    }
}

/// Mean of the lower half: whole nanoseconds are all that the kernel tells of one.
fn quiet(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let half = &times[..times.len().div_ceil(2)];
    half.iter().sum::<f64>() / half.len() as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packets_and_entries_cost_something() {
        let mut driver = match Driver::new() {
            Ok(driver) => driver,
            Err(e) => {
                println!("skipped: {e:#}");
                return;
            }
        };
        let ns = driver.packet(&crate::memory::packet(0, 60)).unwrap();
        assert!(ns > 1.0 && ns < 100_000.0, "{ns}");
        let (put, taken) = driver.entry().unwrap();
        assert!(put > 0.0 && taken > 0.0);
        // To the rules with it: nobody forwards the last hop.
        let mut last = crate::memory::packet(0, 60);
        last[22] = 1;
        assert!(driver.packet(&last).unwrap_err().to_string().contains("to a worker"));
    }
}
