//! The XDP program's part of a trace, in its own words: what it kept for itself becomes a packet's whole way, what it gave to a worker is
//! found again when the worker tells of it, by port, length and first bytes.

use super::record::Record;
use super::session::Session;
use super::steered::Steered;
use super::step::overwritten;
use super::way::{Way, hex};
use crate::io::steer::{Reason, Watched};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

/// Most records that are taken at a look.
const MOST: usize = 4096;
/// Most packets that wait for a worker to tell of them.
const WAITING: usize = 16_384;
/// Looks that they wait; where the filter does not want them as received, but perhaps as opened.
const PATIENCE: u64 = 100;
const PATIENCE_UNWANTED: u64 = 5;

/// Where records come from. Dropping it ends them.
pub trait Watch: Send {
    /// The oldest ones, at most so many.
    fn take(&mut self, most: usize, to: &mut dyn FnMut(Watched));
    /// Records there was no room for, since the watch began.
    fn lost(&self) -> u64;
    /// The port of an interface index.
    fn port(&self, interface: u32) -> Option<(u8, String)>;
    /// From a record's time to nanoseconds since 1970.
    fn offset(&self) -> i64;
}

/// The XDP program's part of one watch.
pub struct Driver {
    /// `None`: it is over.
    watch: Option<Box<dyn Watch>>,
    /// Given to workers, by port, length and first bytes: the oldest first.
    waiting: HashMap<(u8, u32, Vec<u8>), VecDeque<Told>>,
    waits: usize,
    done: Vec<Way>,
    looks: u64,
    /// By the ring.
    lost: u64,
    /// Of packets given to workers: too many waited.
    forgotten: u64,
}

struct Told {
    way: Way,
    /// The look behind which nobody is waited for.
    until: u64,
    wanted: bool,
}

impl Driver {
    pub fn new(watch: Box<dyn Watch>) -> Self {
        Self {
            watch: Some(watch),
            waiting: HashMap::new(),
            waits: 0,
            done: Vec::new(),
            looks: 0,
            lost: 0,
            forgotten: 0,
        }
    }

    /// Takes what there is.
    pub fn look(&mut self, session: &Session) {
        self.looks += 1;
        self.read(session);
        let Some(watch) = &self.watch else { return };
        let lost = watch.lost();
        session.counts.lost[0].fetch_add(lost.saturating_sub(self.lost), Ordering::Relaxed);
        self.lost = self.lost.max(lost);
    }

    /// Takes the rest; packets are recorded no more.
    pub fn end(&mut self, session: &Session) {
        self.look(session);
        self.watch = None;
    }

    /// Why nothing is known of a packet that a worker received.
    pub fn why_not(&self) -> String {
        match self.lost + self.forgotten {
            0 => "no record: it was received before the trace began".to_owned(),
            lost => format!("no record: {lost} of them were lost"),
        }
    }

    fn read(&mut self, session: &Session) {
        let mut taken = Vec::new();
        let Some(mut watch) = self.watch.take() else { return };
        watch.take(MOST, &mut |seen| taken.push(seen));
        for seen in taken {
            self.take(watch.as_ref(), seen, session);
        }
        self.watch = Some(watch);
    }

    fn take(&mut self, watch: &dyn Watch, seen: Watched, session: &Session) {
        // A worker counts and numbers what comes to it.
        let to_worker = seen.reason == Reason::Worker;
        if !to_worker {
            session.counts.seen.fetch_add(1, Ordering::Relaxed);
        }
        let Some((port, name)) = watch.port(seen.interface) else { return };
        let wanted = session.filter.matches(true, &seen.before, seen.len);
        if to_worker {
            if self.waits < if wanted { WAITING } else { WAITING / 2 } {
                let until = self.looks + if wanted { PATIENCE } else { PATIENCE_UNWANTED };
                let way = way(watch, &seen, name);
                self.waits += 1;
                self.waiting.entry((port, way.len, seen.before)).or_default().push_back(Told { way, until, wanted });
            } else {
                self.forgotten += 1;
                session.counts.lost[0].fetch_add(u64::from(wanted), Ordering::Relaxed);
            }
        } else if wanted && session.take_one() {
            self.done.push(way(watch, &seen, name));
        }
    }

    /// What it said of a packet that a worker received.
    pub fn of(&mut self, record: &Record, session: &Session) -> Option<Steered> {
        let key = (record.facts.meta.port_in, record.len, record.bytes.clone());
        self.find(&key).or_else(|| {
            // It may have come since the look began.
            self.read(session);
            self.find(&key)
        })
    }

    fn find(&mut self, key: &(u8, u32, Vec<u8>)) -> Option<Steered> {
        let same = self.waiting.get_mut(key)?;
        let told = same.pop_front()?;
        if same.is_empty() {
            self.waiting.remove(key);
        }
        self.waits -= 1;
        told.way.xdp
    }

    /// The ways of what came to no worker. `all`: also of what was just given to one.
    pub fn done(&mut self, session: &Session, all: bool) -> Vec<Way> {
        let mut done = std::mem::take(&mut self.done);
        let (looks, mut gone) = (self.looks, 0);
        self.waiting.retain(|_, same| {
            while same.front().is_some_and(|told| all || told.until < looks) {
                gone += 1;
                let told = same.pop_front();
                // At the end of a watch workers have taken up no more: nothing is known of these.
                done.extend(told.filter(|told| !all && told.wanted && session.take_one()).map(|told| told.way));
            }
            !same.is_empty()
        });
        self.waits -= gone;
        done.sort_by_key(|way| way.time);
        done
    }
}

/// Its whole way, as far as the driver knows.
fn way(watch: &dyn Watch, seen: &Watched, port: String) -> Way {
    let end = match seen.reason {
        Reason::Worker => "unseen",
        Reason::FlowForward => "forwarded",
        _ if seen.passed => "kernel",
        _ => "dropped",
    };
    let flow_table = match (seen.reason, &seen.entry) {
        (_, None) => "no entry".to_owned(),
        (
            Reason::FlowForward | Reason::FlowDrop | Reason::FlowPass | Reason::FlowMeter | Reason::FlowNoDevice,
            Some(entry),
        ) => format!("has the flow ({entry})"),
        (_, Some(entry)) => format!("has the flow ({entry}), and left this packet to the rules"),
    };
    let verdict = seen.reason.name().to_owned();
    Way {
        time: seen.time.wrapping_add_signed(watch.offset()),
        port,
        len: seen.len as u32,
        reason: (end == "dropped").then(|| verdict.clone()),
        end: end.to_owned(),
        first: hex(&seen.before),
        last: hex(&seen.after),
        xdp: Some(Steered {
            verdict,
            rule: seen.rule.clone(),
            recomputed: false,
            why: None,
            flow_table,
            out: seen.out.and_then(|interface| watch.port(interface)).map(|(_, name)| name),
            edits: overwritten(&seen.before, &seen.after),
        }),
        ..Way::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::watch::session::{Filter, What};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<(VecDeque<Watched>, u64)>>);

    impl Watch for Said {
        fn take(&mut self, most: usize, to: &mut dyn FnMut(Watched)) {
            let mut said = self.0.lock().unwrap();
            let n = most.min(said.0.len());
            said.0.drain(..n).for_each(to);
        }
        fn lost(&self) -> u64 {
            self.0.lock().unwrap().1
        }
        fn port(&self, interface: u32) -> Option<(u8, String)> {
            (interface < 9).then(|| (interface as u8, format!("port-{interface}")))
        }
        fn offset(&self) -> i64 {
            1000
        }
    }

    fn seen(time: u64, reason: Reason, bytes: &[u8]) -> Watched {
        Watched {
            time,
            interface: 3,
            queue: 0,
            len: bytes.len(),
            before: bytes.to_vec(),
            after: bytes.to_vec(),
            reason,
            passed: reason == Reason::RulePass,
            rule: Some("all".into()),
            entry: None,
            out: None,
        }
    }

    fn record(bytes: &[u8]) -> Record {
        let mut record = Record::empty(128);
        record.facts.meta.port_in = 3;
        record.len = bytes.len() as u32;
        record.bytes.extend_from_slice(bytes);
        record
    }

    fn driver(packets: Vec<Watched>, count: u64) -> (Driver, Session, Said) {
        let said = Said(Arc::new(Mutex::new((packets.into(), 0))));
        let session = Session::new(What::Trace, Filter::default(), 128, count, true);
        (Driver::new(Box::new(said.clone())), session, said)
    }

    #[test]
    fn what_it_keeps_is_told_of_and_what_it_gives_is_found_by_its_bytes() {
        let mut forwarded = seen(2, Reason::FlowForward, &[1, 2, 3, 64, 5]);
        forwarded.after[3] = 63;
        (forwarded.out, forwarded.entry, forwarded.rule) = (Some(4), Some("forward".into()), None);
        let packets = vec![
            seen(5, Reason::RulePass, &[7; 60]),
            seen(1, Reason::RuleDrop, &[8; 60]),
            forwarded,
            seen(3, Reason::Worker, &[9; 60]),
            seen(4, Reason::Worker, &[9; 60]),
        ];
        let (mut driver, session, said) = driver(packets, 0);
        driver.look(&session);
        let ways = driver.done(&session, false);
        let ends: Vec<_> = ways.iter().map(|way| (way.time, way.end.as_str(), way.reason.as_deref())).collect();
        assert_eq!(ends, [(1001, "dropped", Some("rule_drop")), (1002, "forwarded", None), (1005, "kernel", None)]);
        let xdp = ways[1].xdp.as_ref().unwrap();
        assert_eq!((xdp.out.as_deref(), xdp.flow_table.as_str()), (Some("port-4"), "has the flow (forward)"));
        assert_eq!((xdp.edits[0].at, xdp.edits[0].before.as_str(), xdp.edits[0].after.as_str()), (3, "40", "3f"));
        assert!(ways.iter().all(|way| way.worker.is_none() && way.port == "port-3"));

        assert!(driver.of(&record(&[9; 59]), &session).is_none(), "another length");
        assert_eq!(driver.of(&record(&[9; 60]), &session).unwrap().rule.as_deref(), Some("all"));
        assert!(!driver.of(&record(&[9; 60]), &session).unwrap().recomputed);
        assert!(driver.of(&record(&[9; 60]), &session).is_none(), "there were two");
        said.0.lock().unwrap().0.push_back(seen(9, Reason::Worker, &[6; 60]));
        assert!(driver.of(&record(&[6; 60]), &session).is_some(), "one that came meanwhile");
        assert_eq!((driver.waits, driver.waiting.len()), (0, 0));
    }

    #[test]
    fn what_no_worker_takes_up_is_told_of_in_the_end() {
        let (mut driver, session, said) = driver(vec![seen(1, Reason::Worker, &[1; 60])], 1);
        for _ in 0..=PATIENCE {
            driver.look(&session);
            assert!(driver.done(&session, false).is_empty());
        }
        driver.look(&session);
        assert_eq!(driver.done(&session, false)[0].end, "unseen");
        // One was asked for.
        said.0.lock().unwrap().0.push_back(seen(2, Reason::RuleDrop, &[1; 60]));
        said.0.lock().unwrap().1 = 17;
        driver.look(&session);
        assert!(driver.done(&session, true).is_empty());
        assert_eq!(session.lost()[0], 17);
        // It is over: what comes now is nobody's.
        driver.end(&session);
        said.0.lock().unwrap().0.push_back(seen(3, Reason::RuleDrop, &[1; 60]));
        driver.look(&session);
        assert_eq!((said.0.lock().unwrap().0.len(), session.lost()[0]), (1, 17));
    }

    #[test]
    fn packets_that_wait_are_bounded() {
        let many: Vec<_> = (0..20_000u32).map(|n| seen(1, Reason::Worker, &n.to_be_bytes())).collect();
        let (mut driver, session, _) = driver(many, 0);
        for _ in 0..10 {
            driver.look(&session);
        }
        assert_eq!(driver.waits, WAITING);
        assert_eq!(session.lost()[0], 20_000 - WAITING as u64, "nothing is dropped uncounted");
        assert!(driver.why_not().contains("3616 of them were lost"), "{}", driver.why_not());
        assert!(driver.done(&session, true).is_empty() && driver.waits == 0);
    }
}
