#![allow(clippy::unwrap_used)]

use super::receive::{Received, Refused};
use super::sim::{Datagram, MS, Net, SECOND, Sim, address, clock};
use super::uapi::{AllowedIp, Errno, SetDevice, SetPeer};
use super::{Device, Limits};
use crate::crypto::secret::Secret;
use crate::crypto::wg::cookie::Jar;
use crate::crypto::wg::{Identity, Initiator, NoiseError, PrivateKey, Psk, PublicKey, Remote, Tai64n};
use crate::wire::prefix::Prefix;
use proptest::prelude::*;
use std::time::Duration;

const INITIATION: usize = 1;
const RESPONSE: usize = 2;
const COOKIE: usize = 3;
const TRANSPORT: usize = 4;

fn update(sim: &Sim, host: usize, of: usize) -> SetPeer {
    let _ = host;
    SetPeer { public_key: *sim.hosts[of].key.as_bytes(), ..SetPeer::default() }
}

#[test]
fn a_packet_brings_a_session_up_and_is_answered_in_ten_seconds() {
    let mut sim = Sim::pair(Net::GOOD, 1);
    let second = sim.hosts[1].key;
    sim.send(0, second, 1);
    sim.run(100 * MS);
    assert_eq!(sim.hosts[1].received, [Received::Initiation]);
    assert_eq!(sim.hosts[0].received, [Received::Response]);
    assert_eq!(sim.hosts[0].sent[TRANSPORT], 1, "the keepalive that confirms");
    sim.send(0, second, 2);
    sim.run(9800 * MS);
    assert!(sim.hosts[1].got.contains(&2));
    assert_eq!(sim.hosts[1].sent[TRANSPORT], 0);
    sim.run(400 * MS);
    assert_eq!(sim.hosts[1].sent[TRANSPORT], 1, "a keepalive when there was nothing to send");
    sim.run(100 * SECOND);
    assert_eq!(sim.hosts[0].sent, [0, 1, 0, 0, 1], "and then silence");
    assert_eq!(sim.hosts[1].sent, [0, 0, 1, 0, 1]);
    let first = sim.hosts[0].key;
    let state = sim.hosts[1].device.get();
    assert_eq!(state.peers[0].endpoint, Some(address(0)), "learnt from the handshake");
    assert!(state.peers[0].last_handshake > Duration::ZERO && state.peers[0].rx_bytes > 148);
    // It knows the way now.
    sim.send(1, first, 3);
    sim.run(100 * MS);
    assert!(sim.hosts[0].got.contains(&3));
}

#[test]
fn renewed_every_two_minutes_without_a_gap() {
    let mut sim = Sim::pair(Net { jitter_ms: 50, ..Net::GOOD }, 2);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    let (got, sent) = sim.talk(1000 * SECOND, 50 * MS, &mut number);
    assert_eq!(got, sent);
    let handshakes = sim.hosts[0].sent[INITIATION];
    assert!((8..=9).contains(&handshakes), "{handshakes}");
    assert_eq!(sim.hosts[1].sent[INITIATION], 0, "the responder does not begin one");
}

#[test]
fn one_that_only_receives_renews_before_the_end() {
    let mut sim = Sim::pair(Net::GOOD, 3);
    let (first, second) = (sim.hosts[0].key, sim.hosts[1].key);
    sim.send(0, second, 0);
    sim.run(SECOND);
    // The first host initiated, and from now on sends keepalives at most.
    for n in 1..=3000 {
        sim.send(1, first, n);
        sim.run(100 * MS);
    }
    assert_eq!(sim.hosts[0].got.len(), 3000);
    assert!(sim.hosts[0].sent[INITIATION] >= 2);
}

#[test]
fn twenty_renewals_under_load_lose_nothing() {
    let mut sim = Sim::pair(Net { jitter_ms: 20, ..Net::GOOD }, 4);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    let (mut got, mut sent) = (0, 0);
    for i in 0..20 {
        // From both sides in turn.
        let (host, peer) = (i % 2, sim.hosts[1 - i % 2].key);
        let mut out = Vec::new();
        assert!(sim.hosts[host].device.rekey(&peer, clock(sim.now), &mut out));
        sim.act(host, out);
        let (g, s) = sim.talk(300 * MS, 2 * MS, &mut number);
        (got, sent) = (got + g, sent + s);
    }
    assert_eq!(got, sent);
    assert_eq!(sim.hosts[0].sent[INITIATION] + sim.hosts[1].sent[INITIATION], 21);
}

#[test]
fn both_at_once() {
    for seed in 0..10 {
        let mut sim = Sim::pair(Net { jitter_ms: 5, ..Net::GOOD }, seed);
        let mut set = update(&sim, 1, 0);
        set.endpoint = Some(address(0));
        sim.set_peer(1, set);
        let mut number = 0;
        sim.talk(200 * MS, 10 * MS, &mut number);
        let (got, sent) = sim.talk(300 * SECOND, 100 * MS, &mut number);
        assert_eq!(got, sent, "seed {seed}");
        for i in 0..5 {
            for host in 0..2 {
                let peer = sim.hosts[1 - host].key;
                let mut out = Vec::new();
                sim.hosts[host].device.rekey(&peer, clock(sim.now), &mut out);
                sim.act(host, out);
            }
            let (got, sent) = sim.talk(500 * MS, 2 * MS, &mut number);
            assert_eq!(got, sent, "seed {seed} renewal {i}");
        }
    }
}

#[test]
fn a_responder_waits_for_the_first_packet() {
    let mut sim = Sim::pair(Net::GOOD, 5);
    let (first, second) = (sim.hosts[0].key, sim.hosts[1].key);
    sim.tap = Some(Vec::new());
    sim.send(0, second, 0);
    // The initiation is there, the response under way.
    sim.run(11 * MS);
    sim.send(1, first, 1);
    assert_eq!(sim.hosts[1].refused, 1);
    sim.run(100 * MS);
    sim.send(1, first, 2);
    sim.run(100 * MS);
    assert!(sim.hosts[0].got.contains(&2));
}

#[test]
fn nobody_there_is_given_up_after_ninety_seconds_and_tried_again_when_wanted() {
    let mut sim = Sim::pair(Net { lose: 1000, ..Net::GOOD }, 6);
    let second = sim.hosts[1].key;
    sim.send(0, second, 0);
    sim.run(89 * SECOND);
    let tries = sim.hosts[0].sent[INITIATION];
    assert!((16..=18).contains(&tries), "{tries}");
    sim.run(400 * SECOND);
    let tries = sim.hosts[0].sent[INITIATION];
    assert!((17..=19).contains(&tries), "{tries}");
    sim.net = Net::GOOD;
    sim.send(0, second, 1);
    sim.run(SECOND);
    sim.send(0, second, 2);
    sim.run(SECOND);
    assert!(sim.hosts[1].got.contains(&2));
}

#[test]
fn a_peer_that_forgot_is_found_again() {
    let mut sim = Sim::pair(Net::GOOD, 7);
    let mut number = 0;
    sim.talk(5 * SECOND, 100 * MS, &mut number);
    // As if it had been started anew.
    let peer = update(&sim, 1, 0);
    sim.set(1, &SetDevice { replace_peers: true, peers: vec![peer], ..SetDevice::default() });
    let second = sim.hosts[1].key;
    for _ in 0..170 {
        sim.send(0, second, number);
        number += 1;
        sim.run(100 * MS);
    }
    let (got, sent) = sim.talk(5 * SECOND, 100 * MS, &mut number);
    assert_eq!(got, sent, "15 s without an answer, then a handshake");
}

#[test]
fn keys_are_forgotten_in_the_end() {
    let mut sim = Sim::pair(Net::GOOD, 8);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    sim.run(530 * SECOND);
    for host in &mut sim.hosts {
        assert!(!host.device.peer(0).unwrap().sessions.is_empty());
    }
    sim.run(20 * SECOND);
    for host in &mut sim.hosts {
        assert!(host.device.peer(0).unwrap().sessions.is_empty());
        assert_eq!(host.device.next_deadline(), None, "nothing to do for an idle peer");
        assert!(host.device.by_index.is_empty());
    }
}

#[test]
fn persistent_keepalives_bring_it_up_and_keep_it_up() {
    let mut sim = Sim::pair(Net::GOOD, 9);
    let mut set = update(&sim, 0, 1);
    set.persistent_keepalive = Some(25);
    sim.set_peer(0, set);
    sim.run(SECOND);
    assert_eq!(sim.hosts[1].received, [Received::Initiation], "at once");
    sim.run(99 * SECOND);
    assert_eq!(sim.hosts[0].sent[TRANSPORT], 4, "the one that confirms, and at 25, 50, 75 s");
    sim.run(500 * SECOND);
    let handshakes = sim.hosts[0].sent[INITIATION];
    assert!((4..=5).contains(&handshakes), "{handshakes}");
    // Through an outage, too.
    sim.net.lose = 1000;
    sim.run(600 * SECOND);
    sim.net.lose = 0;
    sim.run(60 * SECOND);
    let first = sim.hosts[0].key;
    sim.send(1, first, 1);
    sim.run(SECOND);
    assert!(sim.hosts[0].got.contains(&1));
}

#[test]
fn a_busy_responder_wants_a_cookie_first() {
    let busy = Limits { free_per_second: 0, ..Limits::default() };
    for limits in [[Limits::default(), busy], [busy, busy]] {
        let mut sim = Sim::pair_with(limits, Net::GOOD, 10);
        let second = sim.hosts[1].key;
        sim.send(0, second, 0);
        sim.run(SECOND);
        assert_eq!(sim.hosts[1].received, [Received::CookieSent]);
        assert_eq!(sim.hosts[0].received[0], Received::Cookie);
        // A busy initiator wants one for the response, too: it comes with the third attempt.
        sim.run(12 * SECOND);
        sim.send(0, second, 1);
        sim.run(SECOND);
        assert!(sim.hosts[1].got.contains(&1), "{:?}", sim.hosts[1].received);
        assert!(sim.hosts[1].sent[COOKIE] <= 2);
    }
}

/// Initiations of a stranger, which know the public key and nothing else.
fn bogus(to: PublicKey, n: u32) -> Vec<u8> {
    let identity = Identity::new(PrivateKey::generate().unwrap());
    let remote = Remote::new(&identity, to, Psk::default());
    let ephemeral = PrivateKey::generate().unwrap();
    let (_, message) =
        Initiator::start(&identity, &remote, n, ephemeral, Tai64n::since_1970(Duration::from_secs(5))).unwrap();
    let mut bytes = message.to_bytes().to_vec();
    Jar::default().stamp(&remote, &mut bytes, 1);
    bytes
}

#[test]
fn a_flood_costs_little() {
    let limits = Limits { free_per_second: 20, cookies_per_second: 100, ..Limits::default() };
    let mut sim = Sim::pair_with([Limits::default(), limits], Net::GOOD, 11);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    let target = sim.hosts[1].key;
    let message = bogus(target, 1);
    let (mut looked_at, mut cookies, mut refused) = (0, 0, 0);
    for n in 0..10_000_u32 {
        let from = (std::net::Ipv4Addr::from(0x0a00_0000 + n), 7).into();
        match sim.hosts[1].device.receive(clock(sim.now), from, None, &mut message.clone(), &mut Vec::new()) {
            Err(Refused::UnknownPeer) => looked_at += 1,
            Ok(Received::CookieSent) => cookies += 1,
            Err(Refused::Busy) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((looked_at, cookies, looked_at + cookies + refused), (20, 100, 10_000));
}

/// The established session does not notice, and a peer gets through: it is asked for a cookie like everybody, and has it.
#[test]
fn a_flood_stops_nobody() {
    let limits = Limits { free_per_second: 20, cookies_per_second: 1000, ..Limits::default() };
    let mut sim = Sim::pair_with([Limits::default(), limits], Net::GOOD, 11);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    let message = bogus(sim.hosts[1].key, 1);
    let mut out = Vec::new();
    let peer = sim.hosts[1].key;
    sim.hosts[0].device.rekey(&peer, clock(sim.now), &mut out);
    sim.act(0, out);
    let mut last = sim.hosts[1].sent[RESPONSE];
    let (mut got, mut sent) = (0, 0);
    for second in 0..20 {
        for n in 0..150_u32 {
            let from = (std::net::Ipv4Addr::from(0x0b00_0000 + n), second).into();
            let _ = sim.hosts[1].device.receive(clock(sim.now), from, None, &mut message.clone(), &mut Vec::new());
            if n % 50 == 0 {
                let (g, s) = sim.talk(200 * MS, 20 * MS, &mut number);
                (got, sent) = (got + g, sent + s);
            }
        }
        last = last.max(sim.hosts[1].sent[RESPONSE]);
    }
    assert_eq!(got, sent);
    assert!(last >= 2, "renewed under load");
}

#[test]
fn a_source_with_a_cookie_is_held_to_its_rate() {
    let busy = Limits { free_per_second: 0, ..Limits::default() };
    let mut device = Device::new(busy, clock(SECOND)).unwrap();
    let key = PrivateKey::generate().unwrap();
    let set = SetDevice { private_key: Some(Secret::new(key.expose())), ..SetDevice::default() };
    device.set(&set, clock(SECOND), &mut Vec::new()).unwrap();
    let identity = Identity::new(PrivateKey::generate().unwrap());
    let remote = Remote::new(&identity, key.public(), Psk::default());
    let mut jar = Jar::default();
    let mut outcomes = Vec::new();
    for n in 0..20 {
        let ephemeral = PrivateKey::generate().unwrap();
        let (_, message) = Initiator::start(&identity, &remote, n, ephemeral, Tai64n::now()).unwrap();
        let mut bytes = message.to_bytes().to_vec();
        jar.stamp(&remote, &mut bytes, SECOND);
        let mut out = Vec::new();
        outcomes.push(device.receive(clock(SECOND), address(0), None, &mut bytes, &mut out));
        if let Some(super::Action::Send { bytes, .. }) = out.pop()
            && let Ok(crate::crypto::wg::Message::CookieReply(reply)) = crate::crypto::wg::Message::parse(&bytes)
        {
            assert!(jar.learn(&remote, &reply, SECOND));
        }
    }
    assert_eq!(outcomes[0], Ok(Received::CookieSent));
    assert_eq!(outcomes.iter().filter(|o| **o == Err(Refused::UnknownPeer)).count(), 5);
    assert!(outcomes[6..].iter().all(|o| *o == Err(Refused::SourceTooFast)), "{outcomes:?}");
}

#[test]
fn roaming_follows_what_is_authentic() {
    let mut sim = Sim::pair(Net::GOOD, 12);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    sim.hosts[0].address = "[2001:db8::7]:4500".parse().unwrap();
    let second = sim.hosts[1].key;
    sim.send(0, second, 1_000_000);
    sim.run(100 * MS);
    assert_eq!(sim.hosts[1].device.get().peers[0].endpoint, Some(sim.hosts[0].address));
    let (got, sent) = sim.talk(SECOND, 100 * MS, &mut number);
    assert_eq!(got, sent);
    // Garbage from elsewhere moves nothing, nor does a captured packet that is sent again.
    sim.tap = Some(Vec::new());
    sim.send(0, second, 1_000_001);
    sim.run(100 * MS);
    let packet = sim.tap.take().unwrap().remove(0);
    sim.deliver(Datagram { from: address(9), ..packet });
    assert_eq!(sim.hosts[1].device.get().peers[0].endpoint, Some(sim.hosts[0].address));
}

#[test]
fn what_was_captured_is_worth_nothing() {
    let mut sim = Sim::pair(Net::GOOD, 13);
    sim.tap = Some(Vec::new());
    let mut number = 0;
    sim.talk(130 * SECOND, 500 * MS, &mut number);
    let tap = sim.tap.take().unwrap();
    let sent = [sim.hosts[0].sent, sim.hosts[1].sent];
    sim.hosts.iter_mut().for_each(|host| host.errors.clear());
    sim.run(SECOND);
    for datagram in tap {
        let from = address(5);
        sim.deliver(Datagram { from, ..datagram });
    }
    assert_eq!([sim.hosts[0].sent, sim.hosts[1].sent], sent, "no answer to any of it");
    assert!(sim.hosts[1].errors.iter().all(|e| *e == Refused::Noise(NoiseError::OldTimestamp)));
    assert!(sim.hosts[0].errors.iter().all(|e| *e == Refused::UnknownIndex));
    assert_eq!(sim.hosts[1].device.get().peers[0].endpoint, Some(address(0)));
    let (got, all) = sim.talk(SECOND, 100 * MS, &mut number);
    assert_eq!(got, all);
}

#[test]
fn another_preshared_key_is_another_peer() {
    let mut sim = Sim::pair(Net::GOOD, 14);
    let mut set = update(&sim, 0, 1);
    set.preshared_key = Some(Secret::new(&[7; 32]));
    sim.set_peer(0, set);
    let second = sim.hosts[1].key;
    sim.send(0, second, 0);
    sim.run(SECOND);
    assert_eq!(sim.hosts[0].errors, [Refused::Noise(NoiseError::Unauthentic)]);
    let mut set = update(&sim, 1, 0);
    set.preshared_key = Some(Secret::new(&[7; 32]));
    sim.set_peer(1, set);
    sim.run(10 * SECOND);
    sim.send(0, second, 1);
    sim.run(SECOND);
    assert!(sim.hosts[1].got.contains(&1));
}

#[test]
fn a_clock_that_is_set_back_does_not_matter_while_we_run() {
    let mut sim = Sim::pair(Net::GOOD, 15);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    let peer = sim.hosts[1].key;
    let mut now = clock(sim.now);
    now.wall -= Duration::from_secs(86_400);
    let mut out = Vec::new();
    sim.hosts[0].device.rekey(&peer, now, &mut out);
    sim.act(0, out);
    sim.run(SECOND);
    assert_eq!(sim.hosts[1].sent[RESPONSE], 2);
}

#[test]
fn slots_are_not_given_anew_before_workers_know() {
    let mut device = Device::new(Limits::default(), clock(SECOND)).unwrap();
    let now = clock(SECOND);
    let set = |device: &mut Device, key: u8, remove: bool| {
        let peer = SetPeer { public_key: [key; 32], remove, ..SetPeer::default() };
        device.set(&SetDevice { peers: vec![peer], ..SetDevice::default() }, now, &mut Vec::new()).unwrap();
        device.slot_of(&PublicKey::from_bytes([key; 32]))
    };
    assert_eq!((set(&mut device, 1, false), set(&mut device, 2, false)), (Some(0), Some(1)));
    set(&mut device, 1, true);
    assert_eq!(set(&mut device, 3, false), Some(2));
    device.published();
    assert_eq!(set(&mut device, 4, false), Some(0));
    assert_eq!((device.peer_count(), device.slots()), (3, 3));
}

#[test]
fn a_set_is_whole_or_nothing() {
    let limits = Limits { peers: 2, allowed_ips: 2, ..Limits::default() };
    let now = clock(SECOND);
    let mut device = Device::new(limits, now).unwrap();
    let ip = |last: u8, remove| AllowedIp { prefix: Prefix::host([10, 0, 0, last].into()), remove };
    let peer =
        |key: u8, ips: &[AllowedIp]| SetPeer { public_key: [key; 32], allowed_ips: ips.to_vec(), ..SetPeer::default() };
    let mut out = Vec::new();
    let mut set = |device: &mut Device, peers: Vec<SetPeer>| {
        device.set(&SetDevice { listen_port: Some(9), peers, ..SetDevice::default() }, now, &mut out)
    };
    let too_many = vec![peer(1, &[]), peer(2, &[]), peer(3, &[])];
    assert_eq!(set(&mut device, too_many), Err(Errno::TooLarge));
    assert_eq!(set(&mut device, vec![peer(1, &[ip(1, false), ip(2, false), ip(3, false)])]), Err(Errno::TooLarge));
    assert_eq!((device.peer_count(), device.listen_port()), (0, 0));
    set(&mut device, vec![peer(1, &[ip(1, false)]), peer(2, &[ip(2, false)])]).unwrap();
    let table = device.allowed();
    assert_eq!(table.look_up([10, 0, 0, 2].into()), Some(1));
    assert!(std::sync::Arc::ptr_eq(&table, &device.allowed()), "the same one while nothing changes");
    let moved = vec![peer(1, &[ip(9, true), ip(1, true)])];
    set(&mut device, moved).unwrap();
    set(&mut device, vec![peer(1, &[ip(2, false)])]).unwrap();
    assert_eq!(device.allowed().look_up([10, 0, 0, 2].into()), Some(0), "taken from the other");
    assert_eq!(device.allowed().look_up([10, 0, 0, 1].into()), None);
}

#[test]
fn the_same_key_again_changes_nothing_and_another_everything() {
    let mut sim = Sim::pair(Net::GOOD, 16);
    let mut number = 0;
    sim.talk(SECOND, 100 * MS, &mut number);
    let same = SetDevice { private_key: sim.hosts[0].device.get().private_key, ..SetDevice::default() };
    sim.set(0, &same);
    assert_eq!(sim.talk(SECOND, 100 * MS, &mut number), (20, 20));
    let other = SetDevice { private_key: Some(Secret::new(&[9; 32])), ..SetDevice::default() };
    sim.set(0, &other);
    assert!(sim.hosts[0].device.peer(0).unwrap().sessions.is_empty());
    // One's own key is nobody's.
    let own = *sim.hosts[0].device.public_key().unwrap();
    let peer = SetPeer { public_key: *own.as_bytes(), ..SetPeer::default() };
    sim.set_peer(0, peer);
    assert_eq!(sim.hosts[0].device.slot_of(&own), None);
    sim.set(0, &SetDevice { private_key: Some(Secret::zeroed()), ..SetDevice::default() });
    assert_eq!(sim.hosts[0].device.public_key(), None);
    let second = sim.hosts[1].key;
    sim.send(0, second, 77);
    sim.run(10 * SECOND);
}

#[test]
fn ten_thousand_peers() {
    let mut sim = Sim::new(&[Limits::default()], Net { lose: 1000, ..Net::GOOD }, 17);
    let peers = (0..10_000_u32).map(|n| {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        let prefix = Prefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
        SetPeer {
            public_key: key,
            endpoint: Some(address(1)),
            allowed_ips: vec![AllowedIp { prefix, remove: false }],
            ..SetPeer::default()
        }
    });
    let set = SetDevice { peers: peers.collect(), ..SetDevice::default() };
    sim.set(0, &set);
    let device = &mut sim.hosts[0].device;
    assert_eq!((device.peer_count(), device.next_deadline()), (10_000, None));
    assert_eq!(device.allowed().look_up([10, 0, 1, 2].into()), Some(258));
    assert_eq!(device.peers().count(), 10_000);
    sim.set(0, &SetDevice { replace_peers: true, ..SetDevice::default() });
    assert!(sim.hosts[0].device.allowed().look_up([10, 0, 1, 2].into()).is_none());
    sim.set(0, &set);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever the network does, packets get through, none twice, and timers end.
    #[test]
    fn bad_networks(seed in 1_u64..1 << 40, lose in 0_u64..350, double in 0_u64..300, jitter_ms in 0_u64..2000) {
        let mut sim = Sim::pair(Net { lose, double, delay_ms: 20, jitter_ms }, seed);
        let mut number = 0;
        sim.talk(60 * SECOND, 500 * MS, &mut number);
        for _ in 0..4 {
            let (got, sent) = sim.talk(100 * SECOND, 250 * MS, &mut number);
            // Doubles make up for some that are lost.
            prop_assert!(got as u64 * 1000 >= sent as u64 * (850 - lose), "{} of {} with loss {}", got, sent, lose);
        }
        // It ends, and comes back.
        sim.net.lose = 1000;
        sim.talk(200 * SECOND, SECOND, &mut number);
        sim.net = Net::GOOD;
        sim.talk(30 * SECOND, SECOND, &mut number);
        let (got, sent) = sim.talk(30 * SECOND, 100 * MS, &mut number);
        prop_assert_eq!(got, sent);
        for host in &sim.hosts {
            prop_assert!(host.device.by_index.len() <= 7, "indices are given back");
        }
    }
}
