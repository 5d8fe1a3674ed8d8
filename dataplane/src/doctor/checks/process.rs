//! What this process may do and have. Run doctor as the instance will be run: limits and capabilities are the caller's.

use crate::config::policy::PortKind;
use crate::doctor::fix::Change;
use crate::doctor::{Check, Found, Situation};

/// Bytes of a frame of UMEM.
const FRAME: u64 = 4096;
/// Bytes of a flow with its place in the index.
const FLOW: u64 = 127;
/// Files of an instance with no ports: sockets, maps, runtime.
const FILES: u64 = 96;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "capabilities",
        title: "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_IPC_LOCK",
        meaning: "The port cannot be opened, and the kernel says no more than EPERM. In containers it is usually the runtime that took them away.",
        remedy: "Run as root, or give them: `AmbientCapabilities=` in the unit, `--cap-add` of the container runtime, `setcap`.",
        run: capabilities,
    },
    Check {
        id: "memlock",
        title: "Locked memory suffices for the workers' frames",
        meaning: "Registering the frames with a socket fails with ENOBUFS or ENOMEM.",
        remedy: "CAP_IPC_LOCK, `LimitMEMLOCK=infinity` in the unit, `ulimit -l unlimited`, or fewer `frames`.",
        run: memlock,
    },
    Check {
        id: "open-files",
        title: "Files that may be open suffice for sockets and maps",
        meaning: "With many ports and workers the last ones cannot be opened (EMFILE).",
        remedy: "`LimitNOFILE=65536` in the unit, `ulimit -n 65536`.",
        run: open_files,
    },
    Check {
        id: "memory",
        title: "Memory suffices for frames and flow tables, which are taken at the start",
        meaning: "The instance does not start, or the kernel ends some process to make room.",
        remedy: "Smaller `frames` in `[workers]` or `capacity` in `[flows]`, fewer workers, or more memory.",
        run: memory,
    },
    Check {
        id: "hugepages",
        title: "Large pages for keys and sessions, where there are many peers",
        meaning: "With hundreds of tunnels or peers their keys lie on thousands of small pages, and each packet's lookup misses the TLB. Frames are in ordinary pages and need none.",
        remedy: "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`.",
        run: hugepages,
    },
    Check {
        id: "steer-object",
        title: "This softdpu has its XDP program built in",
        meaning: "Ports of kind xdp do not start: the binary was built without the program.",
        remedy: "`cargo xtask ebpf`, then build softdpu again; packages have it.",
        run: object,
    },
];

/// Whether anything of the policy is with the kernel's network. Without a policy: yes, it is what doctor is asked about.
fn needs_kernel(s: &Situation<'_>) -> bool {
    s.policy.is_none_or(|p| p.ports.iter().any(|p| matches!(p.kind, PortKind::Xdp(_) | PortKind::Tap(_))))
}

fn capabilities(s: &Situation<'_>, found: &mut Found) {
    if !needs_kernel(s) {
        found.not_applicable(None, "no port of kind xdp or tap");
        return;
    }
    for (name, what) in [
        ("CAP_NET_ADMIN", "attaching programs, routes, busy polling"),
        ("CAP_NET_RAW", "AF_XDP sockets"),
        ("CAP_BPF", "loading programs and maps"),
    ] {
        if s.host.capable(name) {
            found.ok(name, what);
        } else {
            let unit = format!("AmbientCapabilities={name} in the unit, or --cap-add={} of a container", &name[4..]);
            found.fail(name, format!("missing; needed for {what}")).command(unit);
        }
    }
    // Without it locked memory is counted; that is the next check's.
    match s.host.capable("CAP_IPC_LOCK") {
        true => found.ok("CAP_IPC_LOCK", "locked memory is not limited"),
        false => {
            found
                .warn("CAP_IPC_LOCK", "missing: locked memory is limited, and keys may not be locked")
                .command("AmbientCapabilities=CAP_IPC_LOCK in the unit");
        }
    }
}

fn workers(s: &Situation<'_>) -> u64 {
    s.policy.map_or(1, |p| p.workers.cores.workers() as u64)
}

fn memlock(s: &Situation<'_>, found: &mut Found) {
    let needed = workers(s) * s.policy.map_or(8192, |p| u64::from(p.workers.frames)) * FRAME;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let limit = s.host.limits.memlock_bytes;
    let said = limit.map_or("unlimited".to_owned(), |l| format!("{} KiB", l >> 10));
    if s.host.capable("CAP_IPC_LOCK") {
        found.ok(None, format!("CAP_IPC_LOCK: the limit ({said}) does not hold"));
    } else if limit.is_none_or(|l| l >= needed) {
        found.ok(None, format!("{said}; frames take {} MiB", mib(needed)));
    } else {
        found
            .fail(None, format!("{said}, and frames take {} MiB", mib(needed)))
            .command("LimitMEMLOCK=infinity in the unit")
            .command("prlimit --memlock=unlimited --pid $$");
    }
}

fn open_files(s: &Situation<'_>, found: &mut Found) {
    let sockets = s.ports().iter().filter_map(|p| Some(u64::from(p.nic?.queues.receive))).sum::<u64>();
    let needed = FILES + sockets * 2 + workers(s) * 8;
    match s.host.limits.open_files {
        Some(limit) if limit < needed => {
            found
                .fail(None, format!("{limit} files, and about {needed} are needed"))
                .command("LimitNOFILE=65536 in the unit")
                .command("prlimit --nofile=65536 --pid $$");
        }
        Some(limit) => found.ok(None, format!("{limit}")),
        None => found.ok(None, "unlimited"),
    }
}

fn memory(s: &Situation<'_>, found: &mut Found) {
    let Some(policy) = s.policy else {
        found.not_applicable(None, "no policy");
        return;
    };
    let workers = policy.workers.cores.workers() as u64;
    let needed = workers * (u64::from(policy.workers.frames) * FRAME + policy.flows.capacity as u64 * FLOW);
    let (needed, there) = (needed >> 20, s.host.memory.available_bytes >> 20);
    let said = format!("frames and flows take {needed} MiB of {there} MiB available");
    match (needed, there) {
        (_, 0) => found.not_applicable(None, "the kernel does not say"),
        (n, t) if n > t => {
            found.fail(None, said);
        }
        (n, t) if n * 2 > t => {
            found.warn(None, said);
        }
        _ => found.ok(None, said),
    }
}

fn hugepages(s: &Situation<'_>, found: &mut Found) {
    let peers: usize = s.policy.map_or(0, |p| {
        let of = |t: &crate::config::Tunnel| match &t.kind {
            crate::config::TunnelKind::WireGuard(wg) => wg.peers.len(),
            _ => 1,
        };
        p.tunnels.iter().map(of).sum()
    });
    let setting = s.host.memory.transparent_hugepages.as_deref();
    match setting {
        Some("never") if peers >= 256 => {
            let path = "/sys/kernel/mm/transparent_hugepage/enabled";
            found.warn(None, format!("off, and the policy has {peers} peers")).change(Change::file(path, "madvise"));
        }
        Some(mode) => found.ok(None, format!("transparent: {mode}; {peers} peers in the policy")),
        None => found.not_applicable(None, "the kernel has no transparent huge pages"),
    }
}

fn object(_: &Situation<'_>, found: &mut Found) {
    match crate::io::steer::object() {
        Ok(bytes) => found.ok(None, format!("{} KiB", bytes.len() >> 10)),
        Err(error) => {
            found.fail(None, error.to_string()).command("cargo xtask ebpf");
        }
    }
}
