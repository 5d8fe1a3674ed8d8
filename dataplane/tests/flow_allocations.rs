//! The flow table and the inspector allocate when they are made, and never after.
#![allow(clippy::unwrap_used)]

use softdpu::flow::{FlowConfig, FlowTable, Seed, Tick};
use softdpu::l7::{Inspector, L7Config, Outcome};
use softdpu_ebpf_common::walk::walk;

#[path = "support/counting.rs"]
mod counting;

/// An Ethernet frame with TCP (or UDP) from 10.0.0.1 to 10.0.x.y.
fn frame(udp: bool, to: u16, sport: u16, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let l4 = if udp { 8 } else { 20 };
    let mut f = vec![0; 12];
    f.extend([8, 0, 0x45, 0]);
    f.extend((20 + l4 + payload.len() as u16).to_be_bytes());
    f.extend([0, 0, 0, 0, 64, if udp { 17 } else { 6 }, 0, 0, 10, 0, 0, 1, 10, 0]);
    f.extend(to.to_be_bytes());
    f.extend(sport.to_be_bytes());
    f.extend([0, 53]);
    if udp {
        f.extend((8 + payload.len() as u16).to_be_bytes());
        f.extend([0, 0]);
    } else {
        f.extend(seq.to_be_bytes());
        f.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    }
    f.extend(payload);
    f
}

#[test]
fn nothing_is_allocated_per_packet() {
    let mut frames = Vec::new();
    for i in 0..2000u16 {
        let get = format!("GET / HTTP/1.1\r\nHost: h{i}.example\r\n\r\n").into_bytes();
        frames.push(frame(false, i, 4000, 99, 2, b""));
        frames.push(frame(false, i, 4000, 120, 16, &get[20..]));
        frames.push(frame(false, i, 4000, 100, 16, &get[..20]));
        let mut query =
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04name\x07example\x00\x00\x01\x00\x01".to_vec();
        query[13] = b'a' + (i % 26) as u8;
        frames.push(frame(true, i, 5000, 0, 0, &query));
        frames.push(frame(true, i, 5001, 0, 0, b"noise"));
    }
    let mut table = FlowTable::new(&FlowConfig { capacity: 512, ..FlowConfig::default() }, Seed::random(), Tick(0));
    let mut inspector = Inspector::new(&L7Config { buffers: 8, hosts: 1024, starts: 512, facts: 64, addresses: 64 });
    let mut named = 0;
    let before = counting::allocations();
    for (i, f) in frames.iter().enumerate() {
        let now = Tick(i as u32);
        table.expire(now, 64, |idx, flow| inspector.release(idx, flow));
        let h = walk(&f[..]).unwrap();
        let key = table.prepare(&h, f, now).unwrap();
        let hit = table.lookup_or_insert(&key, now, |idx, flow| inspector.release(idx, flow)).unwrap();
        table.touch(hit, &key, f.len() as u32, now);
        let outcome = inspector.inspect(hit.idx, table.get_mut(hit.idx), hit.dir, &h, f, now);
        named += u32::from(matches!(outcome, Outcome::Recognised { host: Some(_), .. }));
    }
    assert_eq!(counting::allocations(), before);
    assert!(table.pressure().evicted_full + table.pressure().evicted_unproven > 0, "the table was under pressure");
    assert_eq!(named, 4000);
}
