//! `softdpu inventory`: what this host has.

use std::io::Write;

use super::args::InventoryArgs;
use super::show::{Rows, bytes, or_dash};
use crate::host::inventory::{Interface, Inventory};
use crate::host::probe;

pub fn run(args: &InventoryArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let inventory = match &args.host {
        Some(file) => Inventory::read(file)?,
        None => probe::inventory()?,
    };
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&inventory)?)?;
    } else {
        write!(out, "{}", page(&inventory))?;
    }
    Ok(true)
}

/// The parts that people look for first; everything is in the JSON.
fn page(host: &Inventory) -> String {
    use std::fmt::Write;
    let mut page = String::new();
    let (kernel, cpu, memory) = (&host.kernel, &host.cpu, &host.memory);
    let yes = |there: bool| if there { "yes" } else { "no" };
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{}: Linux {} {}", host.hostname, kernel.release, kernel.machine);
    let af_xdp = kernel.af_xdp.map_or("not known", yes);
    let _ = writeln!(page, " AF_XDP {af_xdp}, BTF {}, BPF JIT {}", yes(kernel.btf), jit(host));
    let _ = writeln!(
        page,
        " CPU {}: {} online, {} for us, {} memory node{}; {}",
        cpu.model,
        cpu.online.len(),
        cpu.allowed.len(),
        cpu.numa.len().max(1),
        if cpu.numa.len() > 1 { "s" } else { "" },
        cpu.flags.join(" ")
    );
    let (total, free) = (bytes(memory.total_bytes), bytes(memory.available_bytes));
    let limit = |l: Option<u64>| l.map_or("unlimited".to_owned(), bytes);
    let _ = writeln!(page, " memory {total}, {free} available; locked memory {}", limit(host.limits.memlock_bytes));
    let wanted = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_IPC_LOCK"];
    let missing: Vec<&str> = wanted.into_iter().filter(|c| !host.capable(c)).collect();
    let said =
        if missing.is_empty() { "all that are needed".to_owned() } else { format!("missing {}", missing.join(", ")) };
    let _ = writeln!(page, " capabilities: {said}\n");
    let mut rows = Rows::new(&[
        "interface",
        "driver",
        ">mtu",
        ">queues",
        ">of",
        ">ring",
        ">Mbit/s",
        "xdp",
        "program",
        "offloads",
        "peer",
    ]);
    for nic in &host.interfaces {
        rows.add(row(nic));
    }
    page.push_str(&rows.to_string());
    for note in &host.notes {
        let _ = writeln!(page, "\nnote: {note}");
    }
    page
}

fn jit(host: &Inventory) -> &'static str {
    match host.sysctl.get("net.core.bpf_jit_enable").map(String::as_str) {
        Some("0") => "no",
        Some(_) => "yes",
        None => "not known",
    }
}

fn row(nic: &Interface) -> [String; 11] {
    let number = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
    let on = ["gro", "tso", "lro", "rx", "tx", "rxvlan"].into_iter().filter(|n| nic.offloads.get(*n) == Some(&true));
    let program = nic.xdp.attached.as_ref().map(|p| format!("{} {}", p.name.as_deref().unwrap_or("?"), p.mode));
    let peer = nic.peer.as_ref().map(|p| match (&p.namespace, p.seen) {
        (_, false) => "unseen".to_owned(),
        (None, true) => p.name.clone(),
        (Some(path), true) => format!("{} in {path}", p.name),
    });
    [
        nic.name.clone(),
        or_dash(Some(&nic.driver)),
        nic.mtu.to_string(),
        nic.queues.receive.to_string(),
        nic.queues.most().to_string(),
        number(nic.rings.as_ref().map(|r| r.rx)),
        number(nic.speed_mbps),
        or_dash(nic.xdp.features.as_ref().map(|f| f.join(",")).as_deref()),
        or_dash(program.as_deref()),
        or_dash(Some(&on.collect::<Vec<_>>().join(","))),
        or_dash(peer.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_line_per_interface() {
        let nic = Interface { name: "eth7".into(), driver: "ice".into(), mtu: 9000, ..Interface::default() };
        let page = page(&Inventory { hostname: "edge".into(), interfaces: vec![nic], ..Inventory::default() });
        assert!(page.starts_with("edge: Linux") && page.contains("missing CAP_NET_ADMIN"), "{page}");
        assert!(page.lines().any(|l| l.contains("eth7") && l.contains("9000")), "{page}");
    }
}
