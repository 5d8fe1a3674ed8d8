//! Counters of a worker. One thread writes them with plain loads and stores, any thread may read them: no locked instruction
//! and no shared cache line on the packet path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::l7::{Inspector, Reason};

/// A counter with one writer. Reads from other threads see some recent value.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call it: load and store, not a read-modify-write.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one. Only the owning worker.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Sets it, for values that go up and down. Only the owning worker.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the counters are of: names, in the order of the plan's indices. Shared by all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub ports: Vec<String>,
    pub tunnels: Vec<String>,
    /// Names of drop reasons, by discriminant.
    pub reasons: &'static [&'static str],
    /// Names of classes, by discriminant.
    pub classes: &'static [&'static str],
    /// The operator's applications.
    pub applications: Vec<String>,
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct Traffic {
    pub packets: Counter,
    pub bytes: Counter,
}

impl Traffic {
    #[inline]
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// A port's counters. Bytes are of whole Ethernet frames without FCS.
#[derive(Debug, Default)]
pub struct PortCounters {
    pub rx: Traffic,
    pub tx: Traffic,
}

/// One queue of a port, as the worker that has it knows it.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Index of the port in the plan.
    pub port: usize,
    /// Number of the queue; `None`: the port has one for each worker.
    pub queue: Option<u32>,
    pub rx: Traffic,
    pub tx: Traffic,
    /// Lost because the receive ring was full.
    pub rx_ring_full: Counter,
    /// Lost because the transmit ring stayed full.
    pub tx_ring_full: Counter,
}

/// A tunnel's counters. Bytes of `sealed` and `opened` are of inner packets, as before sealing and after opening.
#[derive(Debug, Default)]
pub struct TunnelCounters {
    pub sealed: Traffic,
    pub opened: Traffic,
    /// Packets that the replay window refused.
    pub replayed: Counter,
    /// Packets that failed authentication.
    pub forged: Counter,
    /// Payload bytes offered to the codec.
    pub compress_in_bytes: Counter,
    /// What became of them, packets left alone counted at full size.
    pub compress_out_bytes: Counter,
    /// Packets sent smaller.
    pub compressed: Counter,
    /// Packets left as they were because they would not shrink.
    pub left_alone: Counter,
    /// Packets received compressed and expanded.
    pub expanded: Counter,
    /// Bytes that came to the link header unsealed although they were for this tunnel; held back there. Stays zero.
    pub escaped_bytes: Counter,
}

/// Why a packet was not copied. It went on all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum NotCopied {
    /// Few frames are free: they are for packets.
    NoFrame,
    /// The port's transmit list is half full, or there is no such port.
    NoRoom,
    /// It does not fit one frame, or is larger than the port's MTU.
    TooLong,
    /// It comes out of a tunnel, or goes into one.
    Protected,
    /// The port's link is down.
    LinkDown,
}

impl NotCopied {
    pub const ALL: [Self; 5] = [Self::NoFrame, Self::NoRoom, Self::TooLong, Self::Protected, Self::LinkDown];

    /// Stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoFrame => "no_frame",
            Self::NoRoom => "no_room",
            Self::TooLong => "too_long",
            Self::Protected => "protected",
            Self::LinkDown => "link_down",
        }
    }
}

/// What a rule has done to packets beyond letting them by, in the driver and here.
#[derive(Debug, Default)]
pub struct TreatCounters {
    /// Dropped, over the meter.
    pub metered: Counter,
    pub sampled: Counter,
    /// Copies sent to the rule's `mirror`, and those that were not made, by [`NotCopied`].
    pub copied: Traffic,
    pub not_copied: [Counter; NotCopied::ALL.len()],
    /// Dropped once the rule was found, for whatever reason, those over the meter too.
    pub dropped: Counter,
    /// Inner packets encrypted, and decrypted.
    pub sealed: Traffic,
    pub opened: Traffic,
}

/// Counters of a class of flows, or of an application.
#[derive(Debug, Default)]
pub struct ClassCounters {
    /// Flows that were given this class or name.
    pub flows: Counter,
    pub packets: Counter,
    pub bytes: Counter,
}

/// Where a worker's frames are. Gauges: the sum of all but `total` equals `total`.
#[derive(Debug, Default)]
pub struct FrameCounters {
    pub total: Counter,
    /// In the free list.
    pub free: Counter,
    /// In fill rings or with the kernel for receiving.
    pub fill: Counter,
    /// In transmit rings or with the kernel for sending.
    pub tx: Counter,
    /// In the graph.
    pub graph: Counter,
}

/// The worker's loop.
#[derive(Debug, Default)]
pub struct LoopCounters {
    /// Batches that had packets.
    pub batches: Counter,
    /// Packets in them.
    pub packets: Counter,
    /// Rounds that found nothing.
    pub idle: Counter,
    /// Times the worker slept in poll.
    pub polls: Counter,
    /// Nanoseconds of the turns that had packets.
    pub busy: Counter,
}

/// Where recognition stopped at a bound, or at the end of what it knows.
#[derive(Debug, Default)]
pub struct L7Counters {
    /// Flows that stay unknown, by discriminant of the reason.
    pub given_up: [Counter; Reason::ALL.len()],
    /// Flows with a class of which less was read than they say, likewise.
    pub cut_short: [Counter; Reason::ALL.len()],
    /// Host names that found no place.
    pub names_refused: Counter,
    /// Messages whose host name was none.
    pub names_bad: Counter,
    /// Reassembly buffers that silent flows lost to others.
    pub buffers_lost: Counter,
    /// Segments that said something else than one before them at the same place.
    pub conflicts: Counter,
    /// Reassembly buffers in use now.
    pub buffers: Counter,
}

impl L7Counters {
    pub fn take(&self, from: &Inspector) {
        for reason in Reason::ALL {
            self.given_up[reason as usize].set(from.given_up(reason));
            self.cut_short[reason as usize].set(from.cut_short(reason));
        }
        self.names_refused.set(from.hosts().refused());
        self.names_bad.set(from.names_bad());
        self.buffers_lost.set(from.pool().taken_over());
        self.conflicts.set(from.pool().conflicts());
        self.buffers.set(from.pool().in_use() as u64);
    }
}

/// All counters of one worker, sized when the plan is made. Starts on its own cache lines; the lists inside are allocations
/// of their own, padded at the end.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    pub ports: Padded<PortCounters>,
    pub rules: RuleBook,
    pub tunnels: Padded<TunnelCounters>,
    pub classes: Padded<ClassCounters>,
    /// By the place of the application in the policy.
    pub applications: Padded<ClassCounters>,
    /// By discriminant of the drop reason.
    pub drops: Padded<Counter>,
    pub work: LoopCounters,
    pub frames: FrameCounters,
    /// Flows in the table now.
    pub flows: Counter,
    /// Packets that found the flow table full and were judged by themselves.
    pub flows_refused: Counter,
    /// Flows of which too little could be read for rules over class and host: those that protect hold for them.
    pub flows_unread: Counter,
    /// Flows in the table now that are opening or one-sided.
    pub flows_unproven: Counter,
    /// Flows that made way for others because the table was full.
    pub flows_evicted_full: Counter,
    /// Unproven flows that made way for others because there were too many of them.
    pub flows_evicted_unproven: Counter,
    /// Packets that were judged by themselves because the table was full.
    pub flows_refused_full: Counter,
    /// Packets that were judged by themselves because there were too many unproven flows.
    pub flows_refused_unproven: Counter,
    /// RST and FIN segments that were forwarded, but too far from what their sender sends to end a flow.
    pub tcp_unbelieved: Counter,
    /// Later fragments whose first was not seen: they have no flow and are judged by themselves.
    pub fragments_orphaned: Counter,
    /// What recognition refused.
    pub l7: L7Counters,
    /// Packets within packets of overlays, counted to their own flows too.
    pub inner_packets: Counter,
    /// ICMP errors counted to the flow that they quote.
    pub icmp_matched: Counter,
    /// ICMP errors sent in place of packets that could not go on.
    pub icmp_sent: Counter,
    /// Datagrams put together from fragments, to be opened.
    pub reassembled: Counter,
    /// Incomplete datagrams now, and the fragments of them that are held.
    pub datagrams_held: Counter,
    pub fragments_held: Counter,
    /// SYNs whose MSS was lowered.
    pub mss_clamped: Counter,
    /// Sealed packets that were cut into fragments.
    pub outer_fragmented: Counter,
    /// Bytes that came to the link header unsealed although a rule encrypts their flow; they are held back there. Stays zero.
    pub escaped_bytes: Counter,
    /// Generation of the plan that the worker's last batch was walked with.
    pub plan: Counter,
    /// In the order of the worker's ports; set once, by the worker.
    queues: OnceLock<Box<[QueueCounters]>>,
    names: Arc<Names>,
}

/// What one worker counted by the rules of one plan.
#[derive(Debug)]
pub struct RuleCounters {
    names: Arc<[Arc<str>]>,
    traffic: Padded<Traffic>,
    treated: Padded<TreatCounters>,
}

impl RuleCounters {
    fn new(names: Arc<[Arc<str>]>) -> Self {
        let (traffic, treated) = (Padded::new(names.len()), Padded::new(names.len()));
        Self { names, traffic, treated }
    }

    /// By the rule's index in the plan.
    #[inline]
    pub fn get(&self, rule: u16) -> Option<&Traffic> {
        self.traffic.get(usize::from(rule))
    }

    /// Likewise, what its meter and its samples came to.
    #[inline]
    pub fn treated(&self, rule: u16) -> Option<&TreatCounters> {
        self.treated.get(usize::from(rule))
    }

    fn totals(&self) -> impl Iterator<Item = (&str, RuleTotal)> {
        let counters = self.traffic.iter().zip(self.treated.iter());
        self.names.iter().zip(counters).map(|(name, (traffic, treated))| {
            let total = RuleTotal {
                packets: traffic.packets.get(),
                bytes: traffic.bytes.get(),
                metered: treated.metered.get(),
                sampled: treated.sampled.get(),
                copied: (treated.copied.packets.get(), treated.copied.bytes.get()),
                not_copied: NotCopied::ALL.map(|reason| treated.not_copied[reason as usize].get()),
                dropped: treated.dropped.get(),
                sealed: (treated.sealed.packets.get(), treated.sealed.bytes.get()),
                opened: (treated.opened.packets.get(), treated.opened.bytes.get()),
            };
            (&**name, total)
        })
    }
}

/// What a rule has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleTotal {
    pub packets: u64,
    pub bytes: u64,
    pub metered: u64,
    pub sampled: u64,
    /// Packets and bytes.
    pub copied: (u64, u64),
    /// By [`NotCopied`].
    pub not_copied: [u64; NotCopied::ALL.len()],
    pub dropped: u64,
    /// Packets and bytes.
    pub sealed: (u64, u64),
    pub opened: (u64, u64),
}

impl std::ops::Add for RuleTotal {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            metered: self.metered + other.metered,
            sampled: self.sampled + other.sampled,
            copied: (self.copied.0 + other.copied.0, self.copied.1 + other.copied.1),
            not_copied: std::array::from_fn(|at| self.not_copied[at] + other.not_copied[at]),
            dropped: self.dropped + other.dropped,
            sealed: (self.sealed.0 + other.sealed.0, self.sealed.1 + other.sealed.1),
            opened: (self.opened.0 + other.opened.0, self.opened.1 + other.opened.1),
        }
    }
}

/// A worker's counters of rules. Plans come and go while packets do; what was counted by a rule's name goes on with the rule
/// that has the name in the next plan.
#[derive(Debug, Default)]
pub struct RuleBook {
    /// The last one is being written to.
    plans: Mutex<Vec<Arc<RuleCounters>>>,
    /// Made ahead for the plan that the worker will begin with next.
    next: Mutex<Option<Arc<RuleCounters>>>,
    /// Of those that were taken out.
    before: Mutex<HashMap<String, RuleTotal>>,
}

impl RuleBook {
    /// Makes ahead what [`Self::begin`] needs, so that the worker need not ask for memory.
    pub fn prepare(&self, names: &Arc<[Arc<str>]>) {
        let made = Arc::new(RuleCounters::new(names.clone()));
        // What was made for a plan that never came is freed here.
        drop(self.next.lock().unwrap_or_else(PoisonError::into_inner).replace(made));
    }

    /// The worker begins with another plan, whose rules have these names. It holds up nobody: it only adds to a list.
    pub fn begin(&self, names: Arc<[Arc<str>]>) -> Arc<RuleCounters> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let made = next.filter(|next| Arc::ptr_eq(&next.names, &names));
        let counters = made.unwrap_or_else(|| Arc::new(RuleCounters::new(names)));
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).push(counters.clone());
        counters
    }

    /// Adds up what was counted for plans that the worker is past, and frees it.
    pub fn fold(&self) {
        self.fold_into(&mut self.before.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fold_into(&self, before: &mut HashMap<String, RuleTotal>) -> Option<Arc<RuleCounters>> {
        let (done, newest) = {
            let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
            let last = plans.len().saturating_sub(1);
            (plans.drain(..last).collect::<Vec<_>>(), plans.last().cloned())
        };
        for (name, total) in done.iter().flat_map(|plan| plan.totals()) {
            if total != RuleTotal::default() {
                let sum = before.entry(name.to_owned()).or_default();
                *sum = *sum + total;
            }
        }
        newest
    }

    /// Each rule of the newest plan, in its order.
    pub fn totals(&self) -> Vec<(String, RuleTotal)> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(newest) = self.fold_into(&mut before) else { return Vec::new() };
        let with_before =
            |(name, total): (&str, RuleTotal)| (name.to_owned(), total + before.get(name).copied().unwrap_or_default());
        newest.totals().map(with_before).collect()
    }
}

/// A list on cache lines that no other worker writes to.
#[derive(Debug)]
pub struct Padded<T> {
    // 128 bytes of slack on either side, because the allocator aligns to the element only.
    items: Box<[T]>,
    lead: usize,
    len: usize,
}

impl<T: Default> Padded<T> {
    fn new(len: usize) -> Self {
        let lead = 128usize.div_ceil(size_of::<T>().max(1));
        let items = std::iter::repeat_with(T::default).take(lead + len + lead).collect();
        Self { items, lead, len }
    }
}

impl<T> std::ops::Deref for Padded<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        &self.items[self.lead..self.lead + self.len]
    }
}

impl WorkerCounters {
    pub fn new(names: Arc<Names>) -> Self {
        Self {
            ports: Padded::new(names.ports.len()),
            rules: RuleBook::default(),
            tunnels: Padded::new(names.tunnels.len()),
            classes: Padded::new(names.classes.len()),
            applications: Padded::new(names.applications.len()),
            drops: Padded::new(names.reasons.len()),
            work: LoopCounters::default(),
            frames: FrameCounters::default(),
            flows: Counter::default(),
            flows_refused: Counter::default(),
            flows_unread: Counter::default(),
            flows_unproven: Counter::default(),
            flows_evicted_full: Counter::default(),
            flows_evicted_unproven: Counter::default(),
            flows_refused_full: Counter::default(),
            flows_refused_unproven: Counter::default(),
            tcp_unbelieved: Counter::default(),
            fragments_orphaned: Counter::default(),
            l7: L7Counters::default(),
            inner_packets: Counter::default(),
            icmp_matched: Counter::default(),
            icmp_sent: Counter::default(),
            reassembled: Counter::default(),
            datagrams_held: Counter::default(),
            fragments_held: Counter::default(),
            mss_clamped: Counter::default(),
            outer_fragmented: Counter::default(),
            escaped_bytes: Counter::default(),
            plan: Counter::default(),
            queues: OnceLock::new(),
            names,
        }
    }

    /// What the worker has, by port and number. Only the first call counts.
    pub fn set_queues(&self, queues: impl Iterator<Item = (usize, Option<u32>)>) {
        let counters = |(port, queue)| QueueCounters { port, queue, ..QueueCounters::default() };
        let _ = self.queues.set(queues.map(counters).collect());
    }

    /// Empty until [`WorkerCounters::set_queues`].
    pub fn queues(&self) -> &[QueueCounters] {
        self.queues.get().map_or(&[], |queues| queues)
    }

    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Counts a drop. `reason` is the discriminant; one out of range is counted under the last name.
    #[inline]
    pub fn drop_packet(&self, reason: usize) {
        if let Some(counter) = self.drops.get(reason).or(self.drops.last()) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_of_two_workers_share_no_cache_line() {
        let names = Arc::new(Names { reasons: &["a", "b", "c"], ..Names::default() });
        let workers: Vec<_> = (0..8).map(|_| WorkerCounters::new(names.clone())).collect();
        let mut lines = std::collections::HashMap::new();
        for (w, worker) in workers.iter().enumerate() {
            assert_eq!(worker.drops.len(), 3);
            for counter in worker.drops.iter() {
                let line = std::ptr::from_ref(counter) as usize / 128;
                assert_eq!(*lines.entry(line).or_insert(w), w);
            }
        }
    }

    #[test]
    fn a_rule_that_keeps_its_name_goes_on_counting_in_the_next_plan() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).into()).collect::<Arc<[Arc<str>]>>();
        let book = RuleBook::default();
        let first = book.begin(names(&["web", "dns"]));
        first.get(0).unwrap().add(3, 300);
        first.get(1).unwrap().add(1, 60);
        let second = book.begin(names(&["dns", "mail"]));
        second.get(0).unwrap().add(2, 120);
        // A reader that comes between finds the same.
        for _ in 0..2 {
            let dns = RuleTotal { packets: 3, bytes: 180, ..RuleTotal::default() };
            assert_eq!(book.totals(), [("dns".to_owned(), dns), ("mail".to_owned(), RuleTotal::default())]);
        }
        let last = names(&["web"]);
        book.prepare(&names(&["never", "begun"]));
        book.prepare(&last);
        assert!(book.next.lock().unwrap().is_some());
        let third = book.begin(last.clone());
        assert!(Arc::ptr_eq(&third.names, &last) && book.next.lock().unwrap().is_none(), "made ahead");
        book.fold();
        assert_eq!(book.plans.lock().unwrap().len(), 1, "the rest is added up");
        let web = RuleTotal { packets: 3, bytes: 300, ..RuleTotal::default() };
        assert_eq!(book.totals(), [("web".to_owned(), web)]);
        assert!(second.get(2).is_none());
    }

    #[test]
    fn an_unknown_reason_is_still_counted() {
        let names = Arc::new(Names { reasons: &["a", "other"], ..Names::default() });
        let counters = WorkerCounters::new(names);
        counters.drop_packet(0);
        counters.drop_packet(99);
        assert_eq!((counters.drops[0].get(), counters.drops[1].get()), (1, 1));
    }
}
