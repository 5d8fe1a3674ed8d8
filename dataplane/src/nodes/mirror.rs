//! `mirror` of a rule: a copy of the packet, as it came in, out by a port of its own.

use crate::graph::packet::NONE;
use crate::graph::{Cx, Packet};
use crate::io::frame::HEADROOM;
use crate::nodes::fragment::copy_out;
use crate::telemetry::counters::{NotCopied, TreatCounters};
use crate::wire::ethernet::{self, Mac};
use softdpu_ebpf_common::walk::L3;

/// Free frames that copies leave to packets: one in so many of the pool's.
const RESERVE: usize = 16;

/// Sends a copy, or counts why there is none. The packet itself goes on in any case.
pub(super) fn copy(cx: &mut Cx<'_>, packet: &mut Packet, port: u16, counters: &TreatCounters) {
    match made(cx, packet, port) {
        Ok(bytes) => counters.copied.add(1, bytes as u64),
        Err(reason) => counters.not_copied[reason as usize].inc(),
    }
}

fn made(cx: &mut Cx<'_>, packet: &mut Packet, port: u16) -> Result<usize, NotCopied> {
    // The last look: what is, was or will be in a tunnel is not for a port in clear, whatever the rule says.
    if packet.meta.tunnel_in != NONE || packet.meta.tunnel_out != NONE {
        return Err(NotCopied::Protected);
    }
    let len = packet.frame.total_len();
    let link = cx.fib.links().get(usize::from(port)).ok_or(NotCopied::LinkDown)?;
    if !link.up {
        return Err(NotCopied::LinkDown);
    }
    if len > usize::from(link.mtu) {
        return Err(NotCopied::TooLong);
    }
    let own = link.mac;
    let list = cx.tx.get(usize::from(port)).ok_or(NotCopied::NoRoom)?;
    // The rest of the list is for packets: it never grows.
    if list.len() >= list.capacity() / 2 {
        return Err(NotCopied::NoRoom);
    }
    if cx.pool.available() <= cx.pool.total() as usize / RESERVE {
        return Err(NotCopied::NoFrame);
    }
    let mut frame = cx.pool.alloc().ok_or(NotCopied::NoFrame)?;
    if !frame.set_place(HEADROOM - ethernet::HEADER..HEADROOM + len) {
        cx.pool.free(frame);
        return Err(NotCopied::TooLong);
    }
    let station = cx.fib.links()[usize::from(packet.meta.port_in)].mac;
    let source = source(packet, station).unwrap_or(own);
    let (link, ip) = frame.bytes_mut().split_at_mut(ethernet::HEADER);
    copy_out(cx, packet, 0, ip);
    link[..6].copy_from_slice(&station.0);
    link[6..12].copy_from_slice(&source.0);
    link[12..].copy_from_slice(if packet.headers.l3 == L3::V6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    cx.tx[usize::from(port)].push(frame);
    Ok(len)
}

/// Link address it came from: the header that `parse` cut off is still in front of it. `None`: it came with a priority tag, or was
/// put together from fragments, and what is there is something else.
fn source(packet: &mut Packet, station: Mac) -> Option<Mac> {
    if !packet.frame.grow_front(ethernet::HEADER) {
        return None;
    }
    let header: [u8; 12] = *packet.frame.bytes().first_chunk()?;
    // What was added can be taken off again.
    let _ = packet.frame.trim_front(ethernet::HEADER);
    let [a, b, c, d, e, f, from @ ..] = header;
    (Mac([a, b, c, d, e, f]) == station).then_some(Mac(from))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::wire::ip::write_v4;
    use crate::worker::harness::Harness;

    const APPS: usize = 0;
    const UPLINK: usize = 1;

    fn harness(rule: &str) -> Harness {
        let ports = ["apps", "uplink"]
            .map(|name| format!("[[port]]\nname = \"{name}\"\nkind = \"loopback\"\nloop_to = \"{name}\"\n"));
        let text =
            format!("name = \"x\"\n[workers]\nframes = 256\n{}[[rule]]\nname = \"seen\"\n{rule}", ports.concat());
        Harness::new(crate::config::parse(&text, "x.toml").unwrap_or_else(|e| panic!("{e:?}"))).unwrap()
    }

    fn packet() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x08, 0x00];
        frame.resize(14 + 28 + 20, 0x55);
        write_v4(&mut frame[14..], [10, 1, 0, 2], [10, 2, 0, 2], 17, 64, 48);
        frame[34..42].copy_from_slice(&[0x9c, 0x40, 0x23, 0x28, 0, 28, 0, 0]);
        frame
    }

    fn counted(harness: &Harness) -> crate::telemetry::counters::RuleTotal {
        harness.worker.counters.rules.totals()[0].1
    }

    #[test]
    fn a_copy_is_the_packet_as_it_came_and_the_packet_goes_on() {
        let mut harness = harness("mirror = \"uplink\"\ndscp = 46\n");
        let out = harness.pass(APPS, &packet());
        let [(UPLINK, copy), (UPLINK, gone)] = out.as_slice() else { panic!("{out:?}") };
        assert_eq!(*copy, packet(), "neither mark nor TTL, and the link addresses it came with");
        assert_eq!((gone[22], gone[15] >> 2), (63, 46));
        assert_eq!((counted(&harness).copied, counted(&harness).not_copied), ((1, 48), [0; 5]));
        harness.assert_no_leak();
    }

    #[test]
    fn with_a_sample_it_is_one_in_so_many() {
        let mut harness = harness("mirror = \"uplink\"\nsample = 4\n");
        let out: usize = (0..12).map(|_| harness.pass(APPS, &packet()).len()).sum();
        assert_eq!((out, counted(&harness).copied.0, counted(&harness).sampled), (15, 3, 3));
    }

    #[test]
    fn copies_leave_frames_and_room_to_packets() {
        let mut harness = harness("mirror = \"uplink\"\n");
        let packets = 200;
        for _ in 0..packets {
            assert!(harness.send(APPS, &packet()));
        }
        harness.settle();
        let total = counted(&harness);
        let missed: u64 = total.not_copied.iter().sum();
        assert_eq!(total.copied.0 + missed, packets, "each was copied, or counted why not");
        assert_eq!(harness.left().len() as u64, packets + total.copied.0, "every packet went on");
        harness.assert_no_leak();
    }
}
