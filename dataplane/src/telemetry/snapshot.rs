//! The counters of all workers at one time, summed, in a form that is serialised and compared.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::counters::{
    Counter, FrameCounters, L7Counters, Names, NotCopied, RuleTotal, Traffic as TrafficCounters, WorkerCounters,
};
use crate::l7::Reason;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

impl Traffic {
    fn take(&mut self, from: &TrafficCounters) {
        self.packets += from.packets.get();
        self.bytes += from.bytes.get();
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortTraffic {
    pub name: String,
    /// Whole Ethernet frames without FCS.
    pub rx: Traffic,
    pub tx: Traffic,
    /// Packets lost because the receive ring was full; they are among the drops too.
    #[serde(default)]
    pub rx_ring_full: u64,
    /// Packets lost because the transmit ring stayed full, likewise.
    #[serde(default)]
    pub tx_ring_full: u64,
    /// By number.
    #[serde(default)]
    pub queues: Vec<QueueTraffic>,
}

/// One queue of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueTraffic {
    pub queue: u32,
    /// Who has it.
    pub worker: usize,
    pub rx: Traffic,
    pub tx: Traffic,
    pub rx_ring_full: u64,
    pub tx_ring_full: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleTraffic {
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
    /// Packets dropped over its meter, in the driver and by workers.
    #[serde(default)]
    pub metered: u64,
    #[serde(default)]
    pub sampled: u64,
    /// Copies sent to its `mirror`.
    #[serde(default)]
    pub copied: Traffic,
    /// Packets that should have been copied and were not, by reason: "no_frame", "no_room", "too_long", "protected", "link_down".
    #[serde(default)]
    pub not_copied: BTreeMap<String, u64>,
    /// Packets dropped once they were known to be of the rule, whatever the reason.
    #[serde(default)]
    pub dropped: u64,
    /// Inner packets encrypted.
    #[serde(default)]
    pub sealed: Traffic,
    /// Inner packets decrypted.
    #[serde(default)]
    pub opened: Traffic,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelTraffic {
    pub name: String,
    /// Inner packets sent.
    pub sealed: Traffic,
    /// Inner packets received.
    pub opened: Traffic,
    pub replayed: u64,
    pub forged: u64,
    pub compress_in_bytes: u64,
    pub compress_out_bytes: u64,
    pub compressed: u64,
    pub left_alone: u64,
    pub expanded: u64,
    /// Bytes held back at the last moment because they were not sealed. Stays zero.
    #[serde(default)]
    pub escaped_bytes: u64,
}

impl TunnelTraffic {
    /// Bytes before compression for each byte after it; `None` when nothing was offered.
    pub fn ratio(&self) -> Option<f64> {
        (self.compress_out_bytes > 0).then(|| self.compress_in_bytes as f64 / self.compress_out_bytes as f64)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClassTraffic {
    pub name: String,
    pub flows: u64,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropTraffic {
    pub reason: String,
    pub packets: u64,
}

/// Where frames are. `free + fill + tx + graph` equals `total` when no frame is lost; read while workers run, a few may be
/// between two places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Frames {
    pub total: u64,
    pub free: u64,
    pub fill: u64,
    pub tx: u64,
    pub graph: u64,
}

impl Frames {
    fn take(&mut self, from: &FrameCounters) {
        self.total += from.total.get();
        self.free += from.free.get();
        self.fill += from.fill.get();
        self.tx += from.tx.get();
        self.graph += from.graph.get();
    }
}

/// Where a worker's recognition stopped at a bound, or at the end of what it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct L7Refusals {
    /// Flows that stay unknown, by reason.
    pub given_up: BTreeMap<String, u64>,
    /// Flows with a class of which less was read than they say, by reason.
    pub cut_short: BTreeMap<String, u64>,
    /// Host names that found no place.
    pub names_refused: u64,
    /// Messages whose host name was none.
    pub names_bad: u64,
    /// Reassembly buffers that silent flows lost to others.
    pub buffers_lost: u64,
    /// Segments that said something else than one before them at the same place.
    pub conflicts: u64,
    /// Reassembly buffers in use now.
    pub buffers: u64,
}

impl L7Refusals {
    fn of(from: &L7Counters) -> Self {
        let by_reason = |counters: &[Counter]| {
            Reason::ALL.iter().zip(counters).map(|(reason, n)| (reason.name().to_owned(), n.get())).collect()
        };
        Self {
            given_up: by_reason(&from.given_up),
            cut_short: by_reason(&from.cut_short),
            names_refused: from.names_refused.get(),
            names_bad: from.names_bad.get(),
            buffers_lost: from.buffers_lost.get(),
            conflicts: from.conflicts.get(),
            buffers: from.buffers.get(),
        }
    }
}

/// What a worker did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerLoop {
    pub worker: usize,
    pub batches: u64,
    pub packets: u64,
    /// Rounds that found nothing.
    pub idle: u64,
    /// Times it slept.
    pub polls: u64,
    /// Nanoseconds of the rounds that found something.
    #[serde(default)]
    pub busy_ns: u64,
    /// Flows in its table now.
    pub flows: u64,
    /// Packets that found the flow table full and were judged by themselves.
    #[serde(default)]
    pub flows_refused: u64,
    /// Flows of which too little could be read for rules over class and host: those that protect hold for them.
    #[serde(default)]
    pub flows_unread: u64,
    /// Flows in the table now that are opening or one-sided.
    #[serde(default)]
    pub flows_unproven: u64,
    /// Flows that made way for others because the table was full.
    #[serde(default)]
    pub flows_evicted_full: u64,
    /// Unproven flows that made way for others because there were too many of them.
    #[serde(default)]
    pub flows_evicted_unproven: u64,
    /// Packets that were judged by themselves because the table was full.
    #[serde(default)]
    pub flows_refused_full: u64,
    /// Packets that were judged by themselves because there were too many unproven flows.
    #[serde(default)]
    pub flows_refused_unproven: u64,
    /// RST and FIN segments that were forwarded, but too far from what their sender sends to end a flow.
    #[serde(default)]
    pub tcp_unbelieved: u64,
    /// Later fragments whose first was not seen.
    #[serde(default)]
    pub fragments_orphaned: u64,
    /// What recognition refused.
    #[serde(default)]
    pub l7: L7Refusals,
    /// Packets within packets of overlays, counted to their own flows too.
    #[serde(default)]
    pub inner_packets: u64,
    /// ICMP errors counted to the flow that they quote.
    #[serde(default)]
    pub icmp_matched: u64,
    /// Datagrams put together from fragments, to be opened.
    #[serde(default)]
    pub reassembled: u64,
    /// Incomplete datagrams now.
    #[serde(default)]
    pub datagrams_held: u64,
    /// Their fragments that are held.
    #[serde(default)]
    pub fragments_held: u64,
    /// SYNs whose MSS was lowered.
    #[serde(default)]
    pub mss_clamped: u64,
    /// Sealed packets that were cut into fragments.
    #[serde(default)]
    pub outer_fragmented: u64,
    /// ICMP errors sent in place of packets that could not go on.
    #[serde(default)]
    pub icmp_sent: u64,
    pub frames: Frames,
}

/// All counters at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    pub ports: Vec<PortTraffic>,
    pub rules: Vec<RuleTraffic>,
    pub tunnels: Vec<TunnelTraffic>,
    pub classes: Vec<ClassTraffic>,
    /// The operator's applications, in the order of the policy.
    #[serde(default)]
    pub applications: Vec<ClassTraffic>,
    pub drops: Vec<DropTraffic>,
    pub workers: Vec<WorkerLoop>,
    /// Bytes that left in clear although a rule encrypts their flow. Stays zero.
    pub escaped_bytes: u64,
}

impl Snapshot {
    /// Sums over `workers`, all made for `names`.
    pub fn take<'a>(names: &Names, workers: impl IntoIterator<Item = &'a WorkerCounters>) -> Self {
        let named = |list: &[String]| list.to_vec();
        let mut all = Self {
            ports: named(&names.ports).into_iter().map(|name| PortTraffic { name, ..Default::default() }).collect(),
            tunnels: named(&names.tunnels)
                .into_iter()
                .map(|name| TunnelTraffic { name, ..Default::default() })
                .collect(),
            classes: names
                .classes
                .iter()
                .map(|name| ClassTraffic { name: (*name).to_owned(), ..Default::default() })
                .collect(),
            applications: named(&names.applications)
                .into_iter()
                .map(|name| ClassTraffic { name, ..Default::default() })
                .collect(),
            drops: names
                .reasons
                .iter()
                .map(|reason| DropTraffic { reason: (*reason).to_owned(), packets: 0 })
                .collect(),
            ..Self::default()
        };
        for (worker, counters) in workers.into_iter().enumerate() {
            all.add(worker, counters);
        }
        all.ports.iter_mut().for_each(|port| port.queues.sort_by_key(|queue| queue.queue));
        all
    }

    fn add(&mut self, worker: usize, from: &WorkerCounters) {
        for (sum, port) in self.ports.iter_mut().zip(from.ports.iter()) {
            sum.rx.take(&port.rx);
            sum.tx.take(&port.tx);
        }
        for counted in from.queues() {
            let Some(port) = self.ports.get_mut(counted.port) else { continue };
            let mut queue = QueueTraffic {
                queue: counted.queue.unwrap_or(worker as u32),
                worker,
                rx_ring_full: counted.rx_ring_full.get(),
                tx_ring_full: counted.tx_ring_full.get(),
                ..QueueTraffic::default()
            };
            queue.rx.take(&counted.rx);
            queue.tx.take(&counted.tx);
            port.rx_ring_full += queue.rx_ring_full;
            port.tx_ring_full += queue.tx_ring_full;
            port.queues.push(queue);
        }
        self.add_rules(from.rules.totals());
        for (sum, tunnel) in self.tunnels.iter_mut().zip(from.tunnels.iter()) {
            sum.sealed.take(&tunnel.sealed);
            sum.opened.take(&tunnel.opened);
            sum.replayed += tunnel.replayed.get();
            sum.forged += tunnel.forged.get();
            sum.compress_in_bytes += tunnel.compress_in_bytes.get();
            sum.compress_out_bytes += tunnel.compress_out_bytes.get();
            sum.compressed += tunnel.compressed.get();
            sum.left_alone += tunnel.left_alone.get();
            sum.expanded += tunnel.expanded.get();
            sum.escaped_bytes += tunnel.escaped_bytes.get();
        }
        let classes = self.classes.iter_mut().zip(from.classes.iter());
        for (sum, class) in classes.chain(self.applications.iter_mut().zip(from.applications.iter())) {
            sum.flows += class.flows.get();
            sum.packets += class.packets.get();
            sum.bytes += class.bytes.get();
        }
        for (sum, drops) in self.drops.iter_mut().zip(from.drops.iter()) {
            sum.packets += drops.get();
        }
        let mut frames = Frames::default();
        frames.take(&from.frames);
        self.escaped_bytes += from.escaped_bytes.get();
        self.workers.push(WorkerLoop {
            worker,
            batches: from.work.batches.get(),
            packets: from.work.packets.get(),
            idle: from.work.idle.get(),
            polls: from.work.polls.get(),
            busy_ns: from.work.busy.get(),
            flows: from.flows.get(),
            flows_refused: from.flows_refused.get(),
            flows_unread: from.flows_unread.get(),
            flows_unproven: from.flows_unproven.get(),
            flows_evicted_full: from.flows_evicted_full.get(),
            flows_evicted_unproven: from.flows_evicted_unproven.get(),
            flows_refused_full: from.flows_refused_full.get(),
            flows_refused_unproven: from.flows_refused_unproven.get(),
            tcp_unbelieved: from.tcp_unbelieved.get(),
            fragments_orphaned: from.fragments_orphaned.get(),
            l7: L7Refusals::of(&from.l7),
            inner_packets: from.inner_packets.get(),
            icmp_matched: from.icmp_matched.get(),
            icmp_sent: from.icmp_sent.get(),
            reassembled: from.reassembled.get(),
            datagrams_held: from.datagrams_held.get(),
            fragments_held: from.fragments_held.get(),
            mss_clamped: from.mss_clamped.get(),
            outer_fragmented: from.outer_fragmented.get(),
            frames,
        });
    }

    /// By name: while a new plan comes into force, workers may be at different ones.
    fn add_rules(&mut self, totals: Vec<(String, RuleTotal)>) {
        let places: HashMap<String, usize> =
            self.rules.iter().enumerate().map(|(at, rule)| (rule.name.clone(), at)).collect();
        for (name, total) in totals {
            let at = places.get(&name).copied().unwrap_or_else(|| {
                self.rules.push(RuleTraffic { name, ..RuleTraffic::default() });
                self.rules.len() - 1
            });
            let sum = &mut self.rules[at];
            sum.packets += total.packets;
            sum.bytes += total.bytes;
            sum.metered += total.metered;
            sum.sampled += total.sampled;
            for (reason, count) in NotCopied::ALL.iter().zip(total.not_copied).filter(|(_, count)| *count > 0) {
                *sum.not_copied.entry(reason.code().to_owned()).or_default() += count;
            }
            sum.dropped += total.dropped;
            let pairs =
                [(&mut sum.sealed, total.sealed), (&mut sum.opened, total.opened), (&mut sum.copied, total.copied)];
            for (sum, (packets, bytes)) in pairs {
                sum.packets += packets;
                sum.bytes += bytes;
            }
        }
    }

    /// Packets dropped, whatever the reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|d| d.packets).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    pub(crate) fn two_workers() -> Snapshot {
        let names = Arc::new(Names {
            ports: vec!["apps".into(), "uplink".into()],
            tunnels: vec!["to-b".into()],
            reasons: &["parse_short", "no_route"],
            classes: &["unknown", "http"],
            applications: vec!["payments".into()],
        });
        let workers = [WorkerCounters::new(names.clone()), WorkerCounters::new(names.clone())];
        for (i, w) in workers.iter().enumerate() {
            let n = i as u64 + 1;
            w.ports[0].rx.add(10 * n, 1000 * n);
            // The first worker has the second queue.
            w.set_queues([(0, Some(2 - n as u32)), (1, None)].into_iter());
            w.queues()[0].rx.add(10 * n, 1000 * n);
            w.queues()[1].tx_ring_full.add(n);
            w.ports[1].tx.add(9 * n, 900 * n);
            let rules = w.rules.begin(["protect".into()].into());
            rules.get(0).unwrap().add(9 * n, 800 * n);
            rules.treated(0).unwrap().sealed.add(8 * n, 700 * n);
            rules.treated(0).unwrap().dropped.add(n);
            w.tunnels[0].sealed.add(9 * n, 800 * n);
            w.tunnels[0].compress_in_bytes.add(600 * n);
            w.tunnels[0].compress_out_bytes.add(200 * n);
            w.tunnels[0].replayed.add(n);
            w.classes[1].flows.add(n);
            w.applications[0].bytes.add(70 * n);
            w.drop_packet(1);
            w.work.batches.add(n);
            w.work.busy.add(1_500_000_000 * n);
            w.flows.set(n);
            w.frames.total.set(64);
            w.frames.free.set(64);
        }
        Snapshot::take(&names, &workers)
    }

    #[test]
    fn a_snapshot_sums_over_workers() {
        let s = two_workers();
        assert_eq!(s.ports[0].rx, Traffic { packets: 30, bytes: 3000 });
        assert_eq!(s.ports[0].tx, Traffic::default());
        assert_eq!(s.ports[1].tx, Traffic { packets: 27, bytes: 2700 });
        assert_eq!((s.rules[0].packets, s.rules[0].bytes), (27, 2400));
        assert_eq!((s.rules[0].sealed, s.rules[0].dropped), (Traffic { packets: 24, bytes: 2100 }, 3));
        assert_eq!(s.ports[1].tx_ring_full, 3);
        let queues = |port: usize| s.ports[port].queues.iter().map(|q| (q.queue, q.worker, q.rx.packets));
        assert_eq!(queues(0).collect::<Vec<_>>(), [(0, 1, 20), (1, 0, 10)]);
        assert_eq!(queues(1).collect::<Vec<_>>(), [(0, 0, 0), (1, 1, 0)]);
        assert_eq!(s.tunnels[0].ratio(), Some(3.0));
        assert_eq!((s.tunnels[0].replayed, s.classes[1].flows), (3, 3));
        assert_eq!((s.applications[0].name.as_str(), s.applications[0].bytes), ("payments", 210));
        assert_eq!((s.drops[0].packets, s.drops[1].packets, s.dropped()), (0, 2, 2));
        assert_eq!(s.workers.len(), 2);
        assert_eq!((s.workers[1].batches, s.workers[1].flows, s.workers[1].frames.free), (2, 2, 64));
    }

    #[test]
    fn a_snapshot_survives_json() {
        let s = two_workers();
        let text = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), s);
    }
}
