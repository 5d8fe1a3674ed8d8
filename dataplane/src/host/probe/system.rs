//! Kernel, processors, memory and what the process may do.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;

use super::{cpu_list, number, text};
use crate::host::inventory::{Clock, Cpu, HugePages, Kernel, Limits, Memory, NumaNode};

/// Options of the kernel's build that matter, without CONFIG_.
const OPTIONS: [&str; 16] = [
    "BPF_SYSCALL",
    "BPF_JIT",
    "DEBUG_INFO_BTF",
    "XDP_SOCKETS",
    "NET_RX_BUSY_POLL",
    "PAGE_POOL",
    "HUGETLBFS",
    "TUN",
    "VETH",
    "XFRM_USER",
    "INET_ESP",
    "WIREGUARD",
    "VLAN_8021Q",
    "NO_HZ_FULL",
    "PREEMPT_RT",
    "SECURITY_LOCKDOWN_LSM",
];

/// CPU flags that make a difference to what is done here.
const FLAGS: [&str; 20] = [
    "aes",
    "pclmulqdq",
    "ssse3",
    "sse4_2",
    "avx",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512ifma",
    "vaes",
    "vpclmulqdq",
    "sha_ni",
    "bmi2",
    "constant_tsc",
    "nonstop_tsc",
    "hypervisor",
    "asimd",
    "pmull",
    "sha2",
];

/// capabilities(7) by number.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

pub fn kernel() -> Kernel {
    // SAFETY: all-zero is a valid utsname.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: a whole utsname to write to; its texts end with NUL.
    let (release, machine) = unsafe {
        libc::uname(&raw mut name);
        let text = |t: &[libc::c_char]| CStr::from_ptr(t.as_ptr()).to_string_lossy().into_owned();
        (text(&name.release), text(&name.machine))
    };
    Kernel {
        version: version(&release),
        config: config(&release),
        btf: std::path::Path::new("/sys/kernel/btf/vmlinux").exists(),
        af_xdp: af_xdp(),
        release,
        machine,
    }
}

/// "6.12.3-1-amd64" is (6, 12).
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// From /boot, where distributions put it. (/proc/config.gz would need a decompressor for one question.)
fn config(release: &str) -> BTreeMap<String, String> {
    let paths = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    let Some(all) = paths.iter().find_map(|p| std::fs::read_to_string(p).ok()) else { return BTreeMap::new() };
    options(&all)
}

fn options(config: &str) -> BTreeMap<String, String> {
    let set: BTreeMap<&str, &str> =
        config.lines().filter_map(|l| l.trim().strip_prefix("CONFIG_")?.split_once('=')).collect();
    OPTIONS.iter().map(|o| ((*o).to_owned(), (*set.get(o).unwrap_or(&"n")).to_owned())).collect()
}

fn af_xdp() -> Option<bool> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd >= 0 {
        // SAFETY: a descriptor just made, closed once.
        unsafe { libc::close(fd) };
        return Some(true);
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAFNOSUPPORT) => Some(false),
        _ => None,
    }
}

pub fn cpu() -> Cpu {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines().find_map(|l| l.split_once(':').filter(|(k, _)| k.trim() == name)).map(|(_, v)| v.trim().to_owned())
    };
    let flags = field("flags").or_else(|| field("Features")).unwrap_or_default();
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let base = "/sys/devices/system/cpu";
    let list = |file: &str| text(&format!("{base}/{file}")).map(|t| cpu_list(&t)).unwrap_or_default();
    let mut online = list("online");
    let allowed = allowed();
    if online.is_empty() {
        online = allowed.clone();
    }
    let mut siblings: Vec<Vec<usize>> = online
        .iter()
        .filter_map(|c| text(&format!("{base}/cpu{c}/topology/thread_siblings_list")))
        .map(|t| cpu_list(&t))
        .filter(|s| s.len() > 1)
        .collect();
    siblings.sort();
    siblings.dedup();
    let governor = |c: &usize| Some((*c, text(&format!("{base}/cpu{c}/cpufreq/scaling_governor"))?));
    Cpu {
        model: field("model name").or_else(|| field("CPU part")).unwrap_or_default(),
        governors: online.iter().filter_map(governor).collect(),
        isolated: list("isolated"),
        numa: numa(),
        flags: FLAGS.iter().filter(|f| flags.contains(f)).map(|f| (*f).to_owned()).collect(),
        siblings,
        online,
        allowed,
    }
}

/// CPUs this process may run on.
fn allowed() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } < 0 {
        return Vec::new();
    }
    // SAFETY: the index stays below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|&c| unsafe { libc::CPU_ISSET(c, &set) }).collect()
}

fn numa() -> Vec<NumaNode> {
    let entries = std::fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let node = |e: std::fs::DirEntry| {
        let node = e.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        Some(NumaNode { node, cpus: cpu_list(&text(e.path().join("cpulist").to_str()?)?) })
    };
    let mut nodes: Vec<NumaNode> = entries.filter_map(node).collect();
    nodes.sort_by_key(|n| n.node);
    nodes
}

pub fn memory() -> Memory {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |name: &str| -> u64 {
        let line = info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let pools = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let pool = |e: std::fs::DirEntry| {
        let size: u64 = e.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |file: &str| number(e.path().join(file).to_str()?);
        Some(HugePages { page_bytes: size * 1024, total: count("nr_hugepages")?, free: count("free_hugepages")? })
    };
    let mut hugepages: Vec<HugePages> = pools.filter_map(pool).collect();
    hugepages.sort_by_key(|h| h.page_bytes);
    let chosen = text("/sys/kernel/mm/transparent_hugepage/enabled");
    Memory {
        total_bytes: kilobytes("MemTotal") * 1024,
        available_bytes: kilobytes("MemAvailable") * 1024,
        hugepages,
        transparent_hugepages: chosen.and_then(|t| Some(t.split_once('[')?.1.split_once(']')?.0.to_owned())),
    }
}

pub fn limits() -> Limits {
    let limit = |what| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a whole rlimit to write to.
        let done = unsafe { libc::getrlimit(what, &raw mut limit) };
        (done == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
    };
    Limits { memlock_bytes: limit(libc::RLIMIT_MEMLOCK), open_files: limit(libc::RLIMIT_NOFILE) }
}

/// The calling thread's effective set.
pub fn capabilities() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let bits = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let bits = bits.and_then(|b| u64::from_str_radix(b.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, name)| (*name).to_owned()).collect()
}

pub fn clock() -> Clock {
    // SAFETY: all-zero asks and changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a whole timex to write to; without modes it is only read.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    Clock {
        synchronised: (answer >= 0).then_some(answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0),
        source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_kinds_have_a_version() {
        assert_eq!(version("6.12.117+deb12-rt-amd64"), (6, 12));
        assert_eq!(version("7.2"), (7, 2));
        assert_eq!(version("strange"), (0, 0));
    }

    #[test]
    fn an_option_that_is_not_there_is_off() {
        let all = options("# CONFIG_XDP_SOCKETS is not set\nCONFIG_VETH=m\nCONFIG_BPF_JIT=y\n");
        assert_eq!((all["XDP_SOCKETS"].as_str(), all["VETH"].as_str(), all["BPF_JIT"].as_str()), ("n", "m", "y"));
    }
}
