//! What a running instance tells about itself: the control API's source.

use super::build::Blueprint;
use super::clock;
use super::history::{History, Texts};
use super::idle::Waker;
use super::notices::{Look, WorkerLook};
use super::reload::Switch;
use super::runtime::RunOptions;
use super::tiers;
use super::turn::{Question, Worker};
use crate::config::policy::{self, Compress, OnLoss, Policy, RuleAction, SteerAction, TunnelKind};
use crate::control::types::{LimitStatus, PeerStatus};
use crate::control::{
    CipherStatus, ControlSource, DropCount, ExportStatus, FlowFilter, FlowInfo, NicStatus, PlanEntry, PlanSource,
    PortStatus, ReloadReport, RuleStatus, Status, SteerStatus, TunnelStatus, WatchRefused, WorkerStatus, XdpVerdict,
};
use crate::flow::{Direction, Flow, FlowIdx, Tick, Tier};
use crate::graph::DropReason;
use crate::offload::{Offload, Reason, nic};
use crate::plan::Plan;
use crate::plan::connections::Limit;
use crate::plan::contract::Contract;
use crate::telemetry::counters::{Names, WorkerCounters};
use crate::telemetry::export;
use crate::telemetry::journal::{Journal, Kind, Note};
use crate::telemetry::snapshot::{DropTraffic, RuleTraffic, Snapshot, TunnelTraffic};
use crate::tunnel;
use crate::tunnel::keys::{Keys, Seal};
use crate::tunnel::steering::Steering;
use crate::watch::{Feed, WatchRequest};
use crate::wire::overlay;
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use crossbeam::channel::Sender;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Flow table entries that a worker looks at per question, so that listing flows does not hold up packets.
const SCAN: usize = 2048;

/// What is known of a port once it is open.
#[derive(Clone, Debug, Default)]
pub struct PortFacts {
    pub name: String,
    pub kind: String,
    pub interface: Option<String>,
    pub mode: Option<String>,
    pub copy: Option<String>,
    pub queues: u32,
    /// Of ports of kind xdp: how it went with the device.
    pub nic: Option<nic::State>,
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Running,
    Stopped,
    Failed,
}

/// A running worker, from outside.
pub struct WorkerHandle {
    pub counters: Arc<WorkerCounters>,
    pub ask: Sender<Question>,
    pub waker: Waker,
    pub core: Option<usize>,
    pub state: Arc<Mutex<WorkerState>>,
}

pub struct Instance {
    /// What a reload changes.
    switch: Arc<Switch>,
    keys: Arc<ArcSwap<Keys>>,
    names: Arc<Names>,
    ports: Vec<PortFacts>,
    /// `None`: nothing is offloaded.
    offload: Option<Offload>,
    tunnels: Option<tunnel::control::Control>,
    export: Option<Arc<export::Queue>>,
    journal: Arc<Journal>,
    /// The XDP program drops what it cannot walk.
    drops_malformed: bool,
    watching: super::watching::Watching,
    started: Instant,
}

impl Instance {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        blueprint: &Blueprint,
        options: &RunOptions,
        ports: Vec<PortFacts>,
        workers: Vec<WorkerHandle>,
        steering: Arc<Steering>,
        offload: Option<Offload>,
        tunnels: Option<tunnel::control::Control>,
        mut history: History,
    ) -> Self {
        let policy = blueprint.policy.clone();
        history.begin("start", 0, Texts::new(&policy));
        let switch = Switch {
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            path: options.policy_path.clone(),
            plan: blueprint.shared.plan.clone(),
            steering,
            gate: offload.as_ref().map(|offload| offload.gate().clone()),
            workers,
            history: Mutex::new(history),
            journal: blueprint.journal.clone(),
            turn: Arc::default(),
        };
        super::reload::remember(&switch);
        Self {
            switch: Arc::new(switch),
            keys: blueprint.shared.keys.clone(),
            names: blueprint.names.clone(),
            ports,
            offload,
            tunnels,
            export: blueprint.export.clone(),
            journal: blueprint.journal.clone(),
            drops_malformed: protects(&blueprint.policy),
            watching: super::watching::Watching::new(blueprint.shared.clone(), blueprint.journal.clone()),
            started: Instant::now(),
        }
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.switch.policy.load_full()
    }

    pub(super) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub(super) fn workers(&self) -> &[WorkerHandle] {
        &self.switch.workers
    }

    pub(super) fn tell_started(&self) {
        let (policy, path) = (self.policy(), self.switch.path.display().to_string());
        let plan = self.switch.entries().first().map_or(0, |entry| entry.plan);
        let note =
            Note::new(Kind::InstanceStarted, &policy.name, format!("{} serves {path}, plan {plan}", policy.name));
        let note = note.with("version", env!("CARGO_PKG_VERSION")).with("pid", std::process::id());
        self.journal.tell(note.with("policy", path).with("plan", plan));
    }

    /// What is looked at for events, but for the peers.
    pub(super) fn look(&self) -> Look {
        let counters = Snapshot::take(&self.names, self.switch.workers.iter().map(|worker| &*worker.counters));
        let mut dropped = drops(&counters);
        dropped.extend(self.steer_drops().1);
        let (policy, keys, now) = (self.policy(), self.keys.load(), clock::now());
        let failed = |handle: &WorkerHandle| handle.state.lock().is_ok_and(|state| *state == WorkerState::Failed);
        let worker = |(handle, counted): (&WorkerHandle, &crate::telemetry::snapshot::WorkerLoop)| WorkerLook {
            failed: failed(handle),
            refused: counted.flows_refused_full,
            evicted: counted.flows_evicted_full,
        };
        let expired = policy.esp_tunnels().flat_map(|(at, _)| {
            let reached = tunnel::lifetimes::reached(at as u16, &keys, now);
            let name = &policy.tunnels[at].name;
            reached.into_iter().map(move |(direction, reached)| (name.clone(), direction, reached))
        });
        let notes = self.tunnels.iter().flat_map(|tunnels| tunnels.notes());
        let nic = self
            .ports
            .iter()
            .enumerate()
            .filter_map(|(at, facts)| self.nic_status(at, facts).map(|nic| (facts.name.clone(), nic.state)));
        Look {
            escaped_bytes: counters.escaped_bytes,
            workers: self.switch.workers.iter().zip(&counters.workers).map(worker).collect(),
            peers: None,
            expired: expired.collect(),
            notes: notes.map(|(at, notes)| (policy.tunnels[at].name.clone(), notes)).collect(),
            devices: nic.collect(),
            drops: dropped,
        }
    }

    /// The WireGuard peers, each with its tunnel.
    pub(super) async fn peers_now(&self) -> Vec<(String, PeerStatus)> {
        let Some(tunnels) = &self.tunnels else { return Vec::new() };
        let policy = self.policy();
        let all = tunnels.peers(&policy).await.into_iter();
        all.flat_map(|(at, peers)| {
            let tunnel = policy.tunnels[at].name.clone();
            peers.into_iter().map(move |peer| (tunnel.clone(), peer))
        })
        .collect()
    }

    /// Takes offloaded flows back and the XDP program off the interfaces.
    pub fn detach(&self) {
        if let Some(offload) = &self.offload {
            offload.stop();
        }
        self.switch.steering.detach();
    }

    fn port_status(&self, counters: &Snapshot) -> Vec<PortStatus> {
        type Counted<'a> = (usize, (&'a PortFacts, &'a crate::telemetry::snapshot::PortTraffic));
        let with_traffic = |(at, (facts, traffic)): Counted<'_>| PortStatus {
            name: facts.name.clone(),
            kind: facts.kind.clone(),
            interface: facts.interface.clone(),
            mode: facts.mode.clone(),
            copy: facts.copy.clone(),
            queues: facts.queues,
            rx: traffic.rx,
            tx: traffic.tx,
            nic: self.nic_status(at, facts),
            notes: facts.notes.clone(),
        };
        self.ports.iter().zip(&counters.ports).enumerate().map(with_traffic).collect()
    }

    fn nic_status(&self, port: usize, facts: &PortFacts) -> Option<NicStatus> {
        let flows = self.offload.as_ref().and_then(|offload| offload.gate().in_device(port));
        let status = |state: &str| NicStatus { state: state.to_owned(), ..NicStatus::default() };
        Some(match (facts.nic.as_ref()?, flows) {
            (nic::State::Off, _) => NicStatus { reason: Some(Reason::NicOff.code().to_owned()), ..status("off") },
            (nic::State::Loaded(capacity), Some(flows)) => NicStatus { capacity: *capacity, flows, ..status("loaded") },
            (nic::State::Loaded(_), None) => {
                NicStatus { reason: Some(Reason::NoDeviceOffload.code().to_owned()), ..status("lost") }
            }
            (nic::State::Refused(reason, refused), _) => NicStatus {
                reason: Some(reason.code().to_owned()),
                errno: refused.errno,
                message: Some(refused.to_string()),
                ..status("refused")
            },
        })
    }

    /// Why no flow is in a device: what is said of all ports' devices, the nearest to success first. `None` where one is at
    /// work.
    fn no_device(&self) -> Option<Reason> {
        let of = |port: &PortFacts| match port.nic.as_ref()? {
            nic::State::Off => Some(Reason::NicOff),
            nic::State::Loaded(_) => None,
            nic::State::Refused(reason, _) => Some(*reason),
        };
        if self.ports.iter().any(|port| matches!(port.nic, Some(nic::State::Loaded(_)))) {
            return None;
        }
        let reasons: Vec<Reason> = self.ports.iter().filter_map(of).collect();
        let first = [Reason::NicRefused, Reason::NicOff].into_iter().find(|reason| reasons.contains(reason));
        Some(first.unwrap_or(Reason::NoDeviceOffload))
    }

    fn worker_status(&self, counters: &Snapshot) -> Vec<WorkerStatus> {
        let status = |(handle, counted): (&WorkerHandle, &crate::telemetry::snapshot::WorkerLoop)| WorkerStatus {
            worker: counted.worker,
            core: handle.core,
            state: match handle.state.lock().map_or(WorkerState::Failed, |state| *state) {
                WorkerState::Running => "running",
                WorkerState::Stopped => "stopped",
                WorkerState::Failed => "failed: it panicked, see the log",
            }
            .to_owned(),
            batches: counted.batches,
            packets: counted.packets,
            polls: counted.polls,
            flows: counted.flows,
            flows_unread: counted.flows_unread,
            frames: counted.frames,
        };
        self.switch.workers.iter().zip(&counters.workers).map(status).collect()
    }

    /// Rules as the XDP program counts them, its verdicts, and those of them that are drops.
    fn steer_status(&self) -> (Vec<SteerStatus>, Vec<XdpVerdict>, Vec<DropCount>) {
        let Some(rules) = self.switch.steering.ask(|steer| steer.rule_counters().unwrap_or_default()) else {
            return Default::default();
        };
        let policy = self.policy();
        let own = rules.len().saturating_sub(policy.steer.len());
        let rules = rules.into_iter().enumerate().map(|(at, counted)| {
            let rule = at.checked_sub(own).and_then(|at| policy.steer.get(at));
            let (action, on_loss) = match rule.map(|rule| (rule.action, rule.on_loss)) {
                None => ("worker", "drop"),
                Some((SteerAction::Worker, OnLoss::Pass)) => ("worker", "pass"),
                Some((SteerAction::Worker, OnLoss::Drop)) => ("worker", "drop"),
                Some((SteerAction::Pass, _)) => ("pass", "pass"),
                Some((SteerAction::Drop, _)) => ("drop", "drop"),
            };
            let (action, on_loss) = (action.to_owned(), on_loss.to_owned());
            SteerStatus { name: counted.name, action, on_loss, packets: counted.packets, bytes: counted.bytes }
        });
        let rules = rules.collect();
        let (verdicts, drops) = self.steer_drops();
        (rules, verdicts, drops)
    }

    /// The verdicts of the XDP program, and the drops: its own and those of devices.
    fn steer_drops(&self) -> (Vec<XdpVerdict>, Vec<DropCount>) {
        let reasons = self.switch.steering.ask(|steer| steer.reason_counters().unwrap_or_default());
        let (mut verdicts, mut drops) = (Vec::new(), Vec::new());
        for (reason, count) in reasons.unwrap_or_default() {
            if count.packets == 0 {
                continue;
            }
            let verdict = reason.name().to_owned();
            if let Some(help) = reason.drop_help(self.drops_malformed) {
                let (reason, node, help) = (verdict.clone(), "steer".to_owned(), help.to_owned());
                drops.push(DropCount { reason, node, count: count.packets, help });
            }
            verdicts.push(XdpVerdict { verdict, packets: count.packets, bytes: count.bytes });
        }
        let by_devices = self.offload.as_ref().map_or(0, |offload| offload.gate().dropped_by_devices().packets);
        if by_devices > 0 {
            let (reason, help) = nic::DROPPED;
            let (reason, node, help) = (reason.to_owned(), "nic".to_owned(), help.to_owned());
            drops.push(DropCount { reason, node, count: by_devices, help });
        }
        (verdicts, drops)
    }

    /// Asks one worker for its flows, a part of the table at a time.
    async fn flows_of(&self, index: usize, filter: &FlowFilter) -> Result<Vec<FlowInfo>> {
        let handle = &self.switch.workers[index];
        let mut found = Vec::new();
        let mut from = 0;
        loop {
            let (answer, answered) = tokio::sync::oneshot::channel();
            let plan = self.switch.plan.load_full();
            let wanted = filter.clone();
            let question: Question = Box::new(move |worker| {
                let _ = answer.send(scan(worker, index, from, &wanted, &plan));
            });
            handle.ask.try_send(question).ok().with_context(|| format!("worker {index} is busy or gone"))?;
            handle.waker.wake();
            let (flows, more) = answered.await.with_context(|| format!("worker {index} stopped"))?;
            found.extend(flows);
            if !more || found.len() >= filter.limit {
                return Ok(found);
            }
            from += SCAN;
        }
    }
}

fn scan(worker: &Worker, index: usize, from: usize, filter: &FlowFilter, plan: &Plan) -> (Vec<FlowInfo>, bool) {
    let now = Tick::from_nanos(clock::now());
    let part = worker.flows.entries(from, SCAN);
    (
        part.filter_map(|(at, flow)| wanted(worker, (index, at), flow, filter, plan, now)).collect(),
        from + SCAN < worker.flows.capacity(),
    )
}

/// All flows of a worker that is not running. `now`: its clock.
pub fn flows(worker: &Worker, index: usize, filter: &FlowFilter, plan: &Plan, now: u64) -> Vec<FlowInfo> {
    let all = worker.flows.entries(0, worker.flows.capacity());
    all.filter_map(|(at, flow)| wanted(worker, (index, at), flow, filter, plan, Tick::from_nanos(now))).collect()
}

fn wanted(
    worker: &Worker,
    (index, at): (usize, FlowIdx),
    flow: &Flow,
    filter: &FlowFilter,
    plan: &Plan,
    now: Tick,
) -> Option<FlowInfo> {
    let host = worker.inspector.host_of(flow);
    let [a, b] = [flow.initiator(), flow.responder()].map(|end| std::net::SocketAddr::new(end.addr, end.port));
    if !filter.wants(flow.class().name(), host) || !filter.wants_ends(flow.tier().name(), a, b) {
        return None;
    }
    let application = plan.applications.of(at, flow, &worker.inspector).map(|app| plan.applications.name(app));
    if filter.app.as_deref().is_some_and(|wanted| application != Some(wanted)) {
        return None;
    }
    let mut info = info(index, flow, host, now, (plan, worker.generation));
    info.application = application.map(str::to_owned);
    info.id = format!("{index}:{}", at.0);
    filter.wants_name(&info).then_some(info)
}

fn info(worker: usize, flow: &Flow, host: Option<&str>, now: Tick, (plan, generation): (&Plan, u32)) -> FlowInfo {
    let rule = crate::nodes::policy::rule_of(flow, plan, generation);
    let offload_reason = Reason::of(flow.offload_reason());
    // What a rule drops is proposed to devices and drivers alike, everything else to drivers only.
    let drops = rule.is_some_and(|rule| rule.drop);
    let seconds = |ticks: u32| f64::from(ticks) / f64::from(Tick::PER_SECOND);
    FlowInfo {
        worker,
        l4: match flow.key().proto() {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            other => other.to_string(),
        },
        a: flow.initiator().to_string(),
        b: flow.responder().to_string(),
        class: flow.class().name().to_owned(),
        host: host.map(str::to_owned),
        application: None,
        tier: flow.tier().name().to_owned(),
        id: String::new(),
        offload_reason: offload_reason.filter(|_| flow.tier() == Tier::Worker).map(|reason| reason.code().to_owned()),
        drops,
        nic_reason: match flow.tier() {
            Tier::Nic => None,
            _ if drops => offload_reason.map(|reason| reason.code().to_owned()),
            _ => Some(Reason::NicOnlyDrops.code().to_owned()),
        },
        packets_ab: flow.packets(Direction::FromInitiator),
        bytes_ab: flow.bytes(Direction::FromInitiator),
        packets_ba: flow.packets(Direction::FromResponder),
        bytes_ba: flow.bytes(Direction::FromResponder),
        age_s: seconds(now.since(flow.created())),
        idle_s: seconds(now.since(flow.last_seen())),
        rule: rule.map(|rule| rule.name.as_ref().to_owned()),
        tunnel: rule.and_then(|rule| plan.tunnels.get(usize::from(rule.tunnel?))).map(|tunnel| tunnel.name.clone()),
        state: flow.state().name().to_owned(),
        within: overlay::Kind::of(flow.key().net().kind()).map(|kind| kind.label(flow.key().net().id())),
    }
}

impl Instance {
    /// Without tunnels no cipher was needed, and none was measured.
    fn ciphers(&self) -> Vec<CipherStatus> {
        if self.policy().tunnels.is_empty() {
            return Vec::new();
        }
        let status = |choice: &crate::crypto::aead::choose::Choice| CipherStatus {
            cipher: choice.cipher.name().to_owned(),
            back_end: choice.back_end.name().to_owned(),
            ns_1400: choice.ns_1400 as u64,
        };
        crate::crypto::aead::chosen().iter().map(status).collect()
    }

    fn export_status(&self) -> Option<ExportStatus> {
        let policy = self.policy();
        let (to, queue) = (policy.export.as_ref()?, self.export.as_ref()?);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(ExportStatus {
            ipfix: to.ipfix.map(|collector| collector.to_string()),
            log: to.log.as_ref().map(|path| path.display().to_string()),
            records: count(&queue.counts.records),
            lost: count(&queue.counts.lost),
            messages: count(&queue.counts.messages),
            unsent: count(&queue.counts.unsent),
            unwritten: count(&queue.counts.unwritten),
        })
    }

    /// All that can be said without waiting for anybody.
    fn status_now(&self) -> Status {
        let (counters, policy) = (self.counters(), self.policy());
        let (steer, xdp, steer_drops) = self.steer_status();
        let mut drops = drops(&counters);
        drops.extend(steer_drops);
        let tiers =
            tiers::of(&xdp, self.drops_malformed, self.offload.as_ref().map(Offload::gate).as_deref(), &counters);
        Status {
            name: policy.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            policy: self.switch.path.display().to_string(),
            ports: self.port_status(&counters),
            workers: self.worker_status(&counters),
            tunnels: tunnels(&policy, &self.keys.load(), &counters),
            steer,
            xdp,
            tiers,
            rules: rule_status(&policy, &counters),
            classes: counters.classes.iter().filter(|class| class.packets > 0).cloned().collect(),
            applications: counters.applications.iter().filter(|app| app.flows > 0).cloned().collect(),
            limits: self.switch.plan.load().limits.iter().map(limit_status).collect(),
            drops,
            wireguard_messages: self.tunnels.iter().flat_map(|tunnels| tunnels.counts()).map(named).collect(),
            escaped_bytes: counters.escaped_bytes,
            export: self.export_status(),
            ciphers: self.ciphers(),
            events: self.journal.figures(),
        }
    }
}

impl ControlSource for Instance {
    fn demote<'a>(&'a self, flow: Option<&'a FlowInfo>) -> Result<usize> {
        let offload =
            self.offload.as_ref().context("nothing is offloaded: no port of kind xdp, or `enabled = false`")?;
        let which = flow.map(|flow| {
            let (worker, place) = flow.id.split_once(':').context("not a flow's id")?;
            Ok::<_, anyhow::Error>((worker.parse()?, place.parse()?))
        });
        let count = offload.gate().demote(which.transpose()?);
        offload.wake();
        Ok(count)
    }

    fn events(&self) -> Arc<Journal> {
        self.journal.clone()
    }

    fn watch(&self, request: &WatchRequest, trace: bool, by: u32) -> Result<Feed, WatchRefused> {
        let ports = self.ports.iter().map(|port| (port.name.clone(), port.interface.clone().unwrap_or_default()));
        self.watching.begin(&self.switch, ports.collect(), request, trace, by)
    }

    fn stop_watch(&self) -> bool {
        self.watching.stop()
    }

    fn plan(&self) -> Arc<Contract> {
        self.policy().contract.clone()
    }

    fn status(&self) -> BoxFuture<'_, Status> {
        Box::pin(async move {
            let mut status = self.status_now();
            if let Some(tunnels) = &self.tunnels {
                for (at, notes) in tunnels.notes() {
                    status.tunnels[at].notes = notes;
                }
                for (at, peers) in tunnels.peers(&self.policy()).await {
                    status.tunnels[at].peers = peers;
                }
            }
            status
        })
    }

    fn rekey<'a>(&'a self, tunnel: &'a str, peer: Option<&'a str>) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            let tunnels = self.tunnels.as_ref().context("this instance has no tunnels")?;
            tunnels.rekey(&self.policy(), tunnel, peer).await
        })
    }

    fn reload(&self, from: PlanSource, dry: bool) -> BoxFuture<'_, Result<ReloadReport>> {
        let switch = self.switch.clone();
        Box::pin(async move { tokio::task::spawn_blocking(move || switch.apply(&from, dry)).await? })
    }

    fn history(&self) -> Vec<PlanEntry> {
        self.switch.entries()
    }

    /// The workers' counters, and behind their drops those of the XDP program, as `steer_` and the reason.
    fn counters(&self) -> Snapshot {
        let mut counters = Snapshot::take(&self.names, self.switch.workers.iter().map(|worker| &*worker.counters));
        let (_, drops) = self.steer_drops();
        let name =
            |drop: &DropCount| if drop.node == "nic" { drop.reason.clone() } else { format!("steer_{}", drop.reason) };
        counters.drops.extend(drops.into_iter().map(|drop| DropTraffic { reason: name(&drop), packets: drop.count }));
        counters
    }

    fn flows(&self, filter: FlowFilter) -> BoxFuture<'_, Result<Vec<FlowInfo>>> {
        Box::pin(async move {
            let mut found = Vec::new();
            for (index, worker) in self.switch.workers.iter().enumerate() {
                // One that is gone took its flows along; `status` says so.
                if worker.state.lock().is_ok_and(|state| *state != WorkerState::Running) {
                    continue;
                }
                found.extend(self.flows_of(index, &filter).await?);
                if found.len() >= filter.limit {
                    break;
                }
            }
            if let Some(reason) = self.no_device() {
                found.iter_mut().for_each(|flow| flow.nic_reason = Some(reason.code().to_owned()));
            }
            Ok(found)
        })
    }
}

/// What workers dropped, by reason; reasons that have counted nothing are left out.
pub fn drops(counters: &Snapshot) -> Vec<DropCount> {
    let named = DropReason::ALL.iter().zip(&counters.drops).filter(|(_, counted)| counted.packets > 0);
    let drop = |(reason, counted): (&DropReason, &crate::telemetry::snapshot::DropTraffic)| DropCount {
        reason: reason.code().to_owned(),
        node: reason.node().to_owned(),
        count: counted.packets,
        help: reason.help().to_owned(),
    };
    named.map(drop).collect()
}

fn named((reason, count): (&'static str, u64)) -> (String, u64) {
    (reason.to_owned(), count)
}

/// All tunnels and what they carried.
pub fn tunnels(policy: &Policy, keys: &Keys, counters: &Snapshot) -> Vec<TunnelStatus> {
    let each = policy.tunnels.iter().zip(&counters.tunnels).enumerate();
    each.map(|(at, (tunnel, counted))| tunnel_status(at as u16, tunnel, keys, counted)).collect()
}

fn tunnel_status(at: u16, tunnel: &policy::Tunnel, keys: &Keys, counted: &TunnelTraffic) -> TunnelStatus {
    let mut status = TunnelStatus {
        name: tunnel.name.clone(),
        kind: tunnel.kind.as_str().to_owned(),
        sealed: counted.sealed,
        opened: counted.opened,
        replayed: counted.replayed,
        forged: counted.forged,
        compress_in_bytes: counted.compress_in_bytes,
        compress_out_bytes: counted.compress_out_bytes,
        compressed: counted.compressed,
        left_alone: counted.left_alone,
        expanded: counted.expanded,
        escaped_bytes: counted.escaped_bytes,
        ..TunnelStatus::default()
    };
    match &tunnel.kind {
        TunnelKind::Esp(esp) => {
            status.local = esp.local.to_string();
            status.remote = keys.way(at, 0).map_or(esp.remote, |way| way.remote.ip()).to_string();
            status.cipher = crate::tunnel::esp::cipher(esp.cipher).name().to_owned();
            status.spi_in = esp.inbound.spi;
            status.spi_out = match keys.way(at, 0).map(|way| &way.seal) {
                Some(Seal::Esp(out)) => out.sa.spi(),
                _ => 0,
            };
            status.notes = tunnel::lifetimes::notes(at, keys, clock::now());
        }
        TunnelKind::WireGuard(wireguard) => {
            status.local = match wireguard.local {
                Some(local) => std::net::SocketAddr::new(local, wireguard.listen_port).to_string(),
                None => format!("*:{}", wireguard.listen_port),
            };
            status.cipher = "chacha20-poly1305".to_owned();
        }
        TunnelKind::Xfrm(_) => {}
    }
    status
}

fn limit_status(limit: &Limit) -> LimitStatus {
    let open = limit.open();
    LimitStatus {
        application: limit.name.to_string(),
        connections: open.count(),
        most: limit.most,
        refused: open.refused(),
    }
}

/// Whether the policy has flows that must not leave in clear.
pub fn protects(policy: &Policy) -> bool {
    policy.rules.iter().any(|rule| rule.encrypt.is_some() && rule.action == RuleAction::Forward)
}

fn rule_status(policy: &Policy, counters: &Snapshot) -> Vec<RuleStatus> {
    let what = |rule: &crate::config::policy::Rule| {
        let mut parts = Vec::new();
        if rule.action == RuleAction::Drop {
            parts.push("drop".to_owned());
        }
        if let Some(tunnel) = rule.encrypt.and_then(|tunnel| policy.tunnels.get(tunnel)) {
            parts.push(format!("encrypt {}", tunnel.name));
        }
        if rule.compress == Compress::Lz4 {
            parts.push("compress lz4".to_owned());
        }
        if let Some(meter) = rule.meter {
            parts.push(format!("meter {} B/s", meter.rate));
        }
        if let Some(dscp) = rule.dscp {
            parts.push(format!("dscp {dscp}"));
        }
        if rule.sample > 0 {
            parts.push(format!("sample 1 in {}", rule.sample));
        }
        if let Some(port) = rule.mirror.and_then(|port| policy.ports.get(port)) {
            parts.push(format!("mirror to {}", port.name));
        }
        if parts.is_empty() { "forward".to_owned() } else { parts.join(", ") }
    };
    // By name: a worker may be at another plan still.
    let counted: HashMap<&str, &RuleTraffic> = counters.rules.iter().map(|rule| (rule.name.as_str(), rule)).collect();
    let nothing = RuleTraffic::default();
    let status = |rule: &policy::Rule| {
        let counted = counted.get(&*rule.name).copied().unwrap_or(&nothing);
        RuleStatus {
            name: rule.name.as_ref().to_owned(),
            what: what(rule),
            packets: counted.packets,
            bytes: counted.bytes,
            metered: counted.metered,
            sampled: counted.sampled,
            copied: counted.copied.packets,
            not_copied: counted.not_copied.values().sum(),
        }
    };
    policy.rules.iter().map(status).collect()
}
