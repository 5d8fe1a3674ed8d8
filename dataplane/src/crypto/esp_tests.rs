//! Both directions of ESP against published packets and against each other.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use proptest::prelude::*;
use softdpu_ebpf_common::walk::{Fragment, Headers, L3};

use super::aead::{Cipher, KeyMaterial};
use super::esp::*;
use super::inbound::{InboundConfig, InboundOptions, InboundSa, InboundStats, Sequence};
use super::outbound::{OutboundConfig, OutboundOptions, OutboundSa, Start};
use super::outer::{Encapsulation, Endpoints};
use super::testing::{TestFrame, checksum, hex, ipv4, ipv6};

const SPI: u32 = 0x1001;
const V4: Endpoints = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
const V6: Endpoints = Endpoints::V6 { local: Ipv6Addr::LOCALHOST, remote: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2) };
const UDP: Encapsulation = Encapsulation::Udp { source: NAT_T_PORT, destination: NAT_T_PORT };

fn material(cipher: Cipher, key: u8) -> KeyMaterial {
    KeyMaterial::new(cipher, &vec![key; cipher.material_len()]).unwrap()
}

fn outbound(
    cipher: Cipher,
    endpoints: Endpoints,
    encapsulation: Encapsulation,
    extended: bool,
    seq: u64,
) -> OutboundSa {
    let material = material(cipher, 0x5a);
    let start = Start::At { seq, iv_offset: 0 };
    OutboundSa::new(&OutboundConfig {
        spi: SPI,
        material: &material,
        endpoints,
        encapsulation,
        extended,
        start,
        options: OutboundOptions::default(),
    })
    .unwrap()
}

fn plain_out() -> OutboundSa {
    outbound(Cipher::Aes256Gcm, V4, Encapsulation::None, true, 1)
}

fn inbound(cipher: Cipher, sequence: Sequence) -> InboundSa {
    InboundSa::new(&InboundConfig {
        spi: SPI,
        material: &material(cipher, 0x5a),
        sequence,
        window: 64,
        options: InboundOptions::default(),
    })
    .unwrap()
}

fn whole(bytes: &[u8], next_header: u8, tos: u8) -> Inner {
    Inner { place: 0..bytes.len(), next_header, tos }
}

/// What the header walk says of a frame that `seal` has made (its link place is 14 bytes).
fn walked(frame: &[u8], udp: bool) -> Headers {
    let v6 = frame[14] >> 4 == 6;
    let (l3, l4_off) = if v6 { (L3::V6, 54) } else { (L3::V4, 34) };
    let esp = if udp { l4_off + 8 } else { l4_off };
    let spi = frame.get(esp..esp + 4).map_or(0, |b| u32::from_be_bytes(b.try_into().unwrap()));
    Headers {
        l3,
        l3_off: 14,
        l4_off: l4_off as u16,
        payload_off: esp as u16,
        end: frame.len() as u16,
        proto: if udp { PROTO_UDP } else { PROTO_ESP },
        tos: if v6 { frame[14] << 4 | frame[15] >> 4 } else { frame[15] },
        spi,
        ..Headers::default()
    }
}

/// RFC 7634 appendix A.
#[test]
fn rfc_7634_example_packet() {
    let key = hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f a0a1a2a3");
    let plain = hex("45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec1000073627
         08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637");
    let esp = hex("01020304000000051011121314151617
         24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
         14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
         cbec163fac469b502773f6fb94e664da9165b82829f641e0
         76aaa8266b7fb0f7b11b369907e1ad43");
    let material = KeyMaterial::new(Cipher::ChaCha20Poly1305, &key).unwrap();
    let out = OutboundSa::new(&OutboundConfig {
        spi: 0x0102_0304,
        material: &material,
        endpoints: V4,
        encapsulation: Encapsulation::None,
        extended: false,
        start: Start::At { seq: 5, iv_offset: 0x1011_1213_1415_1617 - 5 },
        options: OutboundOptions::default(),
    })
    .unwrap();
    let mut f = TestFrame::new(2048, &plain);
    out.seal(f.frame(), &whole(&plain, NEXT_IPV4, 0)).unwrap();
    assert_eq!(&f.frame().bytes()[LINK_LEN + 20..], esp);

    let config = InboundConfig {
        spi: 0x0102_0304,
        material: &material,
        sequence: Sequence::Short,
        window: 64,
        options: InboundOptions::default(),
    };
    let mut buf = esp.clone();
    let opened = InboundSa::new(&config).unwrap().open_slice(&mut buf, 0..esp.len()).unwrap();
    assert_eq!((opened.next_header, opened.seq, &buf[opened.place]), (NEXT_IPV4, 5, &plain[..]));
}

/// draft-mcgrew-gcm-test-01, the first IPsec case: AES-128, extended sequence number 0x8765432100000000, transport
/// mode (next header 1), which is authentic and yet not for a tunnel.
#[test]
fn gcm_draft_packet_with_extended_number() {
    let key = hex("4c80cdefbb5d10da906ac73c3613a634 2e443b68");
    let plain = hex("45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
         00000000045f736970045f756470037369700963796265726369747902646b0000210001");
    let sealed = hex("0000432100000000 4956ed7e3b244cfe
         fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d
         15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732 459018148f6cbe722fd04796562dfdb4");
    // The draft's SPI is 0x4321.
    let material = KeyMaterial::new(Cipher::Aes128Gcm, &key).unwrap();
    let seq = 0x8765_4321_0000_0000;
    let out = OutboundSa::new(&OutboundConfig {
        spi: 0x4321,
        material: &material,
        endpoints: V6,
        encapsulation: Encapsulation::None,
        extended: true,
        start: Start::At { seq, iv_offset: 0x4956_ed7e_3b24_4cfe_u64.wrapping_sub(seq) },
        options: OutboundOptions::default(),
    })
    .unwrap();
    let mut f = TestFrame::new(2048, &plain);
    out.seal(f.frame(), &whole(&plain, 1, 0)).unwrap();
    assert_eq!(&f.frame().bytes()[LINK_LEN + 40..], sealed);

    let config = InboundConfig {
        spi: 0x4321,
        material: &material,
        sequence: Sequence::Extended,
        window: 64,
        options: InboundOptions::default(),
    };
    let mut sa = InboundSa::new(&config).unwrap();
    // A window that has never seen the high half cannot infer it, and takes this for number 0.
    assert_eq!(sa.open_slice(&mut sealed.clone(), 0..sealed.len()), Err(OpenError::Replay));
    sa = InboundSa::new(&config).unwrap();
    sa.set_sequence(seq - 1, |_| true);
    assert_eq!(sa.open_slice(&mut sealed.clone(), 0..sealed.len()), Err(OpenError::BadNextHeader));
    assert_eq!(sa.open_slice(&mut sealed.clone(), 0..sealed.len()), Err(OpenError::Replay), "it was authentic");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_sealed_opens_to_the_same(
        len in prop_oneof![48_usize..200, 48_usize..9000],
        cipher in prop_oneof![Just(Cipher::Aes128Gcm), Just(Cipher::Aes256Gcm), Just(Cipher::ChaCha20Poly1305)],
        outer_v6: bool, inner_v6: bool, udp: bool, how in 0_usize..3, tos: u8,
        link in 0_usize..30, behind in 0_usize..30,
    ) {
        let (extended, sequence) =
            [(false, Sequence::Short), (true, Sequence::Extended), (true, Sequence::InIv)][how];
        let endpoints = if outer_v6 { V6 } else { V4 };
        let out = outbound(cipher, endpoints, if udp { UDP } else { Encapsulation::None }, extended, 1);
        let sa = inbound(cipher, sequence);
        let packet = if inner_v6 { ipv6(len, tos) } else { ipv4(len, tos) };
        let next_header = if inner_v6 { NEXT_IPV6 } else { NEXT_IPV4 };
        // What is in front (link header) and behind (Ethernet padding) is cut.
        let bytes = [&vec![0xDD; link][..], &packet, &vec![0; behind]].concat();
        let mut f = TestFrame::new(10_240, &bytes);
        out.seal(f.frame(), &Inner { place: link..link + len, next_header, tos }).unwrap();
        let h = walked(f.frame().bytes(), udp);
        prop_assert_eq!(h.tos, tos, "DSCP and ECN are copied");
        if !outer_v6 {
            prop_assert_eq!(checksum(&f.frame().bytes()[14..34]), 0);
        }
        let opened = sa.open(f.frame(), &h).unwrap();
        prop_assert_eq!((opened.next_header, opened.seq, opened.place.clone()), (next_header, 1, 14..14 + len));
        prop_assert_eq!(f.frame().len(), 14 + len);
        prop_assert_eq!(&f.frame().bytes()[14..], &packet[..]);
        let ethertype: &[u8] = if inner_v6 { &[0x86, 0xdd] } else { &[8, 0] };
        prop_assert_eq!(&f.frame().bytes()[12..14], ethertype);
        prop_assert_eq!(sa.stats(), InboundStats { packets: 1, bytes: len as u64, ..Default::default() });
    }

    #[test]
    fn garbage_never_opens_and_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        start in 0_usize..310, end in 0_usize..310, l4_off: u16, h_end: u16, udp: bool, right_spi: bool,
    ) {
        let mut bytes = bytes;
        if right_spi && let Some(spi) = bytes.get_mut(start..start.saturating_add(4)) {
            spi.copy_from_slice(&SPI.to_be_bytes());
        }
        for sequence in [Sequence::Short, Sequence::Extended, Sequence::InIv] {
            prop_assert!(inbound(Cipher::Aes128Gcm, sequence).open_slice(&mut bytes.clone(), start..end).is_err());
        }
        let proto = if udp { PROTO_UDP } else { PROTO_ESP };
        for (l4_off, end) in [(l4_off, h_end), (start as u16, end as u16)] {
            let h = Headers { l3: L3::V4, l4_off, end, proto, spi: SPI, ..Headers::default() };
            let mut f = TestFrame::new(2048, &bytes);
            prop_assert!(inbound(Cipher::Aes128Gcm, Sequence::Short).open(f.frame(), &h).is_err());
            prop_assert_eq!(f.frame().len(), bytes.len());
        }
    }
}

#[test]
fn no_bit_can_be_flipped() {
    for cipher in Cipher::ALL {
        for (how, extended) in [(Sequence::Short, false), (Sequence::Extended, true), (Sequence::InIv, true)] {
            let packet = ipv4(57, 0);
            let mut f = TestFrame::new(2048, &packet);
            outbound(cipher, V4, Encapsulation::None, extended, 7)
                .seal(f.frame(), &whole(&packet, NEXT_IPV4, 0))
                .unwrap();
            let esp = f.frame().bytes()[34..].to_vec();
            let sa = inbound(cipher, how);
            for bit in 0..esp.len() * 8 {
                let mut bad = esp.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let got = sa.open_slice(&mut bad, 0..esp.len());
                assert!(
                    matches!(
                        got,
                        Err(OpenError::NoSa
                            | OpenError::BadIcv
                            | OpenError::BadIv
                            | OpenError::TooOld
                            | OpenError::Replay)
                    ),
                    "{cipher} bit {bit}: {got:?}"
                );
            }
            for cut in 1..esp.len() {
                assert!(sa.open_slice(&mut esp.clone(), 0..esp.len() - cut).is_err());
            }
            assert_eq!(sa.stats().packets, 0);
            sa.open_slice(&mut esp.clone(), 0..esp.len()).expect("forgeries have not moved the window");
        }
    }
}

/// Seals `text` exactly as given (trailer included), as a peer with the right key and wrong habits might.
fn sealed_raw(text: &[u8], seq: u64) -> Vec<u8> {
    let (key, m) = (super::aead::new_aead(&material(Cipher::Aes256Gcm, 0x5a)), material(Cipher::Aes256Gcm, 0x5a));
    let mut text = text.to_vec();
    let tag = key
        .seal(nonce(m.salt(), seq.to_be_bytes()), AssociatedData::new(SPI, seq, true).as_slice(), &mut text)
        .unwrap();
    [&SPI.to_be_bytes()[..], &(seq as u32).to_be_bytes(), &seq.to_be_bytes(), &text, &tag].concat()
}

#[test]
fn authentic_nonsense_has_names() {
    let packet = ipv4(40, 0);
    let with = |tail: &[u8]| [&packet[..], tail].concat();
    let cases = [
        (with(&[1, 2, 2, NEXT_IPV4]), Ok(40)),
        (with(&[1, 2, 3, 4, 5, 6, 6, NEXT_IPV4]), Ok(40)),
        (with(&[1, 3, 2, NEXT_IPV4]), Err(OpenError::BadPadding)),
        (with(&[0, 0, 2, NEXT_IPV4]), Err(OpenError::BadPadding)),
        (with(&[1, 2, 43, NEXT_IPV4]), Err(OpenError::BadPadding)),
        (with(&[1, 2, 255, NEXT_IPV4]), Err(OpenError::BadPadding)),
        (with(&[1, 2, 2, NEXT_NONE]), Err(OpenError::Dummy)),
        (with(&[1, 2, 2, 6]), Err(OpenError::BadNextHeader)),
        (with(&[1, 2, 2, PROTO_ESP]), Err(OpenError::BadNextHeader)),
        (with(&[1, 2, 2, NEXT_IPV6]), Err(OpenError::BadInner)),
        (vec![0, 0, 0, NEXT_IPV4], Err(OpenError::BadInner)),
        (vec![0, 0, 0, NEXT_NONE], Err(OpenError::Dummy)),
        (vec![4, 0, 0xf0, 1, 1, 2, 2, NEXT_IPCOMP], Ok(4)),
        (vec![4, 0xf0, 1, 1, 1, NEXT_IPCOMP], Err(OpenError::BadInner)),
    ];
    let sa = inbound(Cipher::Aes256Gcm, Sequence::InIv);
    for (seq, (text, want)) in (1..).zip(cases) {
        let mut esp = sealed_raw(&text, seq);
        let len = esp.len();
        let got = sa.open_slice(&mut esp, 0..len);
        assert_eq!(got.clone().map(|o| o.place.len()), want, "{text:?}");
        assert_eq!(sa.open_slice(&mut sealed_raw(&text, seq), 0..len), Err(OpenError::Replay), "counted as seen");
    }
    let stats = sa.stats();
    assert_eq!((stats.packets, stats.dummies, stats.malformed, stats.replayed), (3, 2, 9, 14));
}

#[test]
fn the_iv_must_carry_the_number_where_that_was_agreed() {
    let mut esp = sealed_raw(&[&ipv4(40, 0)[..], &[1, 2, 2, 4]].concat(), 9);
    esp[7] ^= 1;
    let len = esp.len();
    let sa = inbound(Cipher::Aes256Gcm, Sequence::InIv);
    assert_eq!(sa.open_slice(&mut esp, 0..len), Err(OpenError::BadIv));
}

#[test]
fn replays_late_packets_and_restarts() {
    let out = outbound(Cipher::Aes128Gcm, V4, Encapsulation::None, true, (1 << 32) - 50);
    let packet = ipv4(60, 0);
    let sealed: Vec<Vec<u8>> = (0..200)
        .map(|_| {
            let mut f = TestFrame::new(2048, &packet);
            out.seal(f.frame(), &whole(&packet, NEXT_IPV4, 0)).unwrap();
            f.frame().bytes()[34..].to_vec()
        })
        .collect();
    let open = |sa: &InboundSa, i: usize| sa.open_slice(&mut sealed[i].clone(), 0..sealed[i].len()).map(|o| o.seq);
    for sequence in [Sequence::Extended, Sequence::InIv] {
        let mut sa = inbound(Cipher::Aes128Gcm, sequence);
        if sequence == Sequence::Extended {
            sa.set_sequence((1 << 32) - 51, |_| true);
        }
        // Over the wrap of the low half, in pairs swapped.
        for i in (0..100).step_by(2) {
            assert_eq!(open(&sa, i + 1), Ok((1 << 32) - 50 + i as u64 + 1));
            assert_eq!(open(&sa, i), Ok((1 << 32) - 50 + i as u64));
            assert_eq!(open(&sa, i), Err(OpenError::Replay));
        }
        assert_eq!(open(&sa, 199), Ok((1 << 32) + 149));
        // The window is 64 wide: 136 is its last. Left of it an extended number is taken for one of the next run.
        assert_eq!(open(&sa, 136), Ok((1 << 32) + 86));
        let late = if sequence == Sequence::InIv { OpenError::TooOld } else { OpenError::BadIcv };
        assert_eq!(open(&sa, 135), Err(late));

        // A reload goes on with the same association; another with the same key can be told what this one has seen.
        assert!(sa.same_as(&inbound(Cipher::Aes128Gcm, sequence)));
        let wider = InboundConfig {
            spi: SPI,
            material: &material(Cipher::Aes128Gcm, 0x5a),
            sequence,
            window: 128,
            options: InboundOptions::default(),
        };
        let mut wider = InboundSa::new(&wider).unwrap();
        wider.set_sequence(sa.window().top(), |seq| sa.window().check(seq).is_err());
        assert_eq!(open(&wider, 199), Err(OpenError::Replay));
        assert_eq!(open(&wider, 136), Err(OpenError::Replay));
        assert_eq!(open(&wider, 135), Err(OpenError::Replay), "left of the other's window: counted as seen");
        assert_eq!(open(&wider, 198), Ok((1 << 32) + 148));
        let material = material(Cipher::Aes128Gcm, 0x77);
        let config =
            InboundConfig { spi: SPI, material: &material, sequence, window: 64, options: InboundOptions::default() };
        assert!(!sa.same_as(&InboundSa::new(&config).unwrap()));
    }
    // A restarted sender jumps far ahead; a restarted receiver knows nothing. Both go on at once.
    let sa = inbound(Cipher::Aes128Gcm, Sequence::InIv);
    let ahead = outbound(Cipher::Aes128Gcm, V4, Encapsulation::None, true, 77 << 40);
    let mut f = TestFrame::new(2048, &packet);
    ahead.seal(f.frame(), &whole(&packet, NEXT_IPV4, 0)).unwrap();
    open(&sa, 0).unwrap();
    let h = walked(f.frame().bytes(), false);
    assert_eq!(sa.open(f.frame(), &h).unwrap().seq, 77 << 40);
}

#[test]
fn congestion_marks_come_in_and_cannot_be_lost() {
    for (inner_ecn, outer_ecn, want) in [(2, 3, Ok(3)), (0, 3, Err(OpenError::EcnNotCapable)), (1, 0, Ok(1))] {
        let packet = ipv4(60, 0xb8 | inner_ecn);
        let mut f = TestFrame::new(2048, &packet);
        plain_out().seal(f.frame(), &whole(&packet, NEXT_IPV4, 0xb8 | inner_ecn)).unwrap();
        let mut h = walked(f.frame().bytes(), false);
        h.tos = h.tos & !3 | outer_ecn; // a router on the way
        let got = inbound(Cipher::Aes256Gcm, Sequence::InIv).open(f.frame(), &h);
        assert_eq!(got.map(|_| f.frame().bytes()[15] & 3), want);
        if want.is_ok() {
            assert_eq!(checksum(&f.frame().bytes()[14..34]), 0);
        }
    }
}

#[test]
fn what_the_walk_says_is_not_trusted_blindly() {
    let packet = ipv4(60, 0);
    let mut f = TestFrame::new(2048, &packet);
    plain_out().seal(f.frame(), &whole(&packet, NEXT_IPV4, 0)).unwrap();
    let good = walked(f.frame().bytes(), false);
    let sa = inbound(Cipher::Aes256Gcm, Sequence::InIv);
    for (h, want) in [
        (Headers { fragment: Fragment::First, ..good }, OpenError::Fragment),
        (Headers { fragment: Fragment::Later, ..good }, OpenError::Fragment),
        (Headers { proto: 6, ..good }, OpenError::NotEsp),
        (Headers { end: good.end + 1, ..good }, OpenError::Short),
        (Headers { end: 20, ..good }, OpenError::Short),
        (Headers { l4_off: u16::MAX, proto: PROTO_UDP, ..good }, OpenError::Short),
        (Headers { l4_off: good.l4_off + 4, ..good }, OpenError::NoSa),
    ] {
        assert_eq!(sa.open(f.frame(), &h), Err(want));
    }
    f.frame().set_chain(1, 100);
    assert_eq!(sa.open(f.frame(), &good), Err(OpenError::Chained));
    f.frame().set_chain(crate::io::frame::NO_NEXT, 0);
    sa.open(f.frame(), &good).unwrap();
}

#[test]
fn a_keepalive_has_a_name() {
    let place: Range<u16> = 42..43;
    let mut keepalive = TestFrame::new(2048, &[vec![0; 42], vec![0xff]].concat());
    let h = Headers { l4_off: 34, payload_off: place.start, end: place.end, proto: PROTO_UDP, ..Headers::default() };
    let sa = inbound(Cipher::Aes256Gcm, Sequence::InIv);
    assert_eq!(sa.open(keepalive.frame(), &h), Err(OpenError::Keepalive));
}
