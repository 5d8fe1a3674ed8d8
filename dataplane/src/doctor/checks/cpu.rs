//! Cores, and who else is on them.

use std::collections::BTreeSet;

use crate::config::policy::{Idle, PortKind};
use crate::doctor::fix::Change;
use crate::doctor::{Check, Found, Situation};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "cores",
        title: "The workers' cores are there, and one is left for the rest",
        meaning: "A worker whose core is not there cannot be pinned. Where workers have all cores, the control thread, the kernel and everything else take time from them.",
        remedy: "Other `cores` or a smaller `count` in `[workers]`; a wider CPU set (`AllowedCPUs=`, `taskset`).",
        run: cores,
    },
    Check {
        id: "smt",
        title: "No two workers share a core",
        meaning: "Two threads of one core do about as much as one and a quarter: the second worker adds little, and both have worse latency.",
        remedy: "One thread of each core in `cores` of `[workers]`.",
        run: smt,
    },
    Check {
        id: "isolation",
        title: "Cores of busy workers are left alone by the scheduler",
        meaning: "A worker that never sleeps shares its core with whatever the scheduler puts there, and packets wait for it.",
        remedy: "`isolcpus=` and `nohz_full=` on the kernel's command line, or a CPU set of its own; or `idle = \"adaptive\"`.",
        run: isolation,
    },
    Check {
        id: "governor",
        title: "The workers' cores run at full frequency",
        meaning: "A worker that sleeps between bursts is woken on a slow core: lower rate and worse latency than the machine has.",
        remedy: "The governor `performance` for the workers' cores.",
        run: governor,
    },
    Check {
        id: "numa",
        title: "Workers are on the memory node of their ports' devices",
        meaning: "Every packet crosses from one processor to the other and back.",
        remedy: "`cores` of the device's node (`cat /sys/class/net/IF/device/local_cpulist`).",
        run: numa,
    },
    Check {
        id: "crypto-flags",
        title: "The CPU has instructions for AES",
        meaning: "AES-GCM is computed without hardware: about a tenth of the rate, and ChaCha20-Poly1305 is the faster cipher.",
        remedy: "Pass the host's CPU model to the virtual machine (`-cpu host`), or a cipher that needs none.",
        run: crypto,
    },
];

fn cores(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy else {
        found.not_applicable(None, "no policy");
        return;
    };
    let cpu = &s.host.cpu;
    let wanted = policy.workers.cores.workers();
    let cores = s.worker_cores();
    for core in &cores {
        let name = format!("core {core}");
        if !cpu.online.contains(core) {
            found.fail(name.as_str(), "is not there or not online");
        } else if !cpu.allowed.contains(core) {
            found
                .fail(name.as_str(), "this process may not run there")
                .command(format!("taskset -c {core} softdpu ..."));
        }
    }
    let there = cpu.allowed.len();
    match wanted {
        n if n > there => {
            found.fail(None, format!("{n} workers on {there} cores"));
        }
        n if n == there && there > 1 => {
            found.warn(None, format!("{n} workers have all {there} cores: none is left for the rest"));
        }
        n => found.ok(None, format!("{n} of {there}")),
    }
}

fn smt(s: &Situation<'_>, found: &mut Found) {
    let cores = s.worker_cores();
    if s.host.cpu.siblings.is_empty() || cores.len() < 2 {
        found.not_applicable(None, "no threads that share a core, or one worker");
        return;
    }
    let mut shared = false;
    for siblings in &s.host.cpu.siblings {
        let ours: Vec<String> = siblings.iter().filter(|c| cores.contains(c)).map(ToString::to_string).collect();
        if ours.len() > 1 {
            shared = true;
            found.warn(None, format!("workers on {} are threads of one core", ours.join(" and ")));
        }
    }
    if !shared {
        found.ok(None, "each has a core of its own");
    }
}

fn isolation(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy.filter(|p| p.workers.idle == Idle::Busy) else {
        found.not_applicable(None, "only for `idle = \"busy\"`");
        return;
    };
    let open: Vec<String> =
        s.worker_cores().iter().filter(|c| !s.host.cpu.isolated.contains(c)).map(ToString::to_string).collect();
    if open.is_empty() {
        found.ok(None, format!("{} workers on isolated cores", policy.workers.cores.workers()));
    } else {
        let list = open.join(",");
        found
            .warn(None, format!("cores {list} are everybody's"))
            .command(format!("isolcpus={list} nohz_full={list} on the kernel's command line"));
    }
}

fn governor(s: &Situation<'_>, found: &mut Found) {
    let governors = &s.host.cpu.governors;
    if governors.is_empty() {
        found.not_applicable(None, "frequency is not this kernel's to set");
        return;
    }
    let cores = s.worker_cores();
    let looked_at: Vec<usize> = if cores.is_empty() { governors.keys().copied().collect() } else { cores };
    let mut well = true;
    for core in looked_at {
        if let Some(governor) = governors.get(&core).filter(|g| *g != "performance") {
            well = false;
            let path = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
            found.warn(format!("core {core}").as_str(), governor.clone()).change(Change::file(path, "performance"));
        }
    }
    if well {
        found.ok(None, "performance");
    }
}

fn numa(s: &Situation<'_>, found: &mut Found) {
    if s.host.cpu.numa.len() < 2 || s.policy.is_none() {
        found.not_applicable(None, "one memory node, or no policy");
        return;
    }
    let cores = s.worker_cores();
    s.each_port(found, |_, nic, found| {
        let Some(node) = nic.numa_node.and_then(|n| s.host.cpu.numa.iter().find(|x| x.node == n)) else {
            found.not_applicable(nic.name.as_str(), "the device is on no node");
            return;
        };
        let far: Vec<String> = cores.iter().filter(|c| !node.cpus.contains(c)).map(ToString::to_string).collect();
        if far.is_empty() {
            found.ok(nic.name.as_str(), format!("node {}", node.node));
        } else {
            found.warn(nic.name.as_str(), format!("is on node {}; workers on {} are not", node.node, far.join(", ")));
        }
    });
}

fn crypto(s: &Situation<'_>, found: &mut Found) {
    let seals = s.policy.is_none_or(|p| !p.tunnels.is_empty());
    let flags: BTreeSet<&str> = s.host.cpu.flags.iter().map(String::as_str).collect();
    let has_ports = s.policy.is_none_or(|p| p.ports.iter().any(|p| !matches!(p.kind, PortKind::Pcap { .. })));
    if !seals || !has_ports {
        found.not_applicable(None, "the policy has no tunnel");
    } else if flags.contains("aes") {
        let also: Vec<&str> = ["avx2", "avx512f", "vaes"].into_iter().filter(|f| flags.contains(f)).collect();
        found.ok(None, format!("aes {}", also.join(" ")));
    } else {
        found.warn(None, "no aes").command("cipher = \"chacha20-poly1305\" in the policy");
    }
}
