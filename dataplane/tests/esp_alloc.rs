//! The packet path does not allocate: an allocator that counts per thread, under seal, open, compress and decompress.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::ptr::NonNull;

use softdpu::compress::{Compressor, Decompressor, Governor, Outcome};
use softdpu::crypto::esp::{Inner, LINK_LEN, NEXT_IPCOMP, NEXT_IPV4, NEXT_NONE, OpenError};
use softdpu::crypto::inbound::Sequence;
use softdpu::crypto::outbound::Start;
use softdpu::crypto::outer::{Encapsulation, Endpoints};
use softdpu::crypto::{
    Cipher, InboundConfig, InboundOptions, InboundSa, KeyMaterial, OutboundConfig, OutboundOptions, OutboundSa,
};
use softdpu::io::frame::{Frame, HEADROOM};
use softdpu_ebpf_common::walk::{Headers, L3};

struct Counting;

thread_local! {
    /// Of this thread alone, so that the test harness's own threads do not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local that needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A walk of a frame that was sealed here: IPv4 outside, no UDP.
fn walked(frame: &Frame, spi: u32) -> Headers {
    Headers { l3: L3::V4, l3_off: 14, l4_off: 34, end: frame.len() as u16, proto: 50, spi, ..Headers::default() }
}

fn packet(len: usize, dull: bool) -> Vec<u8> {
    let mut p = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2];
    let mut x = 1_u64;
    p.extend((20..len).map(|i| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if dull { b"GET /index.html HTTP/1.1\r\n"[i % 26] } else { (x >> 40) as u8 }
    }));
    p
}

#[test]
fn nothing_on_the_packet_path_allocates() {
    const CHUNK: usize = 2048;
    for cipher in Cipher::ALL {
        let material = KeyMaterial::new(cipher, &vec![3; cipher.material_len()]).unwrap();
        let local = Ipv4Addr::new(192, 0, 2, 1);
        let out = OutboundSa::new(&OutboundConfig {
            spi: 0x1001,
            material: &material,
            endpoints: Endpoints::V4 { local, remote: local },
            encapsulation: Encapsulation::None,
            extended: true,
            start: Start::Clock,
            options: OutboundOptions::default(),
        })
        .unwrap();
        let config = InboundConfig {
            spi: 0x1001,
            material: &material,
            sequence: Sequence::InIv,
            window: 4096,
            options: InboundOptions::default(),
        };
        let sa = InboundSa::new(&config).unwrap();
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new(65_535));
        let mut flow = Governor::default();
        let packets: Vec<Vec<u8>> = (0..120).map(|i| packet(40 + i * 13 % 1400, i % 3 != 0)).collect();
        let mut memory = vec![0_u8; CHUNK].into_boxed_slice();
        let chunk = NonNull::new(memory.as_mut_ptr()).unwrap();
        let (mut compressed, mut opened) = (0, 0);

        let before = ALLOCATIONS.get();
        for packet in &packets {
            // SAFETY: `memory` outlives the token, which ends below; between is no other way to it.
            let mut frame = unsafe { Frame::from_raw(chunk, 0, CHUNK as u32, HEADROOM as u32, packet.len() as u32) };
            frame.bytes_mut().copy_from_slice(packet);
            let mut inner = Inner { place: 0..packet.len(), next_header: NEXT_IPV4, tos: 0 };
            if let Outcome::Compressed { place } = compressor.compress(&mut frame, 0..packet.len(), 4, &mut flow) {
                inner = Inner { place, next_header: NEXT_IPCOMP, tos: 0 };
                compressed += 1;
            }
            out.sealer_at(2, 1).seal(&mut frame, &inner).unwrap();
            let headers = walked(&frame, 0x1001);
            let got = sa.opener_at(1).open(&mut frame, &headers).unwrap();
            let same = if got.next_header == NEXT_IPCOMP {
                let got = decompressor.decompress(&mut frame, got.place).unwrap();
                frame.bytes()[got.place] == packet[..]
            } else {
                frame.bytes()[got.place] == packet[..]
            };
            assert!(same);
            opened += 1;
            // The ways that fail must not allocate either: a replay of what is no longer there, a dummy, rubbish.
            assert!(sa.open(&mut frame, &headers).is_err());
            let whole = frame.len();
            out.seal(&mut frame, &Inner { place: LINK_LEN..whole, next_header: NEXT_NONE, tos: 0 }).unwrap();
            let headers = walked(&frame, 0x1001);
            assert_eq!(sa.open(&mut frame, &headers), Err(OpenError::Dummy));
            assert!(decompressor.decompress(&mut frame, 0..30).is_err());
            frame.into_index();
        }
        let allocations = ALLOCATIONS.get() - before;

        assert!(compressed > 20 && opened == packets.len(), "{compressed} compressed, {opened} opened");
        assert_eq!(allocations, 0, "{cipher}");
        drop(memory);
        assert!(ALLOCATIONS.get() > before, "the counter counts");
    }
}
