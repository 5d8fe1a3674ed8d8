//! Finding out what a host has: an [`Inventory`] from /proc, /sys, netlink and ethtool's ioctls. Only reads.

mod links;
mod system;

use anyhow::Result;

use super::inventory::{Inventory, VERSION};
use super::netns;

/// Settings under /proc/sys that belong to the host or the namespace as a whole, by name.
const SYSCTLS: [&str; 14] = [
    "kernel.unprivileged_bpf_disabled",
    "net.core.bpf_jit_enable",
    "net.core.bpf_jit_harden",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.optmem_max",
    "net.core.wmem_max",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "vm.max_map_count",
    "vm.nr_hugepages",
];

/// The host, in the network namespace of the calling thread.
///
/// # Errors
/// The namespace's interfaces cannot be listed at all. Everything else that cannot be read is absent, and in `notes` where
/// that matters.
pub fn inventory() -> Result<Inventory> {
    netns::within(None, || {
        let mut notes = Vec::new();
        if !netns::sys_is_ours() {
            notes.push(
                "/sys shows another network namespace: NAPI settings are not known (run under `ip netns exec`)"
                    .to_owned(),
            );
        }
        let interfaces = links::all(&mut notes)?;
        Ok(Inventory {
            version: VERSION,
            softdpu: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: text("/proc/sys/kernel/hostname").unwrap_or_default(),
            kernel: system::kernel(),
            cpu: system::cpu(),
            memory: system::memory(),
            limits: system::limits(),
            capabilities: system::capabilities(),
            clock: system::clock(),
            sysctl: SYSCTLS.iter().filter_map(|name| Some(((*name).to_owned(), sysctl(name)?))).collect(),
            interfaces,
            notes,
        })
    })
}

/// A file's text without the newline at its end.
fn text(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    text(path)?.parse().ok()
}

/// A setting by its name as in sysctl(8).
fn sysctl(name: &str) -> Option<String> {
    text(&format!("/proc/sys/{}", name.replace('.', "/")))
}

/// The kernel's way to write a set of CPUs: "0-3,8".
pub fn cpu_list(text: &str) -> Vec<usize> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            // No machine has more; a list from a file may say anything.
            all.extend(first..=last.min(first.saturating_add(8191)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(cpu_list(""), [0usize; 0]);
        assert_eq!(cpu_list("x,3,5-4"), [3]);
        assert!(cpu_list("0-18446744073709551615").len() <= 8192);
    }

    #[test]
    fn this_host_is_found_and_survives_json() {
        let inventory = inventory().unwrap();
        assert_eq!(inventory.version, VERSION);
        assert!(inventory.kernel.version.0 >= 4 && !inventory.cpu.online.is_empty(), "{inventory:?}");
        assert!(inventory.memory.total_bytes > 1 << 20 && inventory.memory.available_bytes > 0);
        let lo = inventory.interface("lo").unwrap();
        assert_eq!((lo.index, lo.queues.receive), (1, 1));
        assert!(lo.offloads.contains_key("gro"));
        let json = serde_json::to_string(&inventory).unwrap();
        assert_eq!(Inventory::parse(&json).unwrap(), inventory);
    }
}
