use super::coalesce::Groups;
use super::offload::{Gso, VNET_LEN, Vnet};
use super::segment::{Cut, complete};
use crate::io::frame::Frame;
use crate::io::pool::FramePool;
use crate::io::umem::Umem;
use crate::wire::checksum;
use proptest::prelude::*;
use softdpu_ebpf_common::walk::{self, L3};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// One packet of a flow, in words.
#[derive(Clone, Debug)]
struct Spec {
    v6: bool,
    flow: u8,
    proto: u8,
    seq: u32,
    ack: u32,
    flags: u8,
    /// Of TCP, in words of four bytes.
    options: usize,
    payload: Vec<u8>,
    id: u16,
    df: bool,
}

impl Default for Spec {
    fn default() -> Self {
        let payload = vec![7; 100];
        Self { v6: false, flow: 1, proto: TCP, seq: 1000, ack: 5, flags: ACK, options: 3, payload, id: 0, df: true }
    }
}

fn l4_of(v6: bool) -> usize {
    14 + if v6 { 40 } else { 20 }
}

/// The packet with all checksums.
fn build(spec: &Spec) -> Vec<u8> {
    let l4 = l4_of(spec.v6);
    let head = if spec.proto == TCP { 20 + spec.options * 4 } else { 8 };
    let mut bytes = vec![0; l4 + head];
    bytes[12..14].copy_from_slice(if spec.v6 { &[0x86, 0xdd] } else { &[8, 0] });
    let segment = head + spec.payload.len();
    if spec.v6 {
        crate::wire::ip::write_v6(&mut bytes[14..], &[spec.flow; 16], &[0x22; 16], spec.proto, 60, segment as u16);
    } else {
        let (src, dst) = ([10, 0, 0, spec.flow], [10, 9, 9, 9]);
        crate::wire::ip::write_v4(&mut bytes[14..], src, dst, spec.proto, 60, (20 + segment) as u16);
        bytes[18..20].copy_from_slice(&spec.id.to_be_bytes());
        bytes[20] = if spec.df { 0x40 } else { 0 };
        bytes[24..26].fill(0);
        let sum = checksum::of(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum);
    }
    bytes[l4..l4 + 4].copy_from_slice(&[0x10, spec.flow, 0x14, 0x51]);
    if spec.proto == TCP {
        bytes[l4 + 4..l4 + 8].copy_from_slice(&spec.seq.to_be_bytes());
        bytes[l4 + 8..l4 + 12].copy_from_slice(&spec.ack.to_be_bytes());
        bytes[l4 + 12] = (head as u8 / 4) << 4;
        bytes[l4 + 13] = spec.flags;
        bytes[l4 + 14..l4 + 16].copy_from_slice(&[0x20, 0]);
        bytes[l4 + 20..].fill(1); // no-operations
    } else {
        bytes[l4 + 4..l4 + 6].copy_from_slice(&(segment as u16).to_be_bytes());
    }
    bytes.extend_from_slice(&spec.payload);
    seal_sum(&mut bytes);
    bytes
}

/// Where the packet's L4 checksum is, and what its segment sums up to with the pseudo header.
fn sum(bytes: &[u8]) -> (usize, u16) {
    let headers = walk::walk(bytes).unwrap();
    let (l4, end) = (usize::from(headers.l4_off), usize::from(headers.end));
    let at = l4 + if headers.proto == TCP { 16 } else { 6 };
    (at, checksum::fold(checksum::add(checksum::pseudo(&headers, end - l4), &bytes[l4..end])))
}

fn seal_sum(bytes: &mut [u8]) {
    let (at, _) = sum(bytes);
    bytes[at..at + 2].fill(0);
    let (_, without) = sum(bytes);
    bytes[at..at + 2].copy_from_slice(&(!without).to_ne_bytes());
}

/// The same with its checksum left to the device, and the header that says so.
fn left_to_device(mut bytes: Vec<u8>, gso_size: u16) -> (Vec<u8>, Vnet) {
    let headers = walk::walk(&bytes[..]).unwrap();
    let l4 = headers.l4_off;
    let (at, _) = sum(&bytes);
    let pseudo = checksum::fold(checksum::pseudo(&headers, usize::from(headers.end - l4)));
    bytes[at..at + 2].copy_from_slice(&pseudo.to_ne_bytes());
    let gso = match (gso_size, headers.proto, headers.l3) {
        (0, ..) => Gso::None,
        (_, TCP, L3::V4) => Gso::Tcp4,
        (_, TCP, _) => Gso::Tcp6,
        _ => Gso::Udp,
    };
    (bytes, Vnet { csum: Some((l4, at as u16 - l4)), gso, gso_size, hdr_len: headers.payload_off })
}

fn cut_all(packet: &[u8], vnet: &Vnet) -> Vec<Vec<u8>> {
    let mut cut = Cut::new(packet, vnet).unwrap();
    let mut out = Vec::new();
    while !cut.is_done() {
        let mut segment = vec![0xee; cut.next_len()];
        cut.next(packet, &mut segment);
        out.push(segment);
    }
    out
}

fn frames(pool: &mut FramePool, packets: &[Vec<u8>]) -> Vec<Frame> {
    packets.iter().map(|bytes| pool.scatter(bytes).unwrap()).collect()
}

/// What would be written to the tap: per system call the offload header and the bytes behind it.
fn written(packets: &[Vec<u8>]) -> Vec<(Vnet, Vec<u8>, usize)> {
    let mut pool = FramePool::new(Umem::heap((packets.len() * 3 + 1) as u32, 4096).unwrap());
    let mut frames = frames(&mut pool, packets);
    let mut out = Vec::new();
    Groups::new().walk(&mut frames, |groups, frames, outgoing| {
        let mut bytes: Vec<u8> = pool.parts(&frames[outgoing.first]).flatten().copied().collect();
        let mut at = outgoing.first;
        for _ in 1..outgoing.count {
            at = groups.next(at);
            bytes.extend_from_slice(&frames[at].bytes()[outgoing.head..]);
        }
        out.push((outgoing.vnet, bytes, outgoing.count));
    });
    frames.drain(..).for_each(|frame| pool.free(frame));
    pool.assert_no_leak();
    out
}

/// The identification is the sender's to choose where fragmenting is forbidden: left out, with the sum over it.
fn without_id(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes[12] == 8 && bytes[20] & 0x40 != 0 {
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
    }
    bytes
}

fn spec() -> impl Strategy<Value = Spec> {
    (any::<bool>(), any::<u32>(), 0usize..=10, 1usize..20_000, any::<u16>(), any::<bool>()).prop_map(
        |(v6, seq, options, length, id, df)| Spec {
            v6,
            seq,
            options,
            payload: (0..length).map(|i| (i * 7 + i / 251) as u8).collect(),
            id,
            df,
            ..Spec::default()
        },
    )
}

proptest! {
    /// Segments are whole packets with true checksums, their payloads are the long packet's, and joined they are it again.
    #[test]
    fn cut_and_joined_is_the_same(mut spec in spec(), size in 64u16..3000, psh: bool) {
        spec.flags = ACK | if psh { PSH } else { 0 };
        let whole = build(&spec);
        let (packet, vnet) = left_to_device(whole.clone(), size);
        let segments = cut_all(&packet, &vnet);
        prop_assert_eq!(segments.len(), spec.payload.len().div_ceil(usize::from(size)));
        let head = usize::from(vnet.hdr_len);
        let payload: Vec<u8> = segments.iter().flat_map(|segment| segment[head..].to_vec()).collect();
        prop_assert_eq!(&payload, &spec.payload);
        for (n, segment) in segments.iter().enumerate() {
            prop_assert_eq!(sum(segment).1, 0xffff);
            let headers = walk::walk(&segment[..]).unwrap();
            prop_assert_eq!(usize::from(headers.end), segment.len());
            prop_assert!(spec.v6 || checksum::ipv4_header_ok(&segment[14..34]));
            prop_assert_eq!(headers.tcp_flags & PSH != 0, psh && n + 1 == segments.len());
        }
        let joined = written(&segments);
        if segments.len() > 1 && segments.len() <= 512 {
            prop_assert_eq!(joined.len(), 1);
            let (header, bytes, count) = &joined[0];
            prop_assert_eq!((*count, header), (segments.len(), &vnet));
            prop_assert_eq!(bytes, &packet);
        }
    }

    /// Whatever comes in whatever order: cut again, it is what was given, each flow in its order.
    #[test]
    fn no_packet_is_changed_or_overtaken(steps in proptest::collection::vec(
        (0u8..6, 0usize..4, 0u8..12, any::<bool>()), 1..120))
    {
        let mut next = [1u32 << 31, u32::MAX - 500, 7, 9, 11, 13];
        let mut given: Vec<Vec<u8>> = Vec::new();
        for (flow, size, odd, df) in steps {
            let at = usize::from(flow);
            let mut spec = Spec {
                flow,
                v6: flow % 2 == 1,
                seq: next[at],
                payload: vec![odd; [400, 400, 1400, 0][size]],
                id: given.len() as u16,
                df,
                ..Spec::default()
            };
            match odd {
                0 => spec.flags |= PSH,
                1 => spec.seq = spec.seq.wrapping_add(1),
                2 => spec.ack += 1,
                3 => spec.flags |= 1,
                4 => spec.options = 0,
                5 => spec.proto = UDP,
                _ => {}
            }
            next[at] = spec.seq.wrapping_add(spec.payload.len() as u32);
            let mut bytes = build(&spec);
            if odd == 6 {
                let last = bytes.len() - 1;
                bytes[last] ^= 0x55; // its checksum is wrong now
            }
            given.push(bytes);
        }
        let mut came: Vec<Vec<u8>> = Vec::new();
        for (vnet, bytes, count) in written(&given) {
            match vnet.gso {
                Gso::None => came.push(bytes),
                _ => {
                    let again = cut_all(&bytes, &vnet);
                    prop_assert_eq!(again.len(), count);
                    came.extend(again);
                }
            }
        }
        prop_assert_eq!(came.len(), given.len());
        let of = |list: &[Vec<u8>], flow: u8, proto: u8| -> Vec<Vec<u8>> {
            let mine = list.iter().filter(|bytes| {
                let l4 = l4_of(bytes[12] == 0x86);
                bytes[l4 + 1] == flow && (bytes[if l4 == 34 { 23 } else { 20 }] == proto)
            });
            mine.cloned().map(without_id).collect()
        };
        for flow in 0..6 {
            for proto in [TCP, UDP] {
                prop_assert_eq!(of(&came, flow, proto), of(&given, flow, proto));
            }
        }
    }

    /// Headers that are garbage, or are not what the kernel says they are: no panic, nothing outside the packet.
    #[test]
    fn garbage_is_refused(mut packet in proptest::collection::vec(any::<u8>(), 0..300), header: [u8; VNET_LEN], sane in any::<bool>()) {
        if sane && packet.len() > 60 {
            packet[12..15].copy_from_slice(&[8, 0, 0x45]);
            packet[23] = TCP;
        }
        if let Ok(vnet) = Vnet::read(&header) {
            let _ = complete(&mut packet, &vnet);
            if let Ok(mut cut) = Cut::new(&packet, &vnet) {
                while !cut.is_done() {
                    let mut to = vec![0; cut.next_len()];
                    cut.next(&packet, &mut to);
                }
            }
        }
        if packet.len() >= 14 {
            written(&[packet]);
        }
    }
}

/// As long as IP allows: with the link header more than 65,535 bytes.
#[test]
fn the_longest_packets_are_cut_too() {
    for (v6, proto) in [(false, TCP), (true, TCP), (false, UDP), (true, UDP)] {
        for total in [65_521_usize, 65_522, 65_535] {
            let head = if proto == TCP { 32 } else { 8 };
            let room = total - head - if v6 { 40 } else { 20 };
            let payload: Vec<u8> = (0..room).map(|i| (i * 7 + i / 251) as u8).collect();
            // The headers of a short packet, with the long one's length and the pseudo header's sum.
            let short = Spec { v6, proto, payload: vec![1], ..Spec::default() };
            let (mut packet, mut vnet) = left_to_device(build(&short), 1400);
            packet.truncate(packet.len() - 1);
            packet.extend_from_slice(&payload);
            let (length, l4) = (if v6 { 18 } else { 16 }, l4_of(v6));
            let said = if v6 { total - 40 } else { total };
            packet[length..length + 2].copy_from_slice(&(said as u16).to_be_bytes());
            if proto == UDP {
                packet[l4 + 4..l4 + 6].copy_from_slice(&((head + room) as u16).to_be_bytes());
            }
            vnet.gso_size = 1400;
            let segments = cut_all(&packet, &vnet);
            assert_eq!(segments.len(), room.div_ceil(1400));
            let came: Vec<u8> = segments.iter().flat_map(|segment| segment[l4 + head..].to_vec()).collect();
            assert!(came == payload && segments.iter().all(|segment| sum(segment).1 == 0xffff), "{total}");
        }
    }
}

#[test]
fn datagrams_are_cut_too() {
    for v6 in [false, true] {
        let spec = Spec { v6, proto: UDP, payload: (0..5000).map(|i| i as u8).collect(), ..Spec::default() };
        let (packet, vnet) = left_to_device(build(&spec), 1200);
        let segments = cut_all(&packet, &vnet);
        assert_eq!(
            segments.iter().map(Vec::len).collect::<Vec<_>>(),
            [1200, 1200, 1200, 1200, 200].map(|n| l4_of(v6) + 8 + n)
        );
        for segment in &segments {
            assert_eq!(sum(segment).1, 0xffff);
        }
    }
}

#[test]
fn cwr_is_said_once_and_fin_at_the_end() {
    let spec = Spec { flags: ACK | PSH | 0x80 | 1, payload: vec![1; 3000], ..Spec::default() };
    let (packet, vnet) = left_to_device(build(&spec), 1000);
    let flags: Vec<u8> = cut_all(&packet, &vnet).iter().map(|segment| segment[14 + 20 + 13]).collect();
    assert_eq!(flags, [ACK | 0x80, ACK, ACK | PSH | 1]);
}

#[test]
fn a_checksum_left_to_the_device_is_completed_and_one_outside_is_refused() {
    for proto in [TCP, UDP] {
        let whole = build(&Spec { proto, ..Spec::default() });
        let (mut packet, vnet) = left_to_device(whole.clone(), 0);
        assert_eq!(complete(&mut packet, &vnet), Ok(()));
        assert_eq!(packet, whole);
        for csum in [(packet.len() as u16, 0), (34, u16::MAX), (0, 2), (u16::MAX, u16::MAX)] {
            assert!(complete(&mut packet, &Vnet { csum: Some(csum), ..vnet }).is_err());
        }
    }
}

#[test]
fn a_wrong_checksum_is_never_made_right() {
    let mut packets: Vec<Vec<u8>> = (0..4).map(|n| build(&Spec { seq: 1000 + n * 100, ..Spec::default() })).collect();
    packets[2][80] ^= 1;
    let out = written(&packets);
    assert_eq!(out.iter().map(|(_, _, count)| *count).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!((&out[1].0, &out[1].1), (&Vnet::PLAIN, &packets[2]));
}

#[test]
fn flows_that_interleave_are_collected_for_side_by_side() {
    let packets: Vec<Vec<u8>> = (0..40)
        .map(|n| build(&Spec { flow: (n % 4) as u8, v6: n % 2 == 1, seq: 1000 + n / 4 * 100, ..Spec::default() }))
        .collect();
    let out = written(&packets);
    assert_eq!(out.iter().map(|(_, _, count)| *count).collect::<Vec<_>>(), [10; 4]);
}
