//! WireGuard's transport: frames of strangers never open, a sealed packet with any one change never opens, each opens once,
//! and a peer with the right key may put whatever it likes inside.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use softdpu::crypto::outer::{Encapsulation, Endpoints, Outer};
use softdpu::crypto::wg::session::{OpenError, Opened, Plain, SealError, max_inner};
use softdpu::crypto::wg::{Session, SessionKeys};
use softdpu_fuzz::with_frame;

static OUTERS: LazyLock<[Outer; 2]> = LazyLock::new(|| {
    let udp = Encapsulation::Udp { source: 51820, destination: 51820 };
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    [Outer::new(Endpoints::V4 { local: v4, remote: v4 }, udp), Outer::new(Endpoints::V6 { local: v6, remote: v6 }, udp)]
});

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A datagram; `ours`: to the right session.
    Stranger { ours: bool, from: u16, to: u16, bytes: &'a [u8] },
    /// A peer that has the key; what is inside is as it likes.
    Peer { tos: u8, text: &'a [u8] },
    /// A packet that we sealed, with `flips` (byte, bits) on the way.
    Damaged { v6: bool, tos: u8, mtu: u16, inner: &'a [u8], flips: [(u16, u8); 2] },
    /// Packets in any order, some of them more than once.
    Order { picks: Vec<u16> },
}

fn sessions() -> (Session, Session) {
    let (ours, theirs) = keys();
    (Session::new(ours, 0, Arc::default()), Session::new(theirs, 0, Arc::default()))
}

#[cfg(fuzzing)]
fn keys() -> (SessionKeys, SessionKeys) {
    SessionKeys::made_up()
}

/// There are such keys in a fuzzer's build only; lints read this one too.
#[cfg(not(fuzzing))]
fn keys() -> (SessionKeys, SessionKeys) {
    unreachable!("built without --cfg fuzzing: cargo xtask fuzz")
}

fuzz_target!(|input: Input| {
    let (a, b) = sessions();
    match input {
        Input::Stranger { ours, from, to, bytes } => {
            let mut bytes = bytes.to_vec();
            if ours && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[4, 0, 0, 0, 20, 0, 0, 0]);
            }
            let message = if ours { 0..bytes.len() } else { from.into()..to.into() };
            with_frame(&bytes, |frame| {
                assert!(b.opener(0).open(frame, message, 0).is_err());
                assert_eq!(frame.len(), bytes.len());
            });
        }
        Input::Peer { tos, text } => {
            let mut buf = [&[0; 16], text, &[0; 31]].concat();
            let message = a.sealer(1, 0).seal_message(&mut buf, 16..16 + text.len(), 0).expect("there is room");
            assert_eq!(message.len() % 16, 0);
            let sealed = buf[message].to_vec();
            let mut opener = b.opener(0);
            with_frame(&sealed, |frame| match opener.open(frame, 0..sealed.len(), tos) {
                Ok(Opened::Packet { place, v6 }) => {
                    assert_eq!((place.start, place.end), (14, frame.len()));
                    let inner = &frame.bytes()[place];
                    assert_eq!(inner[0] >> 4, if v6 { 6 } else { 4 });
                    let same = inner.len().min(text.len());
                    assert!(
                        inner[..same]
                            .iter()
                            .zip(text)
                            .enumerate()
                            .all(|(i, (x, y))| x == y || matches!(i, 1 | 10 | 11))
                    );
                }
                Ok(Opened::Keepalive) => assert!(text.is_empty()),
                Err(e) => assert!(matches!(e, OpenError::BadInner | OpenError::EcnNotCapable)),
            });
            let mut again = sealed.clone();
            assert_eq!(opener.open_slice(&mut again, 0..sealed.len()), Err(OpenError::Replay));
        }
        Input::Damaged { v6, tos, mtu, inner, flips } => {
            let outer = &OUTERS[usize::from(v6)];
            let plain = Plain { place: 0..inner.len(), tos, mtu: mtu.into() };
            let sealed = with_frame(inner, |frame| {
                let sealed = a.sealer(1, 0).seal(frame, &plain, outer);
                sealed.map(|()| frame.bytes().to_vec())
            });
            let mut sealed = match sealed {
                Ok(sealed) => sealed,
                Err(e) => return assert!(e == SealError::NoRoom || e == SealError::TooLong),
            };
            assert!(max_inner(outer, sealed.len() - 14) >= inner.len());
            let (at, before) = (outer.len(), sealed.clone());
            for (byte, bits) in flips {
                let byte = at + usize::from(byte) % (sealed.len() - at);
                sealed[byte] ^= bits;
            }
            with_frame(&sealed, |frame| {
                let opened = b.opener(0).open(frame, at..sealed.len(), 0);
                assert!(opened.is_err() || sealed == before, "a damaged packet opened");
            });
        }
        Input::Order { picks } => {
            let mut seen = std::collections::HashSet::new();
            let sealed: Vec<[u8; 32]> = (0..256)
                .map(|_| {
                    let mut buf = [0; 32];
                    a.sealer(1, 0).seal_message(&mut buf, 16..16, 0).expect("there is room");
                    buf
                })
                .collect();
            for pick in picks {
                let which = pick % 256;
                let mut m = sealed[usize::from(which)];
                let want = if seen.insert(which) { Ok(Opened::Keepalive) } else { Err(OpenError::Replay) };
                assert_eq!(b.opener(0).open_slice(&mut m, 0..32), want);
            }
        }
    }
});
