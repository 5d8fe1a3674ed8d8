//! Hosts with a device each, a network between them that loses, doubles and reorders, and a clock that is moved by hand. For
//! tests.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use super::receive::{Received, Refused};
use super::uapi::{SetDevice, SetPeer};
use super::{Action, Device, Endpoint, Limits, Now};
use crate::crypto::secret::Secret;
use crate::crypto::wg::message::{TRANSPORT_HEADER_LEN, Transport};
use crate::crypto::wg::session::{OVERHEAD, Opened};
use crate::crypto::wg::{PrivateKey, PublicKey};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// What the network does. Chances are per mille.
#[derive(Debug, Clone, Copy)]
pub struct Net {
    pub lose: u64,
    pub double: u64,
    pub delay_ms: u64,
    /// At most so much more, at random: what makes packets overtake each other.
    pub jitter_ms: u64,
}

impl Net {
    pub const GOOD: Self = Self { lose: 0, double: 0, delay_ms: 10, jitter_ms: 0 };
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

pub struct Host {
    pub device: Device,
    pub key: PublicKey,
    pub address: SocketAddr,
    /// Numbers of the packets that came out of the tunnel.
    pub got: BTreeSet<u32>,
    /// Packets for which there was no session.
    pub refused: u32,
    pub received: Vec<Received>,
    pub errors: Vec<Refused>,
    /// Types of the messages that the device sent, by first byte.
    pub sent: [u32; 5],
    pub changes: u32,
}

pub struct Sim {
    pub now: u64,
    pub net: Net,
    pub hosts: Vec<Host>,
    /// Copies of everything that was sent.
    pub tap: Option<Vec<Datagram>>,
    wire: BinaryHeap<Reverse<(u64, u64, Datagram)>>,
    order: u64,
    random: u64,
}

pub fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + host as u8], 51820))
}

impl Sim {
    /// Hosts that do not know each other yet.
    pub fn new(limits: &[Limits], net: Net, seed: u64) -> Self {
        let now = SECOND;
        let hosts = limits.iter().enumerate().map(|(i, limits)| {
            let mut device = Device::new(*limits, clock(now)).unwrap();
            let private = PrivateKey::generate().unwrap();
            let set = SetDevice { private_key: Some(Secret::new(private.expose())), ..SetDevice::default() };
            device.set(&set, clock(now), &mut Vec::new()).unwrap();
            Host {
                device,
                key: private.public(),
                address: address(i),
                got: BTreeSet::new(),
                refused: 0,
                received: Vec::new(),
                errors: Vec::new(),
                sent: [0; 5],
                changes: 0,
            }
        });
        let hosts = hosts.collect();
        Self { now, net, hosts, tap: None, wire: BinaryHeap::new(), order: 0, random: seed * 2 + 1 }
    }

    /// Two hosts that know each other's key; the first knows where the second is.
    pub fn pair(net: Net, seed: u64) -> Self {
        Self::pair_with([Limits::default(); 2], net, seed)
    }

    pub fn pair_with(limits: [Limits; 2], net: Net, seed: u64) -> Self {
        let mut sim = Self::new(&limits, net, seed);
        let key = |sim: &Sim, host: usize| *sim.hosts[host].key.as_bytes();
        let second = SetPeer { public_key: key(&sim, 1), endpoint: Some(address(1)), ..SetPeer::default() };
        let first = SetPeer { public_key: key(&sim, 0), ..SetPeer::default() };
        sim.set_peer(0, second);
        sim.set_peer(1, first);
        sim
    }

    pub fn set_peer(&mut self, host: usize, peer: SetPeer) {
        self.set(host, &SetDevice { peers: vec![peer], ..SetDevice::default() });
    }

    pub fn set(&mut self, host: usize, set: &SetDevice) {
        let mut out = Vec::new();
        let now = clock(self.now);
        self.hosts[host].device.set(set, now, &mut out).unwrap();
        self.act(host, out);
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    pub fn transmit(&mut self, datagram: Datagram) {
        if let Some(tap) = &mut self.tap {
            tap.push(datagram.clone());
        }
        let copies = if self.random(1000) < self.net.double { 2 } else { 1 };
        for _ in 0..copies {
            if self.random(1000) >= self.net.lose {
                let at = self.now + (self.net.delay_ms + self.random(self.net.jitter_ms + 1)) * MS;
                self.order += 1;
                self.wire.push(Reverse((at, self.order, datagram.clone())));
            }
        }
    }

    pub fn act(&mut self, host: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Changed => self.hosts[host].changes += 1,
                Action::Send { to, bytes, .. } => {
                    self.hosts[host].sent[usize::from(bytes[0])] += 1;
                    let from = self.hosts[host].address;
                    self.transmit(Datagram { from, to, bytes });
                }
            }
        }
    }

    /// What a worker does with a packet for the peer with `key`, whose number is `number`.
    pub fn send(&mut self, host: usize, key: PublicKey, number: u32) {
        let now = self.now;
        let from = self.hosts[host].address;
        let device = &mut self.hosts[host].device;
        let slot = device.slot_of(&key).unwrap();
        let view = device.peer(slot).unwrap();
        let mut packet = vec![0; OVERHEAD + 32];
        let text = TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + 24;
        packet[text.start] = 0x45;
        packet[text.start + 3] = 24;
        packet[text.start + 20..text.end].copy_from_slice(&number.to_be_bytes());
        let sealed = view.sessions.sending().filter(|s| s.confirmed()).and_then(|session| {
            let place = session.sealer(1, now).seal_message(&mut packet, text, 0).ok()?;
            Some(packet[place].to_vec())
        });
        match (sealed, view.endpoint) {
            (Some(bytes), Some(endpoint)) => self.transmit(Datagram { from, to: endpoint.to, bytes }),
            _ => {
                self.hosts[host].refused += 1;
                let mut out = Vec::new();
                self.hosts[host].device.wanted(slot, clock(now), &mut out);
                self.act(host, out);
            }
        }
    }

    /// What a worker, and behind it the device, does with a datagram.
    pub fn deliver(&mut self, mut datagram: Datagram) {
        let Some(host) = self.hosts.iter().position(|host| host.address == datagram.to) else { return };
        let now = clock(self.now);
        let mut out = Vec::new();
        let h = &mut self.hosts[host];
        if let Ok(header) = Transport::parse(&datagram.bytes) {
            let Some(slot) = h.device.slot_of_index(header.receiver) else { return };
            let view = h.device.peer(slot).unwrap();
            let Some(session) = view.sessions.all().find(|s| s.local_index() == header.receiver) else { return };
            let mut opener = session.opener(now.mono);
            let all = 0..datagram.bytes.len();
            let Ok(opened) = opener.open_slice(&mut datagram.bytes, all) else { return };
            let confirms = opener.confirms();
            drop(opener);
            if let Opened::Packet { place, .. } = opened {
                let number = datagram.bytes[place.end - 4..place.end].try_into().unwrap();
                assert!(h.got.insert(u32::from_be_bytes(number)), "a packet came out twice");
            }
            if confirms && self.order.is_multiple_of(2) {
                // Not always: the device finds out by itself.
                h.device.confirmed(header.receiver, now, &mut out);
            }
            if view.endpoint.map(|e| e.to) != Some(datagram.from) {
                h.device.moved(header.receiver, Endpoint { to: datagram.from, from: None }, &mut out);
            }
        } else {
            match h.device.receive(now, datagram.from, None, &mut datagram.bytes, &mut out) {
                Ok(received) => h.received.push(received),
                Err(error) => h.errors.push(error),
            }
        }
        self.act(host, out);
    }

    /// Lets time pass; all that is due happens at its time.
    pub fn run_until(&mut self, end: u64) {
        loop {
            let wire = self.wire.peek().map(|Reverse((at, ..))| *at);
            let timer = self.hosts.iter().filter_map(|host| host.device.next_deadline()).min();
            let next = wire.into_iter().chain(timer).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            while let Some(Reverse((_, _, datagram))) =
                self.wire.peek().filter(|Reverse((at, ..))| *at <= self.now).cloned()
            {
                self.wire.pop();
                self.deliver(datagram);
            }
            for host in 0..self.hosts.len() {
                let mut out = Vec::new();
                let now = clock(self.now);
                self.hosts[host].device.tick(now, &mut out);
                self.act(host, out);
                if let Some(next) = self.hosts[host].device.next_deadline() {
                    assert!(next > self.now, "a timer that is never done");
                }
            }
        }
        self.now = end;
    }

    pub fn run(&mut self, time: u64) {
        self.run_until(self.now + time);
    }

    /// A packet every `every` in each direction for `time`, numbered from `number`. How many came out, of how many.
    pub fn talk(&mut self, time: u64, every: u64, number: &mut u32) -> (usize, usize) {
        let keys = [self.hosts[1].key, self.hosts[0].key];
        let before = self.hosts[0].got.len() + self.hosts[1].got.len();
        let first = *number;
        let end = self.now + time;
        while self.now < end {
            for (host, key) in keys.into_iter().enumerate() {
                self.send(host, key, *number);
                *number += 1;
            }
            self.run(every);
        }
        // What is under way.
        self.run((self.net.delay_ms + self.net.jitter_ms) * MS);
        (self.hosts[0].got.len() + self.hosts[1].got.len() - before, (*number - first) as usize)
    }
}

pub fn clock(now: u64) -> Now {
    Now { mono: now, wall: Duration::from_secs(1_700_000_000) + Duration::from_nanos(now) }
}
