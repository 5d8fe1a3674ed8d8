//! What nodes stand on: header walk, rings, frame pool, checksums, replay window, codecs.

use std::hint::black_box;

use anyhow::{Result, ensure};
use softdpu::compress::{Compressor, Decompressor, Governor};
use softdpu::crypto::esp::NEXT_IPV4;
use softdpu::crypto::replay::ReplayWindow;
use softdpu::wire::checksum;
use softdpu_ebpf_common::walk::walk;
use softdpu_testbed::packet::{ACK, Ends, SYN, frame, tcp};

use super::{Entry, scene::noise};
use crate::memory::{self, packet};
use crate::micro::Case;

pub fn entries() -> Vec<Entry> {
    let ends = Ends { src: [10, 1, 0, 2], dst: [10, 2, 0, 2], ports: (40_000, 443) };
    let syn = frame(&tcp(ends, SYN | ACK, 1, 2, &[]));
    let mut tagged = packet(0, 60);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut v6 = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 0, 64];
    v6.extend(
        [[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]]
            .concat(),
    );
    // Hop-by-hop options with padding, then UDP.
    v6.extend([17, 0, 1, 4, 0, 0, 0, 0, 0x9c, 0x40, 0, 53, 0, 16, 0, 1, 7, 7, 7, 7, 7, 7, 7, 7]);
    vec![
        walking("udp", "IPv4 UDP", packet(0, 60)),
        walking("tcp", "IPv4 TCP", syn),
        walking("vlan", "a VLAN tag, IPv4 UDP", tagged),
        walking("v6-options", "IPv6 with an extension header, UDP", v6),
        Entry::new("ring/put-take", "ring: put and take one descriptor", 1024, || Ok(memory::ring_case())),
        Entry::new("ring/pool", "frame pool: take and give back", 1024, memory::pool_case),
        summing(20),
        summing(1400),
        replay("in-order", "one after the other", |n| n + 1),
        // Pairs change places.
        replay("out-of-order", "every other one late", |n| (n ^ 1) + 1),
        Entry::new("codec/lz4-compress-text", "LZ4, 1,400 B of text, per packet", 64, || compress(text(1400), true)),
        Entry::new("codec/lz4-compress-short", "LZ4, 200 B of text, per packet", 64, || compress(text(200), true)),
        Entry::new("codec/lz4-refuse-random", "1,400 B that look random, per packet", 64, || {
            compress(noise(1400), false)
        }),
        Entry::new("codec/lz4-restore-text", "LZ4 restored to 1,400 B of text, per packet", 64, || restore(text(1400))),
        Entry::new("codec/lz4-restore-short", "LZ4 restored to 200 B of text, per packet", 64, || restore(text(200))),
    ]
}

fn walking(name: &str, title: &str, frame: Vec<u8>) -> Entry {
    Entry::new(format!("walk/{name}"), format!("header walk: {title}"), 256, move || {
        let frame = frame.clone();
        ensure!(walk(&frame[..]).is_ok(), "a frame that cannot be walked");
        Ok(Case::new("", "", move |n| {
            for _ in 0..n {
                let _ = black_box(walk(black_box(&frame[..])));
            }
        }))
    })
}

fn summing(length: usize) -> Entry {
    Entry::new(format!("checksum/{length}"), format!("checksum of {length} B"), 256, move || {
        let bytes = noise(length);
        Ok(Case::new("", "", move |n| {
            for _ in 0..n {
                black_box(checksum::of(black_box(&bytes)));
            }
        }))
    })
}

fn replay(name: &str, title: &str, order: fn(u64) -> u64) -> Entry {
    Entry::new(format!("replay/{name}"), format!("replay window, {title}: check and accept"), 1024, move || {
        let window = ReplayWindow::new(1024);
        let mut at = 0;
        Ok(Case::new("", "", move |n| {
            for _ in 0..n {
                let number = black_box(order(at));
                assert!(window.check(number).is_ok() && window.accept(number).is_ok());
                at += 1;
            }
        }))
    })
}

/// An IPv4 packet of text.
fn text(length: usize) -> Vec<u8> {
    let words = b"the quick brown fox jumps over the lazy dog, and then once more; ";
    let mut packet: Vec<u8> = words.iter().copied().cycle().take(length).collect();
    packet[..20].copy_from_slice(&[
        0x45,
        0,
        (length >> 8) as u8,
        length as u8,
        0,
        1,
        0,
        0,
        64,
        17,
        0,
        0,
        10,
        1,
        0,
        2,
        10,
        2,
        0,
        2,
    ]);
    packet
}

fn compress(packet: Vec<u8>, smaller: bool) -> Result<Case<'static>> {
    let mut compressor = Compressor::new();
    let done = compressor.compress_slice(&packet, NEXT_IPV4, &mut Governor::default()).is_ok();
    ensure!(done == smaller, "compressed: {done}");
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            let _ = black_box(compressor.compress_slice(black_box(&packet), NEXT_IPV4, &mut Governor::default()));
        }
    }))
}

fn restore(packet: Vec<u8>) -> Result<Case<'static>> {
    let mut compressor = Compressor::new();
    let sent = compressor.compress_slice(&packet, NEXT_IPV4, &mut Governor::default());
    let sent = sent.map_err(|left| anyhow::anyhow!("left: {}", left.reason()))?.to_vec();
    let restorer = Decompressor::new(1600);
    let mut out = vec![0; 2048];
    Ok(Case::new("", "", move |n| {
        for _ in 0..n {
            let done = restorer.decompress_slice(black_box(&sent), &mut out);
            assert!(black_box(done).is_ok_and(|(len, _)| len == packet.len()));
        }
    }))
}
