//! Sessions: what goes in comes out, once, at the right place; everything else is refused.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::keys::Psk;
use super::noise::SessionKeys;
use super::noise_tests::Pair;
use super::session::{OVERHEAD, OpenError, Opened, Plain, SealError, Session, WINDOW, max_inner, padded};
use super::{Activity, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_TIME};
use crate::crypto::esp::LINK_LEN;
use crate::crypto::outer::{Encapsulation, Endpoints, Outer};
use crate::crypto::testing::{TestFrame, checksum, ipv4, ipv6};

const UDP: Encapsulation = Encapsulation::Udp { source: 51_820, destination: 51_821 };
const SECOND: u64 = 1_000_000_000;

fn outer(v6: bool) -> Outer {
    let ends = if v6 {
        Endpoints::V6 { local: Ipv6Addr::LOCALHOST, remote: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2) }
    } else {
        Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) }
    };
    Outer::new(ends, UDP)
}

/// Both ends of a session, without the handshake.
fn ends() -> (Session, Session) {
    let (ours, theirs) = SessionKeys::made_up();
    (Session::new(ours, 0, Arc::default()), Session::new(theirs, 0, Arc::default()))
}

fn plain(len: usize, tos: u8) -> Plain {
    Plain { place: 0..len, tos, mtu: 0 }
}

/// The message of one packet.
fn message(from: &Session, text: &[u8]) -> Vec<u8> {
    let mut buf = [&[0; 16], text, &[0; 40]].concat();
    let place = from.sealer(1, 0).seal_message(&mut buf, 16..16 + text.len(), 0).unwrap();
    buf[place].to_vec()
}

fn open(to: &Session, message: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut buf = message.to_vec();
    match to.opener(0).open_slice(&mut buf, 0..message.len())? {
        Opened::Packet { place, .. } => Ok(buf[place].to_vec()),
        Opened::Keepalive => Ok(Vec::new()),
    }
}

/// Moves the sender's counter on.
fn skip_to(session: &Session, counter: u64) {
    let mut sealer = session.sealer(counter - session.messages(), 0);
    // Not given back: they count as used.
    sealer.forfeit();
}

#[test]
fn a_handshake_makes_two_ends_that_understand_each_other() {
    let (a, b) = Pair::new(&Psk::from_bytes(&[9; 32])).sessions();
    let packet = ipv4(100, 0);
    assert_eq!(open(&b, &message(&a, &packet)), Ok(packet.clone()));
    assert_eq!(open(&a, &message(&b, &packet)), Ok(packet));
    assert_eq!((a.local_index(), a.remote_index()), (b.remote_index(), b.local_index()));
}

#[test]
fn frames_there_and_back_in_either_family() {
    let (a, b) = ends();
    for v6_outer in [false, true] {
        let (outer, ip_len) = (outer(v6_outer), if v6_outer { 40 } else { 20 });
        for len in [48, 49, 63, 64, 65, 512, 1400, 1419] {
            for (packet, v6) in [(ipv4(len, 0xb9), false), (ipv6(len, 0xb9), true)] {
                let mut f = TestFrame::new(2048, &[&[0xCC; 5][..], &packet, &[0xDD; 7]].concat());
                let whole = Plain { place: 5..5 + len, tos: 0xb9, mtu: 1420 };
                a.sealer(1, 0).seal(f.frame(), &whole, &outer).unwrap();
                let sealed = f.frame().bytes().to_vec();
                let ip = &sealed[LINK_LEN..];
                assert_eq!(ip.len(), ip_len + 8 + OVERHEAD + padded(len, 1420));
                let tos = if v6_outer { ip[0] << 4 | ip[1] >> 4 } else { ip[1] };
                assert_eq!(tos, 0xb9 & 3, "congestion marks only");
                if v6_outer {
                    let udp_len = (ip.len() - 40) as u32;
                    let pseudo = [&ip[8..40], &udp_len.to_be_bytes(), &[0, 0, 0, 17], &ip[40..]].concat();
                    assert_eq!(checksum(&pseudo), 0);
                } else {
                    assert_eq!(checksum(&ip[..20]), 0);
                }
                assert_eq!(ip[ip_len + 8..][..8], [4, 0, 0, 0, 20, 0, 0, 0]);

                // Congestion on the way.
                let message = LINK_LEN + ip_len + 8..sealed.len();
                let got = b.opener(0).open(f.frame(), message, 3).unwrap();
                assert_eq!(got, Opened::Packet { place: LINK_LEN..LINK_LEN + len, v6 });
                let want = if v6 { ipv6(len, 0xbb) } else { ipv4(len, 0xbb) };
                assert_eq!(f.frame().bytes()[LINK_LEN..], want);
                let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
                assert_eq!(f.frame().bytes()[12..14], ethertype);
            }
        }
    }
}

#[test]
fn padding_is_to_sixteen_but_not_beyond_the_mtu() {
    for (len, mtu, want) in [
        (0, 1420, 0),
        (1, 1420, 16),
        (16, 1420, 16),
        (1409, 1420, 1420),
        (1420, 1420, 1420),
        (1500, 1420, 1500),
        (1409, 0, 1424),
        (5, 3, 5),
    ] {
        assert_eq!(padded(len, mtu), want, "{len} of {mtu}");
    }
    let (a, b) = ends();
    for len in [20, 21, 31, 32, 1419, 1420] {
        let mut packet = vec![0xff; 16 + len + 60];
        packet[16..16 + len].copy_from_slice(&ipv4(len.max(28), 0)[..len]);
        packet[18..20].copy_from_slice(&(len as u16).to_be_bytes());
        let place = a.sealer(1, 0).seal_message(&mut packet, 16..16 + len, 1420).unwrap();
        assert_eq!(place.len(), OVERHEAD + padded(len, 1420));
        // What pads is zeros, not what was there.
        let mut twin = packet.clone();
        assert!(matches!(b.opener(0).open_slice(&mut twin, place.clone()), Ok(Opened::Packet { .. })));
        assert!(twin[16 + len..place.end - 16].iter().all(|b| *b == 0));
    }
    for mtu in [576, 1280, 1500, 9000] {
        for v6 in [false, true] {
            let inner = max_inner(&outer(v6), mtu);
            let mut f = TestFrame::new(16_384, &ipv4(inner, 0));
            a.sealer(1, 0).seal(f.frame(), &Plain { mtu: inner, ..plain(inner, 0) }, &outer(v6)).unwrap();
            assert_eq!(f.frame().len() - LINK_LEN, mtu);
        }
    }
}

#[test]
fn no_room_is_an_error_and_uses_no_counter() {
    let (a, _) = ends();
    let (packet, outer) = (ipv4(60, 0), outer(false));
    let front = outer.len() + 16;
    let mut sealer = a.sealer(1, 0);
    for (off, size) in [(front - 1, 2048), (front, front + 64 + 15), (0, 80), (3, 200)] {
        let mut f = TestFrame::at(size, off, &packet);
        assert_eq!(sealer.seal(f.frame(), &plain(60, 0), &outer), Err(SealError::NoRoom));
        assert_eq!(f.frame().bytes(), packet, "nothing was touched");
    }
    let mut exact = TestFrame::at(front + 64 + 16, front, &packet);
    #[allow(clippy::reversed_empty_ranges)]
    for place in [0..61, 61..61, 5..4, usize::MAX..3, 0..usize::MAX] {
        let bad = Plain { place, tos: 0, mtu: 0 };
        assert_eq!(sealer.seal(exact.frame(), &bad, &outer), Err(SealError::BadPlace));
    }
    sealer.seal(exact.frame(), &plain(60, 0), &outer).unwrap();
    assert_eq!((exact.frame().offset(), exact.frame().tailroom()), (0, 0));
    let mut long = TestFrame::new(70_000, &vec![0x45; 65_535]);
    assert_eq!(sealer.seal(long.frame(), &plain(65_535, 0), &outer), Err(SealError::TooLong));
    exact.frame().set_chain(3, 100);
    assert_eq!(sealer.seal(exact.frame(), &plain(60, 0), &outer), Err(SealError::Chained));
    let mut opener = a.opener(0);
    assert_eq!(opener.open(exact.frame(), 42..80, 0), Err(OpenError::Chained));
    drop(sealer);
    assert_eq!(a.messages(), 1);
}

#[test]
fn what_a_run_does_not_use_is_given_back() {
    let (a, b) = ends();
    drop(a.sealer(64, 0));
    assert_eq!(a.messages(), 0);
    let first = a.sealer(64, 0);
    message(&a, b"");
    drop(first);
    assert_eq!(a.messages(), 65, "others have gone on: skipped");
    assert_eq!(open(&b, &message(&a, b"")), Ok(Vec::new()));
}

#[test]
fn every_replay_is_refused_and_order_in_the_window_is_free() {
    let (a, b) = ends();
    let packet = ipv4(60, 0);
    let window = u64::from(WINDOW);
    let sent: Vec<_> = (0..window + 100).map(|_| message(&a, &packet)).collect();
    // Newest first: everything in the window still comes, once.
    for (i, m) in sent.iter().enumerate().rev() {
        let want = if (i as u64) < 100 { Err(OpenError::TooOld) } else { Ok(packet.clone()) };
        assert_eq!(open(&b, m), want, "{i}");
    }
    for (i, m) in sent.iter().enumerate() {
        assert_eq!(open(&b, m), Err(if i < 100 { OpenError::TooOld } else { OpenError::Replay }));
    }
    // A forged packet far ahead does not move the window.
    skip_to(&a, 1 << 40);
    let mut forged = message(&a, &packet);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(open(&b, &forged), Err(OpenError::BadTag));
    assert_eq!(open(&b, &sent[window as usize]), Err(OpenError::Replay));
    // A true one does.
    forged[last] ^= 1;
    assert_eq!(open(&b, &forged), Ok(packet));
    assert_eq!(open(&b, &sent[window as usize]), Err(OpenError::TooOld));
}

#[test]
fn any_one_bit_matters() {
    let (a, b) = ends();
    let whole = message(&a, &ipv4(61, 0));
    for bit in 0..whole.len() * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let want = match bit / 8 {
            0..4 => OpenError::NotTransport,
            4..8 => OpenError::WrongIndex,
            _ => OpenError::BadTag,
        };
        assert_eq!(open(&b, &bad), Err(want), "bit {bit}");
    }
    for len in 0..whole.len() {
        assert_eq!(open(&b, &whole[..len]), Err(if len < 32 { OpenError::Short } else { OpenError::BadTag }));
    }
    open(&b, &whole).unwrap();
}

#[test]
fn what_is_inside_must_be_an_ip_packet() {
    let (a, b) = ends();
    let with = |mut p: Vec<u8>, at: usize, value: u8| {
        p[at] = value;
        p
    };
    for bad in [
        vec![0; 16],
        with(ipv4(28, 0), 0, 0x55),
        with(ipv4(28, 0), 3, 33), // longer than what came, padding included
        with(ipv4(28, 0), 3, 19),
        with(ipv6(48, 0), 5, 9),
        ipv6(48, 0)[..32].to_vec(),
        vec![0x45],
        vec![0x60],
    ] {
        assert_eq!(open(&b, &message(&a, &bad)), Err(OpenError::BadInner), "{bad:?}");
    }
    // Congestion that the sender would never hear of.
    let mut f = TestFrame::new(2048, &message(&a, &ipv4(40, 0)));
    let all = 0..f.frame().len();
    assert_eq!(b.opener(0).open(f.frame(), all.clone(), 3), Err(OpenError::EcnNotCapable));
    assert_eq!(f.frame().len(), all.end);
    #[allow(clippy::reversed_empty_ranges)]
    for place in [0..all.end + 1, 50..40, usize::MAX - 3..usize::MAX, usize::MAX..usize::MAX] {
        assert_eq!(b.opener(0).open(f.frame(), place, 0), Err(OpenError::Short));
    }
}

#[test]
fn a_session_ends_with_its_time_and_its_counters() {
    let (a, b) = ends();
    let end = REJECT_AFTER_TIME.as_secs() * SECOND;
    let mut buf = [0; 64];
    assert!(a.sealer(1, end - 1).seal_message(&mut buf, 16..16, 0).is_ok());
    assert_eq!(b.opener(end).open_slice(&mut buf, 0..32), Err(OpenError::Expired));
    assert_eq!(b.opener(end - 1).open_slice(&mut buf, 0..32), Ok(Opened::Keepalive));
    for wanted in [0, 1, 5] {
        assert_eq!(a.sealer(wanted, end).seal_message(&mut buf, 16..16, 0), Err(SealError::Expired));
    }
    let (soon, late) = (REKEY_AFTER_TIME.as_secs() * SECOND, 165 * SECOND);
    assert!(!a.stale_for_sending(soon - 1) && a.stale_for_sending(soon) && !b.stale_for_sending(soon));
    assert!(!a.stale_for_receiving(late - 1) && a.stale_for_receiving(late) && !b.stale_for_receiving(late));

    skip_to(&a, REJECT_AFTER_MESSAGES - 2);
    assert!(a.stale_for_sending(0));
    let mut sealer = a.sealer(10, 0);
    let mut last = [0; 32];
    for _ in 0..2 {
        sealer.seal_message(&mut last, 16..16, 0).unwrap();
    }
    assert_eq!(sealer.seal_message(&mut buf, 16..16, 0), Err(SealError::CounterExhausted));
    drop(sealer);
    for _ in 0..3 {
        assert_eq!(a.sealer(u64::MAX, 0).seal_message(&mut buf, 16..16, 0), Err(SealError::CounterExhausted));
    }
    assert_eq!(open(&b, &last), Ok(Vec::new()), "the last one is good");
    last[8..16].copy_from_slice(&REJECT_AFTER_MESSAGES.to_le_bytes());
    assert_eq!(open(&b, &last), Err(OpenError::CounterExhausted));
    last[8..16].fill(0xff);
    assert_eq!(open(&b, &last), Err(OpenError::CounterExhausted));
}

#[test]
fn the_timers_hear_once_per_run() {
    let (a, b) = ends();
    let read = |x: &Activity| [&x.sent, &x.received, &x.unanswered_since, &x.unacked_since].map(|v| v.load(Relaxed));
    let packet = ipv4(40, 0);
    let mut sealed = Vec::new();
    {
        let mut sealer = a.sealer(3, 7);
        for _ in 0..3 {
            let mut buf = [&[0; 16][..], &packet, &[0; 40]].concat();
            let place = sealer.seal_message(&mut buf, 16..56, 0).unwrap();
            sealed.push(buf[place].to_vec());
        }
        assert_eq!(read(a.activity()), [0; 4]);
    }
    assert_eq!(read(a.activity()), [7, 0, 7, 0]);
    assert_eq!(a.activity().tx_bytes.load(Relaxed), 3 * (48 + 32));
    assert!(a.confirmed() && !b.confirmed());
    {
        let mut opener = b.opener(9);
        let mut forged = sealed[0].clone();
        forged[20] ^= 1;
        assert!(opener.open_slice(&mut forged, 0..80).is_err() && !opener.confirms());
        for m in &mut sealed {
            opener.open_slice(m, 0..80).unwrap();
            assert!(opener.confirms());
        }
    }
    assert!(b.confirmed() && !b.opener(9).confirms());
    assert_eq!(read(b.activity()), [0, 9, 0, 9]);
    assert_eq!(b.activity().rx_bytes.load(Relaxed), 240);
    // Runs in which nothing was authentic say nothing.
    drop((a.sealer(1, 99), b.opener(99)));
    assert_eq!((read(a.activity())[0], read(b.activity())[1]), (7, 9));
    let mut keepalive = message(&b, b"");
    let len = keepalive.len();
    assert_eq!((len, a.opener(11).open_slice(&mut keepalive, 0..len)), (32, Ok(Opened::Keepalive)));
    assert_eq!(read(a.activity()), [7, 11, 0, 0]);
}

#[test]
fn workers_share_a_session() {
    let (a, b) = ends();
    let (a, b) = (&a, &b);
    let sealed: Vec<Vec<u8>> = std::thread::scope(|s| {
        let workers: Vec<_> = (1..=4_u64)
            .map(|n| {
                s.spawn(move || {
                    let mut out = Vec::new();
                    for _ in 0..60 {
                        let mut sealer = a.sealer(n * 3, 1);
                        // Some runs are shorter than was thought, some longer.
                        for _ in 0..n * 2 + 2 {
                            let mut buf = [0; 32];
                            sealer.seal_message(&mut buf, 16..16, 0).unwrap();
                            out.push(buf.to_vec());
                        }
                    }
                    out
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let counters: HashSet<_> = sealed.iter().map(|m| m[8..16].to_vec()).collect();
    assert_eq!(counters.len(), sealed.len(), "no counter twice");
    let opened: usize = std::thread::scope(|s| {
        let sealed = &sealed;
        let workers: Vec<_> =
            (0..4).map(|_| s.spawn(move || sealed.iter().filter(|m| open(b, m).is_ok()).count())).collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert_eq!(opened, sealed.len(), "each once, whoever opens it");
}

proptest! {
    #[test]
    fn rubbish_is_never_opened(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), ours in any::<bool>()) {
        let (_, b) = ends();
        if ours && bytes.len() >= 16 {
            bytes[..8].copy_from_slice(&[4, 0, 0, 0, 20, 0, 0, 0]);
            bytes[15] = 0;
        }
        let mut f = TestFrame::new(2048, &bytes);
        let len = bytes.len();
        prop_assert!(b.opener(0).open(f.frame(), 0..len, 0).is_err());
        prop_assert_eq!(f.frame().len(), len);
        prop_assert!(!b.confirmed());
    }

    /// Whatever the packet and the room around it: it goes through unharmed, or nothing was touched.
    #[test]
    fn there_and_back(
        len in 48_usize..2000, tos in any::<u8>(), mtu in 0_usize..2000, v6 in any::<bool>(), v6_outer in any::<bool>(),
        off in 0_usize..200, tail in 0_usize..60,
    ) {
        let (a, b) = ends();
        let packet = if v6 { ipv6(len, tos) } else { ipv4(len, tos) };
        let mut f = TestFrame::at(off + len + tail, off, &packet);
        let outer = outer(v6_outer);
        let sealed = a.sealer(1, 0).seal(f.frame(), &Plain { place: 0..len, tos, mtu }, &outer);
        let fits = off >= outer.len() + 16 && tail >= padded(len, mtu) - len + 16;
        prop_assert_eq!(sealed, if fits { Ok(()) } else { Err(SealError::NoRoom) });
        if !fits {
            prop_assert_eq!(f.frame().bytes(), &packet[..]);
            return Ok(());
        }
        let message = outer.len()..f.frame().len();
        let got = b.opener(0).open(f.frame(), message, tos & 3).unwrap();
        prop_assert_eq!(got, Opened::Packet { place: LINK_LEN..LINK_LEN + len, v6 });
        prop_assert_eq!(&f.frame().bytes()[LINK_LEN..], &packet[..]);
    }
}
