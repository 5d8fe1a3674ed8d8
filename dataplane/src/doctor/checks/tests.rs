//! Faults that no machine can be made to have, in an inventory that is made up.
#![allow(clippy::unwrap_used)]

use super::super::{Finding, Situation, State, examine};
use crate::config::{self, Policy};
use crate::host::inventory::{DeviceRings, Interface, Inventory, Irq, NumaNode, Queues, Rss, VERSION};

/// A host that is as it should be, with one device.
fn host() -> Inventory {
    let mut host = Inventory { version: VERSION, ..Inventory::default() };
    host.kernel.version = (6, 12);
    host.kernel.af_xdp = Some(true);
    host.kernel.btf = true;
    host.cpu.online = (0..8).collect();
    host.cpu.allowed = (0..8).collect();
    host.cpu.flags = vec!["aes".into()];
    host.cpu.siblings = vec![vec![0, 4], vec![1, 5], vec![2, 6], vec![3, 7]];
    host.cpu.numa = vec![NumaNode { node: 0, cpus: (0..4).collect() }, NumaNode { node: 1, cpus: (4..8).collect() }];
    host.cpu.governors = (0..8).map(|c| (c, "performance".to_owned())).collect();
    host.memory.total_bytes = 16 << 30;
    host.memory.available_bytes = 8 << 30;
    host.memory.transparent_hugepages = Some("madvise".into());
    host.capabilities =
        ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_IPC_LOCK"].iter().map(|c| (*c).to_owned()).collect();
    host.clock.synchronised = Some(true);
    host.clock.source = Some("tsc".into());
    host.sysctl.insert("net.core.bpf_jit_enable".into(), "1".into());
    let features = ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "rx-sg"];
    let mut nic = Interface {
        name: "eth0".into(),
        driver: "ice".into(),
        mtu: 1500,
        up: true,
        running: true,
        numa_node: Some(0),
        queues: Queues { receive: 4, combined: 4, max_combined: 8, ..Queues::default() },
        rings: Some(DeviceRings { rx: 2048, tx: 2048, max_rx: 8160, max_tx: 8160 }),
        rss: Some(Rss { key_bytes: 52, symmetric_key: true, indirection: vec![0, 1, 2, 3] }),
        irqs: (0..4).map(|n| Irq { number: 30 + n, name: format!("ice-{n}"), cpus: vec![n as usize] }).collect(),
        ..Interface::default()
    };
    nic.xdp.features = Some(features.iter().map(|f| (*f).to_owned()).collect());
    nic.offloads = [("gro", true), ("lro", false), ("rxvlan", false)].map(|(n, on)| (n.to_owned(), on)).into();
    nic.sysctl.insert("ipv4.rp_filter".into(), "2".into());
    nic.napi.defer_hard_irqs = Some(2);
    nic.napi.gro_flush_timeout_ns = Some(200_000);
    host.interfaces.push(nic);
    host
}

fn policy(head: &str, port: &str) -> Policy {
    let text = format!("[workers]\n{head}\n\n[[port]]\nname = \"p\"\ninterface = \"eth0\"\n{port}\n");
    config::parse(&text, "x").unwrap()
}

fn judge(host: &Inventory, policy: &Policy) -> Vec<Finding> {
    examine(&Situation { host, policy: Some(policy), interfaces: &[], live: None })
}

/// The worst finding of a check.
fn worst(findings: &[Finding], check: &str) -> Finding {
    findings.iter().filter(|f| f.check == check).max_by_key(|f| f.state).unwrap().clone()
}

#[test]
fn a_host_as_it_should_be_has_nothing_to_improve() {
    let (host, policy) = (host(), policy("cores = [0, 1, 2, 3]\nframes = 16384", "busy_poll = true"));
    let bad: Vec<Finding> = judge(&host, &policy).into_iter().filter(|f| f.state >= State::Warn).collect();
    // A build without the XDP program is a finding of its own.
    assert!(bad.iter().all(|f| f.check == "steer-object"), "{bad:#?}");
}

#[test]
fn each_fault_is_found_by_its_check_alone() {
    type Plant = fn(&mut Inventory);
    let faults: [(&str, State, Plant); 22] = [
        ("kernel-version", State::Fail, |h| h.kernel.version = (5, 4)),
        ("kernel-version", State::Warn, |h| h.kernel.version = (6, 1)),
        ("kernel-af-xdp", State::Fail, |h| h.kernel.af_xdp = Some(false)),
        ("kernel-jit", State::Warn, |h| drop(h.sysctl.insert("net.core.bpf_jit_enable".into(), "0".into()))),
        ("kernel-btf", State::Warn, |h| h.kernel.btf = false),
        ("clock-sync", State::Warn, |h| h.clock.synchronised = Some(false)),
        ("clock-source", State::Warn, |h| h.clock.source = Some("hpet".into())),
        ("memory", State::Fail, |h| h.memory.available_bytes = 64 << 20),
        ("cores", State::Fail, |h| h.cpu.online.retain(|c| *c != 2)),
        ("smt", State::Warn, |h| h.cpu.siblings.push(vec![0, 1])),
        ("governor", State::Warn, |h| drop(h.cpu.governors.insert(1, "powersave".into()))),
        ("numa", State::Warn, |h| h.interfaces[0].numa_node = Some(1)),
        ("driver-xdp", State::Warn, |h| {
            h.interfaces[0].xdp.features = Some(Vec::new());
            h.interfaces[0].offloads.insert("gro".into(), false);
        }),
        ("queues", State::Fail, |h| {
            h.interfaces[0].queues.receive = 2;
            h.interfaces[0].rss = None;
        }),
        ("rss-symmetric", State::Warn, |h| h.interfaces[0].rss.as_mut().unwrap().symmetric_key = false),
        ("device-ring", State::Warn, |h| h.interfaces[0].rings.as_mut().unwrap().rx = 128),
        ("socket-ring", State::Warn, |h| h.interfaces[0].rings.as_mut().unwrap().rx = 8160),
        ("irq-affinity", State::Warn, |h| h.interfaces[0].irqs.iter_mut().for_each(|i| i.cpus = vec![0])),
        ("busy-poll", State::Warn, |h| h.interfaces[0].napi.defer_hard_irqs = Some(0)),
        ("lro", State::Fail, |h| *h.interfaces[0].offloads.entry("lro".into()).or_default() = true),
        ("vlan-tags", State::Warn, |h| *h.interfaces[0].offloads.entry("rxvlan".into()).or_default() = true),
        ("rp-filter", State::Warn, |h| drop(h.interfaces[0].sysctl.insert("ipv4.rp_filter".into(), "1".into()))),
    ];
    let policy = policy("cores = [0, 1, 2, 3]\nframes = 16384", "busy_poll = true");
    for (check, state, plant) in faults {
        let mut host = host();
        plant(&mut host);
        let findings = judge(&host, &policy);
        let found = worst(&findings, check);
        assert_eq!(found.state, state, "{check}: {found:?}");
        assert!(!found.meaning.is_empty());
        let others: Vec<_> = findings.iter().filter(|f| f.state >= State::Warn && f.check != check).collect();
        assert!(others.iter().all(|f| f.check == "steer-object"), "{check} brought {others:#?}");
    }
}

#[test]
fn what_can_be_set_comes_with_the_change() {
    let policy = policy("cores = [0, 1, 2, 3]", "busy_poll = true");
    let mut host = host();
    host.interfaces[0].irqs.iter_mut().for_each(|i| i.cpus = vec![7]);
    host.interfaces[0].rings.as_mut().unwrap().rx = 128;
    host.interfaces[0].queues.receive = 2;
    host.interfaces[0].rss.as_mut().unwrap().symmetric_key = false;
    let findings = judge(&host, &policy);
    let commands = |check: &str| worst(&findings, check).commands;
    assert_eq!(commands("irq-affinity")[1], "echo 1 > /proc/irq/31/smp_affinity_list");
    assert_eq!(commands("device-ring"), ["ethtool -G eth0 rx 1024"]);
    assert_eq!(commands("queues"), ["ethtool -L eth0 combined 4"]);
    assert!(commands("rss-symmetric")[0].starts_with("ethtool -X eth0 hkey 6d:5a:6d:5a:"));
    assert_eq!(commands("rss-symmetric")[0].matches("6d:5a").count(), 26);
}

#[test]
fn busy_workers_want_cores_of_their_own_and_all_cores_are_too_many() {
    let mut host = host();
    let busy = policy("cores = [0, 1]\nidle = \"busy\"", "");
    let found = worst(&judge(&host, &busy), "isolation");
    assert!(found.commands[0].starts_with("isolcpus=0,1 "), "{found:?}");
    host.cpu.isolated = vec![0, 1];
    assert_eq!(worst(&judge(&host, &busy), "isolation").state, State::Ok);
    host.cpu.allowed = vec![0, 1];
    assert_eq!(worst(&judge(&host, &busy), "cores").state, State::Warn);
}

#[test]
fn without_a_policy_a_named_interface_is_looked_at() {
    let (host, names) = (host(), ["eth0".to_owned(), "eth9".to_owned()]);
    let situation = Situation { host: &host, policy: None, interfaces: &names, live: None };
    let findings = examine(&situation);
    assert!(
        findings
            .iter()
            .any(|f| f.check == "interface" && f.state == State::Fail && f.subject.as_deref() == Some("eth9"))
    );
    assert_eq!(worst(&findings, "lro").state, State::Ok);
}
