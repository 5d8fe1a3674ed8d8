//! Flows go down into the driver and come back, and not a packet is lost or counted twice.
//!
//! ```text
//!   client            edge [softdpu, in clear]          server
//!   eth0 ────────── apps                uplink ────────── eth0
//!   10.1.0.2        10.1.0.1          10.2.0.1          10.2.0.2
//! ```
//!
//! The hosts finish their checksums (`tx off`), as the driver does not, and take XDP frames (`gro on`).
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::plain::{Plain, number, numbered, repeated};
use common::{At, World, traffic};
use serde_json::Value;
use softdpu_testbed::{
    process::{self, eventually},
    topology::SERVER,
};

#[test]
fn a_long_transfer_goes_down_and_every_byte_is_counted_once() {
    // What is lost on the way from the server's stack to the driver nobody here can count, and a busy machine loses some: a
    // transfer that was repeated in part shows nothing.
    let whole = (0..5).any(|_| transfer_of_which_nothing_was_repeated());
    assert!(whole, "each of five transfers lost packets before the driver");
}

/// Whether it was so; what it shows is asserted within.
fn transfer_of_which_nothing_was_repeated() -> bool {
    let Some(world) = Plain::new("e2e-off-tcp", "") else { return true };
    const REQUEST: &[u8] = b"GET /big HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    const LENGTH: usize = 20 << 20;
    let listener = world.server.within(|| Ok(TcpListener::bind("10.2.0.2:80")?)).unwrap();
    let server = std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut request = [0; REQUEST.len()];
        peer.read_exact(&mut request).unwrap();
        peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20971520\r\n\r\n").unwrap();
        // A slow start, as of a server that reads from a disk: the thread has a moment before the burst.
        std::thread::sleep(Duration::from_millis(200));
        peer.write_all(&vec![7; LENGTH]).unwrap();
        let mut end = Vec::new();
        peer.read_to_end(&mut end).unwrap();
        repeated(&peer)
    });
    let mut client = world.client.within(|| Ok(TcpStream::connect("10.2.0.2:80")?)).unwrap();
    client.write_all(REQUEST).unwrap();
    let mut got = vec![0; 45 + LENGTH];
    client.read_exact(&mut got[..45]).unwrap();
    let down = eventually(Duration::from_secs(2), || world.flow(80).filter(|flow| flow["tier"] == "xdp"));
    let down = down.unwrap_or_else(|| panic!("still {:?}\n{}", world.flow(80), world.edge.said()));
    let seen = number(&down, "packets_ab") + number(&down, "packets_ba");
    assert!(seen <= 20, "offloaded within 20 packets: {down}");
    let explained = world.edge.verb(&["explain", "10.2.0.2:80"]).unwrap();
    assert!(explained.contains("tier xdp") && explained.contains("not nic: no_device_offload"), "{explained}");
    let by_driver = world.verdict("flow_forward");
    client.read_exact(&mut got[45..]).unwrap();
    let by_driver = world.verdict("flow_forward") - by_driver;
    assert!(by_driver as usize > LENGTH / 1500, "the transfer went by the driver: {by_driver} packets");
    let by_client = repeated(&client);
    drop(client);
    let repeated = by_client + server.join().unwrap();
    if repeated > 0 {
        println!("{repeated} segments repeated: once more");
        return false;
    }

    // A host counts what it hands to its device, which may be several segments in one; every further one has 52 bytes of
    // headers (IPv4, TCP with timestamps) of its own. A packet missed or counted twice would miss its payload too.
    let exact = |flow: &Value, (packets, bytes): (&str, &str), (sent, sent_bytes): (u64, u64)| {
        let (packets, bytes) = (number(flow, packets), number(flow, bytes));
        packets >= sent && bytes == sent_bytes + 52 * (packets - sent)
    };
    let ended = eventually(common::PATIENCE, || {
        let flow = world.flow(80)?;
        let there = exact(&flow, ("packets_ab", "bytes_ab"), Plain::sent(&world.client));
        let back = exact(&flow, ("packets_ba", "bytes_ba"), Plain::sent(&world.server));
        (flow["tier"] == "worker" && there && back).then_some(())
    });
    let sent = [Plain::sent(&world.client), Plain::sent(&world.server)];
    assert!(ended.is_some(), "sent {sent:?}, counted {:?}", world.flow(80));
    true
}

const FAST: &str = "[offload]\nwait_for_class = false\n";

#[test]
fn demotion_takes_a_moment_and_no_packet() {
    let Some(world) = Plain::new("e2e-off-udp", FAST) else { return };
    let mut moments = Vec::new();
    let got = numbered(&world, 7000, 12_000, |n| {
        let down = || world.flow(7000).is_some_and(|flow| flow["tier"] == "xdp");
        match n {
            2000 => {
                assert!(eventually(Duration::from_secs(2), || down().then_some(())).is_some(), "{:?}", world.flow(7000))
            }
            3000 | 5000 => {
                let before = world.verdict("worker");
                let begun = Instant::now();
                let mtu = if n == 3000 { 1400 } else { 1500 };
                world.dut.ip(&format!("link set uplink mtu {mtu}")).unwrap();
                // The driver's own account: the flow's next packets are steered to the worker again.
                let sender = world.client.within(|| Ok(UdpSocket::bind("10.1.0.2:0")?)).unwrap();
                drop(sender);
                let back = eventually(Duration::from_secs(2), || {
                    (world.flow(7000)?["offload_reason"] == "route_changed" || world.verdict("worker") > before)
                        .then_some(())
                });
                assert!(back.is_some(), "not demoted: {:?}", world.flow(7000));
                moments.push(begun.elapsed());
            }
            8000 => {
                assert!(
                    eventually(Duration::from_secs(2), || down().then_some(())).is_some(),
                    "it went back: {:?}",
                    world.flow(7000)
                );
                let said = world.edge.verb(&["demote", "--all"]).unwrap();
                assert!(said.contains("1 flow taken back"), "{said}");
                let back = eventually(Duration::from_secs(2), || (!down()).then_some(()));
                assert!(back.is_some(), "{:?}", world.flow(7000));
                assert_eq!(world.flow(7000).unwrap()["offload_reason"], "by_hand");
                // The daemon's own clock, from the request to the last entry gone.
                let log = world.edge.said();
                let took = |line: &str| line.split_once("micros").map(|(_, rest)| rest.to_owned());
                let taken: Vec<String> =
                    log.lines().filter(|line| line.contains("flows taken back")).filter_map(took).collect();
                println!("taken back after (microseconds) {taken:?}");
                let number = |text: &String| {
                    let digits = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit);
                    digits.collect::<String>().parse::<u64>().unwrap()
                };
                assert!(taken.len() >= 3 && taken.iter().all(|took| number(took) < 50_000), "{log}");
            }
            _ => {}
        }
    });
    // With three processes started meanwhile, on whatever machine this is; the event itself takes some 10 ms.
    println!("demoted after {moments:?}");
    assert!(moments.iter().all(|moment| *moment < Duration::from_secs(1)), "{moments:?}");
    assert_eq!(got.len(), 12_000, "every datagram arrived");
    let counted = eventually(common::PATIENCE, || {
        let flow = world.flow(7000)?;
        ((number(&flow, "packets_ab"), number(&flow, "bytes_ab")) == Plain::sent(&world.client)).then_some(())
    });
    assert!(counted.is_some(), "{:?} of {:?}", world.flow(7000), Plain::sent(&world.client));
    assert!(world.verdict("flow_forward") > 3000);
}

/// A rule's meter, mark and sample hold alike before the flow goes down, in the driver, and after it came back.
#[test]
fn a_treated_flow_is_treated_alike_in_both_tiers() {
    const RULE: &str = r#"
[offload]
wait_for_class = false
[[rule]]
name = "treated"
protocol = "udp"
ports = ["7002"]
meter_rate = 400_000
meter_burst = 200_000
dscp = 46
sample = 50
"#;
    const SIZE: usize = 1028;
    let Some(world) = Plain::new("e2e-off-treat", RULE) else { return };
    let mut nft = world.server.command("nft");
    let marks = "add table ip m; add chain ip m in { type filter hook input priority 0; }; \
                 add rule ip m in udp dport 7002 ip dscp ef counter; add rule ip m in udp dport 7002 ip dscp != ef counter";
    process::run(nft.arg(marks), common::PATIENCE).unwrap().ok().unwrap();
    let receiver = world.server.within(|| Ok(UdpSocket::bind("10.2.0.2:7002")?)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let sender = world.client.within(|| Ok(UdpSocket::bind("10.1.0.2:6002")?)).unwrap();
    sender.connect("10.2.0.2:7002").unwrap();
    let receive = std::thread::spawn(move || {
        let (mut got, mut buffer) = (0u64, [0; 2048]);
        while let Ok((_, from)) = receiver.recv_from(&mut buffer) {
            got += 1;
            if got == 1 {
                receiver.send_to(b"heard", from).unwrap();
            }
        }
        got
    });
    let begun = Instant::now();
    let (mut sent, mut was_down) = (0u64, false);
    // About 1 MB/s for 6 s; after 3 s the flow is taken back for good.
    while begun.elapsed() < Duration::from_secs(6) {
        while sent < begun.elapsed().as_millis() as u64 {
            sender.send(&[7; SIZE - 28]).unwrap();
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
        if !was_down && begun.elapsed() > Duration::from_secs(3) {
            was_down = world.flow(7002).is_some_and(|flow| flow["tier"] == "xdp");
            assert!(was_down, "{:?}", world.flow(7002));
            world.edge.verb(&["demote", "--all"]).unwrap();
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let got = receive.join().unwrap();
    let rate = ((got * SIZE as u64) as f64 - 200_000.0) / elapsed;
    println!("{sent} sent, {got} came: {rate:.0} B/s of 400000");
    assert!((360_000.0..440_000.0).contains(&rate), "{rate}");
    let rule = |key: &str| {
        let status = world.edge.status().unwrap();
        let rules = status["rules"].as_array().unwrap().clone();
        rules.iter().find(|rule| rule["name"] == "treated").unwrap()[key].as_u64().unwrap()
    };
    let settled = eventually(common::PATIENCE, || (rule("metered") == sent - got).then_some(()));
    assert!(settled.is_some(), "{} dropped by the meter, of {sent} sent {got} came", rule("metered"));
    let by_driver = world.verdict("flow_meter");
    assert!(by_driver > 100 && by_driver + 100 < sent - got, "both tiers metered: {by_driver} of {}", sent - got);
    // What came up before the worker knew that the flow is back is in neither count.
    assert!(rule("sampled").abs_diff(got / 50) <= 5, "{} sampled of {got}", rule("sampled"));
    let mut nft = world.server.command("nft");
    let text = process::run(nft.args(["list", "chain", "ip", "m", "in"]), common::PATIENCE).unwrap().ok().unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let marked: Vec<u64> = words.windows(2).filter(|w| w[0] == "packets").map(|w| w[1].parse().unwrap()).collect();
    assert_eq!(marked, [got, 0], "{text}");
}

/// Who asks for events of flows hears of each step.
#[test]
fn flows_that_go_down_and_come_back_are_told_of() {
    let Some(world) = Plain::new("e2e-off-events", FAST) else { return };
    let mut command = std::process::Command::new(common::binary());
    command.args(["events", "--kind", "flow", "--json", "--socket"]).arg(world.folder.file("edge.sock"));
    let mut follower = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // As long as nobody asked, nothing is told.
    let follows = || world.edge.status().is_ok_and(|status| status["events"]["readers"] == 1).then_some(());
    assert!(eventually(common::PATIENCE, follows).is_some());
    numbered(&world, 7000, 3000, |n| {
        if n == 2000 {
            world.edge.verb(&["demote", "--all"]).unwrap();
        }
    });
    // SAFETY: a signal to our own child, which has not been waited for.
    unsafe { libc::kill(follower.id() as i32, libc::SIGINT) };
    let mut text = String::new();
    follower.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(follower.wait().unwrap().success());
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |kind: &str| events.iter().find(|event| event["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {text}"));
    let ends = &of("flow_offloaded")["facts"]["ends"];
    assert!(ends.as_array().unwrap().contains(&"10.2.0.2:7000".into()), "{ends}");
    assert_eq!(of("flow_demoted")["facts"]["reason"], "by_hand");
    assert_eq!(of("flow_demoted")["about"], of("flow_offloaded")["about"]);
}

#[test]
fn a_rule_that_says_never_keeps_its_flows() {
    let Some(world) = Plain::new("e2e-off-never", FAST) else { return };
    assert_eq!(numbered(&world, 7001, 3000, |_| {}).len(), 3000);
    let flow = world.flow(7001).unwrap();
    assert_eq!((flow["tier"].as_str(), flow["offload_reason"].as_str()), (Some("worker"), Some("policy_never")));
    assert_eq!(world.verdict("flow_forward"), 0);
}

/// Whatever was in the driver's table, a killed instance leaves nothing that acts, and the next one nothing of the old.
#[test]
fn a_killed_instance_leaves_no_flow() {
    let Some(world) = Plain::new("e2e-off-kill", FAST) else { return };
    assert_eq!(numbered(&world, 7000, 3000, |_| {}).len(), 3000);
    assert!(world.verdict("flow_forward") > 0, "{:?}", world.flow(7000));
    let Plain { edge, client, server, dut, folder: _folder } = world;
    edge.kill();
    // Without the worker the rule's `on_loss` decides: up to the kernel, which does not forward here.
    let receiver = server.within(|| Ok(UdpSocket::bind("10.2.0.2:7000")?)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let sender = client.within(|| Ok(UdpSocket::bind("10.1.0.2:6000")?)).unwrap();
    sender.send_to(b"after", "10.2.0.2:7000").unwrap();
    assert!(receiver.recv(&mut [0; 16]).is_err(), "the driver still forwards");
    drop(dut);
}

#[test]
fn protected_flows_are_never_in_the_table() {
    let trust = |setup: &mut common::Setup| setup.topology.offload = false;
    let Some(mut world) = World::running("e2e-off-esp", trust) else { return };
    traffic::tcp(&world.topology, false, &traffic::bytes(3, 1 << 20, false));
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    for at in [At::A, At::B] {
        let flows = world.edge(at).flows().unwrap();
        let tcp: Vec<&Value> = flows.as_array().unwrap().iter().filter(|flow| flow["l4"] == "tcp").collect();
        assert!(!tcp.is_empty());
        for flow in tcp {
            assert_eq!(flow["tier"], "worker", "{flow}");
        }
        let status = world.edge(at).status().unwrap();
        assert!(status["xdp"].as_array().unwrap().iter().all(|v| v["verdict"] != "flow_forward"), "{status}");
    }
}
