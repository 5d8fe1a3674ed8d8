//! Tier `nic` on netdevsim, the kernel's model of a device that takes XDP programs and maps: it checks, keeps and shows what it is
//! given, and runs nothing. So packets of an entry still come up here, and what a device would have counted is written into
//! its counters by the tests.
//!
//! ```text
//!   client            edge [softdpu, in clear]          server
//!   eth0 ────────── apps                uplink ────────── eth0        each wire: two netdevsim, linked
//!   10.1.0.2        10.1.0.1          10.2.0.1          10.2.0.2
//! ```
#![allow(clippy::unwrap_used)]

mod common;
mod vm;

use std::{fs, net::UdpSocket, os::fd::AsRawFd, process::Command};

use common::binary;
use serde_json::Value;
use softdpu_testbed::{
    cleanup::{self, RunDir},
    edge::Edge,
    netns::NetNs,
    policy::{EdgeFiles, Side},
    process::{self, eventually},
};

const BUS: &str = "/sys/bus/netdevsim";
const DEBUG: &str = "/sys/kernel/debug/netdevsim";
/// Numbers of the devices: the edge's ports and the hosts'.
const PORTS: [(u32, &str); 2] = [(71, "apps"), (72, "uplink")];
const HOSTS: [u32; 2] = [81, 82];
/// As many as netdevsim has room for in a map.
const ROOM: u64 = 2;

struct Sim {
    edge: Option<Edge>,
    files: EdgeFiles,
    client: NetNs,
    server: NetNs,
    dut: NetNs,
    _devices: Devices,
    _folder: RunDir,
}

/// Removed when dropped, before the namespaces they are in.
struct Devices;

impl Drop for Devices {
    fn drop(&mut self) {
        for number in PORTS.map(|port| port.0).into_iter().chain(HOSTS) {
            let _ = fs::write(format!("{BUS}/del_device"), number.to_string());
        }
    }
}

/// Makes a device and puts it into a namespace under a name; its index there.
fn device(number: u32, ns: &NetNs, name: &str, address: &str) -> u32 {
    fs::write(format!("{BUS}/new_device"), format!("{number} 1 1")).unwrap();
    let folder = format!("{BUS}/devices/netdevsim{number}/net");
    let made = eventually(vm::PATIENCE, || fs::read_dir(&folder).ok()?.flatten().next());
    let made = made.unwrap_or_else(|| panic!("nothing in {folder}")).file_name().into_string().unwrap();
    let mut ip = Command::new("ip");
    process::run(ip.args(["link", "set", &made, "name", name, "netns", ns.name()]), vm::PATIENCE)
        .unwrap()
        .ok()
        .unwrap();
    ns.ip(&format!("addr add {address}/24 dev {name}")).unwrap();
    ns.ip(&format!("link set {name} up")).unwrap();
    let said: Value = serde_json::from_str(&ns.ip(&format!("-j link show dev {name}")).unwrap()).unwrap();
    said[0]["ifindex"].as_u64().unwrap() as u32
}

/// What a test writes to or reads of a device.
fn knob(number: u32, name: &str) -> String {
    format!("{DEBUG}/netdevsim{number}/{name}")
}

impl Sim {
    /// The topology; `None`, said aloud, where there is no netdevsim.
    fn new(tag: &str) -> Option<Self> {
        if !vm::here() {
            return None;
        }
        let loaded = process::run(Command::new("modprobe").arg("netdevsim"), vm::PATIENCE).unwrap();
        if loaded.ok().is_err() {
            eprintln!("SKIPPED: this kernel's image has no netdevsim");
            return None;
        }
        let mut mount = Command::new("mount");
        let _ = process::run(mount.args(["-t", "debugfs", "none", "/sys/kernel/debug"]), vm::PATIENCE);
        cleanup::sweep();
        let base = cleanup::unique(tag);
        let host = |name: &str| NetNs::new(&format!("{base}-{name}")).unwrap();
        let (client, server, dut) = (host("client"), host("server"), host("edge"));
        let devices = Devices;
        for (((number, port), host), (peer, net)) in PORTS.into_iter().zip(HOSTS).zip([(&client, 1), (&server, 2)]) {
            let ours = device(number, &dut, port, &format!("10.{net}.0.1"));
            let theirs = device(host, peer, "eth0", &format!("10.{net}.0.2"));
            let [a, b] = [&dut, peer].map(|ns| fs::File::open(format!("/run/netns/{}", ns.name())).unwrap());
            let link = format!("{}:{ours} {}:{theirs}", a.as_raw_fd(), b.as_raw_fd());
            fs::write(format!("{BUS}/link_device"), link).unwrap();
            let mut ethtool = peer.command("ethtool");
            let _ = process::run(ethtool.args(["-K", "eth0", "tx", "off", "tso", "off"]), vm::PATIENCE);
            peer.ip(&format!("route add default via 10.{net}.0.1")).unwrap();
        }
        let folder = RunDir::new(tag).unwrap();
        let file = |end: &str| folder.file(format!("edge.{end}"));
        let files = EdgeFiles { side: Side::A, policy: file("toml"), socket: file("sock"), log: file("log") };
        Some(Self { edge: None, files, client, server, dut, _devices: devices, _folder: folder })
    }

    /// Starts softdpu with `nic = MODE`.
    fn start(&mut self, mode: &str) -> anyhow::Result<()> {
        // netdevsim runs a native program since 6.17.
        let xdp = if vm::kernel() >= (6, 17) { "native" } else { "generic" };
        let text = format!(
            r#"name = "nic"
[offload]
nic = "{mode}"
wait_for_class = false
[control]
socket = "{}"
[[port]]
name = "apps"
interface = "apps"
mode = "{xdp}"
checksum = "trust"
[[port]]
name = "uplink"
interface = "uplink"
mode = "{xdp}"
checksum = "trust"
[[steer]]
name = "udp"
protocol = "udp"
[[rule]]
name = "banned"
ports = ["7000"]
protocol = "udp"
action = "drop"
[[rule]]
name = "all"
"#,
            self.files.socket.display()
        );
        fs::write(&self.files.policy, text).unwrap();
        self.edge = Some(Edge::start(binary(), &self.dut, &self.files)?);
        Ok(())
    }

    fn edge(&self) -> &Edge {
        self.edge.as_ref().unwrap()
    }

    /// How it went with the device of a port.
    fn nic(&self, port: usize) -> Value {
        self.edge().status().unwrap()["ports"][port]["nic"].clone()
    }

    fn flow(&self, sport: u16) -> Option<Value> {
        let flows = self.edge().flows().unwrap();
        let end = format!(":{sport}");
        flows.as_array().unwrap().iter().find(|flow| flow["a"].as_str().unwrap().ends_with(&end)).cloned()
    }

    /// Sends to the banned port from `sport`, then asks.
    fn send<T>(&self, sport: u16, ask: impl FnOnce() -> Option<T>) -> Option<T> {
        let sender = self.client.within(|| Ok(UdpSocket::bind(("10.1.0.2", sport))?)).unwrap();
        for _ in 0..4 {
            sender.send_to(b"banned", "10.2.0.2:7000").unwrap();
        }
        ask()
    }

    /// Sends to the banned port from `sport` until the flow is as asked for.
    fn send_until(&self, sport: u16, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let met = eventually(vm::PATIENCE, || self.send(sport, || self.flow(sport)).filter(&mut wanted));
        met.unwrap_or_else(|| {
            panic!("{:?}\n{}\n{}", self.flow(sport), self.edge().status().unwrap(), self.edge().said())
        })
    }

    /// What the device of `apps` would count in all: so many packets of 10 bytes, into both counters of its map.
    fn counts(&self, packets: u16) {
        let show = bpftool(&self.dut, &["-j", "map", "show"]);
        let maps: Value = serde_json::from_str(&show).unwrap();
        let ours = |map: &&Value| map["name"] == "NIC_COUNTS" && map["dev"]["ifname"] == "apps";
        let map = maps.as_array().unwrap().iter().find(ours).unwrap_or_else(|| panic!("{show}"));
        let id = map["id"].as_u64().unwrap().to_string();
        for counter in ["0", "1"] {
            let value = [u64::from(packets), 10 * u64::from(packets)].map(u64::to_le_bytes).concat();
            let value: Vec<String> = value.iter().map(u8::to_string).collect();
            let mut words = vec!["map", "update", "id", &id, "key", counter, "0", "0", "0", "value"];
            words.extend(value.iter().map(String::as_str));
            bpftool(&self.dut, &words);
        }
    }

    fn drops(&self, reason: &str) -> u64 {
        let status = self.edge().status().unwrap();
        let drops = status["drops"].as_array().unwrap().clone();
        drops.iter().find(|drop| drop["reason"] == reason).map_or(0, |drop| drop["count"].as_u64().unwrap())
    }
}

fn bpftool(ns: &NetNs, words: &[&str]) -> String {
    let mut command = ns.command("bpftool");
    process::run(command.args(words), vm::PATIENCE).unwrap().ok().unwrap()
}

/// The program at work in a port's device; 0: none.
fn at_work(number: u32) -> u32 {
    fs::read_to_string(knob(number, "ports/0/bpf_offloaded_id")).unwrap().trim().parse().unwrap()
}

/// Programs that a device has at all.
fn bound(number: u32) -> usize {
    fs::read_dir(format!("{DEBUG}/netdevsim{number}/bpf_bound_progs")).unwrap().count()
}

fn number(flow: &Value, key: &str) -> u64 {
    flow[key].as_u64().unwrap()
}

#[test]
fn the_device_takes_what_a_rule_drops_and_gives_it_back() {
    let Some(mut sim) = Sim::new("vm-nic") else { return };
    sim.start("require").unwrap();
    for (at, (number, _)) in PORTS.into_iter().enumerate() {
        let nic = sim.nic(at);
        assert_eq!((nic["state"].as_str(), nic["capacity"].as_u64()), (Some("loaded"), Some(ROOM)), "{nic}");
        assert_ne!(at_work(number), 0);
    }
    // The ports work beside it.
    for (host, gateway) in [(&sim.client, "10.1.0.1"), (&sim.server, "10.2.0.1")] {
        vm::ping(host, gateway);
    }
    let receiver = sim.server.within(|| Ok(UdpSocket::bind("10.2.0.2:7001")?)).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = sim.client.within(|| Ok(UdpSocket::bind("10.1.0.2:5000")?)).unwrap();
    let forwarded = eventually(vm::PATIENCE, || {
        sender.send_to(b"allowed", "10.2.0.2:7001").unwrap();
        // Before, netdevsim lost what AF_XDP sockets send by it; that it was sent has to do.
        let sent = || sim.edge().status().ok()?["ports"][1]["tx"]["packets"].as_u64().filter(|packets| *packets > 0);
        if vm::kernel() >= (6, 17) { receiver.recv(&mut [0; 16]).ok() } else { sent().map(|_| 7) }
    });
    assert_eq!(forwarded, Some(7), "{}", sim.edge().status().unwrap());

    let before = sim.drops("policy_drop");
    let down = sim.send_until(5001, |flow| flow["tier"] == "nic");
    assert_eq!(down["rule"], "banned");
    assert_eq!(sim.nic(0)["flows"], 1);
    // The device counts nothing by itself, so the flow leaves after 5 s and goes back with its next packets.
    let listed = || sim.edge().verb(&["flows", "--tier", "nic", "--json"]).unwrap();
    let one = |said: &String| serde_json::from_str::<Value>(said).unwrap().as_array().unwrap().len() == 1;
    assert!(eventually(vm::PATIENCE, || sim.send(5001, || Some(listed()).filter(&one))).is_some(), "{}", listed());
    let explain = || sim.edge().verb(&["explain", "10.1.0.2:5001"]).unwrap();
    let there = |said: &String| said.contains("tier nic") && !said.contains("not nic");
    assert!(eventually(vm::PATIENCE, || sim.send(5001, || Some(explain()).filter(&there))).is_some(), "{}", explain());
    assert!(sim.drops("policy_drop") >= before + 4, "the first ones the worker dropped");

    // Counters fold: into the flow, and the drops. What a worker dropped has 34 bytes.
    let whole = |flow: &Value| {
        let by_device = sim.drops("nic_drop");
        let (packets, bytes) = (number(flow, "packets_ab"), number(flow, "bytes_ab"));
        by_device > 0 && by_device % 100 == 0 && bytes == 34 * (packets - by_device) + 10 * by_device
    };
    let mut written = 0;
    let counted = eventually(vm::PATIENCE, || {
        sim.send_until(5001, |flow| flow["tier"] == "nic");
        written += 100;
        sim.counts(written);
        eventually(std::time::Duration::from_secs(3), || sim.flow(5001).filter(&whole))
    });
    assert!(counted.is_some(), "{:?}, {} by the device", sim.flow(5001), sim.drops("nic_drop"));

    // As many as there is room for; the next one is told why.
    let third = eventually(vm::PATIENCE, || {
        for sport in [5001, 5002] {
            sim.send_until(sport, |flow| flow["tier"] == "nic");
        }
        sim.send(5003, || sim.flow(5003).filter(|flow| flow["nic_reason"] == "nic_full"))
    });
    assert_eq!(third.expect("a full table")["tier"], "xdp", "the driver drops it");
    let forwarded = sim.edge().flows().unwrap();
    let forwarded = forwarded.as_array().unwrap().iter().find(|flow| flow["rule"] == "all").cloned().unwrap();
    assert_eq!(forwarded["nic_reason"], "nic_only_drops", "{forwarded}");

    // By hand, and it stays with the worker. The silent one makes way by itself.
    let demoted = eventually(vm::PATIENCE, || {
        sim.send_until(5001, |flow| flow["tier"] == "nic");
        sim.edge().verb(&["demote", "10.1.0.2:5001"]).unwrap().contains("1 flow taken back").then_some(())
    });
    assert!(demoted.is_some());
    let up = sim.send_until(5001, |flow| flow["tier"] == "worker");
    assert_eq!(up["nic_reason"], "by_hand", "{up}");
    let idle = eventually(vm::PATIENCE, || sim.flow(5002).filter(|flow| flow["nic_reason"] == "idle"));
    assert!(idle.is_some(), "{:?}", sim.flow(5002));

    assert!(sim.edge.take().unwrap().stop().unwrap().success());
    for (number, _) in PORTS {
        let gone = eventually(vm::PATIENCE, || (at_work(number) == 0 && bound(number) == 0).then_some(()));
        assert!(gone.is_some(), "{} {}", at_work(number), bound(number));
    }
}

#[test]
fn a_killed_instance_leaves_nothing_in_the_device() {
    let Some(mut sim) = Sim::new("vm-nickill") else { return };
    for _ in 0..2 {
        sim.start("require").unwrap();
        vm::ping(&sim.client, "10.1.0.1");
        sim.send_until(5001, |flow| flow["tier"] == "nic");
        sim.edge.take().unwrap().kill();
        let gone = eventually(vm::PATIENCE, || (at_work(71) == 0 && bound(71) == 0).then_some(()));
        assert!(gone.is_some(), "entries that nobody keeps true");
    }
}

#[test]
fn what_a_device_refuses_is_said_with_its_reason() {
    let Some(mut sim) = Sim::new("vm-nicno") else { return };
    let steps = [
        ("ports/0/bpf_map_accept", "its table was refused", ""),
        ("bpf_bind_accept", "the program was refused", ""),
        // The verifier of the device itself, which says something.
        ("bpf_bind_verifier_accept", "the program was refused", "netdevsim"),
        ("ports/0/bpf_xdpoffload_accept", "the program was taken, but not put to work", ""),
    ];
    for (refusing, said, words) in steps {
        fs::write(knob(71, refusing), "N").unwrap();
        sim.start("auto").unwrap();
        let nic = sim.nic(0);
        assert_eq!((nic["state"].as_str(), nic["reason"].as_str()), (Some("refused"), Some("nic_refused")), "{nic}");
        assert_eq!(nic["errno"], libc::EOPNOTSUPP, "{nic}");
        let message = nic["message"].as_str().unwrap();
        assert!(message.starts_with(said) && message.contains(words), "{nic}");
        assert_eq!(sim.nic(1)["state"], "loaded", "the other port's device takes it");
        let page = sim.edge().verb(&["status"]).unwrap();
        assert!(page.contains(&format!("apps: device refused (nic_refused): {said}")), "{page}");
        assert!(sim.edge.take().unwrap().stop().unwrap().success());

        let error = format!("{:#}", sim.start("require").unwrap_err());
        assert!(error.contains("port `apps`") && error.contains(said) && error.contains("nic = "), "{error}");
        fs::write(knob(71, refusing), "Y").unwrap();
    }
    sim.start("off").unwrap();
    assert_eq!((sim.nic(0)["state"].as_str(), at_work(71)), (Some("off"), 0));
    vm::ping(&sim.client, "10.1.0.1");
    let stays = sim.send_until(5001, |flow| number(flow, "packets_ab") > 8);
    assert_eq!((stays["tier"].as_str(), stays["nic_reason"].as_str()), (Some("worker"), Some("nic_off")), "{stays}");
}
