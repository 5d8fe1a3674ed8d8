//! `mirror` of a rule: what arrives at the collector is what came in, all of it, and nothing else; and nobody's packets wait for
//! the copies.
//!
//! ```text
//!   client            edge [softdpu, in clear]          server
//!   eth0 ────────── apps                uplink ────────── eth0
//!   10.1.0.2                  span                    10.2.0.2
//!                              │
//!                             eth0
//!                           collector
//! ```
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::PATIENCE;
use common::plain::{Plain, numbered};
use serde_json::Value;
use softdpu_testbed::{
    capture::{Capture, Seen},
    netns::NetNs,
    process::{self, eventually},
};

const RULE: &str = r#"
[offload]
wait_for_class = false
[[port]]
name = "span"
interface = "span"
[[rule]]
name = "seen"
ports = ["7003"]
"#;

/// The world and its collector, whose link takes IP packets of up to `mtu` bytes.
fn world(tag: &str, rule: &str, mtu: u16) -> Option<(Plain, NetNs)> {
    let mut collector = None;
    let world = Plain::with(tag, &format!("{RULE}{rule}"), |base, dut| {
        let host = NetNs::new(&format!("{base}-span")).unwrap();
        let veth = "link add span numtxqueues 1 numrxqueues 1 type veth peer name eth0 numtxqueues 1 numrxqueues 1";
        dut.ip(&format!("{veth} netns {}", host.name())).unwrap();
        dut.ip(&format!("link set span mtu {mtu} up")).unwrap();
        // What was addressed to the edge is not for this host: only a capture sees it.
        host.ip("link set eth0 promisc on up").unwrap();
        collector = Some(host);
    })?;
    Some((world, collector.unwrap()))
}

fn capture(world: &Plain, host: &NetNs) -> Capture {
    Capture::start(host, "eth0", "tcp or udp", 0, 0, &world.folder).unwrap()
}

/// Whole frames from one host, in order.
fn from(seen: &Seen, host: [u8; 4]) -> Vec<&[u8]> {
    assert_eq!(seen.lost, 0, "the capture itself lost some");
    seen.frames.iter().map(|frame| &frame.bytes[..]).filter(|bytes| bytes[26..30] == host).collect()
}

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];

fn rule(world: &Plain) -> Value {
    let status = world.edge.status().unwrap();
    status["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == "seen").unwrap().clone()
}

/// Waits until the rule has so many copies, and as many that were not made.
fn counted(world: &Plain, copied: usize, not: usize) {
    let right = || (rule(world)["copied"] == copied && rule(world)["not_copied"] == not).then_some(());
    assert!(eventually(PATIENCE, right).is_some(), "{copied} and {not} expected: {}", rule(world));
}

/// Datagrams of many lengths there, each answered by one of another. Returns how many answers came.
fn asked(world: &Plain, port: u16, lengths: impl Iterator<Item = usize>) -> usize {
    let server = world.server.within(|| Ok(UdpSocket::bind(("10.2.0.2", port))?)).unwrap();
    let client = world.client.within(|| Ok(UdpSocket::bind("10.1.0.2:6003")?)).unwrap();
    client.connect(("10.2.0.2", port)).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    let mut buffer = [0; 2048];
    let mut answers = 0;
    for (n, length) in lengths.enumerate() {
        client.send(&vec![n as u8; length]).unwrap();
        let (got, back) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((got, buffer[got - 1]), (length, n as u8), "it arrived whole");
        server.send_to(&buffer[..1 + got / 2], back).unwrap();
        answers += usize::from(client.recv(&mut buffer).is_ok_and(|len| len == 1 + got / 2));
    }
    answers
}

/// A file over TCP, checked at the other end.
fn transfer(world: &Plain, port: u16, bytes: usize) {
    let listener = world.server.within(|| Ok(TcpListener::bind(("10.2.0.2", port))?)).unwrap();
    let sent: Vec<u8> = (0..bytes).map(|n| (n * 7 + n / 251) as u8).collect();
    let expected = sent.clone();
    let server = std::thread::spawn(move || {
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        assert!(got == expected, "{} bytes of {} came, or others", got.len(), expected.len());
    });
    let mut client = world.client.within(|| Ok(TcpStream::connect(("10.2.0.2", port))?)).unwrap();
    client.write_all(&sent).unwrap();
    drop(client);
    server.join().unwrap();
}

#[test]
fn every_packet_of_the_rule_arrives_as_it_came_and_no_other() {
    // The mark tells the packet that goes on from the one that came.
    let Some((world, collector)) = world("e2e-mir-all", "mirror = \"span\"\ndscp = 46\n", 1500) else { return };
    let [at_client, at_server, at_span] = [&world.client, &world.server, &collector].map(|host| capture(&world, host));
    assert_eq!(asked(&world, 7003, (1..=300).map(|n| (n * 37) % 1472 + 1)), 300);
    let flow = world.flow(7003).unwrap();
    assert_eq!((flow["tier"].as_str(), flow["offload_reason"].as_str()), (Some("worker"), Some("mirror")));
    let explained = world.edge.verb(&["explain", "10.2.0.2:7003"]).unwrap();
    assert!(explained.contains("not xdp: mirror.") && explained.contains("rule seen, in clear"), "{explained}");
    transfer(&world, 7003, 300_000);
    // Another rule's flow: down in the driver as ever.
    assert_eq!(numbered(&world, 7000, 2000, |_| {}).len(), 2000);
    assert!(world.verdict("flow_forward") > 0, "{:?}", world.flow(7000));

    let [client, server, span] = [at_client, at_server, at_span].map(|capture| capture.stop().unwrap());
    let of_rule = |bytes: &&[u8]| bytes[34..36] == 7003u16.to_be_bytes() || bytes[36..38] == 7003u16.to_be_bytes();
    for (host, seen) in [(CLIENT, &client), (SERVER, &server)] {
        let sent: Vec<&[u8]> = from(seen, host).into_iter().filter(of_rule).collect();
        let copies = from(&span, host);
        assert!(sent.len() > 300, "{} sent", sent.len());
        assert_eq!(copies.len(), sent.len(), "from {host:?}");
        let differs = sent.iter().zip(&copies).position(|(sent, copy)| sent != copy);
        assert_eq!(differs, None, "link addresses, TOS, TTL, every byte, and the order: as they came");
    }
    let gone = from(&server, CLIENT).into_iter().filter(of_rule).collect::<Vec<_>>();
    assert!(gone.iter().all(|bytes| bytes[15] >> 2 == 46 && bytes[22] == 63), "what goes on was marked");
    counted(&world, span.frames.len(), 0);
    let said = world.edge.verb(&["status"]).unwrap();
    assert!(said.contains("dscp 46, mirror to span (") && said.contains(" copied)"), "{said}");
}

/// What cannot be copied is counted under the reason, and goes on as if there were no `mirror`.
#[test]
fn what_is_not_copied_goes_on_and_is_counted_by_reason() {
    let Some((world, collector)) = world("e2e-mir-not", "mirror = \"span\"\n", 1000) else { return };
    let at_span = capture(&world, &collector);
    // With headers 1,000 bytes are still taken; the answer to more is half as large.
    assert_eq!(asked(&world, 7003, [972; 50].into_iter()), 50);
    counted(&world, 100, 0);
    assert_eq!(asked(&world, 7003, [973; 50].into_iter()), 50);
    counted(&world, 150, 50);
    world.dut.ip("link set span down").unwrap();
    // The edge hears of it a moment later.
    let heard = || {
        assert_eq!(asked(&world, 7003, [10].into_iter()), 1);
        reasons(&world)["link_down"].as_u64()
    };
    assert!(eventually(PATIENCE, heard).is_some(), "{}", reasons(&world));
    let before = rule(&world);
    assert_eq!(asked(&world, 7003, [10; 50].into_iter()), 50, "nobody waits for copies");
    counted(&world, count(&before["copied"]), count(&before["not_copied"]) + 100);
    world.dut.ip("link set span up").unwrap();
    let copied = count(&before["copied"]);
    let again = || {
        assert_eq!(asked(&world, 7003, [10].into_iter()), 1);
        (count(&rule(&world)["copied"]) > copied).then_some(())
    };
    assert!(eventually(PATIENCE, again).is_some(), "{}", rule(&world));
    let reasons = reasons(&world);
    assert_eq!(reasons["too_long"], 50, "{reasons}");
    let metrics = asked_for(&world, "metrics");
    let line = "softdpu_rule_not_copied_packets_total{rule=\"seen\",reason=\"too_long\"} 50";
    assert!(metrics.contains(line), "{metrics}");
    assert_eq!(count(&reasons["link_down"]) + 50, count(&rule(&world)["not_copied"]), "{reasons}");
    let packets = count(&rule(&world)["packets"]);
    assert_eq!(count(&rule(&world)["copied"]) + count(&rule(&world)["not_copied"]), packets, "each is in one of both");
    assert!(at_span.stop().unwrap().frames.len() >= 150);
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn asked_for(world: &Plain, page: &str) -> String {
    let mut curl = world.dut.command("curl");
    curl.args(["-s", "--unix-socket"]).arg(world.folder.file("edge.sock")).arg(format!("http://edge/{page}"));
    process::run(&mut curl, PATIENCE).unwrap().ok().unwrap()
}

/// Packets of the rule that were not copied, by reason: as `/v1/counters` has them.
fn reasons(world: &Plain) -> Value {
    let counters: Value = serde_json::from_str(&asked_for(world, "v1/counters")).unwrap();
    let rules = counters["rules"].as_array().unwrap();
    rules.iter().find(|rule| rule["name"] == "seen").unwrap()["not_copied"].clone()
}

/// With `sample` the flow is in the driver, which hands up what is to be copied; a policy that has `mirror` alone takes it back.
#[test]
fn a_sampled_flow_goes_down_and_a_new_policy_takes_it_back() {
    let Some((world, collector)) = world("e2e-mir-some", "mirror = \"span\"\nsample = 10\n", 1500) else { return };
    let at_span = capture(&world, &collector);
    assert_eq!(numbered(&world, 7003, 5000, |_| {}).len(), 5000);
    assert_eq!(world.flow(7003).unwrap()["tier"], "xdp");
    let (packets, sampled) = (count(&rule(&world)["packets"]), count(&rule(&world)["sampled"]));
    let seen = at_span.stop().unwrap();
    counted(&world, seen.frames.len(), 0);
    // Each direction counts for itself; in the moment it goes down a few more packets may pass.
    assert!(sampled.abs_diff(packets / 10) <= 5, "{sampled} of {packets}");
    assert!(seen.frames.len().abs_diff(sampled) <= 2, "{} copies, {sampled} sampled", seen.frames.len());

    let policy = world.folder.file("edge.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, text.replace("sample = 10\n", "")).unwrap();
    world.edge.verb(&["reload"]).unwrap();
    let back = eventually(PATIENCE, || (world.flow(7003)?["tier"] == "worker").then_some(()));
    assert!(back.is_some(), "{:?}", world.flow(7003));
    let before = count(&rule(&world)["copied"]);
    let at_span = capture(&world, &collector);
    assert_eq!(numbered(&world, 7003, 1000, |_| {}).len(), 1000);
    // And the server's word for every 64th.
    counted(&world, before + 1016, 0);
    assert_eq!(at_span.stop().unwrap().frames.len(), 1016);
    assert_eq!(world.flow(7003).unwrap()["offload_reason"], "mirror");
}
