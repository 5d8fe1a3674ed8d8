#![allow(clippy::unwrap_used)]
use super::super::request;
use super::super::testing::{ip, policy as make_policy, selector, state as make_state, template as make_template};
use super::*;
use crate::crypto::testing::hex;
use crate::tunnel::xfrm::model::{Flow, Lifetimes, Limits, Selector};
use proptest::prelude::*;

/// A message of `testdata/make.c`: bytes that a C compiler laid out after the kernel's header.
fn sample(name: &str) -> Vec<u8> {
    let line = include_str!("testdata/messages.txt").lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
    hex(line.split(' ').nth(1).unwrap())
}

fn one(bytes: &[u8]) -> Message {
    let mut messages = Messages::new(bytes);
    let first = messages.next().unwrap();
    assert!(messages.next().is_none());
    first.message
}

fn sample_selector() -> Selector {
    Selector {
        dport: 443,
        dport_mask: 0xffff,
        sport: 1024,
        sport_mask: 0xfc00,
        protocol: 6,
        interface: 7,
        ..selector("10.1.4.0/24", "10.2.0.0/16")
    }
}

fn sample_lifetimes() -> Lifetimes {
    Lifetimes {
        soft: Limits { bytes: Some(1001), packets: Some(1003), since_added: Some(1005), since_used: None },
        hard: Limits { bytes: Some(1002), packets: None, since_added: Some(1006), since_used: Some(1008) },
    }
}

fn sample_key() -> StateKey {
    StateKey { dst: ip("192.0.2.2"), spi: 0xc0ffee01, protocol: 50, mark: Mark { value: 0x42, mask: 0xff } }
}

#[test]
fn a_state_with_everything() {
    let received = Messages::new(&sample("new-state")).next().unwrap();
    assert_eq!((received.sequence, received.port, received.interrupted), (0x01020304, 0x0a0b0c0d, false));
    let Message::State(state) = received.message else { panic!("{:?}", received.message) };
    assert_eq!(state.key, sample_key());
    assert_eq!((state.src, state.reqid, state.mode), (ip("192.0.2.1"), 77, Mode::Tunnel));
    assert_eq!(state.selector, Some(sample_selector()));
    assert_eq!(state.lifetimes, sample_lifetimes());
    assert_eq!(state.used, Used { bytes: 2001, packets: 2002, added: 2003, first_use: 2004 });
    let flags = Flags { esn: true, decap_dscp: true, dont_encap_dscp: true, oseq_may_wrap: true, ..Flags::default() };
    assert_eq!(state.flags, flags);
    assert_eq!(state.encap, Some(Encap { sport: 4500, dport: 61234 }));
    assert_eq!(state.output_mark, Some(Mark { value: 0x1234, mask: 0xffff }));
    assert_eq!(state.if_id, 31);
    assert_eq!((state.replay.window, state.replay.bitmap_words), (64, Some(2)));
    assert_eq!((state.replay.oseq, state.replay.received.highest), (1 << 32 | 5, 2 << 32 | 9));
    let seen: Vec<u32> = (0..64).filter(|before| state.replay.received.was_seen(*before)).collect();
    assert_eq!(seen, [0, 6, 8], "numbers 9, 3 and 1");
    let key: Vec<u8> = (1..=20).collect();
    let material = state.material.as_ref().unwrap();
    assert_eq!(material.id(), KeyMaterial::new(Cipher::Aes128Gcm, &key).unwrap().id());
    assert!(state.supported());
}

#[test]
fn a_dumped_state_of_ipv6() {
    let Message::State(state) = one(&sample("new-state-6")) else { panic!() };
    assert_eq!((state.src, state.dst(), state.spi()), (ip("2001:db8::1"), ip("2001:db8::2"), 0x100));
    assert_eq!((state.mode, state.selector), (Mode::Transport, None));
    let key: Vec<u8> = (1..=36).collect();
    let want = KeyMaterial::new(Cipher::ChaCha20Poly1305, &key).unwrap();
    assert_eq!(state.material.as_ref().unwrap().id(), want.id());
    assert_eq!((state.replay.window, state.replay.oseq, state.replay.received.highest), (32, 3, 8));
    assert!(state.replay.received.was_seen(7) && !state.replay.received.was_seen(1));
}

#[test]
fn what_ends_states() {
    assert!(matches!(one(&sample("delete-state")), Message::StateGone(key) if key == sample_key()));
    assert!(matches!(one(&sample("expire")), Message::Expired { key, hard: true } if key == sample_key()));
    assert!(matches!(one(&sample("flush-states")), Message::StatesFlushed(50)));
}

#[test]
fn policies() {
    let Message::Policy(policy) = one(&sample("new-policy")) else { panic!() };
    let want = Policy {
        key: PolicyKey { direction: Direction::Out, index: 0x1a9 },
        selector: sample_selector(),
        priority: 375_423,
        action: Action::Allow,
        templates: vec![Template {
            src: ip("2001:db8::1"),
            dst: ip("2001:db8::2"),
            spi: 0xdeadbeef,
            protocol: 50,
            reqid: 9,
            mode: Mode::Tunnel,
            optional: true,
            algorithms: [0x1111_1111, 0x2222_2222, 0x3333_3333],
        }],
        mark: Mark { value: 0x42, mask: 0xff },
        if_id: 31,
        lifetimes: sample_lifetimes(),
        offloaded: false,
    };
    assert_eq!(*policy, want);
    assert!(matches!(one(&sample("delete-policy")), Message::PolicyGone(key) if key == want.key));
    assert!(matches!(one(&sample("expire-policy")), Message::PolicyGone(key) if key == want.key));
}

#[test]
fn usage_and_acquire() {
    let Message::Usage { key, replay, used } = one(&sample("usage")) else { panic!() };
    assert_eq!(key, StateKey { mark: Mark::default(), ..sample_key() });
    let replay = replay.unwrap();
    assert_eq!((replay.oseq, replay.received.highest), (3, 8));
    assert_eq!(used.unwrap(), Used { bytes: 2001, packets: 2002, added: 2003, first_use: 2004 });
    let built = request::set_usage(7, &key, Some(&replay), used.as_ref());
    let Message::Usage { key: k, replay: r, used: u } = one(&built) else { panic!() };
    assert_eq!((k, r, u), (key, Some(replay), used));

    let Message::Policy(mut policy) = one(&sample("new-policy")) else { panic!() };
    policy.templates[0].optional = false;
    let flow = Flow::new(ip("10.1.4.5"), ip("10.2.3.4"), 6, 1025, 443);
    let built = request::acquire(0x01020304, &policy, &flow).unwrap();
    assert_eq!(*built, sample("acquire"));
    policy.templates.clear();
    assert!(request::acquire(1, &policy, &flow).is_none());
}

/// The header's number, type and flags are the builder's; the rest must be the C compiler's bytes.
#[test]
fn what_is_built_is_what_c_builds() {
    let Message::Policy(policy) = one(&sample("new-policy")) else { panic!() };
    let built = request::set_policy(0x01020304, &policy);
    let mut want = sample("new-policy");
    // The kernel adds the type of policy, with two bytes of padding behind it.
    let at = want.windows(4).position(|w| w == [10, 0, 16, 0]).unwrap();
    want.drain(at..at + 12);
    assert_eq!(built[16..], want[16..]);

    let Message::State(state) = one(&sample("new-state")) else { panic!() };
    let expired = request::expire(0x01020304, &state, true);
    assert_eq!(expired[16..], sample("expire")[16..]);
    let deleted = request::delete_state(0x01020304, &state.key);
    assert_eq!(deleted[16..40], sample("delete-state")[16..40]);

    let key: Vec<u8> = (1..=20).collect();
    let Message::State(again) = one(&request::new_state(1, &state, "rfc4106(gcm(aes))", &key)) else { panic!() };
    assert_eq!(again.material.as_ref().unwrap().id(), state.material.as_ref().unwrap().id());
    assert_eq!(format!("{again:?}"), format!("{state:?}"), "all but the key");
}

#[test]
fn what_softdpu_does_not_run_has_a_reason() {
    let base = make_state("192.0.2.1", "192.0.2.2", 1, 1);
    let with = |name: &str, len: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = request::new_state(1, &base, name, &vec![7; len]).to_vec();
        change(&mut bytes);
        let Message::State(state) = one(&bytes) else { panic!() };
        assert_eq!(state.supported(), state.unsupported.is_none());
        state.unsupported
    };
    let gcm = "rfc4106(gcm(aes))";
    assert_eq!(with(gcm, 20, &|_| {}), None);
    assert_eq!(with(gcm, 36, &|_| {}), None);
    assert_eq!(with("rfc7539esp(chacha20,poly1305)", 36, &|_| {}), None);
    let name = |text: &str| Some(Unsupported::Cipher(text.into()));
    assert_eq!(with(gcm, 28, &|_| {}), name("rfc4106(gcm(aes)) with 224 bits of key"));
    assert_eq!(with("rfc4309(ccm(aes))", 19, &|_| {}), name("rfc4309(ccm(aes))"));
    assert_eq!(with(gcm, 20, &|b| b[16 + 76] = 51), Some(Unsupported::Protocol(51)));
    assert_eq!(with(gcm, 20, &|b| b[16 + 214] = 4), Some(Unsupported::Mode(4)));
    // The attribute's header, then 64 bytes of name and the length of the key.
    let icv = 16 + 224 + 4 + 68;
    assert_eq!(with(gcm, 20, &|b| b[icv] = 96), Some(Unsupported::TagBits(96)));
    // As another attribute, nothing says which keys: not ready.
    assert_eq!(with(gcm, 20, &|b| b[16 + 224 + 2] = 99), Some(Unsupported::Larval));
    // XFRMA_ALG_CRYPT begins with the name as well.
    assert_eq!(with("cbc(aes)", 16, &|b| b[16 + 224 + 2] = 2), name("cbc(aes)"));
}

#[test]
fn policies_of_sockets_and_sub_policies_are_not_ours() {
    let policy = make_policy(
        Direction::In,
        5,
        1,
        selector("10.0.0.0/8", "10.0.0.0/8"),
        vec![make_template("1.1.1.1", "2.2.2.2", 1)],
    );
    let bytes = request::set_policy(1, &policy).to_vec();
    assert!(matches!(one(&bytes), Message::Policy(p) if *p == policy));
    let mut of_socket = bytes.clone();
    of_socket[16 + 156] |= 3;
    assert!(matches!(one(&of_socket), Message::Other(_)));
    let mut sub = bytes;
    sub.extend([10, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let len = (sub.len() as u32).to_ne_bytes();
    sub[..4].copy_from_slice(&len);
    assert!(matches!(one(&sub), Message::Other(_)));
}

#[test]
fn keys_are_not_printed() {
    let shown = format!("{:?}", Messages::new(&sample("new-state")).next().unwrap());
    assert!(shown.contains("KeyMaterial(aes-128-gcm)"), "{shown}");
    assert!(!shown.contains("1, 2, 3, 4"), "{shown}");
}

fn samples() -> Vec<Vec<u8>> {
    include_str!("testdata/messages.txt").lines().map(|line| hex(line.split(' ').nth(1).unwrap())).collect()
}

/// Found by the fuzzer: a length of 0 was read for ever.
#[test]
fn a_length_that_cannot_be_ends_the_datagram() {
    for len in [0_u32, 1, 15, 1000, u32::MAX] {
        let mut bytes = sample("flush-states");
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        assert_eq!(Messages::new(&bytes).take(10).count(), 1, "{len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever comes, parsing ends, and yields no more messages than there are headers.
    #[test]
    fn garbage_is_survived(
        which in 0..10_usize,
        cut in 0..600_usize,
        changes in proptest::collection::vec((0..600_usize, any::<u8>()), 0..12),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = samples()[which].clone();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut);
        bytes.extend(tail);
        let count = Messages::new(&bytes).count();
        prop_assert!(count <= bytes.len().div_ceil(16));
    }

    #[test]
    fn a_cut_message_is_malformed_or_less(which in 0..10_usize, cut in 16..400_usize) {
        let mut bytes = samples()[which].clone();
        if cut < bytes.len() {
            bytes.truncate(cut);
            let announced = Messages::new(&bytes).next().unwrap();
            prop_assert!(matches!(announced.message, Message::Malformed(_)), "the header says more than there is");
        }
    }
}
