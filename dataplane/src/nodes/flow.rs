//! `flow`: finds or opens the packet's flow and counts the packet into it. Hashes the whole batch first, so that the table's
//! memory is on its way when it is looked up. Packets come in trains: one of the same flow as the packet before it needs no key,
//! no hash and no look-up.

use super::application;
use crate::flow::tcp::{FIN, RST, SYN};
use crate::flow::{FlowTable, Hit, Net, Prepared, Refusal, Tick, Tier};
use crate::graph::packet::MAX_BATCH;
use crate::graph::{Batch, Cx, Node, Packet};
use crate::l7::Class;
use crate::telemetry::export::EndReason;
use crate::wire::{icmp, overlay};
use softdpu_ebpf_common::walk::{Fragment, Headers, proto};

/// How many packets ahead of the look-up a flow's own cache lines are asked for.
const AHEAD: usize = 16;
/// A full batch and all fragments that may come out of waiting with it.
const MOST: usize = 2 * MAX_BATCH;

/// What is known of the key of the packet at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// It has none.
    Without,
    /// Its own.
    Own,
    /// That of the packet before it, from the same side.
    Same,
}

#[derive(Debug)]
pub struct Flow {
    prepared: Box<[Prepared]>,
    keys: Box<[Key]>,
}

impl Default for Flow {
    fn default() -> Self {
        Self { prepared: vec![Prepared::default(); MOST].into(), keys: vec![Key::Without; MOST].into() }
    }
}

impl Node for Flow {
    const NAME: &'static str = "flow";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        let now = Tick::from_nanos(cx.now);
        let mut before: Option<&Headers> = None;
        for ((packet, prepared), key) in batch.packets.iter().zip(&mut self.prepared).zip(&mut self.keys) {
            let (bytes, headers) = (packet.frame.bytes(), &packet.headers);
            if before.is_some_and(|before| follows(before, headers)) {
                FlowTable::prepare_again(headers, bytes, prepared);
                *key = Key::Same;
                continue;
            }
            (*key, before) = (Key::Without, None);
            // A later fragment whose first was not seen has none: it is judged by itself, and rules over ports hold for it.
            if matches!(headers.proto, proto::ICMP | proto::ICMPV6) && icmp::is_error(bytes, headers) {
                about(cx, Net::OUTSIDE, bytes, headers);
                continue;
            }
            if cx.flows.prepare_into(Net::OUTSIDE, headers, bytes, now, prepared).is_ok() {
                cx.flows.prefetch(prepared);
                (*key, before) = (Key::Own, leads(headers).then_some(headers));
            } else {
                cx.counters.fragments_orphaned.inc();
            }
        }
        let len = batch.len().min(MOST);
        let (prepared, keys) = (&mut self.prepared[..len], &self.keys[..len]);
        for (prepared, _) in prepared.iter_mut().zip(keys).take(AHEAD).filter(|(_, key)| **key == Key::Own) {
            cx.flows.prefetch_flow(prepared);
        }
        let mut hit = None;
        for (at, packet) in batch.packets.iter_mut().enumerate().take(len) {
            if keys.get(at + AHEAD) == Some(&Key::Own) {
                cx.flows.prefetch_flow(&mut prepared[at + AHEAD]);
            }
            hit = match (keys[at], hit) {
                (Key::Without, _) => None,
                (Key::Same, Some(before)) => {
                    let hit = Hit { new: false, ..before };
                    count(cx, packet, hit, &prepared[at], now);
                    Some(hit)
                }
                (Key::Same, None) => refused_before(cx, packet, &mut prepared[at], now),
                (Key::Own, _) => find(cx, packet, &prepared[at], now),
            };
        }
    }
}

/// Whether a packet behind one with these headers may be known by them.
#[inline]
fn leads(headers: &Headers) -> bool {
    headers.fragment == Fragment::No && matches!(headers.proto, proto::TCP | proto::UDP)
}

/// Whether a packet is of the flow and from the side of the one before it, which [`leads`], and cannot begin or end it.
#[inline(always)]
fn follows(before: &Headers, headers: &Headers) -> bool {
    // Two flows nearly always differ in a port: where packets of many take turns, this is all that trains cost them.
    if (before.sport, before.dport) != (headers.sport, headers.dport) {
        return false;
    }
    let number = u128::from_ne_bytes;
    let addresses = (number(before.src) ^ number(headers.src)) | (number(before.dst) ^ number(headers.dst));
    let tags = (before.vlan[0] ^ headers.vlan[0]) | (before.vlan[1] ^ headers.vlan[1]);
    let kind = (before.l3 as u8 ^ headers.l3 as u8) | (before.proto ^ headers.proto);
    // Of UDP the flags are 0.
    let special = headers.fragment as u8 | headers.tcp_flags & (SYN | FIN | RST);
    (addresses == 0) & (u32::from(tags) | u32::from(kind | special) == 0)
}

/// The packet before it, of the same flow, got no flow: this one asks for itself.
#[cold]
fn refused_before(cx: &mut Cx<'_>, packet: &mut Packet, prepared: &mut Prepared, now: Tick) -> Option<Hit> {
    cx.flows.prepare_into(Net::OUTSIDE, &packet.headers, packet.frame.bytes(), now, prepared).ok()?;
    find(cx, packet, prepared, now)
}

#[inline(always)]
fn find(cx: &mut Cx<'_>, packet: &mut Packet, prepared: &Prepared, now: Tick) -> Option<Hit> {
    let hit = open(cx, prepared, now)?;
    count(cx, packet, hit, prepared, now);
    Some(hit)
}

#[inline(always)]
fn count(cx: &mut Cx<'_>, packet: &mut Packet, hit: Hit, prepared: &Prepared, now: Tick) {
    cx.flows.touch(hit, prepared, packet.frame.total_len() as u32, now);
    packet.meta.flow = hit.idx.0;
    packet.meta.direction = hit.dir;
    let flow = cx.flows.get_mut(hit.idx);
    if hit.new {
        flow.set_carries(overlay::carries(&packet.headers));
    }
    let carries = flow.carries();
    if prepared.segment().flags & (SYN | FIN | RST) != 0 {
        ends(cx, hit, prepared);
    }
    if carries {
        inside(cx, packet, now);
    }
}

/// What may end an offloaded connection is judged when the flow is back from the driver. One that is over does not count any more,
/// although its entry stays for a while.
#[cold]
fn ends(cx: &mut Cx<'_>, hit: Hit, prepared: &Prepared) {
    if cx.flows.get(hit.idx).tier() == Tier::Xdp {
        let told =
            cx.offload.is_some_and(|client| client.ends(hit.idx, cx.flows.get(hit.idx), hit.dir, prepared.segment()));
        if !told {
            cx.flows.judge(hit.idx, hit.dir, &prepared.segment());
        }
    }
    if cx.flows.get(hit.idx).state().is_over() {
        cx.counted.leave(hit.idx);
    }
}

#[inline(always)]
fn open(cx: &mut Cx<'_>, prepared: &Prepared, now: Tick) -> Option<Hit> {
    let (inspector, export, offload, counted) = (&mut *cx.inspector, &mut *cx.export, cx.offload, &mut *cx.counted);
    let applications = &cx.plan.applications;
    let end = |at, ended: &crate::flow::Flow| {
        if let Some(client) = offload {
            client.ended(at, ended);
        }
        if let Some(sink) = export {
            sink.ended(at, ended, (inspector, applications), now, EndReason::LackOfResources);
        }
        inspector.release(at, ended);
        counted.leave(at);
    };
    match cx.flows.lookup_or_insert(prepared, now, end) {
        Ok(hit) => Some(hit),
        // Without a flow the packet is judged by itself, each time: slower, and stricter where a rule waits for a class.
        Err(Refusal::TableFull | Refusal::TooManyUnproven) => {
            cx.counters.flows_refused.inc();
            None
        }
        Err(Refusal::OrphanFragment) => None,
    }
}

/// The flows within: counted and classified like others. Where the packet goes is only the outer flow's matter.
#[cold]
fn inside(cx: &mut Cx<'_>, packet: &Packet, now: Tick) {
    let bytes = packet.frame.bytes();
    let mut outer = packet.headers;
    for _ in 0..overlay::DEPTH {
        let Some(found) = overlay::inner(bytes, &outer) else { return };
        let headers = found.headers;
        let net = Net::new(found.kind as u8, found.id);
        if icmp::is_error(bytes, &headers) {
            return about(cx, net, bytes, &headers);
        }
        let len = u32::from(headers.end - headers.l3_off);
        let Ok(prepared) = cx.flows.prepare_in(net, &headers, bytes, now) else {
            return cx.counters.fragments_orphaned.inc();
        };
        let Some(hit) = open(cx, &prepared, now) else { return };
        cx.flows.touch(hit, &prepared, len, now);
        let flow = cx.flows.get_mut(hit.idx);
        let (before, settled) = (flow.class, flow.is_settled());
        if !flow.is_decided() {
            cx.inspector.inspect(hit.idx, flow, hit.dir, &headers, bytes, now);
            if flow.is_settled() && (!settled || flow.class != before) {
                application::name(&cx.plan.applications, cx.counters, cx.inspector, hit.idx, flow);
            }
        }
        application::count(cx.counters, &cx.plan.applications, flow.app, (1, u64::from(len)));
        cx.counters.inner_packets.inc();
        if let Some(counters) = cx.counters.classes.get(Class::place(flow.class)) {
            counters.packets.inc();
            counters.bytes.add(u64::from(len));
            if flow.class != before {
                counters.flows.inc();
            }
        }
        outer = headers;
    }
}

/// An ICMP error is counted to the flow that it quotes, and opens none. What happens to it, `policy` says from what it quotes,
/// whether there is a flow or not.
#[cold]
fn about(cx: &mut Cx<'_>, net: Net, bytes: &[u8], headers: &Headers) {
    let Some(quoted) = icmp::quoted_flow(bytes, headers) else { return };
    let seq = icmp::quoted_seq(bytes, headers, &quoted);
    let Some((idx, dir)) = cx.flows.quoted(net, &quoted, seq) else { return };
    let len = headers.end - headers.l3_off;
    cx.flows.count_about(idx, dir, u32::from(len));
    cx.counters.icmp_matched.inc();
    let flow = cx.flows.get(idx);
    application::count(cx.counters, &cx.plan.applications, flow.app, (1, u64::from(len)));
    if let Some(counters) = cx.counters.classes.get(Class::place(flow.class)) {
        counters.packets.inc();
        counters.bytes.add(u64::from(len));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config;
    use crate::flow::Direction;
    use crate::wire::checksum;
    use crate::worker::harness::Harness;
    use proptest::prelude::*;

    /// A packet of one of a few flows: which, from which side, and what it says of itself.
    #[derive(Clone, Debug)]
    struct Said {
        flow: u8,
        back: bool,
        flags: u8,
        payload: u8,
        seq: u32,
        fragment: u16,
    }

    fn said() -> impl Strategy<Value = Said> {
        let flags = prop_oneof![8 => Just(0x10u8), 1 => Just(2), 1 => Just(0x12), 1 => Just(0x11), 1 => Just(4)];
        // Whole, first, and later fragments.
        let fragment = prop_oneof![9 => Just(0u16), 1 => Just(0x2000), 1 => Just(0x0002)];
        (0u8..4, any::<bool>(), flags, 0u8..64, 0u32..3, fragment).prop_map(
            |(flow, back, flags, payload, seq, fragment)| Said {
                flow,
                back,
                flags,
                payload,
                seq: seq * 0x8000,
                fragment,
            },
        )
    }

    /// Flows 0 and 1 are UDP's, 2 and 3 TCP's; 1 and 3 differ from 0 and 2 in a port only.
    fn frame(said: &Said) -> Vec<u8> {
        let (tcp, port) = (said.flow >= 2, 7000 + u16::from(said.flow & 1));
        let head = if tcp { 20 } else { 8 };
        let mut frame = vec![0; 34 + head + usize::from(said.payload)];
        frame[12..14].copy_from_slice(&[8, 0]);
        let length = (frame.len() - 14) as u16;
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 7, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 2]);
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[20..22].copy_from_slice(&said.fragment.to_be_bytes());
        frame[23] = if tcp { 6 } else { 17 };
        let mut ports = [40_000u16, port];
        if said.back {
            frame[26..34].rotate_left(4);
            ports.reverse();
        }
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum);
        frame[34..36].copy_from_slice(&ports[0].to_be_bytes());
        frame[36..38].copy_from_slice(&ports[1].to_be_bytes());
        if tcp {
            frame[38..42].copy_from_slice(&said.seq.to_be_bytes());
            (frame[46], frame[47]) = (0x50, said.flags);
        } else {
            frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
        }
        frame
    }

    fn edge(batch: usize) -> Harness {
        let policy = format!(
            "[workers]\ncount = 1\nbatch = {batch}\nframes = 1024\n[flows]\ncapacity = 64\nunproven_percent = 100\n\
             [[port]]\nname = \"near\"\nkind = \"loopback\"\nloop_to = \"far\"\n\
             [[port]]\nname = \"far\"\nkind = \"loopback\"\nloop_to = \"near\"\n\
             [[steer]]\nname = \"all\"\naction = \"worker\"\n[[rule]]\nname = \"all\"\naction = \"forward\"\n"
        );
        Harness::new(config::parse(&policy, "test").unwrap()).unwrap()
    }

    /// Puts all through, at one time; says how many came out.
    fn pass(edge: &mut Harness, frames: &[Vec<u8>]) -> usize {
        frames.iter().for_each(|frame| assert!(edge.send(0, frame)));
        while edge.worker.turn(edge.now) > 0 {}
        std::iter::from_fn(|| edge.receive(1)).count()
    }

    /// All flows there are after these packets, a line each, and how many packets went on.
    fn walked(packets: &[Said], batch: usize) -> (Vec<String>, usize) {
        let mut edge = edge(batch);
        let frames: Vec<Vec<u8>> = packets.iter().map(frame).collect();
        let arrived = pass(&mut edge, &frames);
        let sides = [Direction::FromInitiator, Direction::FromResponder];
        let line = |flow: &crate::flow::Flow| {
            let counts = sides.map(|dir| (flow.packets(dir), flow.bytes(dir)));
            format!("{:?} {:?} {counts:?} {:?} {}", flow.key(), flow.state(), flow.tcp_next(), flow.initiator())
        };
        let mut flows: Vec<String> = edge.worker.flows.iter().map(|(_, flow)| line(flow)).collect();
        flows.sort();
        (flows, arrived)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Trains or not: what a batch says of its flows is what its packets say one by one.
        #[test]
        fn a_batch_is_its_packets(cars in proptest::collection::vec((said(), 1usize..5), 1..24)) {
            let packets: Vec<Said> = cars.iter().flat_map(|(said, n)| std::iter::repeat_n(said.clone(), *n)).collect();
            prop_assert_eq!(walked(&packets, 64), walked(&packets, 1));
        }
    }

    #[test]
    fn packets_behind_one_that_got_no_flow_ask_for_themselves() {
        // There is room for 64, and every one is young: from the 65th on no packet gets a flow.
        let said = Said { flow: 0, back: false, flags: 0, payload: 9, seq: 0, fragment: 0 };
        let mut frames = Vec::new();
        for host in 0..100u8 {
            let mut frame = frame(&said);
            frame[29] = host;
            frame[24..26].fill(0);
            let sum = checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
            frames.extend([frame.clone(), frame.clone(), frame]);
        }
        let count = |batch: usize| {
            let mut edge = edge(batch);
            assert_eq!(pass(&mut edge, &frames), frames.len());
            (edge.worker.flows.len(), edge.worker.flows.pressure().refused_full)
        };
        let (one, many) = (count(1), count(64));
        assert_eq!(one, many);
        assert!(one.1 > 0 && one.1.is_multiple_of(3), "each of a train's packets is refused by itself: {one:?}");
    }
}
