//! Where a plan is to run: what a host has by its inventory, or a device by its persona. What is not known limits nothing,
//! and is said.

use serde::Deserialize;

use crate::config::policy::{Policy, PortKind};

/// Limits of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// As in "host edge-7".
    pub label: String,
    /// Bits per second.
    pub bandwidth: Option<u64>,
    /// Bits per second.
    pub crypto: Option<u64>,
    pub connections: Option<u64>,
    /// As in a policy; `None`: all, or not known.
    pub ciphers: Option<Vec<String>>,
    /// The device itself carries flows.
    pub nic: bool,
    /// Whether all ports run XDP in their driver; `None`: not known.
    pub native_xdp: Option<bool>,
    pub notes: Vec<String>,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            label: "the policy's own host".into(),
            bandwidth: None,
            crypto: None,
            connections: None,
            ciphers: None,
            nic: false,
            native_xdp: None,
            notes: Vec::new(),
        }
    }
}

/// Of `softdpu inventory --json`, what a plan needs. Fields that are absent are not known.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Inventory {
    pub hostname: String,
    pub kernel: Kernel,
    pub cpu: Cpu,
    pub memory: Memory,
    pub interfaces: Vec<Interface>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Kernel {
    pub release: String,
    /// Major and minor number.
    pub version: (u32, u32),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Logical CPUs that softdpu may run on.
    pub allowed: Vec<usize>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub total_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    pub driver: String,
    /// Megabits per second.
    pub speed_mbps: Option<u64>,
    pub queues: Queues,
    pub xdp: Xdp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Queues {
    /// That an XDP program sees.
    pub receive: u32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Xdp {
    pub features: Option<Vec<String>>,
}

/// Bytes of a frame of the UMEM, and of a flow in a worker's table.
const FRAME: u64 = 4096;
const FLOW: u64 = 127;

impl Inventory {
    /// The site, and what of the policy it cannot have.
    pub fn site(&self, policy: &Policy) -> (Site, Vec<String>) {
        let mut against = Vec::new();
        let mut notes = Vec::new();
        let workers = policy.workers.cores.workers();
        if !self.cpu.allowed.is_empty() && workers > self.cpu.allowed.len() {
            against.push(format!(
                "{workers} workers are asked for, the host has {} CPUs for them",
                self.cpu.allowed.len()
            ));
        }
        if let crate::config::policy::Cores::List(cores) = &policy.workers.cores {
            let missing: Vec<String> = cores
                .iter()
                .filter(|core| !self.cpu.allowed.is_empty() && !self.cpu.allowed.contains(core))
                .map(ToString::to_string)
                .collect();
            if !missing.is_empty() {
                against.push(format!("core {} is not the host's", missing.join(", ")));
            }
        }
        let needs = workers as u64 * (u64::from(policy.workers.frames) * FRAME + policy.flows.capacity as u64 * FLOW);
        if self.memory.total_bytes > 0 && needs > self.memory.total_bytes {
            against
                .push(format!("frames and flow tables take {needs} bytes, the host has {}", self.memory.total_bytes));
        }
        let (mut speeds, mut native) = (Vec::new(), Some(true));
        for port in &policy.ports {
            let PortKind::Xdp(xdp) = &port.kind else { continue };
            let Some(nic) = self.interfaces.iter().find(|nic| nic.name == xdp.interface) else {
                against.push(format!("port `{}`: the host has no interface {}", port.name, xdp.interface));
                continue;
            };
            let queues = xdp.queues.unwrap_or(nic.queues.receive);
            if nic.queues.receive > 0 && (queues > nic.queues.receive || workers as u32 > queues) {
                against.push(format!(
                    "port `{}`: {} has {} queues, {} are needed",
                    port.name,
                    nic.name,
                    nic.queues.receive,
                    queues.max(workers as u32)
                ));
            }
            match &nic.xdp.features {
                Some(features) if !features.iter().any(|feature| feature == "basic") => native = Some(false),
                Some(_) => {}
                None => {
                    native = native.filter(|native| !native);
                    notes.push(format!("{}: whether {} runs XDP in the driver is not known", nic.name, nic.driver));
                }
            }
            match nic.speed_mbps {
                Some(speed) => speeds.push(speed.saturating_mul(1_000_000)),
                None => notes.push(format!("{}: its speed is not known", nic.name)),
            }
        }
        if native == Some(false) {
            against.push("a port's driver has no XDP: it would run in the kernel's generic hook".into());
        }
        notes.push("what a host can encrypt is not in its inventory: `crypto` of [capacity] says it".into());
        let site = Site {
            label: format!("host {}", if self.hostname.is_empty() { "?" } else { &self.hostname }),
            // Both ways through the slowest of the ports: what comes in by one leaves by another.
            bandwidth: speeds.iter().min().map(|slowest| slowest.saturating_mul(2)),
            native_xdp: native,
            notes: notes.into_iter().chain(against.iter().cloned()).collect(),
            ..Site::default()
        };
        (site, against)
    }
}
