//! The handshake against vectors from an independent implementation, and against everything that must be refused.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use super::cookie::{Checker, Jar, Proof};
use super::keys::{Identity, PrivateKey, Psk, PublicKey, Remote};
use super::message::{Initiation, Message, Response};
use super::noise::{Initiator, NoiseError, Opening, Responder, SessionKeys};
use super::session::{OpenError, Opened, Session};
use super::timestamp::Tai64n;
use crate::crypto::testing::hex;

/// Points of order 1, 2, 4 and 8, also as written beyond the prime (their list is in D. J. Bernstein's "Curve25519: how do I
/// validate public keys?"). The highest bit of each is ignored (RFC 7748 §5).
pub(super) const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(&[byte; 32])
}

fn point(digits: &str) -> PublicKey {
    PublicKey::from_bytes(hex(digits).try_into().unwrap())
}

/// Two hosts that know each other.
pub(super) struct Pair {
    pub(super) a: Identity,
    pub(super) b: Identity,
    pub(super) b_of_a: Remote,
    pub(super) a_of_b: Remote,
}

impl Pair {
    pub(super) fn new(psk: &Psk) -> Self {
        let (a, b) = (Identity::new(key(1)), Identity::new(key(2)));
        let (b_of_a, a_of_b) = (Remote::new(&a, *b.public(), psk.clone()), Remote::new(&b, *a.public(), psk.clone()));
        Self { a, b, b_of_a, a_of_b }
    }

    fn start(&self) -> (Initiator, Initiation) {
        Initiator::start(&self.a, &self.b_of_a, 10, key(3), Tai64n::now()).unwrap()
    }

    fn hear(&self, initiation: &Initiation) -> Result<Responder, NoiseError> {
        Opening::open(&self.b, initiation)?.finish(&self.a_of_b, None)
    }

    pub(super) fn sessions(&self) -> (Session, Session) {
        let (initiator, initiation) = self.start();
        let (response, theirs) = self.hear(&initiation).unwrap().respond(&self.a_of_b, 20, key(4)).unwrap();
        let ours = initiator.finish(&self.a, &self.b_of_a, &response).unwrap();
        (Session::new(ours, 0, Arc::default()), Session::new(theirs, 0, Arc::default()))
    }
}

fn message(session: &Session, text: &[u8]) -> Vec<u8> {
    let mut buf = [&[0; 16], text, &[0; 40]].concat();
    let place = session.sealer(1, 0).seal_message(&mut buf, 16..16 + text.len(), 0).unwrap();
    buf[place].to_vec()
}

fn open(session: &Session, message: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut buf = message.to_vec();
    match session.opener(0).open_slice(&mut buf, 0..message.len())? {
        Opened::Packet { place, .. } => Ok(buf[place].to_vec()),
        Opened::Keepalive => Ok(Vec::new()),
    }
}

fn vectors() -> Vec<HashMap<&'static str, Vec<u8>>> {
    let text = include_str!("vectors.txt");
    let handshakes: Vec<_> = text.split("# handshake").skip(1).collect();
    let parse = |lines: &'static str| {
        lines.lines().skip(1).filter_map(|l| l.split_once(' ')).map(|(name, digits)| (name, hex(digits))).collect()
    };
    handshakes.into_iter().map(parse).collect()
}

#[test]
fn agrees_with_an_independent_implementation() {
    assert_eq!(vectors().len(), 3);
    for v in vectors() {
        let bytes32 = |name: &str| -> [u8; 32] { v[name][..].try_into().unwrap() };
        let number = |name: &str| u32::from_be_bytes(v[name][..].try_into().unwrap());
        let secret = |name: &str| PrivateKey::from_bytes(&bytes32(name));
        let (a, b, psk) = (Identity::new(secret("si")), Identity::new(secret("sr")), Psk::from_bytes(&bytes32("psk")));
        assert_eq!((a.public().as_bytes(), b.public().as_bytes()), (&bytes32("SI"), &bytes32("SR")));
        let (to_b, to_a) = (Remote::new(&a, *b.public(), psk.clone()), Remote::new(&b, *a.public(), psk));
        let timestamp = Tai64n::from_bytes(v["timestamp"][..].try_into().unwrap());

        let mut jar = Jar::default();
        let start = || Initiator::start(&a, &to_b, number("sender"), secret("ei"), timestamp).unwrap();
        let (initiator, initiation) = start();
        let mut bytes = initiation.to_bytes();
        jar.stamp(&to_b, &mut bytes, 0);
        if !v["cookie"].is_empty() {
            // The reply is to a message without a cookie; its first authenticator is the same.
            let Message::CookieReply(reply) = Message::parse(&v["reply"]).unwrap() else { panic!() };
            assert_eq!(reply.receiver, number("sender"));
            assert!(jar.learn(&to_b, &reply, 0));
            jar.stamp(&to_b, &mut bytes, 0);
        }
        assert_eq!(bytes[..], v["initiation"]);

        let Message::Initiation(initiation) = Message::parse(&bytes).unwrap() else { panic!() };
        let opening = Opening::open(&b, &initiation).unwrap();
        assert_eq!(opening.claimed(), a.public());
        let responder = opening.finish(&to_a, None).unwrap();
        assert_eq!((responder.timestamp(), responder.remote_index()), (timestamp, number("sender")));
        let (response, theirs) = responder.respond(&to_a, number("receiver"), secret("er")).unwrap();
        let mut bytes = response.to_bytes();
        Jar::default().stamp(&to_a, &mut bytes, 0);
        assert_eq!(bytes[..], v["response"]);

        let Message::Response(response) = Message::parse(&bytes).unwrap() else { panic!() };
        let ours = initiator.finish(&a, &to_b, &response).unwrap();
        assert_eq!((ours.local_index(), ours.remote_index()), (number("sender"), number("receiver")));
        let (ours, theirs) = (Session::new(ours, 0, Arc::default()), Session::new(theirs, 0, Arc::default()));
        assert_eq!(message(&ours, &v["packet"]), v["there"]);
        assert_eq!(message(&ours, b""), v["keepalive"]);
        for sealed in ["there", "keepalive"] {
            let packet = if sealed == "there" { v["packet"].clone() } else { Vec::new() };
            assert_eq!(open(&theirs, &v[sealed]), Ok(packet));
        }
        assert_eq!(open(&ours, &v["back"]), Ok(v["packet"].clone()));
    }
}

/// RFC 7748 §5.2 and §6.1.
#[test]
fn x25519_is_as_in_its_rfc() {
    for (scalar, u, want) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        (
            "77076d0a7318a57d3c16c17251b26645c6c2f6c0a3f0b3b1c2b7d6b8c5d5d5d5",
            "0900000000000000000000000000000000000000000000000000000000000000",
            "",
        ),
    ] {
        let secret = PrivateKey::from_bytes(&hex(scalar).try_into().unwrap());
        let shared = secret.agree(&point(u)).unwrap();
        if want.is_empty() {
            assert_eq!(
                shared.expose(),
                secret.public().as_bytes(),
                "the public key is the product with the base point"
            );
        } else {
            assert_eq!(shared.expose()[..], hex(want));
        }
    }
    let clamped = PrivateKey::from_bytes(&[0xff; 32]);
    assert_eq!((clamped.expose()[0], clamped.expose()[31]), (0xf8, 0x7f));
    assert_eq!(PrivateKey::from_bytes(&[0; 32]).expose()[31], 0x40);
}

#[test]
fn points_of_low_order_are_refused_wherever_they_stand() {
    let pair = Pair::new(&Psk::default());
    let (initiator, initiation) = pair.start();
    let (response, _) = pair.hear(&initiation).unwrap().respond(&pair.a_of_b, 20, key(4)).unwrap();
    for (digits, high_bit) in LOW_ORDER.iter().flat_map(|d| [(d, 0), (d, 0x80)]) {
        let mut low = *point(digits).as_bytes();
        low[31] |= high_bit;
        let low = PublicKey::from_bytes(low);
        assert!(key(9).agree(&low).is_none(), "{digits}");
        let bad = Initiation { ephemeral: *low.as_bytes(), ..initiation.clone() };
        assert_eq!(Opening::open(&pair.b, &bad).map(|_| ()), Err(NoiseError::LowOrder));
        let bad = Response { ephemeral: *low.as_bytes(), ..response.clone() };
        assert_eq!(initiator.finish(&pair.a, &pair.b_of_a, &bad).map(|_| ()), Err(NoiseError::LowOrder));
        let remote = Remote::new(&pair.a, low, Psk::default());
        let started = Initiator::start(&pair.a, &remote, 1, key(3), Tai64n::now());
        assert_eq!(started.map(|_| ()), Err(NoiseError::LowOrder));
    }
    initiator.finish(&pair.a, &pair.b_of_a, &response).unwrap();
}

#[test]
fn any_one_bit_of_either_message_matters() {
    let pair = Pair::new(&Psk::from_bytes(&[7; 32]));
    let (initiator, initiation) = pair.start();
    let from = "192.0.2.1:51820".parse().unwrap();
    let checker = Checker::new(0).unwrap();
    let mut sent = initiation.to_bytes();
    Jar::default().stamp(&pair.b_of_a, &mut sent, 0);
    assert_eq!(checker.check(&pair.b, &sent, from, 0), Proof::Key);
    for bit in 0..sent.len() * 8 - 128 {
        let mut bad = sent;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(checker.check(&pair.b, &bad, from, 0), Proof::None, "mac1 covers bit {bit}");
        // And where the sender makes it right, which anyone can: what is encrypted does not fit. All but the index, which says
        // only where the answer goes.
        Jar::default().stamp(&pair.b_of_a, &mut bad, 0);
        match Message::parse(&bad) {
            Ok(Message::Initiation(m)) if (8..116).contains(&(bit / 8)) => {
                assert_eq!(pair.hear(&m).map(|_| ()), Err(NoiseError::Unauthentic), "bit {bit}");
            }
            Ok(Message::Initiation(m)) => assert!((4..8).contains(&(bit / 8)) || m == initiation || bit / 8 >= 116),
            other => assert!(bit / 8 < 4 && other.is_err()),
        }
    }
    let (response, _) = pair.hear(&initiation).unwrap().respond(&pair.a_of_b, 20, key(4)).unwrap();
    let mut sent = response.to_bytes();
    Jar::default().stamp(&pair.a_of_b, &mut sent, 0);
    for bit in 0..sent.len() * 8 - 128 {
        let mut bad = sent;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(checker.check(&pair.a, &bad, from, 0), Proof::None, "mac1 covers bit {bit}");
        if let Ok(Message::Response(m)) = Message::parse(&bad) {
            let got = initiator.finish(&pair.a, &pair.b_of_a, &m).map(|_| ());
            let want = match bit / 8 {
                8..12 => Err(NoiseError::WrongIndex),
                12..60 => Err(NoiseError::Unauthentic),
                _ => Ok(()),
            };
            assert_eq!(got, want, "bit {bit}");
        }
    }
}

#[test]
fn only_the_right_keys_meet() {
    let pair = Pair::new(&Psk::from_bytes(&[7; 32]));
    let (initiator, initiation) = pair.start();
    let stranger = Identity::new(key(50));
    assert_eq!(Opening::open(&stranger, &initiation).map(|_| ()), Err(NoiseError::Unauthentic), "not for him");
    let opening = || Opening::open(&pair.b, &initiation).unwrap();
    let other = Remote::new(&pair.b, *stranger.public(), Psk::default());
    assert_eq!(opening().finish(&other, None).map(|_| ()), Err(NoiseError::WrongPeer));
    let responder = opening().finish(&pair.a_of_b, None).unwrap();
    assert_eq!(responder.respond(&other, 1, key(4)).map(|_| ()), Err(NoiseError::WrongPeer));

    // Who names another's public key must have its private key, too.
    let impostor = Identity::new(key(60));
    let mut forged = Remote::new(&impostor, *pair.b.public(), Psk::from_bytes(&[7; 32]));
    let (_, mut bad) = Initiator::start(&pair.a, &forged, 1, key(3), Tai64n::now()).unwrap();
    assert_eq!(pair.hear(&bad).map(|_| ()), Err(NoiseError::Unauthentic));
    (_, bad) = Initiator::start(&impostor, &forged, 1, key(3), Tai64n::now()).unwrap();
    assert_eq!(pair.hear(&bad).map(|_| ()), Err(NoiseError::WrongPeer));

    // Another preshared key shows in the response.
    forged = Remote::new(&pair.b, *pair.a.public(), Psk::from_bytes(&[8; 32]));
    let (response, _) = opening().finish(&forged, None).unwrap().respond(&forged, 20, key(4)).unwrap();
    let finish = |r: &Response| initiator.finish(&pair.a, &pair.b_of_a, r).map(|_| ());
    assert_eq!(finish(&response), Err(NoiseError::Unauthentic));
    let (response, _) = opening().finish(&pair.a_of_b, None).unwrap().respond(&pair.a_of_b, 20, key(4)).unwrap();
    finish(&response).unwrap();
    // With another's static key the initiator cannot finish.
    assert_eq!(initiator.finish(&stranger, &pair.b_of_a, &response).map(|_| ()), Err(NoiseError::Unauthentic));
}

#[test]
fn an_initiation_counts_once() {
    let pair = Pair::new(&Psk::default());
    let (_, initiation) = pair.start();
    let first = pair.hear(&initiation).unwrap().timestamp();
    let again = Opening::open(&pair.b, &initiation).unwrap().finish(&pair.a_of_b, Some(first));
    assert_eq!(again.map(|_| ()), Err(NoiseError::OldTimestamp));
    let mut later = first.to_bytes();
    later[7] += 1;
    let (_, next) = Initiator::start(&pair.a, &pair.b_of_a, 10, key(5), Tai64n::from_bytes(later)).unwrap();
    Opening::open(&pair.b, &next).unwrap().finish(&pair.a_of_b, Some(first)).unwrap();
}

#[test]
fn nothing_prints_a_secret() {
    let pair = Pair::new(&Psk::from_bytes(&[0xAB; 32]));
    let (initiator, initiation) = pair.start();
    let opening = format!("{:?}", Opening::open(&pair.b, &initiation).unwrap());
    let responder = pair.hear(&initiation).unwrap();
    let shown = format!("{responder:?}");
    let (response, theirs) = responder.respond(&pair.a_of_b, 20, key(4)).unwrap();
    let ours: SessionKeys = initiator.finish(&pair.a, &pair.b_of_a, &response).unwrap();
    let all = [
        opening,
        shown,
        format!("{:?} {:?} {:?}", pair.a, pair.b_of_a, pair.b_of_a.psk()),
        format!("{:?} {initiator:?} {ours:?} {theirs:?}", pair.a.secret()),
        format!("{:?}", Session::new(ours, 0, Arc::default())),
        format!("{:?} {:?}", Jar::default(), Checker::new(0).unwrap()),
    ]
    .join(" ")
    .to_lowercase();
    assert!(!all.contains("ab, ab") && !all.contains("abab") && !all.contains("171, 171"), "{all}");
    assert!(!all.contains("1, 1, 1") && !all.contains("0101") && !all.contains("chain"), "{all}");
}

#[test]
fn public_keys_are_shown_as_wg_shows_them() {
    for (bytes, want) in [
        ([0; 32], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ([0xff; 32], "//////////////////////////////////////////8="),
    ] {
        assert_eq!(PublicKey::from_bytes(bytes).to_string(), want);
    }
    let counted: [u8; 32] = std::array::from_fn(|i| i as u8);
    assert_eq!(PublicKey::from_bytes(counted).to_string(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
}
