//! Queues, who serves them, and how much they hold.

use crate::config::policy::Cores;
use crate::doctor::fix::{Change, Setting};
use crate::doctor::{Check, Found, Situation};
use crate::host::inventory::{Interface, Queues};

/// Slots that a device's receive ring should have at least, where it can.
const DEVICE_RING: u32 = 1024;
/// A veth's own ring, of which it does not tell (`VETH_RING_SIZE`).
const VETH_RING: u32 = 256;
/// What makes busy polling keep interrupts off: interrupts to defer, and nanoseconds until they come anyway.
const DEFER: u64 = 2;
const TIMEOUT_NS: u64 = 200_000;
/// A Toeplitz key of which both directions of a flow have one hash.
const SYMMETRIC: &str = "6d:5a";

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "queues",
        title: "Each port has a queue for each worker",
        meaning: "A worker without a queue of every port could not send there, so only as many workers start as the port with the fewest has queues.",
        remedy: "`ethtool -L IF combined N` (rx and tx for a veth), `numrxqueues` and `numtxqueues` when a veth is made, or fewer workers.",
        run: queues,
    },
    Check {
        id: "queues-unserved",
        title: "Every queue that gets packets is served",
        meaning: "Packets that the device puts on a queue without a socket never reach a worker: the rule's `on_loss` decides, so flows on them are lost or pass unprotected by the kernel.",
        remedy: "Leave `queues` out of the port, or spread packets over the served ones: `ethtool -X IF equal N`, `ethtool -L IF combined N`.",
        run: unserved,
    },
    Check {
        id: "rss-symmetric",
        title: "Both directions of a flow reach one worker",
        meaning: "Each worker sees one side of a connection: it counts as one-sided, is recognised later or not at all, and is not offloaded.",
        remedy: "`ethtool -X IF hkey 6d:5a:...` (the pair repeated), or `ethtool -X IF xfrm symmetric-xor` on kernels and devices that have it.",
        run: symmetric,
    },
    Check {
        id: "device-ring",
        title: "The device's receive ring absorbs a burst",
        meaning: "A worker that is kept off its core for a moment finds the ring overrun: losses that no counter of softdpu shows (`ethtool -S IF`: rx_missed, rx_no_buffer).",
        remedy: "`ethtool -G IF rx N`.",
        run: device_ring,
    },
    Check {
        id: "socket-ring",
        title: "The socket's rings hold what the device's ring holds, and frames suffice for them",
        meaning: "The kernel is lent fewer frames than the device's ring and the socket's receive ring take together: reception stalls or loses under bursts (`fill_empty`, `rx_ring_full`).",
        remedy: "A larger `ring` for the port, more `frames` in `[workers]`.",
        run: socket_ring,
    },
    Check {
        id: "irq-affinity",
        title: "The device's interrupts are spread over cores that workers use",
        meaning: "One core does the driver's work for all queues, and is the limit; or packets are received on one core and worked on by another.",
        remedy: "`echo CORE > /proc/irq/N/smp_affinity_list`, and no irqbalance for this device (IRQBALANCE_BANNED_CPULIST).",
        run: irqs,
    },
    Check {
        id: "busy-poll",
        title: "Busy polling keeps the device's interrupts off",
        meaning: "`busy_poll = true`, and interrupts still come: ksoftirqd polls the device beside the worker, on its core.",
        remedy: "`napi_defer_hard_irqs` 2 and `gro_flush_timeout` 200000 of the interface.",
        run: busy_poll,
    },
];

/// Which channel a device wants its receive queues set by.
fn channel(queues: &Queues) -> &'static str {
    if queues.max_combined > 0 { "combined" } else { "rx" }
}

fn queues(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy else {
        found.not_applicable(None, "no policy");
        return;
    };
    let workers = policy.workers.cores.workers() as u32;
    s.each_port(found, |port, nic, found| {
        let q = &nic.queues;
        let served = port.queues_wanted().map_or(q.receive, |w| w.min(q.receive));
        let name = port.interface;
        if served >= workers {
            found.ok(name, format!("{served} for {}", many(workers, "worker")));
            return;
        }
        let said = format!("{} for {}", many(served, "queue"), many(workers, "worker"));
        let finding = found.fail(name, said);
        if port.queues_wanted().is_some_and(|w| w < workers) {
            finding.command(format!("queues = {workers} for the port, in the policy"));
        } else if q.most() >= workers {
            let set = |channel: &str| {
                let interface = name.to_owned();
                Change::here(Setting::Queues { interface, channel: channel.to_owned() }, workers)
            };
            let mut finding = finding;
            // A veth's transmit queues are where its socket sends from, and the driver wants the peer to have as many.
            if channel(q) == "rx" && q.max_tx >= workers && q.tx < workers {
                finding = finding.change(set("tx"));
            }
            finding.change(set(channel(q)));
        } else {
            let fewer = match policy.workers.cores {
                Cores::Count(_) => format!("count = {served}"),
                Cores::List(_) => format!("a list of {served} in cores"),
            };
            finding.command(format!("the device has at most {}: {fewer} in [workers]", q.most()));
        }
    });
}

/// "1 queue", "2 queues".
fn many(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn unserved(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let served = port.queues_wanted().map_or(nic.queues.receive, |w| w.min(nic.queues.receive));
        let used = match &nic.rss {
            Some(rss) => rss.indirection.iter().max().map_or(nic.queues.receive, |m| m + 1),
            None => nic.queues.receive,
        };
        let name = port.interface;
        if used > served {
            let how = if nic.rss.is_some() {
                format!("ethtool -X {name} equal {served}")
            } else {
                format!("ethtool -L {name} {} {served}", channel(&nic.queues))
            };
            found.warn(name, format!("packets come on {used} queues, {served} of them served")).command(how);
        } else {
            found.ok(name, format!("{used} of {served}"));
        }
    });
}

fn symmetric(s: &Situation<'_>, found: &mut Found) {
    if s.policy.is_some_and(|p| p.workers.cores.workers() == 1) {
        found.not_applicable(None, "one worker");
        return;
    }
    s.each_port(found, |port, nic, found| match &nic.rss {
        None => found.not_applicable(port.interface, "the device does not spread packets, or does not say how"),
        Some(rss) if rss.symmetric_key || nic.queues.receive == 1 => found.ok(port.interface, "symmetric"),
        Some(rss) => {
            let key = vec![SYMMETRIC; rss.key_bytes as usize / 2].join(":");
            let how = format!("ethtool -X {} hkey {key}", port.interface);
            found.warn(port.interface, "the hash of a flow's two directions differs").command(how);
        }
    });
}

fn device_ring(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        let Some(rings) = &nic.rings else {
            found.not_applicable(name, "the device has no rings of its own");
            return;
        };
        let wanted = DEVICE_RING.min(rings.max_rx);
        if rings.rx >= wanted {
            found.ok(name, format!("{} of {}", rings.rx, rings.max_rx));
        } else {
            let setting = Setting::RxRing { interface: name.to_owned() };
            found
                .warn(name, format!("{} slots of {} that are possible", rings.rx, rings.max_rx))
                .change(Change::here(setting, wanted));
        }
    });
}

fn socket_ring(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy else {
        found.not_applicable(None, "no policy");
        return;
    };
    let sockets = s.ports().len().max(1) as u32;
    s.each_port(found, |port, nic, found| {
        let (name, ring) = (port.interface, port.ring());
        // Slots of a fill ring are twice the ring's.
        let device = match &nic.rings {
            Some(rings) => rings.rx,
            None if nic.driver == "veth" => VETH_RING,
            None => 0,
        };
        let share = policy.workers.frames / 4 * 3 / sockets;
        let lent = share.min(ring * 2);
        if ring * 2 < device + ring {
            found
                .warn(name, format!("ring = {ring}, and the device's ring has {device} slots"))
                .command(format!("ring = {} for the port, in the policy", device.next_power_of_two()));
        } else if lent < device + ring {
            let frames = ((device + ring) * sockets).div_ceil(3) * 4;
            found
                .warn(name, format!("{lent} frames are lent for {} slots", device + ring))
                .command(format!("frames = {} in [workers]", frames.next_power_of_two()));
        } else {
            found.ok(name, format!("ring {ring}, device {device}, {lent} frames lent"));
        }
    });
}

fn irqs(s: &Situation<'_>, found: &mut Found) {
    let cores = s.worker_cores();
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        if nic.irqs.is_empty() {
            found.not_applicable(name, "the device has no interrupts of its own");
            return;
        }
        let one = all_on_one(nic);
        match one {
            Some(core) if nic.irqs.len() > 1 && cores.len() > 1 => {
                let mut finding = found.warn(name, format!("all {} are served by core {core}", nic.irqs.len()));
                for (irq, core) in nic.irqs.iter().zip(cores.iter().cycle()) {
                    finding = finding.change(Change::file(format!("/proc/irq/{}/smp_affinity_list", irq.number), core));
                }
            }
            _ => found.ok(name, format!("{} interrupts", nic.irqs.len())),
        }
    });
}

/// The one core that may serve every interrupt, where it is one.
fn all_on_one(nic: &Interface) -> Option<usize> {
    let first = *nic.irqs.first()?.cpus.first()?;
    nic.irqs.iter().all(|i| i.cpus == [first]).then_some(first)
}

fn busy_poll(s: &Situation<'_>, found: &mut Found) {
    s.each_port(found, |port, nic, found| {
        let name = port.interface;
        let (Some(defer), Some(timeout)) = (nic.napi.defer_hard_irqs, nic.napi.gro_flush_timeout_ns) else {
            found.not_applicable(name, "the kernel does not say");
            return;
        };
        let said = format!("napi_defer_hard_irqs {defer}, gro_flush_timeout {timeout} ns");
        if !port.busy_poll() {
            found.not_applicable(name, format!("no busy polling; {said}"));
        } else if defer > 0 && timeout > 0 {
            found.ok(name, said);
        } else {
            let file = |key: &str, value| Change::file(format!("/sys/class/net/{name}/{key}"), value);
            found
                .warn(name, said)
                .change(file("napi_defer_hard_irqs", DEFER))
                .change(file("gro_flush_timeout", TIMEOUT_NS));
        }
    });
}
