//! What others have that would belong beside what is measured, and is not measured here: named, with what was looked for, and never
//! estimated.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::net::namespace::Namespace;
use crate::path::find;

/// One that is not measured.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Absent {
    pub name: String,
    pub title: String,
    /// Parts of the bench that it belongs to.
    pub parts: Vec<String>,
    pub why: String,
    pub looked_for: Vec<Looked>,
    /// How to get it.
    pub how: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Looked {
    pub what: String,
    /// What was there, or what was said.
    pub found: String,
    pub there: bool,
}

/// One that may be there.
struct Candidate {
    name: &'static str,
    title: &'static str,
    parts: &'static [&'static str],
    /// Any of these is enough.
    signs: &'static [Sign],
    /// Whether a part takes it as a contender where it is there.
    has_turns: bool,
    how: &'static str,
}

enum Sign {
    /// A program.
    Program(&'static str),
    /// A file under /proc or /sys of an empty namespace.
    File(&'static str),
    /// A module that could be loaded. Looked up, not loaded.
    Module(&'static str),
    /// A command in an empty namespace that works where the kernel has it. The first word is the program.
    Works(&'static str),
}

const FORWARDING: &[&str] = &["veth", "latency", "udp", "connect", "https", "bulk"];
const CONNECTIONS: &[&str] = &["connect", "https", "bulk"];

/// Addresses of documentation (RFC 5737), and a key that nobody uses.
const ESP: &str = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel aead rfc4106(gcm(aes)) \
                   0x000102030405060708090a0b0c0d0e0f10111213 128";

const CANDIDATES: [Candidate; 15] = [
    Candidate {
        name: "ipvs",
        title: "kernel IPVS",
        parts: CONNECTIONS,
        signs: &[Sign::File("/proc/net/ip_vs"), Sign::Module("ip_vs")],
        has_turns: true,
        how: "a kernel with CONFIG_IP_VS, and apt-get install --no-install-recommends ipvsadm",
    },
    Candidate {
        name: "vpp",
        title: "VPP",
        parts: &["veth", "latency", "udp", "bulk", "tunnels"],
        signs: &[Sign::Program("vpp"), Sign::Program("vppctl")],
        has_turns: false,
        how: "packages of fd.io: https://fd.io/",
    },
    Candidate {
        name: "testpmd",
        title: "DPDK testpmd",
        parts: &["veth", "latency", "udp"],
        signs: &[Sign::Program("dpdk-testpmd"), Sign::Program("testpmd")],
        has_turns: false,
        how: "apt-get install --no-install-recommends dpdk, and huge pages",
    },
    Candidate {
        name: "kernel-wireguard",
        title: "kernel WireGuard",
        parts: &["tunnels"],
        signs: &[Sign::Works("ip link add softdpu-look type wireguard")],
        has_turns: true,
        how: "a kernel with CONFIG_WIREGUARD",
    },
    Candidate {
        name: "kernel-esp",
        title: "kernel ESP, AES-128-GCM",
        parts: &["tunnels"],
        signs: &[Sign::Works(ESP)],
        has_turns: true,
        how: "a kernel with CONFIG_INET_ESP and CONFIG_CRYPTO_GCM",
    },
    Candidate {
        name: "nftables",
        title: "kernel, nftables masquerade",
        parts: &["latency", "udp", "connect", "https", "bulk"],
        signs: &[Sign::Works("nft add table ip softdpu_look")],
        has_turns: true,
        how: "apt-get install --no-install-recommends nftables, and a kernel with CONFIG_NF_TABLES",
    },
    Candidate {
        name: "haproxy",
        title: "haproxy",
        parts: CONNECTIONS,
        signs: &[Sign::Program("haproxy")],
        has_turns: true,
        how: "apt-get install --no-install-recommends haproxy",
    },
    Candidate {
        name: "wrk",
        title: "wrk and nginx",
        parts: &["https"],
        signs: &[Sign::Program("wrk")],
        has_turns: true,
        how: "apt-get install --no-install-recommends wrk nginx-light",
    },
    Candidate {
        name: "iperf3",
        title: "iperf3",
        parts: &["bulk", "tunnels"],
        signs: &[Sign::Program("iperf3")],
        has_turns: true,
        how: "apt-get install --no-install-recommends iperf3",
    },
    Candidate {
        name: "wireguard-go",
        title: "wireguard-go",
        parts: &["tunnels"],
        signs: &[Sign::Program("wireguard-go")],
        has_turns: true,
        how: "apt-get install --no-install-recommends wireguard-go wireguard-tools",
    },
    Candidate {
        name: "strongswan",
        title: "strongSwan kernel-libipsec",
        parts: &["tunnels"],
        signs: &[Sign::Program("/usr/lib/ipsec/charon")],
        has_turns: true,
        how: "cargo xtask setup",
    },
    Candidate {
        name: "ndpi",
        title: "nDPI's ndpiReader",
        parts: &["classify"],
        signs: &[Sign::Program("ndpiReader")],
        has_turns: true,
        how: "apt-get install --no-install-recommends libndpi-bin",
    },
    Candidate {
        name: "ovs",
        title: "Open vSwitch (kernel and AF_XDP data path)",
        parts: FORWARDING,
        signs: &[Sign::Program("ovs-vswitchd")],
        has_turns: false,
        how: "apt-get install --no-install-recommends openvswitch-switch",
    },
    Candidate {
        name: "flowtable",
        title: "kernel, nftables flowtable",
        parts: FORWARDING,
        signs: &[Sign::Module("nf_flow_table")],
        has_turns: false,
        how: "a kernel with CONFIG_NF_FLOW_TABLE",
    },
    Candidate {
        name: "nic",
        title: "tier nic: a device that runs XDP programs",
        parts: &["veth", "offload", "steer"],
        signs: &[Sign::File("/sys/bus/pci/drivers/nfp"), Sign::File("/sys/bus/netdevsim")],
        has_turns: false,
        how: "a NIC whose driver takes XDP programs into the device",
    },
];

/// Looks for all that belong to one of `parts`, and returns those that were not measured.
pub fn look(parts: &[String]) -> Vec<Absent> {
    let belongs = |c: &&Candidate| c.parts.iter().any(|p| parts.iter().any(|part| part == p));
    CANDIDATES.iter().filter(belongs).filter_map(|c| absent(c, c.signs.iter().map(Sign::look).collect())).collect()
}

/// `None`: it is there, and has had its turns.
fn absent(c: &Candidate, looked_for: Vec<Looked>) -> Option<Absent> {
    let there = looked_for.iter().any(|l| l.there);
    if there && c.has_turns {
        return None;
    }
    let why = if there { "it is there, but this program has no turns for it" } else { "not there" };
    Some(Absent {
        name: c.name.into(),
        title: c.title.into(),
        parts: c.parts.iter().map(|p| (*p).to_owned()).collect(),
        why: why.into(),
        looked_for,
        how: if there { String::new() } else { c.how.into() },
    })
}

impl Sign {
    fn look(&self) -> Looked {
        match self {
            Self::Program(name) => {
                let path = if name.starts_with('/') {
                    Some(name.into()).filter(|p: &std::path::PathBuf| p.exists())
                } else {
                    find(name)
                };
                looked(format!("program {name}"), path.map(|p| p.display().to_string()).ok_or("not found".into()))
            }
            Self::File(path) => {
                let here = || inside(|| Ok(std::path::Path::new(path).exists()));
                looked((*path).into(), if here() { Ok("there".into()) } else { Err("not there".into()) })
            }
            Self::Module(name) => looked(format!("module {name} (modprobe --dry-run)"), module(name)),
            Self::Works(line) => {
                let mut words = line.split_whitespace();
                let shown: String = line.split_whitespace().take(6).collect::<Vec<_>>().join(" ");
                let shown = if line.split_whitespace().count() > 6 { shown + " …" } else { shown };
                let program = words.next().unwrap_or_default();
                looked(format!("{shown} (in an empty namespace)"), works(program, &words.collect::<Vec<_>>()))
            }
        }
    }
}

fn looked(what: String, found: Result<String, String>) -> Looked {
    let there = found.is_ok();
    Looked { what, found: found.unwrap_or_else(|e| e), there }
}

/// In a namespace of its own where that can be had.
fn inside(look: impl Fn() -> anyhow::Result<bool> + Sync) -> bool {
    match Namespace::new() {
        Ok(ns) => ns.run(&look).unwrap_or(false),
        Err(_) => look().unwrap_or(false),
    }
}

fn module(name: &str) -> Result<String, String> {
    if std::path::Path::new("/sys/module").join(name).exists() {
        return Ok("in the kernel".into());
    }
    let modprobe = find("modprobe").ok_or("modprobe is not installed, and the kernel has none in it")?;
    let done = Command::new(modprobe).args(["--dry-run", "--quiet", name]).stdin(Stdio::null()).output();
    match done {
        Ok(done) if done.status.success() => Ok("could be loaded".into()),
        Ok(_) => Err("no such module, and not in the kernel".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn works(program: &str, arguments: &[&str]) -> Result<String, String> {
    let path = find(program).ok_or_else(|| format!("{program} is not installed"))?;
    let ns = Namespace::new().map_err(|e| format!("{e:#}"))?;
    let done = ns.command(path).args(arguments).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if done.status.success() {
        return Ok("works".into());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(said
        .lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .unwrap_or("refused, without a word")
        .trim_end_matches('.')
        .to_owned())
}

impl Absent {
    /// Title, parts, why with what was looked for, and how to get it.
    pub fn cells(&self) -> [String; 4] {
        let looked: Vec<String> = self.looked_for.iter().map(|l| format!("{}: {}", l.what, l.found)).collect();
        [
            self.title.clone(),
            self.parts.join(", "),
            format!("{}. Looked for: {}", self.why, looked.join("; ")),
            self.how.clone(),
        ]
    }
}

/// Above [`Absent::cells`].
pub const HEADER: [&str; 4] = ["not measured", "belongs to", "why", "how to get it"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_is_there_and_measured_is_not_named() {
        let candidate = |has_turns| Candidate { has_turns, signs: &[], ..CANDIDATES[0] };
        let sign = |there| Looked { what: "x".into(), found: "y".into(), there };
        assert!(absent(&candidate(true), vec![sign(false), sign(true)]).is_none());
        let gone = absent(&candidate(true), vec![sign(false)]).unwrap();
        assert_eq!((gone.why.as_str(), gone.how.is_empty()), ("not there", false));
        let idle = absent(&candidate(false), vec![sign(true)]).unwrap();
        assert!(idle.why.contains("no turns") && idle.how.is_empty());
        assert!(gone.cells()[2].contains("Looked for: x: y"));
    }

    #[test]
    fn only_what_belongs_to_the_parts_is_looked_for() {
        assert!(look(&["graph".into()]).is_empty());
        let all: Vec<String> = CANDIDATES.iter().flat_map(|c| c.parts).map(|p| (*p).to_owned()).collect();
        let named = look(&all);
        // None of these has turns yet, so they are named wherever this runs.
        for name in ["vpp", "testpmd", "ovs", "flowtable"] {
            let one = named.iter().find(|a| a.name == name).unwrap();
            assert!(one.looked_for.iter().all(|l| !l.what.is_empty() && !l.found.is_empty()), "{one:?}");
        }
        let names: std::collections::BTreeSet<_> = CANDIDATES.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), CANDIDATES.len());
    }

    #[test]
    fn what_the_kernel_has_is_seen() {
        assert!(Sign::File("/proc/net/dev").look().there);
        assert!(!Sign::File("/proc/net/no_such_file").look().there);
        assert!(Sign::Program("sh").look().there && !Sign::Program("no-such-program").look().there);
        assert!(!Sign::Works("no-such-program at all").look().there);
    }
}
