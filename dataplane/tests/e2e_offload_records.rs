//! What the driver counted is in a flow's last record, IPFIX and NDJSON alike; and what a rule drops the driver drops.
//!
//! ```text
//!   client            edge [softdpu, in clear]          server
//!   eth0 ────────── apps                uplink ────────── eth0
//!   10.1.0.2        10.1.0.1          10.2.0.1          10.2.0.2
//! ```
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::plain::{Plain, number, numbered, repeated};
use serde_json::Value;
use softdpu_testbed::process::eventually;

/// Of one direction: packets and bytes of IP packets.
type Count = (u64, u64);

/// A flow's records added up: from the initiator, and back.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
struct Told {
    ab: Count,
    ba: Count,
}

impl Told {
    fn add(&mut self, ab: Count, ba: Count) {
        for (sum, more) in [(&mut self.ab, ab), (&mut self.ba, ba)] {
            *sum = (sum.0 + more.0, sum.1 + more.1);
        }
    }
}

/// A collector of IPFIX on the edge's own host.
struct Collector(UdpSocket);

impl Collector {
    fn new(world: &Plain) -> Self {
        let socket = world.dut.within(|| Ok(UdpSocket::bind("127.0.0.1:4739")?)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// Adds up what has come of the flows to this port, with the tier that each record names.
    fn take(&self, port: u16, told: &mut Told, tiers: &mut Vec<String>) {
        let mut buffer = [0; 2048];
        while let Ok(n) = self.0.recv(&mut buffer) {
            let mut sets = &buffer[16..n];
            while let [a, b, c, d, ..] = *sets {
                let (id, len) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
                let (set, rest) = sets.split_at(len);
                if id == 256 {
                    records(&set[4..], port, told, tiers);
                }
                sets = rest;
            }
        }
    }
}

/// The records of a set of IPv4 flows, as `telemetry/export/ipfix.rs` lays them out.
fn records(mut set: &[u8], port: u16, told: &mut Told, tiers: &mut Vec<String>) {
    while set.len() > 65 {
        let (fixed, mut rest) = set.split_at(65);
        let number = |at: usize| u64::from_be_bytes(fixed[at..at + 8].try_into().unwrap());
        let mut text = |before: usize| {
            let (value, after) = rest[before + 1..].split_at(usize::from(rest[before]));
            rest = after;
            String::from_utf8_lossy(value).into_owned()
        };
        let names = [text(0), text(0), text(0), text(1), text(0)];
        if fixed[26..28] == port.to_be_bytes() {
            told.add((number(41), number(33)), (number(57), number(49)));
            tiers.push(names[2].clone());
        }
        set = rest;
    }
}

/// The same of the log, with each record's reason.
fn logged(world: &Plain, port: u16) -> (Told, Vec<(String, String)>) {
    let text = std::fs::read_to_string(world.folder.file("flows.ndjson")).unwrap_or_default();
    let (mut told, mut about) = (Told::default(), Vec::new());
    for line in text.lines().map_while(|line| serde_json::from_str::<Value>(line).ok()) {
        if line["b"].as_str().unwrap().ends_with(&format!(":{port}")) {
            let count = |packets, bytes| (number(&line, packets), number(&line, bytes));
            told.add(count("packets_ab", "bytes_ab"), count("packets_ba", "bytes_ba"));
            about.push(["tier", "reason"].map(|key| line[key].as_str().unwrap().to_owned()).into());
        }
    }
    (told, about)
}

const RECORDS: &str = r#"
[offload]
wait_for_class = false
[flows.timeouts]
# Young flows are looked at after this, whatever has become of them.
tcp_opening = "2s"
tcp_closing = "1s"
udp = "2s"
[export]
ipfix = "127.0.0.1:4739"
log = "FOLDER/flows.ndjson"
"#;

#[test]
fn the_records_of_offloaded_flows_have_every_packet() {
    // As in `e2e_offload.rs`: what is lost before the driver only its sender has counted.
    let whole = (0..5).any(|_| records_of_what_was_not_repeated());
    assert!(whole, "each of five transfers lost packets before the driver");
}

fn records_of_what_was_not_repeated() -> bool {
    const LENGTH: usize = 8 << 20;
    let Some(world) = Plain::new("e2e-rec", RECORDS) else { return true };
    let collector = Collector::new(&world);
    // A flow that ends by FIN.
    let listener = world.server.within(|| Ok(TcpListener::bind("10.2.0.2:80")?)).unwrap();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut first = [0; 5];
        peer.read_exact(&mut first).unwrap();
        peer.write_all(b"begun").unwrap();
        std::thread::sleep(Duration::from_millis(300));
        peer.write_all(&vec![7; LENGTH]).unwrap();
        let mut end = Vec::new();
        peer.read_to_end(&mut end).unwrap();
        repeated(&peer)
    });
    let mut client = world.client.within(|| Ok(TcpStream::connect("10.2.0.2:80")?)).unwrap();
    for _ in 0..5 {
        client.write_all(b"a").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut got = vec![0; 5 + LENGTH];
    client.read_exact(&mut got).unwrap();
    let by_client = repeated(&client);
    drop(client);
    if by_client + server.join().unwrap() > 0 {
        println!("segments were repeated: once more");
        return false;
    }
    let by_driver = world.verdict("flow_forward");
    assert!(by_driver as usize > LENGTH / 1500, "it went by the driver: {by_driver} packets\n{}", world.edge.said());
    let (there, back) = (Plain::sent(&world.client), Plain::sent(&world.server));
    // Headers of segments that a host counts as one: 52 bytes each.
    let exact = |(packets, bytes): Count, (sent, sent_bytes): Count| {
        packets >= sent && bytes == sent_bytes + 52 * (packets - sent)
    };
    let (mut exported, mut tiers) = (Told::default(), Vec::new());
    let told = eventually(Duration::from_secs(20), || {
        collector.take(80, &mut exported, &mut tiers);
        let (told, about) = logged(&world, 80);
        let all = exact(told.ab, there) && exact(told.ba, back) && exported == told;
        all.then_some(about)
    });
    let about = told.unwrap_or_else(|| {
        let told = logged(&world, 80);
        panic!("sent {there:?} {back:?}, {told:?}, exported {exported:?} {tiers:?}\nstill {:?}", world.flow(80))
    });
    assert_eq!(about.last().unwrap(), &("xdp".to_owned(), "end_of_flow".to_owned()), "{about:?}");
    assert!(tiers.iter().all(|tier| tier == "xdp"), "{tiers:?}");

    // One that falls silent, whose timeout is shorter than the driver keeps it.
    assert_eq!(numbered(&world, 7000, 3000, |_| {}).len(), 3000);
    let since = |ns, before: Count| {
        let now = Plain::sent(ns);
        (now.0 - before.0, now.1 - before.1)
    };
    let sent = Told { ab: since(&world.client, there), ba: since(&world.server, back) };
    assert!(sent.ab.0 == 3000 && sent.ba.0 > 10, "{sent:?}");
    let (mut exported, mut tiers) = (Told::default(), Vec::new());
    let told = eventually(Duration::from_secs(30), || {
        collector.take(7000, &mut exported, &mut tiers);
        let (told, about) = logged(&world, 7000);
        (told == sent && exported == sent).then_some(about)
    });
    let about = told.unwrap_or_else(|| panic!("{sent:?}, logged {:?}, exported {exported:?}", logged(&world, 7000)));
    assert_eq!(about, [("xdp".to_owned(), "idle".to_owned())], "one record, with all");
    true
}

/// And where softdpu ends first, the record has what the driver counted until then.
#[test]
fn the_last_records_of_a_stopped_instance_have_every_packet() {
    let Some(world) = Plain::new("e2e-rec-stop", RECORDS) else { return };
    assert_eq!(numbered(&world, 7000, 2000, |_| {}).len(), 2000);
    assert!(world.verdict("flow_forward") > 1000, "{:?}", world.flow(7000));
    let sent = Told { ab: Plain::sent(&world.client), ba: Plain::sent(&world.server) };
    let Plain { edge, folder, client: _client, server: _server, dut: _dut } = world;
    assert!(edge.stop().unwrap().success());
    let text = std::fs::read_to_string(folder.file("flows.ndjson")).unwrap();
    let mut told = Told::default();
    for line in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if line["b"].as_str().unwrap().ends_with(":7000") {
            let count = |packets, bytes| (number(&line, packets), number(&line, bytes));
            told.add(count("packets_ab", "bytes_ab"), count("packets_ba", "bytes_ba"));
        }
    }
    assert_eq!(told, sent, "{text}");
}

const BANNED: &str = r#"
[offload]
min_packets = 4
[[rule]]
name = "banned"
protocol = "udp"
ports = ["7002"]
action = "drop"
"#;

/// The driver drops what a rule drops, under the rule's name, until the rule is another.
#[test]
fn a_flow_that_a_rule_drops_is_dropped_by_the_driver() {
    let Some(world) = Plain::new("e2e-off-drop", BANNED) else { return };
    let receiver = world.server.within(|| Ok(UdpSocket::bind("10.2.0.2:7002")?)).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = world.client.within(|| Ok(UdpSocket::bind("10.1.0.2:6002")?)).unwrap();
    sender.connect("10.2.0.2:7002").unwrap();
    let mut sent = 0;
    let mut send = |n: u64| {
        for _ in 0..n {
            sender.send(&[7; 100]).unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
        sent += n;
        sent
    };
    let down = eventually(Duration::from_secs(5), || {
        send(10);
        world.flow(7002).filter(|flow| flow["tier"] == "xdp")
    });
    let down = down.unwrap_or_else(|| panic!("{:?}\n{}", world.flow(7002), world.edge.said()));
    assert_eq!(
        (down["drops"].as_bool(), down["nic_reason"].as_str()),
        (Some(true), Some("no_device_offload")),
        "{down}"
    );
    let explained = world.edge.verb(&["explain", "10.2.0.2:7002"]).unwrap();
    for said in ["rule banned, dropped", "put into the driver's table, which drops it", "not nic: no_device_offload"] {
        assert!(explained.contains(said), "{said}:\n{explained}");
    }
    let (by_worker, by_driver) = (world.verdict("worker"), world.verdict("flow_drop"));
    let all = send(1000);
    assert!(world.verdict("flow_drop") >= by_driver + 1000, "{} of the driver's", world.verdict("flow_drop"));
    assert!(world.verdict("worker") < by_worker + 100, "no worker had them");
    let by_rule = || {
        let status = world.edge.status().unwrap();
        let rules = status["rules"].as_array().unwrap().clone();
        let rule = rules.iter().find(|rule| rule["name"] == "banned").unwrap().clone();
        number(&rule, "packets")
    };
    let counted = eventually(Duration::from_secs(5), || (by_rule() == all).then_some(()));
    assert!(counted.is_some(), "{} counted of {all}", by_rule());
    let flow = world.flow(7002).unwrap();
    assert_eq!((number(&flow, "packets_ab"), number(&flow, "bytes_ab")), (all, all * 128), "{flow}");
    assert!(receiver.recv(&mut [0; 200]).is_err(), "none came");

    // Another policy: the entry is out before it is in force.
    let policy = world.folder.file("edge.toml");
    let text = std::fs::read_to_string(&policy).unwrap().replace("action = \"drop\"", "action = \"forward\"");
    std::fs::write(&policy, text).unwrap();
    world.edge.verb(&["reload"]).unwrap();
    let asked = Instant::now();
    let came = eventually(Duration::from_secs(5), || {
        send(1);
        receiver.recv(&mut [0; 200]).ok()
    });
    assert!(came.is_some(), "{:?}\n{}", world.flow(7002), world.edge.said());
    println!("let by {:?} after the reload", asked.elapsed());
}
