//! Packets watched on their way through the graph: every node of a trace, every point of a capture, and nothing taken from who
//! does not watch.
#![allow(clippy::unwrap_used)]

#[path = "support/counting.rs"]
mod counting;
mod support;

use arc_swap::ArcSwap;
use pcap_file::pcapng::{Block, PcapNgReader};
use softdpu::plan::Plan;
use softdpu::watch::feed::{Feed, Source};
use softdpu::watch::filter::{Insn, Program};
use softdpu::watch::record::Point;
use softdpu::watch::session::Filter;
use softdpu::watch::way::Way;
use softdpu::watch::{Session, Watch, What};
use softdpu::worker::harness::Harness;
use std::sync::Arc;
use support::{APPS, Keys, UPLINK, plain, udp4};

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 2];
const ALL: What = What::Capture(0b1111);

fn packet(payload: &[u8]) -> Vec<u8> {
    udp4(CLIENT, SERVER, (40000, 9000), 64, payload)
}

/// Arms a worker; the other end of it.
fn arm(edge: &mut Harness, what: What, filter: Filter, count: u64) -> Feed {
    let session = Arc::new(Session::new(what, filter, if what == What::Trace { 128 } else { 2000 }, count, false));
    edge.worker.watch = Some(Box::new(Watch::new(session.clone(), 0)));
    let plan: Arc<ArcSwap<Plan>> = edge.shared.plan.clone();
    let ports = plan.load().ports.iter().map(|port| (port.name.clone(), String::new())).collect();
    let source = Source {
        plan,
        ports,
        steer: Box::new(|_, _, _| None),
        driver: Err(String::new()),
        offset: 0,
        filter: String::new(),
    };
    Feed::new(session, source, 0, Box::new(|_| {}))
}

fn traced(edge: &mut Harness, port: usize, frame: &[u8]) -> (Way, Vec<(usize, Vec<u8>)>) {
    let mut feed = arm(edge, What::Trace, Filter::default(), 1);
    let out = edge.pass(port, frame);
    let mut ways = feed.ways(true);
    assert_eq!(ways.len(), 1);
    (ways.remove(0), out)
}

fn said<'a>(way: &'a Way, node: &str) -> &'a softdpu::watch::step::Step {
    way.steps.iter().find(|step| step.node == node).unwrap_or_else(|| panic!("no {node} in {way:#?}"))
}

#[test]
fn a_trace_has_every_node_and_what_it_did() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("");
    let (way, out) = traced(&mut a, APPS, &packet(&[7; 200]));
    let nodes: Vec<&str> = way.steps.iter().map(|step| step.node.as_str()).collect();
    let expected = "rx parse reassemble open decompress gather flow classify policy select route join icmp mss fragment compress \
                    seal outer_fragment rewrite offload emit";
    assert_eq!(nodes, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!((way.end.as_str(), way.len, way.port.as_str()), ("sent", 242, "apps"));
    assert_eq!(said(&way, "parse").front, -14);
    assert!(said(&way, "parse").says[0].contains("udp 10.1.0.2:40000 > 10.2.0.2:9000"));
    assert!(said(&way, "flow").says[0].starts_with("flow 0:"));
    assert_eq!(said(&way, "policy").says[..2], ["rule protect", "into tunnel to-b"]);
    assert_eq!(said(&way, "select").says, ["way 0, to 192.0.2.2"]);
    let ttl = &said(&way, "icmp").edits[0];
    assert!(
        ttl.at == 8 && ttl.before.starts_with("4011") && ttl.after.starts_with("3f11"),
        "and the checksum: {ttl:?}"
    );
    let seal = said(&way, "seal");
    assert!(seal.front > 20 && seal.back >= 16 && seal.says[0] == "sealed for tunnel to-b", "{seal:?}");
    assert_eq!(said(&way, "rewrite").front, 14);
    assert_eq!(said(&way, "emit").says, ["sent by port uplink"]);
    assert!(said(&way, "gather").says.is_empty() && said(&way, "gather").edits.is_empty());

    let (way, _) = traced(&mut b, UPLINK, &out[0].1);
    let open = said(&way, "open");
    assert_eq!(open.says[0], "opened, from tunnel to-a");
    assert!(open.says[1].contains("udp 10.1.0.2:40000") && open.front < -20 && open.back <= -16, "{open:?}");
    assert_eq!(way.end, "sent");
}

#[test]
fn what_is_dropped_says_where_and_why() {
    let mut edge = Harness::new(plain("[[rule]]\nname = \"no-9000\"\nports = [9000]\naction = \"drop\"\n")).unwrap();
    let (way, out) = traced(&mut edge, APPS, &packet(b"x"));
    assert!(out.is_empty());
    assert_eq!((way.end.as_str(), way.reason.as_deref()), ("dropped", Some("policy_drop")));
    let last = way.steps.last().unwrap();
    assert_eq!(last.node, "policy");
    assert!(last.says[0] == "rule no-9000" && last.says.last().unwrap().starts_with("DROPPED: policy_drop"));
    let mut broken = packet(b"x");
    broken[24] ^= 1;
    let (way, _) = traced(&mut edge, APPS, &broken);
    assert_eq!((way.steps.len(), way.reason.as_deref()), (2, Some("bad_checksum")));
    edge.assert_no_leak();
}

#[test]
fn a_trace_ends_after_as_many_packets_as_were_asked_for() {
    let mut edge = Harness::new(plain("")).unwrap();
    let mut feed = arm(&mut edge, What::Trace, Filter::default(), 3);
    for _ in 0..10 {
        edge.pass(APPS, &packet(b"x"));
    }
    assert!(feed.session().has_enough());
    let ways = feed.ways(true);
    assert_eq!(ways.iter().map(|way| way.packet).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Matches UDP to port 9000: over Ethernet, and from the IP header on.
fn to_9000() -> Filter {
    let at = |offset: u32| {
        let port = 22 + offset;
        let insns = vec![Insn(0x28, 0, 0, port), Insn(0x15, 0, 1, 9000), Insn(6, 0, 0, 1), Insn(6, 0, 0, 0)];
        Some(Program::new(insns).unwrap())
    };
    Filter { ethernet: at(14), raw: at(0) }
}

/// Interface, comment and bytes of each packet in a capture.
fn packets(file: &[u8]) -> Vec<(u32, String, Vec<u8>)> {
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    let mut reader = PcapNgReader::new(file).unwrap();
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                _ => None,
            });
            found.push((packet.interface_id, comment.unwrap(), packet.data.to_vec()));
        }
    }
    found
}

fn captured(mut feed: Feed) -> Vec<(u32, String, Vec<u8>)> {
    let mut file = Vec::new();
    feed.look(&mut file);
    feed.finish(&mut file);
    assert_eq!(feed.session().lost(), [0; 4]);
    packets(&file)
}

#[test]
fn a_capture_has_all_points_and_the_verdict_at_each() {
    let keys = Keys::new();
    let (mut a, mut b) = keys.edges("compress = \"lz4\"");
    let text = [b'x'; 600];
    let feed = arm(&mut a, ALL, Filter::default(), 0);
    let sealed = a.pass(APPS, &packet(&text)).remove(0).1;
    let found = captured(feed);
    // Four interfaces per port, in the order of ports and points.
    let interfaces: Vec<u32> = found.iter().map(|(interface, ..)| *interface).collect();
    assert_eq!(interfaces, [APPS as u32 * 4, UPLINK as u32 * 4 + 2, UPLINK as u32 * 4 + 3]);
    for (_, comment, _) in &found {
        for part in
            ["packet=1 ", "rule=protect", "tunnel_out=to-b", "verdict=sent port=uplink", "tier=worker", "flow=0:"]
        {
            assert!(comment.contains(part), "{part} in {comment}");
        }
    }
    assert_eq!(found[0].2, packet(&text));
    assert_eq!(found[1].2[28..], text, "in clear and whole, before it is compressed");
    assert_eq!(found[2].2, sealed);

    // On the other side, only what is within says that it matches: it is written as it came, too.
    let feed = arm(&mut b, ALL, to_9000(), 0);
    let opened = b.pass(UPLINK, &sealed).remove(0).1;
    let found = captured(feed);
    let interfaces: Vec<u32> = found.iter().map(|(interface, ..)| *interface).collect();
    assert_eq!(interfaces, [UPLINK as u32 * 4, UPLINK as u32 * 4 + 1, APPS as u32 * 4 + 3]);
    assert_eq!((&found[0].2, &found[2].2), (&sealed, &opened));
    assert_eq!(found[1].2[28..], text);
    assert!(found[0].1.contains("tunnel_in=to-a") && found[0].1.contains("verdict=sent port=apps"));
}

#[test]
fn only_the_points_asked_for_are_copied() {
    let keys = Keys::new();
    let (mut a, _) = keys.edges("");
    let feed = arm(&mut a, What::Capture(Point::Seal.bit()), to_9000(), 0);
    a.pass(APPS, &packet(b"hello"));
    a.pass(APPS, &udp4(CLIENT, SERVER, (40000, 9001), 64, b"other"));
    let found = captured(feed);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].2[28..], *b"hello");
}

#[test]
fn what_nobody_reads_is_lost_for_the_watcher_only() {
    let mut edge = Harness::new(plain("")).unwrap();
    let session = Session::new(ALL, Filter::default(), 65_000, 0, false);
    let session = Arc::new(session);
    edge.worker.watch = Some(Box::new(Watch::new(session.clone(), 0)));
    for _ in 0..1000 {
        assert_eq!(edge.pass(APPS, &packet(b"x")).len(), 1, "traffic goes on");
    }
    let lost: u64 = session.lost().iter().sum();
    let kept = std::iter::from_fn(|| session.next()).count() as u64;
    assert_eq!(lost + kept, 2000, "as received and as sent");
    assert!(kept >= 64 && lost > 0);
}

#[test]
fn what_does_not_match_takes_no_room() {
    let mut edge = Harness::new(plain("")).unwrap();
    for what in [ALL, What::Trace] {
        let mut feed = arm(&mut edge, what, to_9000(), 0);
        for _ in 0..20_000 {
            edge.pass(APPS, &udp4(CLIENT, SERVER, (1, 2), 64, b"x"));
        }
        assert_eq!(feed.session().lost(), [0; 4]);
        assert!(feed.ways(true).is_empty());
    }
}

#[test]
fn nothing_is_allocated_per_packet() {
    let mut edge = Harness::new(plain("")).unwrap();
    for what in [ALL, What::Trace] {
        let session = Arc::new(Session::new(what, to_9000(), 128, 0, false));
        edge.worker.watch = Some(Box::new(Watch::new(session.clone(), 0)));
        for warm in [true, false] {
            for n in 0..200 {
                assert!(edge.send(APPS, &udp4(CLIENT, SERVER, (1, 9000 + n % 2), 64, b"x")));
            }
            let before = counting::allocations();
            let now = edge.now;
            while edge.worker.turn(now) > 0 {}
            // The wires' own, which are the harness's: a frame each.
            let own = counting::allocations() - before;
            assert!(warm || own <= 200, "{own} allocations for 200 packets");
            while edge.receive(UPLINK).is_some() {}
            while let Some(record) = session.next() {
                session.give_back(record);
            }
        }
    }
}

/// Without "don't fragment".
fn may_be_cut(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20..22].fill(0);
    frame[24..26].fill(0);
    let sum = softdpu::wire::checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

#[test]
fn pieces_of_a_packet_are_told_of_together() {
    let keys = Keys::new();
    let (mut a, _) = keys.edges("");
    // 1,500 bytes do not fit with what the tunnel puts around them.
    let large = may_be_cut(packet(&[9; 1472]));
    let (way, out) = traced(&mut a, APPS, &large);
    assert_eq!(out.len(), 2);
    assert_eq!(way.steps.iter().filter(|step| step.node == "emit").count(), 2);
    assert_eq!(way.end, "sent");
    let feed = arm(&mut a, ALL, Filter::default(), 0);
    a.pass(APPS, &large);
    let found = captured(feed);
    assert_eq!(found.len(), 5, "once received, two pieces at seal and tx");
    assert!(found.iter().all(|(_, comment, _)| comment.contains("packet=1 ")));
}
