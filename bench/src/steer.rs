//! The steer program alone, by `BPF_PROG_TEST_RUN`: ns per packet as the kernel measures it, parsing and look-ups included,
//! redirects not carried out.

use std::net::IpAddr;
use std::os::fd::RawFd;

use anyhow::{Context, Result};

use softdpu::io::steer::{AttachMode, FlowKey, FlowVerdict, LoadOptions, Steer, SteerError, SteerRule, compile};
use softdpu_ebpf_common::maps::{OnLoss, RuleAction};
use softdpu_ebpf_common::walk::walk;

use crate::bpf::asm::{Asm, Op, Reg};
use crate::bpf::sys::{Program, test_run};
use crate::memory::packet;
use crate::net::namespace::{Namespace, ifindex};
use crate::net::topology;
use crate::report::Section;
use crate::stop;

const XDP_PASS: i32 = 2;
/// Where programs are attached while they are tested: the first for the empty one. Nothing comes there.
const PARKS: [&str; 6] = ["park0", "park1", "park2", "park3", "park4", "park5"];

/// Key of flow `n` of the rig's traffic, below 2^20.
pub fn flow_key(n: u32) -> FlowKey {
    let source_port = topology::SOURCE_PORT + (n & 0x3fff) as u16;
    let station = topology::NEAR_MAC;
    let mut key =
        FlowKey { sport: source_port, dport: topology::PORT, protocol: 17, version: 4, station, ..FlowKey::default() };
    key.src[..4].copy_from_slice(&topology::SOURCE.octets());
    key.src[3] += (n >> 14) as u8;
    key.dst[..4].copy_from_slice(&topology::SINK.octets());
    key
}

/// `count` rules of which only the last matches the rig's traffic: what an ordered list would take longest for.
///
/// # Errors
/// Where the rules do not compile.
fn rules(steer: &mut Steer, count: usize) -> Result<()> {
    let rules: Vec<SteerRule> = (0..count)
        .map(|n| SteerRule {
            to: if n + 1 == count {
                vec![(IpAddr::V4(topology::SINK), 24)]
            } else {
                vec![(IpAddr::from([10, 100 + (n >> 8) as u8, n as u8, 0]), 24)]
            },
            protocol: Some(17),
            ports: if n + 1 == count { Vec::new() } else { vec![1000 + n as u16..=2000 + n as u16] },
            on_loss: OnLoss::Drop,
            ..SteerRule::any(format!("rule-{n}"), RuleAction::Drop)
        })
        .collect();
    let tables = compile(&rules).map_err(|e| anyhow::anyhow!("{e}"))?;
    steer.set_rules(&tables).map_err(|e| anyhow::anyhow!("{e}"))
}

/// Cases in short runs: see where they are run.
const SHORT: [&str; 2] = ["flow", "empty-short"];

struct Case {
    name: &'static str,
    title: &'static str,
    /// What the program must answer: a case that takes another path would measure something else.
    verdict: u32,
    steer: Option<Steer>,
}

impl Case {
    /// One run: verdict, and ns per packet. `empty`: the program to run where the case has none.
    fn once(&mut self, empty: RawFd, frame: &[u8], repeat: u32) -> Result<(u32, f64)> {
        let mut interruptions = 0;
        loop {
            let done = match &mut self.steer {
                None => test_run(empty, frame, repeat).map(|r| (r.verdict, f64::from(r.nanoseconds))).map_err(|e| {
                    let again = e.kind() == std::io::ErrorKind::Interrupted;
                    (again, anyhow::Error::from(e))
                }),
                Some(steer) => match steer.test_run(frame, None, repeat) {
                    Ok(done) => Ok((done.action, done.time.as_nanos() as f64)),
                    Err(e) => {
                        let again = matches!(e, SteerError::Load { errno: Some(libc::EINTR), .. });
                        Err((again, anyhow::anyhow!("{e}")))
                    }
                },
            };
            match done {
                // The kernel gives up a test whose task has anything pending, not only signals.
                Err((true, _)) if interruptions < 100 && !stop::asked() => interruptions += 1,
                Err((_, e)) => return Err(e),
                Ok(done) => return Ok(done),
            }
        }
    }
}

/// Measures an empty program, then steer with no rules, 10 and 1,000 rules, and with the flow in its table.
///
/// # Errors
/// Without root or without the eBPF object.
pub fn run(rounds: usize, repeat: u32) -> Result<Section> {
    let mut section = Section::new("steer", "the steer program by BPF_PROG_TEST_RUN, 64 B, per packet", "ns");
    let mut a = Asm::new();
    a.alu(Op::Mov, Reg::R0, XDP_PASS).exit();
    let empty = Program::load("empty", &a.finish()).context("loading a program (needs CAP_BPF)")?;
    let namespace = Namespace::new()?;
    namespace.ip("link set lo up")?;
    // A program that is attached somewhere has its place in the kernel's XDP dispatcher; for one that is not, the dispatcher is patched
    // for every test, with a grace period each time (kernel/bpf/dispatcher.c).
    for n in 0..PARKS.len() / 2 {
        namespace.ip(&format!("link add {} type veth peer name {}", PARKS[2 * n], PARKS[2 * n + 1]))?;
    }
    let frame = packet(0, 60);
    let h = walk(&frame[..]).map_err(|e| anyhow::anyhow!("walk: {e:?}"))?;
    let cases = namespace.run(|| {
        let load = || Steer::load(&LoadOptions { flow_capacity: 1024, ..Default::default() });
        let mut cases = Vec::new();
        for (name, title, count) in [
            ("rules-0", "no rule", 0),
            ("rules-10", "10 rules, the last matches", 10),
            ("rules-1000", "1,000 rules, the last matches", 1000),
        ] {
            let mut steer = load().map_err(|e| anyhow::anyhow!("{e}"))?;
            if count > 0 {
                rules(&mut steer, count)?;
            }
            cases.push(Case { name, title, verdict: if count > 0 { 1 } else { 2 }, steer: Some(steer) });
        }
        let mut steer = load().map_err(|e| anyhow::anyhow!("{e}"))?;
        rules(&mut steer, 10)?;
        let forward = FlowVerdict::Forward {
            ifindex: ifindex("lo")?,
            mtu: 1500,
            // Its own station again: the kernel's repeat sees the frame as the last run left it.
            dst_mac: topology::NEAR_MAC,
            src_mac: topology::FAR_MAC,
        };
        steer
            .flow_insert(&flow_key(u32::from(h.sport - topology::SOURCE_PORT)), forward)
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        cases.push(Case {
            name: "flow",
            title: "flow in the table, forwarded, in short runs",
            verdict: 4,
            steer: Some(steer),
        });
        for (case, park) in cases.iter_mut().zip(&PARKS[1..]) {
            if let Some(steer) = &mut case.steer {
                steer.attach(ifindex(park)?, AttachMode::Generic).map_err(|e| anyhow::anyhow!("{e}"))?;
            }
        }
        Ok((cases, empty.attach_generic(ifindex(PARKS[0])?).context("attaching a program")?))
    });
    let (mut cases, _parked) = match cases {
        Ok(cases) => cases,
        Err(e) => {
            section.missing("steer", "the steer program", format!("{e:#}"));
            return Ok(section);
        }
    };
    let empty_case = |name, title| Case { name, title, verdict: 2, steer: None };
    cases.insert(0, empty_case("empty", "a program that only passes"));
    cases.push(empty_case("empty-short", "a program that only passes, in short runs"));
    for _ in 0..rounds {
        for case in &mut cases {
            if stop::asked() {
                return Ok(section);
            }
            // The kernel's repeat leaves the frame as the last run left it: a forwarded one loses TTL, and at 1 another
            // path begins. So its runs are short, and each starts with a fresh frame.
            let (short, runs) = if SHORT.contains(&case.name) { (60, 500) } else { (repeat, 15) };
            let mut times = Vec::new();
            for _ in 0..runs {
                let (verdict, ns) = case.once(empty.fd(), &frame, short)?;
                anyhow::ensure!(
                    verdict == case.verdict,
                    "{}: verdict {verdict} instead of {}",
                    case.title,
                    case.verdict
                );
                times.push(ns);
            }
            times.sort_by(f64::total_cmp);
            section.round(case.name, case.title, times[times.len() / 2]);
        }
    }
    for (name, base) in [("rules-10", "empty"), ("rules-1000", "empty"), ("flow", "empty-short")] {
        section.difference(&format!("{name}-net"), &format!("{name} without the test's own cost"), name, base);
    }
    section.notes.push(
        "Whole nanoseconds: the kernel rounds. The programs that only pass are what the test itself costs.".into(),
    );
    Ok(section)
}
