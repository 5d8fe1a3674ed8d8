#![allow(clippy::unwrap_used)]
use super::*;
use crate::io::umem::Umem;
use proptest::prelude::*;
use std::io::Cursor;

fn pool(chunks: u32) -> FramePool {
    FramePool::new(Umem::heap(chunks, 2048).unwrap())
}

/// A little-endian pcap file with nanosecond times.
fn pcap(link: u32, packets: &[(u64, &[u8])]) -> Vec<u8> {
    let mut f = [0xa1b2_3c4du32, 0x0004_0002, 0, 0, 65535, link].map(u32::to_le_bytes).concat();
    for (time, bytes) in packets {
        let len = bytes.len() as u32;
        let head = [(time / 1_000_000_000) as u32, (time % 1_000_000_000) as u32, len, len];
        f.extend(head.map(u32::to_le_bytes).concat());
        f.extend_from_slice(bytes);
    }
    f
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let len = (12 + body.len().next_multiple_of(4)) as u32;
    let mut b = [kind, len].map(u32::to_le_bytes).concat();
    b.extend_from_slice(body);
    b.resize(len as usize - 4, 0);
    b.extend(len.to_le_bytes());
    b
}

/// Section header, an interface of `link` with times in 1/1024 s, one enhanced packet at `ticks`, one simple packet.
fn pcapng(link: u16, ticks: u32, packet: &[u8]) -> Vec<u8> {
    let mut f = block(0x0a0d_0d0a, &[&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    let link = [&link.to_le_bytes()[..], &[0; 6], &[9, 0, 1, 0, 0x8a, 0, 0, 0], &[0; 4]].concat();
    f.extend(block(1, &link));
    f.extend(block(5, &[0; 12]));
    let len = packet.len() as u32;
    let head = [0, 0, ticks, len, len].map(u32::to_le_bytes).concat();
    f.extend(block(6, &[&head, packet].concat()));
    f.extend(block(3, &[&len.to_le_bytes()[..], packet].concat()));
    f
}

fn all(bytes: Vec<u8>) -> Result<Vec<(u64, u32, Vec<u8>)>, IoError> {
    let mut reader = CaptureReader::new(Path::new("x.pcap"), Box::new(Cursor::new(bytes)))?;
    let mut found = Vec::new();
    while reader.advance()? {
        let r = reader.current().unwrap();
        found.push((r.time, r.link, r.bytes.to_vec()));
    }
    Ok(found)
}

#[test]
fn what_is_read_is_written_with_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.pcap"), dir.path().join("out.pcap"));
    let long: Vec<u8> = (0..9000).map(|i| i as u8).collect();
    let packets: Vec<(u64, &[u8])> = vec![(1_700_000_000_123_456_789, &[1; 60]), (1_700_000_001_000_000_001, &long)];
    std::fs::write(&from, pcap(1, &packets)).unwrap();
    let mut pool = pool(16);
    let clock = ReplayClock::new(&pool);
    let mut port = PcapPort::open(Some(&from), Some(&to), clock.clone()).unwrap();
    let mut frames = Vec::with_capacity(8);
    assert!(!port.exhausted());
    assert_eq!(port.rx_burst(&mut pool, &mut frames, 64), 2);
    assert!(port.exhausted() && frames[1].is_chain());
    assert_eq!(clock.now(), packets[1].0);
    port.tx_burst(&mut pool, &mut frames);
    assert_eq!((port.stats().tx_packets, port.stats().tx_chains), (2, 1));
    port.close().unwrap();
    pool.assert_no_leak();
    let back = all(std::fs::read(&to).unwrap()).unwrap();
    let want: Vec<_> = packets.iter().map(|(t, b)| (*t, 1, b.to_vec())).collect();
    assert_eq!(back, want);
}

#[test]
fn two_ports_take_turns_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut pool = pool(64);
    let clock = ReplayClock::new(&pool);
    let mut ports: Vec<PcapPort> = [[10, 40, 50], [20, 30, 60]]
        .iter()
        .enumerate()
        .map(|(i, times)| {
            let path = dir.path().join(format!("{i}.pcap"));
            let packets: Vec<(u64, [u8; 20])> = times.iter().map(|t| (*t, [*t as u8; 20])).collect();
            let packets: Vec<(u64, &[u8])> = packets.iter().map(|(t, b)| (*t, &b[..])).collect();
            std::fs::write(&path, pcap(1, &packets)).unwrap();
            PcapPort::open(Some(&path), None, clock.clone()).unwrap()
        })
        .collect();
    let (mut order, mut frames) = (Vec::new(), Vec::with_capacity(8));
    while !ports.iter().all(PcapPort::exhausted) {
        for port in &mut ports {
            port.rx_burst(&mut pool, &mut frames, 8);
            for frame in frames.drain(..) {
                order.push(frame.bytes()[0]);
                pool.free(frame);
            }
        }
    }
    assert_eq!(order, [10, 20, 30, 40, 50, 60]);
}

#[test]
fn a_file_waits_for_free_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    std::fs::write(&path, pcap(1, &[(1, &[1; 60]), (2, &[2; 60]), (3, &[3; 60])])).unwrap();
    let mut pool = pool(2);
    let mut port = PcapPort::open(Some(&path), None, ReplayClock::new(&pool)).unwrap();
    let mut frames = Vec::with_capacity(8);
    assert_eq!(port.rx_burst(&mut pool, &mut frames, 8), 2);
    assert_eq!(port.rx_burst(&mut pool, &mut frames, 8), 0);
    assert!(!port.exhausted());
    frames.drain(..).for_each(|f| pool.free(f));
    assert_eq!(port.rx_burst(&mut pool, &mut frames, 8), 1);
    frames.drain(..).for_each(|f| pool.free(f));
    assert!(port.exhausted() && port.error().is_none());
}

#[test]
fn other_link_types_get_an_ethernet_header() {
    let ip: &[u8] = &[0x45, 1, 2, 3];
    let ip6: &[u8] = &[0x60, 1, 2, 3];
    let sll = [&[0; 14][..], &[0x86, 0xdd], ip6].concat();
    let sll2 = [&[0x08, 0x00][..], &[0; 18], ip].concat();
    let cases: [(u32, &[u8], Option<u16>); 12] = [
        (101, ip, Some(0x0800)),
        (12, ip6, Some(0x86dd)),
        (101, &[0x10, 0], None),
        (0, &[2, 0, 0, 0, 0x45, 1, 2, 3], Some(0x0800)),
        (108, &[0, 0, 0, 30, 0x60, 1, 2, 3], Some(0x86dd)),
        (113, &sll, Some(0x86dd)),
        (276, &sll2, Some(0x0800)),
        (228, ip, Some(0x0800)),
        (9, &[0xff, 3, 0, 0x21, 0x45, 1, 2, 3], Some(0x0800)),
        (9, &[0, 0x57, 0x60, 1, 2, 3], Some(0x86dd)),
        (113, &[0; 15], None),
        (113, &[0; 16], None),
    ];
    for (link, bytes, want) in cases {
        let got = link::ethernet(&Record { time: 0, link, wire_len: 0, bytes });
        let got = got.map(|(h, p)| (u16::from_be_bytes([h.unwrap()[12], h.unwrap()[13]]), p[1..].to_vec()));
        assert_eq!(got, want.map(|t| (t, vec![1, 2, 3])), "link type {link}");
    }
}

#[test]
fn pcapng_times_follow_the_interfaces_resolution() {
    let found = all(pcapng(1, 1536, &[7; 61])).unwrap();
    assert_eq!(found, [(1_500_000_000, 1, vec![7; 61]), (0, 1, vec![7; 61])]);
}

#[test]
fn bad_files_say_where_and_why() {
    let whole = pcap(1, &[(1, &[1; 60]), (2, &[2; 60])]);
    let mut ng = pcapng(1, 1, &[1; 60]);
    let at = ng.len() - 4;
    ng[at] ^= 4;
    let bad_trailer = (at - 72) as u64;
    let cases: [(Vec<u8>, u64, &str); 7] = [
        (Vec::new(), 0, "0 bytes are too few"),
        (b"not a capture at all, you see".to_vec(), 0, "not a capture"),
        (whole[..whole.len() - 1].to_vec(), 24 + 76, "ends within a record (75 bytes"),
        (whole[..24 + 76 + 3].to_vec(), 24 + 76, "ends within a record (3 bytes"),
        (pcap(105, &[]), 0, "link type 105"),
        (ng, bad_trailer, "trailer"),
        (pcapng(105, 1, &[1; 60]), 28 + 32 + 24, "link type 105"),
    ];
    for (bytes, at, text) in cases {
        let e = all(bytes).unwrap_err();
        let IoError::Capture { offset, ref reason, .. } = e else { panic!("{e}") };
        assert!(reason.contains(text), "{reason:?} should say {text:?}");
        assert_eq!(offset, at, "{reason}");
    }
    assert!(PcapPort::open(Some(Path::new("/nonexistent")), None, ReplayClock::new(&pool(1))).is_err());
}

#[test]
fn a_capture_that_breaks_off_ends_the_port_with_its_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    let whole = pcap(1, &[(1, &[1; 60]), (2, &[2; 60])]);
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let mut pool = pool(4);
    let mut port = PcapPort::open(Some(&path), None, ReplayClock::new(&pool)).unwrap();
    let mut frames = Vec::with_capacity(8);
    assert_eq!(port.rx_burst(&mut pool, &mut frames, 8), 1);
    frames.drain(..).for_each(|f| pool.free(f));
    assert!(port.exhausted());
    assert!(port.close().unwrap_err().to_string().contains("byte 100"));
}

proptest! {
    /// Whatever the bytes, reading ends, without a panic.
    #[test]
    fn no_file_can_hurt(ng in any::<bool>(), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
                        cut in any::<usize>()) {
        let mut f = if ng { pcapng(1, 5, &[1; 50]) } else { pcap(1, &[(1, &[1; 50]), (2, &[2; 70])]) };
        for (at, value) in flips {
            let at = at % f.len();
            f[at] = value;
        }
        f.truncate(f.len() - cut % 20);
        let _ = all(f);
    }
}
