//! The mirrored tables as the workers' part of the keys, and as steering rules.

use super::inbound::{Handed, Inbound};
use super::model::{Flow, Mode, State, StateKey, Way as Direction};
use super::replay::Received;
use super::report::{Lease, LeaseError, Report, Reporter, Usage};
use super::selector::XfrmSelector;
use super::spd::Spd;
use super::tables::Snapshot;
use crate::crypto::ecn::{Dscp, Ecn};
use crate::crypto::esp;
use crate::crypto::lifetime::{Expiry, Lifetime, Limits, Used};
use crate::crypto::outbound::{OutboundOptions, Start};
use crate::crypto::outer::{Df, Encapsulation};
use crate::crypto::{InboundSa, OutboundConfig, OutboundSa};
use crate::tunnel::esp::endpoints;
use crate::tunnel::keys::{EspIn, EspOut, Seal, Selector, TunnelKeys, Way, WayState};
use crate::tunnel::publisher::Part;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Between two questions for the same association (nanoseconds).
const ASK_AGAIN: u64 = 1_000_000_000;
/// Questions in that time.
const MOST_ASKED: usize = 256;

/// What softdpu runs of the kernel's tables.
pub struct XfrmParts {
    tunnel: u16,
    reporter: Reporter,
    snapshot: Snapshot,
    spd: Spd,
    inbound: HashMap<StateKey, Inbound>,
    /// Associations that received, and which the workers may not have let go of yet.
    handed: Vec<Handed>,
    outbound: HashMap<StateKey, Outbound>,
    /// Free numbers of ways; number 0 is [`super::selector::NO_STATE`].
    free: Vec<u32>,
    ways: u32,
    nowhere: Arc<Way>,
    /// States that stay the kernel's, by why, and how many.
    pub left: BTreeMap<String, usize>,
    /// Policies and ends that the key daemons were asked for, and when (monotonic nanoseconds).
    asked: HashMap<(u32, IpAddr, IpAddr), u64>,
    taken: HashSet<u32>,
}

struct Outbound {
    state: Arc<State>,
    sa: Arc<OutboundSa>,
    way: u32,
    memory: Arc<WayState>,
    lease: Lease,
    /// Packets at the last look.
    packets: u64,
    /// Bytes that the kernel had counted when it was taken over: limits include them.
    before: u64,
}

impl XfrmParts {
    /// # Errors
    /// Without `CAP_NET_ADMIN` or XFRM in the kernel.
    pub fn new(tunnel: u16) -> Result<Self> {
        let nowhere = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        Ok(Self {
            tunnel,
            reporter: Reporter::open().context("cannot speak to the kernel's IPsec")?,
            snapshot: Snapshot::default(),
            spd: Spd::default(),
            inbound: HashMap::new(),
            handed: Vec::new(),
            outbound: HashMap::new(),
            free: Vec::new(),
            ways: 1,
            nowhere: Arc::new(Way { remote: nowhere, seal: Seal::Nothing, state: Arc::default() }),
            left: BTreeMap::new(),
            asked: HashMap::new(),
            taken: HashSet::new(),
        })
    }

    /// Takes over a new view of the tables. `is_local`: whether an address is this host's. `now`: monotonic nanoseconds.
    pub fn take(&mut self, snapshot: Snapshot, is_local: impl Fn(IpAddr) -> bool, now: u64) {
        self.spd = Spd::new(&snapshot);
        self.left.clear();
        let before = (std::mem::take(&mut self.inbound), std::mem::take(&mut self.outbound));
        let (mut was_in, mut was_out) = before;
        let mut spis = self.taken.clone();
        for state in &snapshot.states {
            if let Some(why) = &state.unsupported {
                *self.left.entry(why.to_string()).or_default() += 1;
                continue;
            }
            if is_inbound(state, &is_local) {
                // Workers find an association by its SPI alone; the kernel may have one per address.
                if !spis.insert(state.spi()) {
                    *self.left.entry("another association receives under its SPI".into()).or_default() += 1;
                    continue;
                }
                let known = was_in.remove(&state.key).filter(|known| same_key(state, known.sa.key_id()));
                let made = known.map_or_else(
                    || Inbound::begin(state, now).map(|inbound| (inbound, None)),
                    |known| known.go_on(state, now),
                );
                match made {
                    Ok((inbound, handed)) => {
                        self.handed.extend(handed);
                        self.inbound.insert(state.key, inbound);
                    }
                    Err(why) => *self.left.entry(format!("{why:#}")).or_default() += 1,
                }
            } else {
                let made = match was_out.remove(&state.key) {
                    Some(known) if same_key(state, known.sa.key_id()) => {
                        if reshaped(&known.state, state) {
                            self.again(state, &known, now)
                        } else {
                            Ok(Outbound { state: state.clone(), ..known })
                        }
                    }
                    other => {
                        self.free.extend(other.map(|other| other.way));
                        self.begin(state, now)
                    }
                };
                match made {
                    Ok(outbound) => drop(self.outbound.insert(state.key, outbound)),
                    Err(why) => *self.left.entry(format!("{why:#}")).or_default() += 1,
                }
            }
        }
        // Every new view is a new selection, so that nobody asks for a way that was another's.
        self.free.extend(was_out.into_values().map(|gone| gone.way));
        let (inbound, outbound) = (&self.inbound, &self.outbound);
        self.reporter.retain(|key| inbound.contains_key(key) || outbound.contains_key(key));
        self.snapshot = snapshot;
    }

    /// A state to send with: its numbers are the kernel's, so a lease comes first.
    fn begin(&mut self, state: &Arc<State>, now: u64) -> Result<Outbound> {
        let lease = self.reporter.lease(state, Lease::length(0)).context("no sequence numbers to be had")?;
        let before = state.used.bytes;
        let sa = outbound(state, lease, (before, Used::default()), now)?;
        let way = self.free.pop().unwrap_or_else(|| {
            self.ways += 1;
            self.ways - 1
        });
        Ok(Outbound { state: state.clone(), sa: Arc::new(sa), way, memory: Arc::default(), lease, packets: 0, before })
    }

    /// The same state and key with other ends, ports or limits: a new association that goes on behind the old one's numbers.
    fn again(&mut self, state: &Arc<State>, known: &Outbound, now: u64) -> Result<Outbound> {
        let made =
            self.reporter.lease(state, Lease::length(0)).context("no sequence numbers to be had").and_then(|lease| {
                let sa = outbound(state, lease, (known.before, known.sa.used()), now)?;
                if lease.first <= known.lease.last {
                    sa.skip_to(known.lease.last);
                }
                Ok((lease, Arc::new(sa)))
            });
        match made {
            Ok((lease, sa)) => {
                let (way, packets, before) = (known.way, known.packets, known.before);
                Ok(Outbound { state: state.clone(), sa, way, memory: Arc::default(), lease, packets, before })
            }
            Err(error) => {
                self.free.push(known.way);
                Err(error)
            }
        }
    }

    /// SPIs that other tunnels receive under.
    pub fn leave_to_others(&mut self, spis: HashSet<u32>) {
        self.taken = spis;
    }

    /// The workers' part. Each is another selection.
    pub fn part(&self) -> Part {
        let inbound = self.inbound.values().map(|Inbound { state, sa, .. }| EspIn {
            sa: sa.clone(),
            tunnel: self.tunnel,
            way: 0,
            local: state.dst(),
            remote: None,
            may_move: false,
            state: Some(state.clone()),
        });
        let mut ways = vec![None; self.ways as usize];
        ways[0] = Some(self.nowhere.clone());
        for outbound in self.outbound.values() {
            let port = outbound.state.encap.map_or(0, |encap| encap.dport);
            ways[outbound.way as usize] = Some(Arc::new(Way {
                remote: SocketAddr::new(outbound.state.dst(), port),
                seal: Seal::Esp(EspOut { sa: outbound.sa.clone(), via: None }),
                state: outbound.memory.clone(),
            }));
        }
        let selector = XfrmSelector {
            spd: Spd::new(&self.snapshot),
            ways: self.outbound.iter().map(|(key, outbound)| (*key, outbound.way)).collect(),
        };
        self.nowhere.state.answer();
        Part {
            inbound: inbound.collect(),
            keys: TunnelKeys { selector: Selector::Xfrm(Arc::new(selector)), ways },
            ..Part::default()
        }
    }

    /// Renews the leases of what sends much, and follows what was built anew. To be called several times a second.
    pub fn renew(&mut self) {
        self.handed.retain_mut(Handed::follow);
        for outbound in self.outbound.values_mut() {
            let length = outbound.lease.last - outbound.lease.first;
            if outbound.sa.left() > length / 2 {
                continue;
            }
            let sent = outbound.sa.used().packets;
            let wanted = Lease::length((sent - outbound.packets).saturating_mul(4));
            outbound.packets = sent;
            match self.reporter.lease(&outbound.state, wanted) {
                Ok(lease) => {
                    if lease.first > outbound.lease.last + 1 {
                        // The kernel has sent meanwhile; what is left of the old lease is given up.
                        outbound.sa.skip_to(lease.first - 1);
                    }
                    outbound.sa.lease_to(lease.last);
                    outbound.lease = lease;
                }
                Err(LeaseError::Gone) => {}
                Err(LeaseError::Exhausted) => {
                    let _ = self.reporter.expire(&outbound.state, &outbound.state.used, true);
                }
                Err(error) => tracing::warn!(%error, "sequence numbers cannot be reserved with the kernel"),
            }
        }
    }

    /// Tells the kernel what was carried, and its key daemons which limits were reached. To be called once a second.
    pub fn report(&mut self, now: u64) {
        let received: Vec<Received> = self.inbound.values().map(|inbound| seen(&inbound.sa)).collect();
        let opened = self.inbound.values().zip(&received).map(|(inbound, received)| Report {
            state: &inbound.state,
            usage: usage(inbound.sa.used(), now),
            received: Some(received),
        });
        let sealed = self.outbound.values().map(|outbound| Report {
            state: &outbound.state,
            usage: usage(outbound.sa.used(), now),
            received: None,
        });
        let reports: Vec<Report<'_>> = opened.chain(sealed).collect();
        if let Err(error) = self.reporter.report(&reports) {
            tracing::warn!(%error, "the kernel cannot be told what its IPsec states carried");
        }
        self.tell_expiries(now);
    }

    /// Limits that workers ran into between two reports.
    fn tell_expiries(&mut self, now: u64) {
        let opened = self.inbound.values().map(|inbound| (&inbound.state, inbound.sa.take_expiry(now)));
        let sealed = self.outbound.values().map(|outbound| (&outbound.state, outbound.sa.take_expiry(now)));
        for (state, expiry) in opened.chain(sealed) {
            let Some(expiry) = expiry else { continue };
            if let Err(error) = self.reporter.expire(state, &state.used, expiry == Expiry::Hard) {
                tracing::warn!(%error, "the end of an IPsec state cannot be told");
            }
        }
    }

    /// Asks the key daemon for what a packet found missing.
    pub fn acquire(&mut self, flow: &Flow, now: u64) {
        if let super::spd::Out::NoState(policy) = self.spd.out(flow) {
            let policy = policy.clone();
            // Every packet asks; the daemons hear it now and then.
            if self.asked.len() >= MOST_ASKED {
                self.asked.retain(|_, at| now.saturating_sub(*at) < ASK_AGAIN);
            }
            let about = (policy.key.index, flow.src, flow.dst);
            let lately = self.asked.get(&about).is_some_and(|at| now.saturating_sub(*at) < ASK_AGAIN);
            if lately || self.asked.len() >= MOST_ASKED {
                return;
            }
            self.asked.insert(about, now);
            if let Err(error) = self.reporter.acquire(&policy, flow) {
                tracing::debug!(%error, "no key daemon heard that a policy has no state");
            }
        }
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// States that receive, and that send.
    pub fn counts(&self) -> (usize, usize) {
        (self.inbound.len(), self.outbound.len())
    }
}

fn is_inbound(state: &State, is_local: &impl Fn(IpAddr) -> bool) -> bool {
    match state.way {
        Some(Direction::In) => true,
        Some(Direction::Out) => false,
        None => is_local(state.dst()) && !is_local(state.src),
    }
}

fn same_key(state: &State, key: crate::crypto::aead::KeyId) -> bool {
    state.material.as_ref().is_some_and(|material| material.id() == key)
}

/// Whether what an outbound association was built from is another now.
fn reshaped(was: &State, is: &State) -> bool {
    let shape = |state: &State| (state.src, state.mode, state.encap, state.flags, state.lifetimes.hard);
    shape(was) != shape(is)
}

pub(super) fn mode(state: &State) -> esp::Mode {
    match state.mode {
        Mode::Transport => esp::Mode::Transport,
        Mode::Tunnel | Mode::Other(_) => esp::Mode::Tunnel,
    }
}

fn outbound(state: &State, lease: Lease, (before, used): (u64, Used), now: u64) -> Result<OutboundSa> {
    let material = state.material.as_deref().context("it has no keys")?;
    let endpoints = endpoints(state.src, state.dst()).context("its ends are of different families")?;
    let sa = OutboundSa::new(&OutboundConfig {
        spi: state.spi(),
        material,
        endpoints,
        encapsulation: match state.encap {
            Some(encap) => Encapsulation::Udp { source: encap.sport, destination: encap.dport },
            None => Encapsulation::None,
        },
        extended: state.flags.esn,
        start: Start::After { seq: lease.first - 1 },
        options: OutboundOptions {
            mode: mode(state),
            dscp: if state.flags.dont_encap_dscp { Dscp::Set(0) } else { Dscp::default() },
            ecn: if state.flags.no_ecn { Ecn::Compatible } else { Ecn::default() },
            df: if state.flags.no_path_mtu_discovery { Df::Clear } else { Df::default() },
            ttl: None,
            lifetime: lifetime(state, before),
            added_ns: now,
            used,
        },
    })?;
    sa.lease_to(lease.last);
    Ok(sa)
}

/// Hard limits are kept by the workers, in bytes exactly; soft ones, packets and times are told by the reports and the kernel.
/// `before`: bytes that count and that no worker has carried.
pub(super) fn lifetime(state: &State, before: u64) -> Lifetime {
    let left = |limit: u64| limit.saturating_sub(before);
    let hard = Limits { bytes: state.lifetimes.hard.bytes.map_or(u64::MAX, left), ..Limits::NONE };
    Lifetime { soft: Limits::NONE, hard }
}

fn usage(used: Used, now: u64) -> Usage {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let last_use = match used.last_ns {
        0 => 0,
        last => since_1970.saturating_sub(now.saturating_sub(last) / 1_000_000_000),
    };
    Usage { bytes: used.bytes, packets: used.packets, last_use }
}

/// The window, as the kernel has it.
fn seen(sa: &InboundSa) -> Received {
    let window = sa.window();
    let highest = window.top();
    let words = window.size().div_ceil(64) as usize;
    let mut seen = vec![0_u64; words];
    for before in 0..u64::from(window.size()).min(highest) {
        if window.check(highest - before).is_err() {
            seen[before as usize / 64] |= 1 << (before % 64);
        }
    }
    Received { highest, seen }
}
