//! What the kernel is and was built with.

use crate::doctor::fix::Change;
use crate::doctor::live::Outcome;
use crate::doctor::{Check, Found, Situation};

/// The first kernel in which several sockets of one process share a UMEM.
const OLDEST: (u32, u32) = (5, 10);
/// The first that carries packets larger than a frame.
const MULTI_BUFFER: (u32, u32) = (6, 6);

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "kernel-version",
        title: "Linux 5.10 or later, better 6.6",
        meaning: "Before 5.10 sockets cannot share frames, and softdpu does not start. Before 6.3 drivers do not say what they can do with XDP; before 6.6 packets larger than a frame cannot be carried.",
        remedy: "A later kernel.",
        run: version,
    },
    Check {
        id: "kernel-af-xdp",
        title: "AF_XDP sockets (CONFIG_XDP_SOCKETS)",
        meaning: "Ports of kind xdp cannot be opened.",
        remedy: "A kernel built with CONFIG_XDP_SOCKETS=y. Without one: ports of kind tap.",
        run: af_xdp,
    },
    Check {
        id: "kernel-jit",
        title: "BPF programs are compiled (net.core.bpf_jit_enable)",
        meaning: "The XDP program is interpreted: several times slower, for every packet of every port.",
        remedy: "`sysctl -w net.core.bpf_jit_enable=1`; for good in /etc/sysctl.d.",
        run: jit,
    },
    Check {
        id: "kernel-btf",
        title: "Type information (/sys/kernel/btf/vmlinux)",
        meaning: "softdpu runs without it. Tools that look into the running XDP program (bpftool, bpftrace) show less.",
        remedy: "A kernel built with CONFIG_DEBUG_INFO_BTF=y.",
        run: btf,
    },
    Check {
        id: "kernel-xdp",
        title: "A program attaches to a veth, natively and generically, and a socket binds (tried in a throw-away namespace)",
        meaning: "What the kernel promises it does not do for this process: a missing capability, a security module or lockdown, or a sandbox.",
        remedy: "See the reason given; `dmesg` and the audit log name the module that refused.",
        run: tried,
    },
    Check {
        id: "kernel-xfrm",
        title: "Tunnels of type xfrm: the kernel has XFRM and ESP",
        meaning: "IKE daemons cannot install associations, so a tunnel of type xfrm stays without keys.",
        remedy: "`modprobe esp4 esp6 xfrm_user`, or a kernel built with them; else tunnels of type esp with keys from files.",
        run: xfrm,
    },
    Check {
        id: "clock-sync",
        title: "The clock is kept in step",
        meaning: "WireGuard peers refuse a handshake whose time is older than the last one's; flow records and logs cannot be matched with others'.",
        remedy: "`timedatectl set-ntp true`, or chronyd.",
        run: clock_sync,
    },
    Check {
        id: "clock-source",
        title: "The clock is read without leaving the process (tsc, kvm-clock, arch_sys_counter, ...)",
        meaning: "Reading the time costs a system call or more, and workers read it once a batch.",
        remedy: "`clocksource=tsc` on the kernel's command line where the CPU has constant_tsc; on virtual machines the host's paravirtual clock.",
        run: clock_source,
    },
];

fn version(s: &Situation<'_>, found: &mut Found) {
    let kernel = &s.host.kernel;
    match kernel.version {
        v if v < OLDEST => {
            found.fail(None, format!("Linux {}", kernel.release));
        }
        v if v < MULTI_BUFFER => {
            found.warn(None, format!("Linux {}", kernel.release));
        }
        _ => found.ok(None, format!("Linux {}", kernel.release)),
    }
}

fn af_xdp(s: &Situation<'_>, found: &mut Found) {
    let kernel = &s.host.kernel;
    match (kernel.af_xdp, kernel.config.get("XDP_SOCKETS").map(String::as_str)) {
        (Some(true), _) => found.ok(None, "a socket can be made"),
        (Some(false), _) => {
            found.fail(None, "the kernel has no AF_XDP");
        }
        (None, Some("n")) => {
            found.fail(None, "CONFIG_XDP_SOCKETS is not set");
        }
        (None, Some(_)) => found.ok(None, "CONFIG_XDP_SOCKETS is set"),
        (None, None) => found.not_applicable(None, "cannot be tried without CAP_NET_RAW"),
    }
}

fn jit(s: &Situation<'_>, found: &mut Found) {
    let built = s.host.kernel.config.get("BPF_JIT").map(String::as_str);
    match s.host.sysctl.get("net.core.bpf_jit_enable").map(String::as_str) {
        Some("0") => {
            found.warn(None, "off").change(Change::file("/proc/sys/net/core/bpf_jit_enable", 1));
        }
        Some(_) => found.ok(None, "on"),
        None if built == Some("n") => {
            found.warn(None, "CONFIG_BPF_JIT is not set");
        }
        None => found.not_applicable(None, "this network namespace may not see the setting"),
    }
}

fn btf(s: &Situation<'_>, found: &mut Found) {
    if s.host.kernel.btf {
        found.ok(None, "there");
    } else {
        found.warn(None, "/sys/kernel/btf/vmlinux is not there");
    }
}

fn tried(s: &Situation<'_>, found: &mut Found) {
    let Some(live) = s.live else {
        found.not_applicable(None, "nothing was tried");
        return;
    };
    if let Some(why) = &live.not_tried {
        found.not_applicable(None, format!("not tried: {why}"));
        return;
    }
    let parts: [(&str, &Option<Outcome>); 3] = [
        ("native XDP on a veth", &live.veth.native),
        ("generic XDP on a veth", &live.veth.generic),
        ("an AF_XDP socket on a veth", &live.veth.socket),
    ];
    for (what, outcome) in parts {
        match outcome {
            Some(Ok(())) => found.ok(None, what),
            Some(Err(why)) => {
                found.fail(None, format!("{what}: {why}"));
            }
            None => found.not_applicable(None, format!("{what}: not tried")),
        }
    }
}

fn xfrm(s: &Situation<'_>, found: &mut Found) {
    let wanted = s.policy.is_some_and(|p| p.tunnels.iter().any(|t| t.kind.as_str() == "xfrm"));
    if !wanted {
        found.not_applicable(None, "no tunnel of type xfrm");
        return;
    }
    let missing: Vec<&str> = ["XFRM_USER", "INET_ESP"]
        .into_iter()
        .filter(|o| s.host.kernel.config.get(*o).map(String::as_str) == Some("n"))
        .collect();
    if s.host.kernel.config.is_empty() {
        found.not_applicable(None, "the kernel's configuration is not known");
    } else if missing.is_empty() {
        found.ok(None, "built");
    } else {
        found.fail(None, format!("not built: {}", missing.join(", ")));
    }
}

fn clock_sync(s: &Situation<'_>, found: &mut Found) {
    match s.host.clock.synchronised {
        Some(true) => found.ok(None, "in step"),
        Some(false) => {
            found.warn(None, "nothing keeps it in step").command("timedatectl set-ntp true");
        }
        None => found.not_applicable(None, "the kernel does not say"),
    }
}

fn clock_source(s: &Situation<'_>, found: &mut Found) {
    match s.host.clock.source.as_deref() {
        None => found.not_applicable(None, "the kernel does not say"),
        Some(slow @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies" | "xen")) => {
            found.warn(None, slow);
        }
        Some(fast) => found.ok(None, fast),
    }
}
