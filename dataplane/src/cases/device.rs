//! The device under test: the policy's worker in memory, the decision of the XDP program in front of it, and the other ends of its
//! tunnels around it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::expect::ip_of;
use super::file::{Tier, Verdict};
use super::frame;
use super::keys::{self, ThrowAway};
use super::peer::{Peer, with_keys};
use super::read::{Lab, Step};
use crate::config::policy::{Policy, PortKind, TunnelKind};
use crate::control::{FlowFilter, FlowInfo, Status};
use crate::graph::DropReason;
use crate::host::fib::{Fib, Link, Route};
use crate::io::steer::{self, Reason, RuleTables, SteerRule};
use crate::offload::lane::Lane;
use crate::offload::{Ask, Client};
use crate::plan::steering;
use crate::telemetry::prometheus::{self, Scrape};
use crate::telemetry::snapshot::Snapshot;
use crate::wire::ethernet::Mac;
use crate::wire::prefix::Prefix;
use crate::worker::harness::Harness;
use crate::worker::instance;

/// How long packets wait for what does not come, nanoseconds, and a little more.
const PATIENCE: u64 = 1_600_000_000;
/// Metric of made-up routes: those of the file come first.
const MADE_UP: u32 = 1000;

/// A packet that left.
#[derive(Clone, Debug)]
pub struct Out {
    /// Name of the port.
    pub port: String,
    pub frame: Vec<u8>,
    /// The IP packet before it was sealed, and the tunnel.
    pub inner: Option<Vec<u8>>,
    pub tunnel: Option<String>,
}

impl Out {
    /// The IP packet, before it was sealed.
    pub fn ip(&self) -> &[u8] {
        self.inner.as_deref().unwrap_or_else(|| ip_of(&self.frame))
    }
}

/// What became of one packet.
#[derive(Clone, Debug)]
pub struct Seen {
    pub verdict: Verdict,
    pub reason: Option<String>,
    pub steer: Option<String>,
    pub out: Vec<Out>,
    pub compressed: bool,
    /// Its ends, by which its flow is found.
    ends: Option<(std::net::SocketAddr, std::net::SocketAddr, u8)>,
    /// Where it never came to a worker.
    kernel: bool,
}

/// What is known of its flow.
#[derive(Clone, Debug, Serialize)]
pub struct FlowSeen {
    pub rule: Option<String>,
    pub intent: Option<String>,
    pub class: Option<String>,
    pub host: Option<String>,
    pub application: Option<String>,
    pub tier: Tier,
    pub offload: Option<String>,
}

impl Serialize for Tier {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

pub struct Device {
    policy: Arc<Policy>,
    harness: Harness,
    rules: Vec<SteerRule>,
    tables: RuleTables,
    lane: Arc<Lane>,
    peers: Vec<Peer>,
    /// Places of flows that were proposed to the driver.
    placed: HashSet<String>,
    macs: Vec<Option<Mac>>,
    /// Where the last packet that was no answer left: port, and peer that it was sealed to.
    way_back: Option<(usize, Option<usize>)>,
}

impl Device {
    /// # Errors
    /// A policy that cannot be run: too many rules, a cipher that this machine has not.
    pub fn new(policy: &Arc<Policy>, keys: &ThrowAway, lab: &Lab) -> Result<Self> {
        let interfaces: Vec<Option<u32>> =
            policy.ports.iter().zip(1..).map(|(port, n)| matches!(port.kind, PortKind::Xdp(_)).then_some(n)).collect();
        let of_tunnels = steering::of_tunnels(policy).into_iter().flatten().collect();
        let rules = steering::rules(policy, &interfaces, of_tunnels);
        let tables = steer::compile(&rules).context("the steering rules")?;
        let mut run = with_keys(policy, keys);
        run.workers.frames = run.workers.frames.clamp(256, 2048);
        run.flows.capacity = run.flows.capacity.min(4096);
        run.export = None;
        let mut fib = fib(policy, lab);
        let mut peers = Vec::new();
        let mut parts = Vec::new();
        let now = 0;
        for (at, tunnel) in policy.tunnels.iter().enumerate() {
            match &tunnel.kind {
                TunnelKind::Esp(esp) => {
                    fib.add_local(esp.local);
                    peers.push(Peer::new(policy, at, keys, None)?);
                }
                TunnelKind::WireGuard(wireguard) => {
                    let pairs = keys::wireguard(wireguard, now)?;
                    for pair in &pairs {
                        fib.add_local(pair.local.ip());
                        peers.push(Peer::new(policy, at, keys, Some(pair))?);
                    }
                    parts.push((at, keys::our_part(at as u16, &pairs)));
                }
                TunnelKind::Xfrm(_) => {}
            }
        }
        let veth = lab.veth.clone();
        let mut harness = Harness::with_checksums(run, fib, |at, _| veth.get(at).copied().unwrap_or(false))?;
        if let Ok(mut publisher) = harness.publisher.lock() {
            for (at, part) in parts {
                publisher.set(at, part, true)?;
            }
        }
        let lane = Lane::new(Arc::default());
        harness.worker.offload = policy.offload.enabled.then(|| Client {
            lane: lane.clone(),
            interfaces: interfaces.iter().map(|index| index.unwrap_or(0)).collect(),
            devices: interfaces.iter().map(|_| false).collect(),
            min_packets: policy.offload.min_packets,
            wait_for_class: policy.offload.wait_for_class,
        });
        let macs = (0..policy.ports.len())
            .map(|at| lab.neighbours.iter().any(|(port, ..)| *port == at).then(|| mac(lab, at)))
            .collect();
        let policy = policy.clone();
        Ok(Self { policy, harness, rules, tables, lane, peers, placed: HashSet::new(), macs, way_back: None })
    }

    /// Runs one step, and says what became of its last packet; `all` gets whatever left.
    ///
    /// # Errors
    /// What was to be done cannot be: in words.
    pub fn step(&mut self, step: &Step, all: &mut Vec<Out>) -> Result<Seen, String> {
        let mut last = None;
        for _ in 0..step.times {
            for frame in &step.frames {
                let seen = self.frame(step, frame)?;
                all.extend(seen.out.iter().cloned());
                last = Some(seen);
            }
        }
        last.ok_or_else(|| "there was no packet".to_owned())
    }

    fn frame(&mut self, step: &Step, frame: &[u8]) -> Result<Seen, String> {
        let ends = frame::ends(frame);
        let (port, sealed_by) = match (step.port, step.sealed) {
            (Some(port), Some(tunnel)) => {
                let peer = self.peers.iter().position(|peer| peer.tunnel == tunnel);
                (port, Some(peer.ok_or("the tunnel's keys are the kernel's: a test has none")?))
            }
            (Some(port), None) => (port, None),
            (None, _) => self.way_back.ok_or("there is nothing to answer: the packet before did not leave")?,
        };
        let frames = match sealed_by {
            Some(peer) => self.peers[peer].seal(frame),
            None => vec![frame.to_vec()],
        };
        let mut seen = None;
        let mut out = Vec::new();
        for mut frame in frames {
            if let (Some(mac), true) = (self.macs[port], step.described || sealed_by.is_some()) {
                frame[..6].copy_from_slice(&mac.0);
            }
            let one = self.one(port, &frame, &mut out);
            seen = Some(one);
        }
        let mut seen = seen.ok_or("the tunnel's other end could not seal it")?;
        seen.ends = ends;
        if !out.is_empty() && seen.reason.is_none() {
            let tap = |out: &Out| self.policy.port(&out.port).is_some_and(|at| self.is_tap(at));
            seen.verdict = if out.iter().all(tap) { Verdict::Kernel } else { Verdict::Forwarded };
        }
        seen.out = out;
        if step.port.is_some() {
            self.way_back = seen.out.first().and_then(|out| {
                let peer = self.peers.iter().position(|peer| {
                    out.tunnel.as_deref() == self.policy.tunnels.get(peer.tunnel).map(|tunnel| tunnel.name.as_str())
                });
                Some((self.policy.port(&out.port)?, peer))
            });
        }
        self.read_asks();
        Ok(seen)
    }

    fn is_tap(&self, port: usize) -> bool {
        matches!(self.policy.ports[port].kind, PortKind::Tap(_))
    }

    /// One frame on a port: the driver's decision, then the worker.
    fn one(&mut self, port: usize, frame: &[u8], out: &mut Vec<Out>) -> Seen {
        let mut seen = Seen {
            verdict: Verdict::Waits,
            reason: None,
            steer: None,
            out: Vec::new(),
            compressed: false,
            ends: None,
            kernel: false,
        };
        if matches!(self.policy.ports[port].kind, PortKind::Xdp(_)) {
            let judged = self.tables.judge(&self.rules, port as u32 + 1, frame);
            seen.steer = judged.rule.and_then(|at| Some(self.rules.get(at)?.name.clone()));
            let verdict = match judged.reason {
                Reason::Worker => None,
                Reason::RulePass | Reason::NoRule | Reason::NotIp | Reason::NeighbourDiscovery => Some(Verdict::Kernel),
                Reason::RuleDrop | Reason::Internal => Some(Verdict::Dropped),
                // What it cannot walk.
                _ if instance::protects(&self.policy) => Some(Verdict::Dropped),
                _ => Some(Verdict::Kernel),
            };
            if let Some(verdict) = verdict {
                seen.verdict = verdict;
                seen.reason = (verdict == Verdict::Dropped).then(|| judged.reason.name().to_owned());
                seen.kernel = true;
                return seen;
            }
        }
        let (drops, compressed) = (self.drops(), self.compressed());
        let mut left = self.harness.pass(port, frame);
        if left.is_empty() && self.drops() == drops {
            self.harness.wait(PATIENCE);
            left = self.harness.left();
        }
        seen.compressed = self.compressed() > compressed;
        let after = self.drops();
        let dropped = DropReason::ALL.iter().zip(drops.iter().zip(&after)).find(|(_, (before, after))| after > before);
        if let Some((reason, _)) = dropped {
            seen.verdict = Verdict::Dropped;
            seen.reason = Some(reason.code().to_owned());
        }
        for (port, frame) in left {
            let name = self.policy.ports[port].name.clone();
            let opened = self.peers.iter_mut().find_map(|peer| {
                let inner = peer.open(&frame).into_iter().next()?;
                Some((inner, peer.tunnel))
            });
            let (inner, tunnel) = match opened {
                Some((inner, tunnel)) => (Some(inner), Some(self.policy.tunnels[tunnel].name.clone())),
                None => (None, None),
            };
            out.push(Out { port: name, frame, inner, tunnel });
        }
        seen
    }

    fn drops(&self) -> Vec<u64> {
        self.harness.worker.counters.drops.iter().map(|count| count.get()).collect()
    }

    fn compressed(&self) -> u64 {
        self.harness.worker.counters.tunnels.iter().map(|tunnel| tunnel.compressed.get()).sum()
    }

    /// What the worker proposed to the driver.
    fn read_asks(&mut self) {
        while let Some(ask) = self.lane.asks.pop() {
            match ask {
                Ask::Place(candidate) => {
                    self.placed.insert(format!("0:{}", candidate.flow.idx.0));
                }
                Ask::Leave(flow) | Ask::Ends(flow, ..) => {
                    self.placed.remove(&format!("0:{}", flow.idx.0));
                }
                // No device is played: it is the driver that drops it.
                Ask::Block(blocked) => {
                    self.placed.insert(format!("0:{}", blocked.flow.idx.0));
                }
            }
        }
    }

    /// The flow of a packet, as it is now.
    pub fn flow(&self, seen: &Seen) -> FlowSeen {
        let mut flow = FlowSeen {
            rule: None,
            intent: None,
            class: None,
            host: None,
            application: None,
            tier: match (seen.kernel, seen.verdict) {
                (true, Verdict::Dropped) => Tier::Xdp,
                (true, _) => Tier::Kernel,
                _ => Tier::Worker,
            },
            offload: None,
        };
        let Some(info) = self.find(seen).filter(|_| !seen.kernel) else { return flow };
        let of = |rule: &String| {
            let intent = self.policy.contract.intents.iter().find(|intent| intent.rules.contains(rule));
            intent.map(|intent| intent.name.clone())
        };
        flow.intent = info.rule.as_ref().and_then(of);
        let dropped = seen.verdict == Verdict::Dropped;
        flow.offload = info.offload_reason.or(info.nic_reason.filter(|_| dropped));
        if !self.policy.offload.enabled {
            flow.offload = Some(crate::offload::Reason::Off.code().to_owned());
        }
        if self.placed.contains(&info.id) {
            (flow.tier, flow.offload) = (Tier::Xdp, None);
        }
        (flow.rule, flow.class, flow.host) = (info.rule, Some(info.class), info.host);
        flow.application = info.application;
        flow
    }

    fn find(&self, seen: &Seen) -> Option<FlowInfo> {
        let (from, to, _) = seen.ends?;
        let plan = self.harness.shared.plan.load();
        let all = FlowFilter { limit: usize::MAX, ..FlowFilter::default() };
        let flows = instance::flows(&self.harness.worker, 0, &all, &plan, self.harness.now);
        let (from, to) = (from.to_string(), to.to_string());
        flows
            .into_iter()
            .find(|flow| (flow.a == from && flow.b == to || flow.a == to && flow.b == from) && flow.within.is_none())
    }

    /// The sum of a counter over all its series that have these labels: `name{label="value"}`. `None`: there is none.
    pub fn counter(&mut self, name: &str) -> Option<u64> {
        self.harness.worker.publish();
        let counters = Snapshot::take(&self.harness.names, [&*self.harness.worker.counters]);
        let status = Status { name: self.policy.name.clone(), ..Status::default() };
        let text = prometheus::text(Scrape::new(status, counters, self.policy.contract.clone())).ok()?;
        let (metric, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels: Vec<&str> =
            labels.trim_end_matches('}').split(',').map(str::trim).filter(|l| !l.is_empty()).collect();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (of, has) = series.split_once('{').unwrap_or((series, ""));
            let has: Vec<&str> = has.trim_end_matches('}').split(',').collect();
            (of == metric.trim() && labels.iter().all(|label| has.contains(label)))
                .then(|| value.parse::<f64>().ok())?
        });
        let values: Vec<f64> = values.collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
    }

    /// Bytes that left in clear although a rule protects them, and whether every frame is back.
    ///
    /// # Errors
    /// In words: a fault of softdpu, not of the policy.
    pub fn finish(mut self) -> Result<(), String> {
        self.harness.worker.finish();
        if !self.harness.worker.pool.account().all_free() {
            return Err(format!("frames are missing: {:?}", self.harness.worker.pool.account()));
        }
        match self.harness.worker.counters.escaped_bytes.get() {
            0 => Ok(()),
            n => Err(format!("{n} bytes were about to leave in clear although a rule protects them")),
        }
    }
}

fn mac(lab: &Lab, port: usize) -> Mac {
    lab.mac.get(port).copied().flatten().unwrap_or(Mac([2, 0, 0, 0, 0, port as u8 + 1]))
}

/// The file's routes and neighbours, and where wanted those that give everything a way out.
fn fib(policy: &Policy, lab: &Lab) -> Fib {
    let links = policy.ports.iter().enumerate().map(|(at, port)| {
        let own = match &port.kind {
            PortKind::Pcap { mtu, .. } | PortKind::Loopback { mtu, .. } => *mtu,
            PortKind::Tap(tap) => tap.mtu,
            PortKind::Xdp(_) => 1500,
        };
        Link {
            mac: mac(lab, at),
            mtu: lab.mtu[at].unwrap_or(own.min(u32::from(u16::MAX)) as u16),
            up: true,
            neighbourless: !lab.neighbours.iter().any(|(port, ..)| *port == at),
            ..Link::default()
        }
    });
    let tap = policy.ports.iter().enumerate().find_map(|(at, port)| match &port.kind {
        PortKind::Tap(tap) => Some((at, tap)),
        _ => None,
    });
    let mut fib = Fib::new(1, links.collect());
    if lab.invent && tap.is_none() {
        fib = fib.with_cross_connect();
    }
    for (at, addresses) in lab.addresses.iter().enumerate() {
        for address in addresses {
            fib.set_link_address(at as u8, *address);
            fib.add_local(*address);
        }
    }
    for (to, port, via) in &lab.routes {
        let route = match port {
            Some(port) => Route::Port { port: *port as u8, gateway: *via },
            None => Route::Elsewhere,
        };
        fib.add_route(*to, route, 0);
    }
    if let Some((at, tap)) = tap {
        fib.set_host(at as u8);
        for address in &tap.addresses {
            fib.add_local(address.addr);
            fib.set_link_address(at as u8, address.addr);
        }
    }
    if lab.invent {
        invent(&mut fib, policy, tap.map(|(at, tap)| (at, &tap.routes[..])));
    }
    fib.add_neighbourless();
    for (port, address, mac) in &lab.neighbours {
        fib.add_neighbour(*port as u8, *address, *mac);
    }
    fib
}

/// Two ports lead to each other. Else what steering rules say comes in by a port is behind it, what rules call this side is the
/// host's where there is a tap, and everything else is behind the last port.
fn invent(fib: &mut Fib, policy: &Policy, tap: Option<(usize, &[Prefix])>) {
    if tap.is_none() && policy.ports.len() == 2 {
        return;
    }
    for steer in &policy.steer {
        if let Some(port) = steer.port {
            for prefix in steer.matches.from.iter() {
                fib.add_route(*prefix, Route::Port { port: port as u8, gateway: None }, MADE_UP);
            }
        }
    }
    if let Some((at, routes)) = tap {
        for prefix in routes {
            fib.add_route(*prefix, Route::Port { port: at as u8, gateway: None }, MADE_UP);
        }
        for prefix in policy.rules.iter().flat_map(|rule| rule.matches.from.iter()) {
            fib.add_route(*prefix, Route::Elsewhere, MADE_UP + 1);
        }
    }
    let last = (0..policy.ports.len()).rev().find(|at| Some(*at) != tap.map(|(at, _)| at));
    if let Some(port) = last {
        for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            if let Some(all) = Prefix::new(any, 0) {
                fib.add_route(all, Route::Port { port: port as u8, gateway: None }, MADE_UP);
            }
        }
    }
}
