//! What a process holds in the kernel's BPF subsystem, and whether it is still there when the process is gone.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{netns::NetNs, process};

/// A program, map or link of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Program(u64),
    Map(u64),
    Link(u64),
}

/// A loaded XDP program.
#[derive(Debug, Clone)]
pub struct Program {
    pub id: u64,
    pub name: String,
}

/// What a process holds by file descriptor. Empty when the process is gone.
pub fn held_by(pid: u32) -> BTreeSet<Object> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    files.filter_map(|file| object(&fs::read_to_string(file.path()).ok()?)).collect()
}

/// The object of one descriptor, from its /proc/PID/fdinfo. A link names its program too, and comes first.
fn object(info: &str) -> Option<Object> {
    let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    let link = value("link_id:").map(Object::Link);
    link.or_else(|| value("prog_id:").map(Object::Program)).or_else(|| value("map_id:").map(Object::Map))
}

/// Those of `objects` that the kernel still has.
///
/// # Errors
/// When bpftool does not answer.
pub fn still_there(objects: &BTreeSet<Object>) -> Result<BTreeSet<Object>> {
    let mut all = BTreeSet::new();
    for (kind, make) in [("prog", Object::Program as fn(u64) -> Object), ("map", Object::Map), ("link", Object::Link)] {
        all.extend(list(kind)?.iter().filter_map(|item| item["id"].as_u64()).map(make));
    }
    Ok(objects.intersection(&all).copied().collect())
}

/// All XDP programs of the machine.
///
/// # Errors
/// When bpftool does not answer.
pub fn programs() -> Result<Vec<Program>> {
    let xdp = list("prog")?.into_iter().filter(|program| program["type"] == "xdp");
    Ok(xdp
        .filter_map(|program| {
            Some(Program { id: program["id"].as_u64()?, name: program["name"].as_str().unwrap_or_default().to_owned() })
        })
        .collect())
}

/// Processes that hold a program.
pub fn holders(program: u64) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|pid| held_by(*pid).contains(&Object::Program(program))).collect()
}

fn list(kind: &str) -> Result<Vec<Value>> {
    let mut command = Command::new("bpftool");
    // Often not on a user's PATH.
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    let text = process::run(command.args(["--json", kind, "show"]), Duration::from_secs(10))?.ok()?;
    let text = if text.trim().is_empty() { "[]" } else { &text };
    serde_json::from_str(text).with_context(|| format!("bpftool {kind} show"))
}

/// Whether an XDP program is attached to a link.
///
/// # Errors
/// When there is no such link.
pub fn xdp_attached(ns: &NetNs, link: &str) -> Result<bool> {
    let text = ns.ip(&format!("-j -d link show dev {link}"))?;
    let value: Value = serde_json::from_str(&text)?;
    Ok(value[0].get("xdp").is_some_and(|xdp| xdp["mode"] != 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn descriptors_are_told_apart() {
        let link = "pos:\t0\nflags:\t02\nlink_type:\txdp\nlink_id:\t7\nprog_tag:\taa\nprog_id:\t3\nifindex:\t2\n";
        assert_eq!(object(link), Some(Object::Link(7)));
        assert_eq!(object("prog_type:\t6\nprog_id:\t3\n"), Some(Object::Program(3)));
        assert_eq!(object("map_type:\t17\nmap_id:\t12\n"), Some(Object::Map(12)));
        assert_eq!(object("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn what_never_was_is_not_there() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let never = BTreeSet::from([Object::Program(u64::MAX), Object::Map(u64::MAX)]);
        assert!(still_there(&never).unwrap().is_empty());
        assert!(held_by(std::process::id()).is_empty());
        let ns = NetNs::new(&crate::cleanup::unique("unit-bpf")).unwrap();
        assert!(!xdp_attached(&ns, "lo").unwrap());
        assert!(xdp_attached(&ns, "none").is_err());
    }
}
