//! Interfaces, their drivers, and what XDP can do there.

use crate::config::policy::{Mode, PortKind, SteerAction, ZeroCopy};
use crate::doctor::{Check, Found, Situation};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "interface",
        title: "The port's interface is there, up, and has a carrier",
        meaning: "softdpu does not start where an interface is missing; where it is down nothing is received or sent.",
        remedy: "The right name in `interface`, the right network namespace, `ip link set dev IF up`, a cable.",
        run: interface,
    },
    Check {
        id: "driver-xdp",
        title: "The driver runs XDP programs itself",
        meaning: "The program runs in the kernel's generic hook, after each packet has become an skb: about a fifth of the rate, and no zero-copy. `mode = \"native\"` refuses to start.",
        remedy: "A driver with XDP, a later kernel, or `mode = \"auto\"` where the rate suffices. Some drivers want fewer queues or a smaller MTU first: `dmesg` says.",
        run: driver,
    },
    Check {
        id: "zero-copy",
        title: "Packets reach the worker without a copy, where the policy wants that",
        meaning: "`zero_copy = \"require\"` refuses to start on a driver without it. Elsewhere packets are copied once each way. Zero-copy is not always faster: measure.",
        remedy: "`zero_copy = \"auto\"`; a driver with AF_XDP zero-copy; `softdpu tune` measures both.",
        run: zero_copy,
    },
    Check {
        id: "port-trial",
        title: "A program attaches to the port and a socket binds (only with --probe)",
        meaning: "The device refuses now what its driver promises.",
        remedy: "See the reason given; `dmesg` usually says more.",
        run: trial,
    },
    Check {
        id: "foreign-program",
        title: "No other XDP program is on the port",
        meaning: "softdpu does not replace another's program, and does not start.",
        remedy: "End whoever has it (Cilium, Katran, suricata, xdp-loader ...), or `ip link set dev IF xdp off`; where that is refused, `bpftool link` shows which process holds it. Or an interface of softdpu's own.",
        run: foreign,
    },
    Check {
        id: "port-owner",
        title: "No running instance has the port",
        meaning: "A second instance on an interface is refused. What is measured or tried here would disturb the first.",
        remedy: "`softdpu status` lists instances; give each interfaces of its own.",
        run: owner,
    },
    Check {
        id: "host-reachable",
        title: "Steering rules leave the host itself its traffic",
        meaning: "A rule without addresses, protocol or ports brings everything to a worker, also what is for the host: SSH, routing protocols and the answers to the host's own requests stop. (ARP and neighbour discovery always go to the kernel.)",
        remedy: "Name the prefixes that are forwarded in the rule's `from` and `to`, or add a port of kind tap, by which the host has its own traffic back.",
        run: reachable,
    },
];

fn interface(s: &Situation<'_>, found: &mut Found) {
    let ports = s.ports();
    if ports.is_empty() {
        found.not_applicable(None, s.no_port());
    }
    for port in &ports {
        let Some(nic) = port.nic else {
            found.fail(port.interface, "there is no such interface in this network namespace").command("ip link");
            continue;
        };
        if !nic.up {
            found.fail(port.interface, "is down").command(format!("ip link set dev {} up", port.interface));
        } else if !nic.running {
            found.warn(port.interface, "has no carrier: the cable, or the other end is down");
        } else {
            let speed = nic.speed_mbps.map_or(String::new(), |s| format!(", {s} Mbit/s"));
            let driver = if nic.driver.is_empty() { "no driver known" } else { &nic.driver };
            found.ok(port.interface, format!("up, {driver}{speed}"));
        }
    }
}

fn driver(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        match (port.mode(), nic.xdp.has("basic")) {
            (Mode::Generic, _) => found.not_applicable(name, "`mode = \"generic\"` asks for the generic hook"),
            (_, Some(true)) => found.ok(name, nic.xdp.features.clone().unwrap_or_default().join(", ")),
            (Mode::Native, Some(false)) => {
                found.fail(name, format!("driver {} has no XDP, and `mode = \"native\"`", nic.driver));
            }
            (Mode::Auto, Some(false)) => {
                found.warn(name, format!("driver {} has no XDP: generic mode", nic.driver));
            }
            (_, None) => found.not_applicable(name, "the kernel does not say (before 6.3)"),
        }
    });
}

fn zero_copy(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        match (port.zero_copy(), nic.xdp.has("xsk-zerocopy")) {
            (ZeroCopy::Never, _) => found.not_applicable(name, "`zero_copy = \"never\"`"),
            (_, Some(true)) if port.generic() => {
                found.warn(name, "the driver has it, but not in generic mode");
            }
            (_, Some(true)) => found.ok(name, "the driver has it"),
            (ZeroCopy::Require, Some(false)) => {
                found
                    .fail(name, format!("driver {} has no zero-copy, and the policy requires it", nic.driver))
                    .command("zero_copy = \"auto\" in the policy");
            }
            (ZeroCopy::Auto, Some(false)) => found.ok(name, "the driver has none: packets are copied"),
            (_, None) => found.not_applicable(name, "the kernel does not say (before 6.3)"),
        }
    });
}

fn trial(s: &Situation<'_>, found: &mut Found) {
    let trials = s.live.map(|l| &l.ports).filter(|p| !p.is_empty());
    let Some(trials) = trials else {
        found.not_applicable(None, "ports are tried only with --probe: some devices reset their link for it");
        return;
    };
    for (name, trial) in trials {
        let name = name.as_str();
        if let Some(why) = &trial.left_alone {
            found.not_applicable(name, format!("left alone: {why}"));
            continue;
        }
        match &trial.native {
            Some(Ok(())) => found.ok(name, "native XDP attaches"),
            Some(Err(why)) => {
                found.warn(name, format!("native XDP: {why}"));
            }
            None => {}
        }
        match &trial.socket {
            Some(Ok(())) => {
                let (copy, parts) = (trial.zero_copy, trial.multi_buffer);
                let copy = if copy { "zero-copy" } else { "copy" };
                found.ok(name, format!("a socket binds: {copy}{}", if parts { ", multi-buffer" } else { "" }));
            }
            Some(Err(why)) => {
                found.fail(name, format!("no socket binds: {why}"));
            }
            None => {}
        }
    }
}

fn foreign(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        match &nic.xdp.attached {
            None => found.ok(name, "none"),
            Some(program) if program.ours => found.ok(name, format!("softdpu's own, {}", program.mode)),
            Some(program) => {
                let off = if program.mode == "generic" { "xdpgeneric" } else { "xdp" };
                let called = program.name.as_deref().unwrap_or("name not known");
                found
                    .fail(name, format!("program {} ({called}), {}", program.id, program.mode))
                    .command(format!("ip link set dev {name} {off} off"));
            }
        }
    });
}

fn owner(s: &Situation<'_>, found: &mut Found) {
    let Some(live) = s.live else {
        found.not_applicable(None, "nothing was tried");
        return;
    };
    s.each_port(found, |port, _, found| {
        if live.owned.iter().any(|o| o == port.interface) {
            found.warn(port.interface, "a running instance has it").command("softdpu status");
        } else {
            found.ok(port.interface, "free");
        }
    });
}

fn reachable(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy else {
        found.not_applicable(None, "no policy");
        return;
    };
    if policy.ports.iter().any(|p| matches!(p.kind, PortKind::Tap(_))) {
        found.ok(None, "the host has a port of its own (kind tap)");
        return;
    }
    let mut well = true;
    for rule in &policy.steer {
        let everything = rule.matches == crate::config::policy::Match::default();
        if everything && rule.action != SteerAction::Pass {
            well = false;
            let what = if rule.action == SteerAction::Drop { "drops" } else { "takes" };
            found
                .warn(format!("steering rule {}", rule.name).as_str(), format!("{what} everything"))
                .command("to = [\"...\"] in that rule, or a [[port]] of kind tap");
        }
    }
    if well {
        found.ok(None, "no rule takes everything");
    }
}
