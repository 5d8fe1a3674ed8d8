//! Names that DNS answers gave addresses, for flows whose own bytes name no host: one worker's bounded cache.
//!
//! A name holds only for the client that asked, only out of an answer to a query that was seen on the same flow, with the
//! same identifier, type and name, and only as long as the answer says, within bounds. So nobody can name another's
//! servers, and a forged answer is believed here only where the client itself would believe it.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use super::hosts::Hosts;
use super::web::dns::said::Said;
use crate::flow::{Direction, FlowIdx, Tick};

/// Seconds: clients connect a while after they asked; and no answer is good for ever.
const TTL: std::ops::RangeInclusive<u32> = 30..=3600;
/// Places looked at for an address.
const WAYS: usize = 4;

#[derive(Clone, Copy)]
struct Place {
    /// Keyed hash of client and server; 0: free.
    hash: u64,
    until: Tick,
    /// Interned.
    name: u32,
}

impl Place {
    fn is_fresh(&self, now: Tick) -> bool {
        (1..=TTL.end() * Tick::PER_SECOND).contains(&self.until.since(now))
    }
}

pub struct Addresses {
    /// Keyed hashes of queries without an answer.
    asked: Box<[u64]>,
    places: Box<[Place]>,
    hasher: RandomState,
}

impl Addresses {
    /// `capacity`: addresses remembered at a time, 16 bytes each, and queries, 8 bytes each.
    pub fn new(capacity: usize) -> Self {
        let n = capacity.clamp(WAYS, 1 << 22).next_power_of_two();
        let none = Place { hash: 0, until: Tick(0), name: 0 };
        Self {
            asked: vec![0; n].into_boxed_slice(),
            places: vec![none; n].into_boxed_slice(),
            hasher: RandomState::new(),
        }
    }

    /// Takes notice of one message of a flow (of which `born` tells it from earlier ones at its place): a query is
    /// remembered, an answer to one is learnt from. `host`: the question's name; `client`: who asked.
    #[allow(clippy::too_many_arguments)] // one message, and whose it is
    pub fn hear(
        &mut self,
        said: &Said,
        host: &str,
        (flow, born): (FlowIdx, u32),
        dir: Direction,
        client: IpAddr,
        hosts: &mut Hosts,
        now: Tick,
    ) {
        let asked_by = if said.response { dir.index() ^ 1 } else { dir.index() };
        let hash = self.hasher.hash_one((flow.0, born, asked_by, said.id, said.kind, host)) | 1;
        let mask = self.asked.len() - 1;
        let query = &mut self.asked[hash as usize >> 1 & mask];
        if !said.response {
            *query = hash;
            return;
        }
        if *query != hash {
            return;
        }
        *query = 0;
        let ttl = said.ttl.clamp(*TTL.start(), *TTL.end());
        for server in said.addresses() {
            self.learn(client, server, host, now.plus(ttl * Tick::PER_SECOND), hosts, now);
        }
    }

    fn learn(&mut self, client: IpAddr, server: IpAddr, host: &str, until: Tick, hosts: &mut Hosts, now: Tick) {
        let hash = self.hash(client, server);
        let set = self.set(hash);
        // The same address again, else a free place, else one that is over, else any.
        let rank = |p: &Place| match p {
            p if p.hash == hash => 0,
            p if p.hash == 0 => 1,
            p if !p.is_fresh(now) => 2,
            _ => 3,
        };
        let Some(at) = set.min_by_key(|at| rank(&self.places[*at])) else { return };
        let Some(name) = hosts.intern(host) else { return };
        let place = &mut self.places[at];
        if place.hash != 0 {
            hosts.release(place.name);
        }
        *place = Place { hash, until, name };
    }

    /// The name of a server's address, as `client` learnt it: its number, which takes a reference of its own to keep.
    pub fn name(&self, client: IpAddr, server: IpAddr, now: Tick) -> Option<u32> {
        let hash = self.hash(client, server);
        self.set(hash).map(|at| &self.places[at]).find(|p| p.hash == hash && p.is_fresh(now)).map(|p| p.name)
    }

    fn hash(&self, client: IpAddr, server: IpAddr) -> u64 {
        self.hasher.hash_one((client, server)) | 1
    }

    fn set(&self, hash: u64) -> std::ops::Range<usize> {
        let at = hash as usize >> 1 & (self.places.len() - 1) & !(WAYS - 1);
        at..at + WAYS
    }
}
