//! What a host has, in one value that can be written down and read elsewhere: `softdpu inventory --json` writes it,
//! `softdpu doctor` judges it, `softdpu plan --host FILE` plans for it.
//!
//! Whatever could not be found out is absent (`null` or an empty list), never guessed. Fields are only added within a
//! [`VERSION`]; a reader ignores those it does not know.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Raised when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// A host as softdpu sees it, in the network namespace it was asked in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// [`VERSION`] of whoever wrote it.
    pub version: u32,
    /// Version of softdpu that wrote it.
    pub softdpu: String,
    pub hostname: String,
    pub kernel: Kernel,
    pub cpu: Cpu,
    pub memory: Memory,
    pub limits: Limits,
    /// Effective capabilities of the process that asked, as in capabilities(7): "CAP_NET_ADMIN".
    pub capabilities: Vec<String>,
    pub clock: Clock,
    /// Settings under /proc/sys that matter here, by name as in sysctl(8).
    pub sysctl: BTreeMap<String, String>,
    /// In the order of their indices.
    pub interfaces: Vec<Interface>,
    /// What could not be found out, and why.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// As `uname -m` says.
    pub machine: String,
    /// Major and minor number of `release`.
    pub version: (u32, u32),
    /// Whether /sys/kernel/btf/vmlinux is there.
    pub btf: bool,
    /// Whether a socket of family AF_XDP can be made; `None` where it may not be tried (no CAP_NET_RAW).
    pub af_xdp: Option<bool>,
    /// The options of the build that matter, with "y", "m", "n"; empty where the kernel does not tell.
    pub config: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    pub model: String,
    /// Logical CPUs that are online.
    pub online: Vec<usize>,
    /// Of these, the ones this process may run on.
    pub allowed: Vec<usize>,
    /// CPUs that the scheduler leaves alone (`isolcpus=`).
    pub isolated: Vec<usize>,
    /// Logical CPUs that share a core, by core, where there are several.
    pub siblings: Vec<Vec<usize>>,
    pub numa: Vec<NumaNode>,
    /// Flags that make a difference here: aes, avx2, avx512f, vaes, ...
    pub flags: Vec<String>,
    /// Frequency governor by CPU; empty where frequency is not the kernel's.
    pub governors: BTreeMap<usize, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NumaNode {
    pub node: u32,
    pub cpus: Vec<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub hugepages: Vec<HugePages>,
    /// always, madvise or never.
    pub transparent_hugepages: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugePages {
    pub page_bytes: u64,
    pub total: u64,
    pub free: u64,
}

/// Of the process that asked. `None`: unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub memlock_bytes: Option<u64>,
    pub open_files: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clock {
    /// Whether something keeps the clock in step (adjtimex(2)).
    pub synchronised: Option<bool>,
    /// The clock source in use: tsc, hpet, kvm-clock, ...
    pub source: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub mac: Option<String>,
    /// Of virtual interfaces, as `ip -d link` says: "veth", "bridge", ...
    pub kind: Option<String>,
    /// Empty where the kernel does not say.
    pub driver: String,
    pub driver_version: Option<String>,
    pub firmware: Option<String>,
    /// Where the device is, "0000:3b:00.0" on PCI.
    pub bus: Option<String>,
    pub numa_node: Option<u32>,
    /// Megabits per second.
    pub speed_mbps: Option<u32>,
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub running: bool,
    pub queues: Queues,
    /// The device's own rings; virtual devices have none.
    pub rings: Option<DeviceRings>,
    pub rss: Option<Rss>,
    pub xdp: Xdp,
    /// By ethtool's short name: gro, gso, tso, lro, rx, tx, sg, rxvlan, txvlan, ntuple, rxhash. Absent: the device does not know.
    pub offloads: BTreeMap<String, bool>,
    pub irqs: Vec<Irq>,
    pub napi: Napi,
    /// Settings of this interface under /proc/sys/net, by family and name: "ipv4.rp_filter".
    pub sysctl: BTreeMap<String, String>,
    /// The other end of a veth.
    pub peer: Option<Peer>,
    /// Names of VLAN, macvlan and like interfaces that sit on this one.
    pub upper: Vec<String>,
}

/// Channels, as `ethtool -l` shows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queues {
    /// Receive queues that an XDP program sees: rx and combined, at least 1.
    pub receive: u32,
    pub rx: u32,
    pub tx: u32,
    pub combined: u32,
    pub max_rx: u32,
    pub max_tx: u32,
    pub max_combined: u32,
}

impl Queues {
    /// Most receive queues the device can be given.
    pub fn most(&self) -> u32 {
        self.receive.max(self.max_rx).max(self.max_combined)
    }
}

/// Slots of the device's rings, as `ethtool -g` shows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRings {
    pub rx: u32,
    pub tx: u32,
    pub max_rx: u32,
    pub max_tx: u32,
}

/// How the device spreads packets over its queues. The key is not given: who knows it can aim at one queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rss {
    pub key_bytes: u32,
    /// Whether both directions of a flow get one hash: the key repeats every 16 bits.
    pub symmetric_key: bool,
    /// Queue by hash.
    pub indirection: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Xdp {
    /// As the kernel's `netdev` family has them: basic, redirect, ndo-xmit, xsk-zerocopy, hw-offload, rx-sg, ndo-xmit-sg.
    /// `None`: the kernel is older than 6.3 and does not say.
    pub features: Option<Vec<String>>,
    pub attached: Option<XdpProgram>,
}

impl Xdp {
    /// Whether the device says it has a feature.
    pub fn has(&self, feature: &str) -> Option<bool> {
        self.features.as_ref().map(|all| all.iter().any(|f| f == feature))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct XdpProgram {
    pub id: u32,
    /// `None` where it may not be looked at (CAP_SYS_ADMIN).
    pub name: Option<String>,
    /// native or generic.
    pub mode: String,
    /// Whether it is softdpu's.
    pub ours: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Irq {
    pub number: u32,
    /// As in /proc/interrupts.
    pub name: String,
    /// CPUs that may serve it.
    pub cpus: Vec<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Napi {
    pub defer_hard_irqs: Option<u64>,
    pub gro_flush_timeout_ns: Option<u64>,
    /// Polled by kernel threads.
    pub threaded: Option<bool>,
}

/// The other end of a veth, as far as it can be seen from here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peer {
    /// Its index in its namespace.
    pub index: u32,
    /// How its namespace can be entered: a path for `nsenter --net=PATH`. `None`: this one, or it could not be found.
    pub namespace: Option<String>,
    /// Whether the fields below were read.
    pub seen: bool,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    pub offloads: BTreeMap<String, bool>,
    pub xdp_attached: bool,
}

impl Inventory {
    /// Reads what `softdpu inventory --json` wrote.
    ///
    /// # Errors
    /// The file cannot be read, is no inventory, or is of a later version.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// The same from a text.
    ///
    /// # Errors
    /// It is no inventory, or of a later version.
    pub fn parse(text: &str) -> Result<Self> {
        /// All that must be there, and first of all read: a later version may have other types elsewhere.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let Head { version } =
            serde_json::from_str(text).context("no inventory; `softdpu inventory --json` writes one")?;
        ensure!(
            (1..=VERSION).contains(&version),
            "an inventory of version {version}; this softdpu knows up to {VERSION}: write it with the older one, or update this"
        );
        serde_json::from_str(text).context("no inventory; `softdpu inventory --json` writes one")
    }

    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// Whether the process that asked has a capability: "CAP_BPF". CAP_SYS_ADMIN counts for CAP_BPF, as in the kernel.
    pub fn capable(&self, name: &str) -> bool {
        let has = |wanted: &str| self.capabilities.iter().any(|c| c == wanted);
        has(name) || (name == "CAP_BPF" && has("CAP_SYS_ADMIN"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let mut inventory = Inventory { version: VERSION, ..Inventory::default() };
        inventory.kernel.version = (6, 18);
        inventory.cpu.governors.insert(3, "powersave".into());
        inventory.interfaces.push(Interface { name: "eth0".into(), ..Interface::default() });
        let text = serde_json::to_string(&inventory).unwrap();
        assert_eq!(Inventory::parse(&text).unwrap(), inventory);
        assert!(inventory.interface("eth0").is_some() && inventory.interface("eth1").is_none());
    }

    #[test]
    fn others_versions_and_other_files_are_told_apart() {
        let later = Inventory::parse("{\"version\": 99, \"cpu\": 7}").unwrap_err().to_string();
        assert!(later.contains("version 99"), "{later}");
        assert!(Inventory::parse("{\"ports\": []}").unwrap_err().to_string().contains("softdpu inventory"));
        let sparse = Inventory::parse("{\"version\": 1, \"unheard\": {}}").unwrap();
        assert_eq!(sparse.interfaces.len(), 0);
    }

    #[test]
    fn a_grown_up_capability_counts_for_the_small_one() {
        let inventory = Inventory { capabilities: vec!["CAP_SYS_ADMIN".into()], ..Inventory::default() };
        assert!(inventory.capable("CAP_BPF") && !inventory.capable("CAP_NET_RAW"));
    }
}
