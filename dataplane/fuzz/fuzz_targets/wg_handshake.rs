//! WireGuard's handshake: messages of strangers make no session, a true one with any one change makes none, and a peer with
//! the right keys may write what it likes.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use softdpu::crypto::wg::cookie::{Checker, Jar, Proof};
use softdpu::crypto::wg::limit::RateLimiter;
use softdpu::crypto::wg::message::{CookieReply, Initiation, Response};
use softdpu::crypto::wg::{Identity, Initiator, Message, NoiseError, Opening, PrivateKey, Psk, Remote, Tai64n};

struct Scene {
    a: Identity,
    b: Identity,
    to_b: Remote,
    to_a: Remote,
    checker: Checker,
    /// a waits for the response to this one.
    initiator: Initiator,
    initiation: Initiation,
    response: Response,
}

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(&[byte; 32])
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let (a, b) = (Identity::new(key(1)), Identity::new(key(2)));
    let to_b = Remote::new(&a, *b.public(), Psk::from_bytes(&[5; 32]));
    let to_a = Remote::new(&b, *a.public(), Psk::from_bytes(&[5; 32]));
    let time = Tai64n::from_bytes([7; 12]);
    let (initiator, initiation) = Initiator::start(&a, &to_b, 10, key(3), time).expect("good keys");
    let opening = Opening::open(&b, &initiation).expect("good keys");
    let responder = opening.finish(&to_a, None).expect("the first");
    let (response, _) = responder.respond(&to_a, 20, key(4)).expect("good keys");
    Scene { a, b, to_b, to_a, checker: Checker::new(0).expect("random numbers"), initiator, initiation, response }
});

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A datagram, its first authenticator made right where `stamp` says so.
    Stranger {
        stamp: bool,
        now: u64,
        bytes: &'a [u8],
    },
    /// A peer with the right keys, ephemeral key and time of its own.
    Peer {
        index: u32,
        ephemeral: [u8; 32],
        time: [u8; 12],
        last: Option<[u8; 12]>,
    },
    /// Changes (byte, bits) to a true initiation or response.
    Damaged {
        response: bool,
        flips: [(u8, u8); 2],
    },
    /// A cookie reply to a message.
    Cookie {
        nonce: [u8; 24],
        sealed: [u8; 32],
        message: &'a [u8],
        now: u64,
    },
    Flood {
        sources: Vec<(u64, u16)>,
    },
}

/// What a device does with a datagram; whether a session came of it.
fn receive(s: &Scene, bytes: &[u8]) -> bool {
    match Message::parse(bytes) {
        Ok(Message::Initiation(m)) => Opening::open(&s.b, &m).and_then(|o| o.finish(&s.to_a, None)).is_ok(),
        Ok(Message::Response(m)) => s.initiator.finish(&s.a, &s.to_b, &m).is_ok(),
        Ok(Message::CookieReply(m)) => Jar::default().learn(&s.to_b, &m, 0),
        Ok(Message::Transport(m)) => {
            assert_eq!(m.to_bytes(), bytes[..16]);
            false
        }
        Err(_) => false,
    }
}

fuzz_target!(|input: Input| {
    let s = &*SCENE;
    let from = "[2001:db8::1]:51820".parse().expect("an address");
    match input {
        Input::Stranger { stamp, now, bytes } => {
            let mut bytes = bytes.to_vec();
            if stamp {
                Jar::default().stamp(&s.to_b, &mut bytes, now);
            }
            let proof = s.checker.check(&s.b, &bytes, from, now);
            assert_eq!(proof, if stamp && bytes.len() >= 32 { Proof::Key } else { Proof::None });
            // The fuzzer sees what bytes are compared with, and so comes to write the true messages themselves.
            let true_one =
                bytes.starts_with(&s.initiation.to_bytes()[..116]) || bytes.starts_with(&s.response.to_bytes()[..60]);
            assert!(true_one || !receive(s, &bytes));
        }
        Input::Peer { index, ephemeral, time, last } => {
            let (time, last) = (Tai64n::from_bytes(time), last.map(Tai64n::from_bytes));
            let (ours, sent) =
                Initiator::start(&s.a, &s.to_b, index, PrivateKey::from_bytes(&ephemeral), time).expect("clamped");
            let Ok(Message::Initiation(got)) = Message::parse(&sent.to_bytes()) else {
                panic!("what was written is read")
            };
            match Opening::open(&s.b, &got).expect("the peer's").finish(&s.to_a, last) {
                Ok(responder) => {
                    assert!(last.is_none_or(|last| time > last) && responder.timestamp() == time);
                    let (response, _) = responder.respond(&s.to_a, !index, key(9)).expect("good keys");
                    let keys = ours.finish(&s.a, &s.to_b, &response).expect("true");
                    assert_eq!((keys.local_index(), keys.remote_index()), (index, !index));
                }
                Err(e) => assert!(e == NoiseError::OldTimestamp && last.is_some_and(|last| time <= last)),
            }
        }
        Input::Damaged { response, flips } => {
            let mut bytes = if response { s.response.to_bytes().to_vec() } else { s.initiation.to_bytes().to_vec() };
            // What is authenticated by more than the first authenticator.
            let (from, to) = if response { (8, 60) } else { (8, 116) };
            let before = bytes.clone();
            for (at, bits) in flips {
                bytes[from + usize::from(at) % (to - from)] ^= bits;
            }
            assert_eq!(receive(s, &bytes), bytes == before);
        }
        Input::Cookie { nonce, sealed, message, now } => {
            let mut jar = Jar::default();
            let mut message = message.to_vec();
            jar.stamp(&s.to_b, &mut message, now);
            assert!(!jar.learn(&s.to_b, &CookieReply { receiver: 1, nonce, sealed_cookie: sealed }, now));
            if message.len() >= 32 {
                let mut checker = Checker::new(now).expect("random numbers");
                let reply = checker.reply(&s.b, &message, 1, from, now).expect("random numbers");
                assert!(jar.learn(&s.to_b, &reply, now));
                jar.stamp(&s.to_b, &mut message, now);
                assert_eq!(checker.check(&s.b, &message, from, now), Proof::Address);
            }
        }
        Input::Flood { sources } => {
            let mut limiter = RateLimiter::new(16);
            for (now, source) in sources {
                let [a, b] = source.to_be_bytes();
                let _ = limiter.allow([10, 0, a, b].into(), now);
                assert!(limiter.len() <= 16);
            }
        }
    }
});
