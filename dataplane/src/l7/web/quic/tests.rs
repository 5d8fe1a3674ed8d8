#![allow(clippy::unwrap_used)]
use super::keys::tests::seal;
use super::*;
use crate::flow::Direction;
use crate::l7::web::tls::tests::hello_message;
use proptest::prelude::*;

const DCID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
const V2: u32 = 0x6b33_43cf;

fn varint2(n: usize) -> [u8; 2] {
    (0x4000 | n as u16).to_be_bytes()
}

/// A CRYPTO frame of these bytes of the message.
fn frame(message: &[u8], from: usize, to: usize) -> Vec<u8> {
    [&[6][..], &varint2(from), &varint2(to - from), &message[from..to]].concat()
}

/// A client's datagram with one Initial, sealed for `dcid` and sent to `to`.
fn initial_to(number: u32, dcid: &[u8], to: &[u8], frames: &[u8]) -> Vec<u8> {
    let version = Version::of(number).unwrap();
    let first = if version.second { 0xd0 } else { 0xc0 };
    let mut frames = frames.to_vec();
    frames.resize(frames.len().max(1100), 0);
    let head = [
        &[first][..],
        &number.to_be_bytes(),
        &[to.len() as u8],
        to,
        &[0, 3, b't', b'o', b'k'],
        &varint2(1 + frames.len() + 16),
    ]
    .concat();
    seal(&version, dcid, &head, &frames)
}

pub(in crate::l7) fn initial(message: &[u8], cuts: &[(usize, usize)]) -> Vec<u8> {
    let frames: Vec<u8> = cuts.iter().flat_map(|(a, b)| frame(message, *a, *b)).collect();
    initial_to(1, &DCID, &DCID, &frames)
}

/// The second of a client's datagrams, which goes to the name that the server chose.
pub(in crate::l7) fn later(message: &[u8], from: usize, to: usize) -> Vec<u8> {
    initial_to(1, &DCID, &[7; 20], &frame(message, from, to))
}

fn see(data: &[u8]) -> (Verdict, Notes) {
    let mut notes = Notes::default();
    let v = look(&Look::whole(data, Direction::FromInitiator, (40_000, 443)), &mut notes);
    (v, notes)
}

fn named(alpn: Alpn) -> Verdict {
    Verdict::Done(Found::handshake(Class::Quic, alpn))
}

#[test]
fn a_hello_in_one_frame_gives_its_name_under_every_version() {
    let message = hello_message("www.example.com", &["h3"], 40);
    for number in [1, V2, 0xff00_001d, 0xff00_0022, 0xff00_0017, 0xff00_0016, 0xface_b001, 0x5430_3530] {
        let packet = initial_to(number, &DCID, &DCID, &frame(&message, 0, message.len()));
        let (v, notes) = see(&packet);
        assert_eq!((v, notes.host.get()), (named(Alpn::H3), Some("www.example.com")), "{number:x}");
        assert!(notes.facts.get(Fact::Ja4).is_some_and(|j| j.starts_with('q')));
    }
    let (_, notes) = see(&initial_to(0xff00_001d, &DCID, &DCID, &frame(&message, 0, message.len())));
    assert_eq!(notes.facts.get(Fact::Version), Some("draft-29"));
}

#[test]
fn a_hello_in_several_frames_is_left_in_pieces() {
    let message = hello_message("www.example.com", &["h3"], 40);
    let n = message.len();
    let (v, notes) = see(&initial(&message, &[(50, n), (0, 20), (20, 50)]));
    assert_eq!(v, Verdict::Class(FOUND));
    let all: Vec<u8> = notes.pieces.iter().flat_map(|(_, b)| b.to_vec()).collect();
    assert_eq!(all, message);
}

#[test]
fn every_shorter_datagram_is_no_other_protocol() {
    let message = hello_message("www.example.com", &["h3"], 40);
    let packet = initial(&message, &[(0, message.len())]);
    for n in 1..packet.len() {
        assert_eq!(see(&packet[..n]).0, Verdict::No, "{n}");
    }
    let (v, notes) = see(&[&packet[..], &[0; 40]].concat());
    assert_eq!((v, notes.host.get()), (named(Alpn::H3), Some("www.example.com")), "padded");
}

#[test]
fn what_others_sealed_is_quic_without_a_name() {
    let message = hello_message("www.example.com", &["h3"], 40);
    let (v, notes) = see(&later(&message, 0, message.len()));
    assert_eq!((v, notes.host.get(), notes.pieces.is_empty()), (Verdict::Class(FOUND), None, true));
    // Unless the datagram before says whose keys they are.
    let first = initial(&message, &[(0, 9)]);
    let mut notes = Notes::default();
    let packet = later(&message, 0, message.len());
    let with = Look { before: &first[..28], ..Look::whole(&packet, Direction::FromInitiator, (40_000, 443)) };
    assert_eq!((look(&with, &mut notes), notes.host.get()), (named(Alpn::H3), Some("www.example.com")));
}

#[test]
fn negotiation_and_retry_are_no_harm() {
    let negotiation = [&[0xca, 0, 0, 0, 0, 1, 7, 1, 8][..], &[0x1a, 0x2a, 0x3a, 0x4a], &[0, 0, 0, 1]].concat();
    assert_eq!(see(&negotiation).0, Verdict::Class(FOUND));
    assert_eq!(see(&negotiation[..13]).0, Verdict::No, "no version that is known");
    assert_eq!(see(&negotiation[..15]).0, Verdict::No);
    let retry = [&[0xf0, 0, 0, 0, 1, 0, 1, 8][..], &[9; 40]].concat();
    assert_eq!(see(&retry).0, Verdict::Class(FOUND));
    assert_eq!(see(&[0x80, 0, 0, 0, 1, 0, 0, 0]).0, Verdict::No, "the fixed bit");
    assert_eq!(see(&[0xc0, 0, 0, 0, 9, 0, 0, 0]).0, Verdict::No);
}

#[test]
fn googles_hello_is_read_in_clear() {
    let chlo = [&b"CHLO\x02\0\0\0"[..], b"SNI\0\x0b\0\0\0", b"UAID\x11\0\0\0", b"dns.example", b"Chrome"].concat();
    let q043 = [&[0x0d][..], &[5; 8], b"Q043", &[1], &[6; 12], &[0xa0, 1, 0, 4, 0], &chlo].concat();
    let q046 = [&[0xc3][..], b"Q046", &[0x50], &[5; 8], &[0, 0, 0, 1], &[6; 12], &[0xa0, 1, 0, 4, 0], &chlo].concat();
    for (i, (packet, f)) in [(q043, google::short as crate::l7::Ask), (q046, look)].into_iter().enumerate() {
        let mut notes = Notes::default();
        let ports = (40_000, 443);
        let v = f(&Look::whole(&packet, Direction::FromInitiator, ports), &mut notes);
        assert_eq!((v, notes.host.get()), (named(Alpn::None), Some("dns.example")), "{i}");
        assert_eq!(notes.facts.get(Fact::UserAgent), Some("Chrome"));
        for n in 1..packet.len() {
            f(&Look::whole(&packet[..n], Direction::FromInitiator, ports), &mut Notes::default());
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(number in prop::sample::select(vec![0u32, 1, V2, 0xff00_001d, 0x5130_3436]),
                              first: u8, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        see(&[&[first][..], &number.to_be_bytes(), &tail].concat());
    }

    /// Frames of noise, properly sealed.
    #[test]
    fn any_frames_are_survived(frames in prop::collection::vec(any::<u8>(), 0..200)) {
        see(&initial_to(1, &DCID, &DCID, &frames));
    }
}
