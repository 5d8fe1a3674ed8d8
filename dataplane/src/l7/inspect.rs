//! Feeds the recognisers with a flow's first bytes until they have decided, or there is no use in going on.

mod beginnings;
mod datagrams;

use softdpu_ebpf_common::walk::{Fragment, Headers};

use self::beginnings::Beginnings;
use super::addresses::Addresses;
use super::facts::{FactStore, Facts};
use super::hosts::Hosts;
use super::reassembly::{CAP, Pool};
use super::{Alpn, By, Class, Found, Look, Notes, Resume, Table, Verdict};
use crate::flow::entry::NO_SLOT;
use crate::flow::tcp::{SYN, TCP, UDP};
use crate::flow::{Direction, Flow, FlowIdx, Tick};

/// Packets with payload after which an undecided flow is left alone.
pub const MAX_PACKETS: u8 = 48;
/// The same for UDP, where each datagram stands for itself.
pub const MAX_DATAGRAMS: u8 = 8;

/// How much a worker's inspector may hold.
#[derive(Clone, Debug)]
pub struct L7Config {
    /// Reassembly buffers of 16 KiB.
    pub buffers: usize,
    /// Different host names, 264 bytes each.
    pub hosts: usize,
    /// Flows whose first sequence numbers are remembered, 20 bytes each and as many datagrams, 80 bytes each; best not below the flows that open at a time.
    pub starts: usize,
    /// Flows whose facts are remembered, about 400 bytes each.
    pub facts: usize,
    /// Addresses whose names DNS answers told, 24 bytes each.
    pub addresses: usize,
}

impl Default for L7Config {
    /// 2 MiB of buffers, 4 MiB of names, 1.6 MiB of starts, 1.6 MiB of facts, 200 KiB of addresses.
    fn default() -> Self {
        Self { buffers: 128, hosts: 16 * 1024, starts: 16 * 1024, facts: 4 * 1024, addresses: 8 * 1024 }
    }
}

/// What one packet did for the knowledge of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Undecided still.
    NeedMore,
    /// Decided by this packet. `host` is also in the flow.
    Recognised { class: Class, host: Option<u32>, by: By },
    /// Decided by this packet that it stays unknown.
    GivenUp(Reason),
}

/// Why a flow stays unknown. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// No recogniser can still become certain.
    NoMatch = 0,
    /// Undecided after [`MAX_PACKETS`] or [`MAX_DATAGRAMS`].
    TooManyPackets = 1,
    /// Undecided after [`CAP`] bytes.
    TooMuchData = 2,
    /// More gaps in the stream than are kept track of.
    TooManyPieces = 3,
    /// All reassembly buffers busy, or this flow's taken over after it was silent for a second.
    NoBuffer = 4,
    /// Neither TCP nor UDP, and the protocol number has no class.
    NoTransport = 5,
}

impl Reason {
    pub const ALL: [Self; 6] = [
        Self::NoMatch,
        Self::TooManyPackets,
        Self::TooMuchData,
        Self::TooManyPieces,
        Self::NoBuffer,
        Self::NoTransport,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::NoMatch => "no_match",
            Self::TooManyPackets => "too_many_packets",
            Self::TooMuchData => "too_much_data",
            Self::TooManyPieces => "too_many_pieces",
            Self::NoBuffer => "no_buffer",
            Self::NoTransport => "no_transport",
        }
    }
}

pub struct Inspector {
    pool: Pool,
    hosts: Hosts,
    beginnings: Beginnings,
    scratch: Notes,
    facts: FactStore,
    addresses: Addresses,
    now: Tick,
    table: &'static Table,
    given_up: [u64; Reason::ALL.len()],
    cut_short: [u64; Reason::ALL.len()],
    recognised: u64,
    names_bad: u64,
}

impl Inspector {
    /// All the memory the inspector will ever use.
    pub fn new(config: &L7Config) -> Self {
        Self {
            pool: Pool::new(config.buffers),
            hosts: Hosts::new(config.hosts),
            beginnings: Beginnings::new(config.starts),
            scratch: Notes::default(),
            facts: FactStore::new(config.facts),
            addresses: Addresses::new(config.addresses),
            now: Tick(0),
            table: Table::get(),
            given_up: [0; Reason::ALL.len()],
            cut_short: [0; Reason::ALL.len()],
            recognised: 0,
            names_bad: 0,
        }
    }

    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Flows given up, by [`Reason`].
    pub fn given_up(&self, reason: Reason) -> u64 {
        self.given_up[reason as usize]
    }

    /// Flows with a class of which less was read than they say, because a bound was reached: a hello longer than the cap,
    /// say.
    pub fn cut_short(&self, reason: Reason) -> u64 {
        self.cut_short[reason as usize]
    }

    /// Messages that were recognised and whose host name was none: too long, not printable, of parts that do not add up.
    pub fn names_bad(&self) -> u64 {
        self.names_bad
    }

    /// Flows decided with a class.
    pub fn recognised(&self) -> u64 {
        self.recognised
    }

    /// The flow's host name.
    pub fn host_of(&self, flow: &Flow) -> Option<&str> {
        flow.host().map(|id| self.hosts.get(id))
    }

    /// What else is known of the flow.
    pub fn facts_of(&self, idx: FlowIdx, flow: &Flow) -> Option<&Facts> {
        self.facts.get(idx.0, self.beginnings.born(flow))
    }

    /// Gives back what an ended flow held. Must be called once for each flow that the table ends, from its `ended`.
    pub fn release(&mut self, idx: FlowIdx, flow: &Flow) {
        self.pool.give_back(flow.l7_slot, idx);
        if let Some(id) = flow.host() {
            self.hosts.release(id);
        }
    }

    /// Looks at one packet of an undecided flow: `h` as walked over `frame`. Class, host name and the mark that it is
    /// decided go into the flow. For a decided flow it says `NeedMore` and does nothing.
    pub fn inspect(
        &mut self,
        idx: FlowIdx,
        flow: &mut Flow,
        dir: Direction,
        h: &Headers,
        frame: &[u8],
        now: Tick,
    ) -> Outcome {
        if flow.is_decided() {
            return Outcome::NeedMore;
        }
        if h.fragment == Fragment::Later {
            return Outcome::NeedMore;
        }
        self.now = now;
        let end = usize::from(h.end).min(frame.len());
        let payload = frame.get(usize::from(h.payload_off)..end).unwrap_or(&[]);
        match h.proto {
            TCP => {
                let outcome = self.segment(idx, flow, dir, h, frame, payload, now);
                if flow.state().is_over() {
                    // Others need the buffer more than who has said all. Whoever goes on all the same is told that it is gone.
                    self.pool.give_back(flow.l7_slot, idx);
                }
                outcome
            }
            UDP => self.datagram(idx, flow, dir, h, payload, now),
            proto => match Class::of_ip_protocol(proto) {
                Some(class) => {
                    self.scratch.clear();
                    self.note(idx, flow, Found { class, by: By::Protocol, alpn: Alpn::None });
                    self.close(idx, flow, Reason::NoTransport)
                }
                None => self.close(idx, flow, Reason::NoTransport),
            },
        }
    }

    #[allow(clippy::too_many_arguments)] // one packet, taken apart once
    fn segment(
        &mut self,
        idx: FlowIdx,
        flow: &mut Flow,
        dir: Direction,
        h: &Headers,
        frame: &[u8],
        payload: &[u8],
        now: Tick,
    ) -> Outcome {
        let at = usize::from(h.l4_off) + 4;
        let Some(seq) = frame.get(at..at + 4).and_then(|b| b.first_chunk()).map(|b| u32::from_be_bytes(*b)) else {
            return Outcome::NeedMore;
        };
        let syn = h.tcp_flags & SYN != 0;
        let seq = seq.wrapping_add(u32::from(syn));
        if syn {
            self.beginnings.set_start(idx, flow, dir, seq);
        }
        if payload.is_empty() {
            return Outcome::NeedMore;
        }
        flow.l7_packets = flow.l7_packets.saturating_add(1);
        if flow.is_silent(dir) {
            return self.at_most(idx, flow, MAX_PACKETS);
        }
        let held = match flow.l7_slot {
            NO_SLOT => None,
            slot => match self.pool.held(slot, idx) {
                Some((held_dir, base)) => Some((slot, held_dir, base)),
                None => {
                    flow.l7_slot = NO_SLOT;
                    return self.close(idx, flow, Reason::NoBuffer);
                }
            },
        };
        let start = match held {
            Some((_, held_dir, base)) if held_dir == dir => Some(base),
            _ => self.beginnings.start(idx, flow, dir),
        };
        // A flow found in mid-life has no start: each segment may be one.
        let offset = start.map_or(0, |s| seq.wrapping_sub(s).cast_signed());
        let (offset, payload) = if offset < 0 {
            // Repeated from before the start: what is left of it begins there.
            (0, payload.get(offset.unsigned_abs() as usize..).unwrap_or(&[]))
        } else {
            (offset as usize, payload)
        };
        if payload.is_empty() || offset >= CAP {
            return self.at_most(idx, flow, MAX_PACKETS);
        }
        let last = flow.l7_packets >= MAX_PACKETS;
        let look = Look { last, ..Look::whole(payload, dir, (h.sport, h.dport)) };
        let mine = held.filter(|(_, held_dir, _)| *held_dir == dir);
        let mut resume = Resume::default();
        if mine.is_none() && offset == 0 {
            let look = Look { last: look.last || payload.len() >= CAP, ..look };
            let verdict = ask(self.table, &look, &mut self.scratch, flow, start.is_some());
            if !matches!(verdict, Verdict::More | Verdict::Class(_)) {
                return self.settle(idx, flow, dir, verdict, start.is_some());
            }
            if let Verdict::Class(found) = verdict {
                self.note(idx, flow, found);
                resume = self.scratch.resume;
            }
            if look.last {
                return self.close(idx, flow, Reason::TooMuchData);
            }
        }
        let slot = match (mine, held) {
            (Some((slot, ..)), _) => slot,
            // The other side is being collected. The initiator says more; the responder waits.
            (None, Some(_)) if dir == Direction::FromResponder => return self.at_most(idx, flow, MAX_PACKETS),
            (None, other) => {
                if let Some((slot, ..)) = other {
                    self.pool.give_back(slot, idx);
                }
                let base = start.unwrap_or(seq);
                let Some(slot) = self.pool.take(idx, dir, base, now) else {
                    return self.close(idx, flow, Reason::NoBuffer);
                };
                flow.l7_slot = slot;
                slot
            }
        };
        if mine.is_none() {
            self.pool.set_resume(slot, resume);
        }
        let resume = self.pool.resume(slot);
        let data = match self.pool.insert(slot, offset, payload, now) {
            Ok(data) => data,
            Err(_) => return self.close(idx, flow, Reason::TooManyPieces),
        };
        if data.is_empty() || mine.is_none() && offset == 0 {
            return self.at_most(idx, flow, MAX_PACKETS);
        }
        let full = data.len() == CAP;
        let look = Look { data, last: look.last || full, resume, ..look };
        let verdict = ask(self.table, &look, &mut self.scratch, flow, start.is_some());
        if matches!(verdict, Verdict::Class(_)) {
            self.pool.set_resume(slot, self.scratch.resume);
        }
        if full {
            if let Verdict::Done(found) | Verdict::Class(found) | Verdict::Other(found) | Verdict::Settled(found) =
                verdict
            {
                self.note(idx, flow, found);
            }
            return self.close(idx, flow, Reason::TooMuchData);
        }
        self.settle(idx, flow, dir, verdict, start.is_some())
    }

    /// Draws the consequence of a verdict on one direction. `started`: it was of the stream's true first bytes.
    fn settle(&mut self, idx: FlowIdx, flow: &mut Flow, dir: Direction, verdict: Verdict, started: bool) -> Outcome {
        match verdict {
            Verdict::Done(found) => {
                self.note(idx, flow, found);
                return self.close(idx, flow, Reason::NoMatch);
            }
            Verdict::Class(found) => self.note(idx, flow, found),
            Verdict::More => {}
            Verdict::Settled(found) => {
                self.note(idx, flow, found);
                self.hear(idx, flow, dir);
                let outcome = self.settle_now(flow);
                self.silence(idx, flow, dir);
                if outcome != Outcome::NeedMore {
                    // What both sides say has been read: nothing is left to be asked.
                    if flow.is_silent(Direction::FromInitiator) && flow.is_silent(Direction::FromResponder) {
                        flow.set_decided();
                    }
                    return outcome;
                }
            }
            Verdict::Other(found) => {
                self.note(idx, flow, found);
                self.silence(idx, flow, dir);
            }
            Verdict::No if started => self.silence(idx, flow, dir),
            Verdict::No => self.drop_buffer(idx, flow),
        }
        if flow.is_silent(Direction::FromInitiator) && flow.is_silent(Direction::FromResponder) {
            return self.close(idx, flow, Reason::NoMatch);
        }
        self.at_most(idx, flow, MAX_PACKETS)
    }

    fn silence(&mut self, idx: FlowIdx, flow: &mut Flow, dir: Direction) {
        flow.set_silent(dir);
        if self.pool.held(flow.l7_slot, idx).is_some_and(|(held, _)| held == dir) {
            self.drop_buffer(idx, flow);
        }
    }

    fn drop_buffer(&mut self, idx: FlowIdx, flow: &mut Flow) {
        self.pool.give_back(flow.l7_slot, idx);
        flow.l7_slot = NO_SLOT;
    }

    /// Writes what was found into the flow. A host name once known stays, and so does the class of a settled flow, unless
    /// it turns out to be a special case of that.
    fn note(&mut self, idx: FlowIdx, flow: &mut Flow, found: Found) {
        let known = flow.class();
        if flow.is_settled() && !refines(known, found.class) {
            return;
        }
        // A reply seen first may have told more than the request does.
        let found = if refines(found.class, known) { Found { class: known, ..found } } else { found };
        if !flow.is_settled() || known != found.class {
            let alpn = if found.alpn == Alpn::None { flow.alpn() } else { found.alpn };
            flow.set_class(found.class, found.by, alpn);
        }
        self.facts.add(idx.0, self.beginnings.born(flow), &self.scratch.facts);
        self.names_bad += u64::from(self.scratch.host.is_bad());
        if flow.host().is_none()
            && let Some(name) = self.scratch.host.get()
        {
            let id = self.hosts.intern(name);
            flow.set_host(id);
            if id.is_none() {
                flow.set_cut_short();
            }
        }
    }

    /// Hands what a DNS message said to the cache of names.
    fn hear(&mut self, idx: FlowIdx, flow: &Flow, dir: Direction) {
        let Notes { host, dns, .. } = &self.scratch;
        if dns.there
            && let Some(name) = host.get()
        {
            let client =
                if dns.response == (dir == Direction::FromResponder) { flow.initiator() } else { flow.responder() };
            self.addresses.hear(
                dns,
                name,
                (idx, self.beginnings.born(flow)),
                dir,
                client.addr,
                &mut self.hosts,
                self.now,
            );
        }
    }

    /// Where a flow's own bytes name no host: the name its client learnt for the server's address.
    fn name_by_dns(&mut self, flow: &mut Flow) {
        if flow.host().is_none()
            && matches!(flow.class(), Class::Unknown | Class::Tls | Class::Quic)
            && let Some(name) = self.addresses.name(flow.initiator().addr, flow.responder().addr, self.now)
        {
            self.hosts.share(name);
            flow.set_host(Some(name));
            flow.set_host_by_dns();
        }
    }

    /// Class and host stand from here on. Says so once.
    fn settle_now(&mut self, flow: &mut Flow) -> Outcome {
        if flow.is_settled() {
            return Outcome::NeedMore;
        }
        self.name_by_dns(flow);
        flow.set_settled();
        self.recognised += 1;
        Outcome::Recognised { class: flow.class(), host: flow.host(), by: flow.by() }
    }

    fn at_most(&mut self, idx: FlowIdx, flow: &mut Flow, packets: u8) -> Outcome {
        if flow.l7_packets >= packets { self.close(idx, flow, Reason::TooManyPackets) } else { Outcome::NeedMore }
    }

    /// Ends the search: with what is known, else for `reason`. A flow that a bound ended before it had said what it is, or
    /// that was met in the middle, is marked as such: rules that protect do not take it for something harmless.
    fn close(&mut self, idx: FlowIdx, flow: &mut Flow, reason: Reason) -> Outcome {
        // Still being put together: more was said than was read.
        let held = self.pool.held(flow.l7_slot, idx).is_some();
        let collecting = flow.l7_slot != NO_SLOT;
        self.drop_buffer(idx, flow);
        let said = flow.is_settled();
        let bound = match reason {
            Reason::TooMuchData | Reason::TooManyPieces | Reason::NoBuffer => true,
            Reason::TooManyPackets => held,
            Reason::NoMatch | Reason::NoTransport => false,
        };
        if bound && flow.class() != Class::Unknown {
            self.cut_short[reason as usize] += 1;
        }
        let patience = reason == Reason::TooManyPackets;
        let tcp = flow.key().proto() == TCP;
        let headless = patience && tcp && self.beginnings.start(idx, flow, Direction::FromInitiator).is_none();
        if !said {
            if matches!(reason, Reason::TooManyPieces | Reason::NoBuffer) || patience && collecting && !headless {
                flow.set_cut_short();
            }
            self.name_by_dns(flow);
        }
        flow.set_decided();
        if headless && !said {
            flow.set_headless();
        }
        if said {
            Outcome::NeedMore
        } else if flow.class() == Class::Unknown {
            self.given_up[reason as usize] += 1;
            Outcome::GivenUp(reason)
        } else {
            self.recognised += 1;
            Outcome::Recognised { class: flow.class(), host: flow.host(), by: flow.by() }
        }
    }
}

/// Asks the recognisers of streams. Where it is for the last time, only what they would have said anyway is all there is to
/// say; else the flow is marked, if what was read was its beginning.
fn ask(table: &Table, look: &Look<'_>, notes: &mut Notes, flow: &mut Flow, started: bool) -> Verdict {
    if look.last {
        let verdict = table.tcp.ask(&Look { last: false, ..*look }, notes);
        if !matches!(verdict, Verdict::More | Verdict::Class(_) | Verdict::Other(_)) {
            return verdict;
        }
        if started && !flow.is_settled() {
            flow.set_cut_short();
        }
    }
    table.tcp.ask(look, notes)
}

/// Whether a flow of this class may turn out to be of a more special one.
pub(super) fn is_general(class: Class) -> bool {
    matches!(class, Class::Unknown | Class::Http | Class::Http2)
}

/// Whether a flow of the first class may turn out to be of the second.
fn refines(from: Class, to: Class) -> bool {
    from == to
        || matches!(
            (from, to),
            (Class::Http, Class::Websocket | Class::Http2 | Class::Grpc | Class::Elasticsearch)
                | (Class::Http2, Class::Grpc | Class::Etcd)
        )
}
