//! Numbers, overhead and room of outbound associations.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::crypto::aead::Cipher;
use crate::crypto::esp::NEXT_IPV4;
use crate::crypto::testing::{TestFrame, ipv4};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

fn sa(extended: bool, start: Start) -> OutboundSa {
    let material = KeyMaterial::new(Cipher::Aes128Gcm, &[1; 20]).unwrap();
    let endpoints = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
    OutboundSa::new(&OutboundConfig {
        spi: 0x1000,
        material: &material,
        endpoints,
        encapsulation: Encapsulation::None,
        extended,
        start,
        options: OutboundOptions::default(),
    })
    .unwrap()
}

fn inner(place: std::ops::Range<usize>) -> Inner {
    Inner { place, next_header: NEXT_IPV4, tos: 0 }
}

#[test]
fn numbers_run_out_and_never_wrap() {
    for (extended, last) in [(false, u64::from(u32::MAX)), (true, u64::MAX)] {
        let sa = sa(extended, Start::At { seq: last - 4, iv_offset: 0 });
        assert_eq!(sa.take(3), (last - 4, 3));
        let mut sealer = sa.sealer(10);
        assert_eq!((sealer.next, sealer.left), (last - 1, 2));
        let packet = ipv4(60, 0);
        for n in 0..4 {
            let mut f = TestFrame::new(2048, &packet);
            let got = sealer.seal(f.frame(), &inner(0..60));
            if n < 2 {
                got.unwrap();
            } else {
                assert_eq!(got, Err(SealError::SeqExhausted));
                assert_eq!(f.frame().bytes(), packet, "nothing was touched");
            }
        }
        for _ in 0..3 {
            assert_eq!(sa.take(1).1, 0);
            assert_eq!(sa.take(u64::MAX).1, 0);
        }
    }
}

#[test]
fn workers_never_share_a_number() {
    let sa = sa(true, Start::At { seq: u64::MAX - 3999, iv_offset: 0 });
    let taken: Vec<(u64, u64)> = std::thread::scope(|s| {
        let workers: Vec<_> = (1..=4)
            .map(|n| {
                let sa = &sa;
                s.spawn(move || (0..1000).map(|_| sa.take(n)).filter(|t| t.1 > 0).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let numbers: Vec<u64> = taken.iter().flat_map(|&(first, n)| (0..n).map(move |i| first + i)).collect();
    assert_eq!(numbers.len(), 4000);
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 4000);
}

#[test]
fn a_new_association_starts_beyond_all_that_the_last_one_used() {
    let first = sa(true, Start::Clock);
    first.take(1000);
    let used = first.written.next.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_micros(10));
    assert!(sa(true, Start::Clock).written.next.load(Ordering::Relaxed) >= used);
    // With 32-bit numbers it is the IV that must not come back.
    let (a, b) = (sa(false, Start::Clock), sa(false, Start::ClockIv));
    assert_eq!((a.written.next.load(Ordering::Relaxed), b.written.next.load(Ordering::Relaxed)), (1, 1));
    assert!(b.iv_offset > a.iv_offset);
}

#[test]
fn overhead_and_mtu_agree_with_what_is_sent() {
    let sa = sa(true, Start::At { seq: 1, iv_offset: 0 });
    for len in 28..200 {
        let mut f = TestFrame::new(2048, &ipv4(len, 0));
        sa.seal(f.frame(), &inner(0..len)).unwrap();
        let wire = f.frame().len() - LINK_LEN;
        assert_eq!(wire, len + sa.overhead(len));
        assert!(sa.max_inner(wire) >= len && sa.max_inner(wire - 1) < len + 4);
    }
    for mtu in 80..3000 {
        let inner = sa.max_inner(mtu);
        assert!(inner + sa.overhead(inner) <= mtu && inner + 1 + sa.overhead(inner + 1) > mtu, "mtu {mtu}");
    }
}

#[test]
fn no_room_is_an_error_and_uses_no_number() {
    let sa = sa(true, Start::At { seq: 1, iv_offset: 0 });
    let (packet, front) = (ipv4(60, 0), sa.front(&sa.outer));
    let mut sealer = sa.sealer(1);
    for (off, size) in [(front - 1, 2048), (front, front + 60 + 2 + 2 + 15), (0, 80)] {
        let mut f = TestFrame::at(size, off, &packet);
        assert_eq!(sealer.seal(f.frame(), &inner(0..60)), Err(SealError::NoRoom));
        assert_eq!(f.frame().bytes(), packet);
    }
    let mut exact = TestFrame::at(front + 60 + 2 + 2 + 16, front, &packet);
    #[allow(clippy::reversed_empty_ranges)]
    for place in [0..61, 61..61, 5..4, usize::MAX..3] {
        assert_eq!(sealer.seal(exact.frame(), &inner(place)), Err(SealError::BadPlace));
    }
    assert_eq!(sealer.left, 1);
    sealer.seal(exact.frame(), &inner(0..60)).unwrap();
    let mut long = TestFrame::new(70_000, &vec![0x45; 65_535]);
    assert_eq!(sealer.seal(long.frame(), &inner(0..65_535)), Err(SealError::TooLong));
    exact.frame().set_chain(3, 100);
    assert_eq!(sealer.seal(exact.frame(), &inner(0..60)), Err(SealError::Chained));
}

#[test]
fn reserved_spis_are_refused() {
    let material = KeyMaterial::new(Cipher::Aes128Gcm, &[1; 20]).unwrap();
    let ends = Endpoints::V4 { local: Ipv4Addr::LOCALHOST, remote: Ipv4Addr::LOCALHOST };
    for spi in [0, 1, 255] {
        let config = OutboundConfig {
            spi,
            material: &material,
            endpoints: ends,
            encapsulation: Encapsulation::None,
            extended: true,
            start: Start::Clock,
            options: OutboundOptions::default(),
        };
        assert_eq!(OutboundSa::new(&config).map(|_| ()), Err(SaError::ReservedSpi(spi)));
    }
}
