//! The reader's end of a watch: takes records from the workers and makes bytes of them, one JSON object per line (trace) or
//! pcapng (capture). Ends when it has enough, when its time is up, or when nobody wants it any more.

use super::driver::{Driver, Watch as WatchDriver};
use super::names;
use super::pcapng::{self, Interface, Statistics};
use super::record::{Point, Record};
use super::session::{Session, What};
use super::steered::Steered;
use super::way::{Ended, Line, Way, Ways};
use crate::plan::Plan;
use arc_swap::ArcSwap;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// From one look to the next, while nothing comes.
const LOOK: Duration = Duration::from_millis(10);
/// Records that are taken at a look.
const MOST: usize = 2048;
/// How often the capture's statistics are written: a reader takes the last ones.
const STATISTICS: Duration = Duration::from_secs(1);
/// After the last packet was taken: how long the packets on their way may take to come to their end.
const LINGER: Duration = Duration::from_millis(300);
/// Most packets whose numbers are remembered.
const MOST_NUMBERS: usize = 65_536;

/// What the XDP program decides about a frame of a port, of which the bytes are the first; and its length.
pub type Steer = Box<dyn Fn(u8, &[u8], usize) -> Option<Steered> + Send>;

/// What is to be done when a watch is over, however it ended.
pub type OnEnd = Box<dyn FnOnce(&Session) + Send>;

/// What the reader has to know of the instance.
pub struct Source {
    pub plan: Arc<ArcSwap<Plan>>,
    /// Name and, for people, interface of each port.
    pub ports: Vec<(String, String)>,
    pub steer: Steer,
    /// The XDP program's own words. Or why there are none, for people.
    pub driver: Result<Box<dyn WatchDriver>, String>,
    /// From a record's time to nanoseconds since 1970.
    pub offset: i64,
    /// As the user wrote it.
    pub filter: String,
}

/// A watch that goes on.
pub struct Feed {
    session: Arc<Session>,
    source: Source,
    driver: Option<Driver>,
    /// Why not.
    no_driver: String,
    ways: Ways,
    /// Numbers of captured packets, by worker and the worker's own.
    numbers: HashMap<(u16, u32), u64>,
    packets: u64,
    /// Written per interface.
    written: Vec<u64>,
    began: u64,
    head: bool,
    until: Option<Instant>,
    next_statistics: Instant,
    enough_since: Option<Instant>,
    ended: bool,
    on_end: Option<OnEnd>,
}

impl Feed {
    /// `seconds`: how long; 0: for ever. `on_end`: what is to be done when it is dropped, however it ended.
    pub fn new(session: Arc<Session>, mut source: Source, seconds: u64, on_end: OnEnd) -> Self {
        let now = Instant::now();
        let began = crate::worker::clock::now().wrapping_add_signed(source.offset);
        let (driver, no_driver) = match std::mem::replace(&mut source.driver, Err(String::new())) {
            Ok(driver) => (Some(Driver::new(driver)), String::new()),
            Err(why) => (None, why),
        };
        Self {
            written: vec![0; source.ports.len() * Point::ALL.len()],
            driver,
            no_driver,
            session,
            source,
            ways: Ways::default(),
            numbers: HashMap::new(),
            packets: 0,
            began,
            head: false,
            until: (seconds > 0).then(|| now + Duration::from_secs(seconds)),
            next_statistics: now + STATISTICS,
            enough_since: None,
            ended: false,
            on_end: Some(on_end),
        }
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn set_offset(&mut self, offset: i64) {
        self.source.offset = offset;
    }

    /// The next bytes; `None`: it is over.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        while !self.ended {
            let mut bytes = Vec::new();
            let busy = self.look(&mut bytes);
            if self.is_due() {
                self.session.stop();
                self.finish(&mut bytes);
            }
            if !bytes.is_empty() {
                return Some(bytes);
            }
            if !busy && !self.ended {
                tokio::time::sleep(LOOK).await;
            }
        }
        None
    }

    /// Whether it is to end: there is enough, the time is up, or somebody said so.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        if self.session.has_enough() && self.enough_since.is_none() {
            self.enough_since = Some(now);
        }
        let late = self.until.is_some_and(|until| now >= until);
        let enough = self.enough_since.is_some_and(|since| now >= since + LINGER);
        late || enough || self.session.is_over()
    }

    /// Waits for a reader who is slow to take what there is. Packets are recorded no longer than was asked for; what was recorded is
    /// kept for the reader.
    pub async fn wait_for<T>(&mut self, reader: impl Future<Output = T>) -> T {
        let mut reader = std::pin::pin!(reader);
        loop {
            if let Ok(read) = tokio::time::timeout(LOOK, &mut reader).await {
                return read;
            }
            if self.is_due() {
                self.session.stop();
                if let Some(driver) = &mut self.driver {
                    driver.end(&self.session);
                }
            }
        }
    }

    /// Takes what there is. Says whether there was much.
    pub fn look(&mut self, to: &mut Vec<u8>) -> bool {
        let plan = self.source.plan.load_full();
        if !self.head && self.session.what != What::Trace {
            self.head(to);
        }
        self.head = true;
        if let Some(driver) = &mut self.driver {
            driver.look(&self.session);
        }
        let mut taken = 0;
        let mut packets = Vec::new();
        while taken < MOST
            && let Some(record) = self.session.next()
        {
            match self.session.what {
                What::Trace => self.trace(&record, &plan),
                What::Capture(_) => packets.push(self.packet(&record, &plan)),
            }
            taken += 1;
            self.session.give_back(record);
        }
        packets.sort_by_key(|(time, _)| *time);
        packets.iter().for_each(|(_, block)| to.extend_from_slice(block));
        self.tell(false);
        let done = self.ways.done(false);
        lines(to, &done);
        if self.session.what != What::Trace && Instant::now() >= self.next_statistics {
            self.next_statistics = Instant::now() + STATISTICS;
            self.statistics(to);
        }
        taken == MOST
    }

    /// Takes the rest, and says how it was.
    pub fn finish(&mut self, to: &mut Vec<u8>) {
        while self.look(to) {}
        self.tell(true);
        let rest = self.ways.done(true);
        lines(to, &rest);
        if self.session.what == What::Trace {
            let counts = &self.session.counts;
            let ended = Ended {
                seen: counts.seen.load(Ordering::Relaxed),
                matched: counts.matched.load(Ordering::Relaxed),
                lost: self.session.lost().iter().sum(),
            };
            lines(to, &[Line::Ended { ended }]);
        } else {
            self.statistics(to);
        }
        self.ended = true;
    }

    /// Ways that have come to their end.
    pub fn ways(&mut self, all: bool) -> Vec<Way> {
        let plan = self.source.plan.load_full();
        while let Some(record) = self.session.next() {
            self.trace(&record, &plan);
            self.session.give_back(record);
        }
        self.ways.done(all)
    }

    fn trace(&mut self, record: &Record, plan: &Plan) {
        let steer = || {
            let said = self.driver.as_mut().and_then(|driver| driver.of(record, &self.session));
            said.or_else(|| {
                let found = (self.source.steer)(record.facts.meta.port_in, &record.bytes, record.len as usize)?;
                let why = self.driver.as_ref().map_or_else(|| self.no_driver.clone(), Driver::why_not);
                Some(Steered { why: Some(why), ..found })
            })
        };
        self.ways.take(record, self.source.offset, plan, steer);
    }

    /// What came to no worker. `all`: nobody will ask for what was given to one.
    fn tell(&mut self, all: bool) {
        if let Some(driver) = &mut self.driver {
            driver.done(&self.session, all).into_iter().for_each(|way| self.ways.add(way));
        }
    }

    /// One interface for each port and point, in that order.
    fn head(&mut self, to: &mut Vec<u8>) {
        pcapng::section(to, &format!("softdpu {}", env!("CARGO_PKG_VERSION")));
        for (name, interface) in &self.source.ports {
            for point in Point::ALL {
                let what = match point {
                    Point::Rx => "as received",
                    Point::Open => "opened: in clear, out of a tunnel",
                    Point::Seal => "in clear, before it is sealed for a tunnel",
                    Point::Tx => "as sent",
                };
                let interface = Interface {
                    link: if point.has_link() { pcapng::ETHERNET } else { pcapng::RAW },
                    snap: self.session.snap as u32,
                    name: format!("{name}/{}", point.name()),
                    description: format!("port {name} ({interface}), {what}"),
                    filter: self.source.filter.clone(),
                };
                pcapng::interface(to, &interface);
            }
        }
    }

    fn packet(&mut self, record: &Record, plan: &Plan) -> (u64, Vec<u8>) {
        let meta = &record.facts.meta;
        let inbound = matches!(record.point, Point::Rx | Point::Open);
        let port = if inbound { meta.port_in } else { meta.port_out };
        let interface = usize::from(port) * Point::ALL.len() + record.point as usize;
        if self.numbers.len() > MOST_NUMBERS {
            self.numbers.clear();
        }
        let number = *self.numbers.entry((record.worker, record.packet)).or_insert_with(|| {
            self.packets += 1;
            self.packets
        });
        if let Some(written) = self.written.get_mut(interface) {
            *written += 1;
        }
        let time = record.time.wrapping_add_signed(self.source.offset);
        let mut block = Vec::with_capacity(record.bytes.len() + 256);
        let packet = pcapng::Packet {
            interface: interface as u32,
            time,
            len: record.len,
            bytes: &record.bytes,
            comment: &names::comment(record, number, plan),
            inbound,
            id: number,
            queue: record.worker.into(),
        };
        pcapng::packet(&mut block, &packet);
        (time, block)
    }

    fn statistics(&self, to: &mut Vec<u8>) {
        let lost = self.session.lost();
        let now = crate::worker::clock::now().wrapping_add_signed(self.source.offset);
        for (interface, written) in self.written.iter().enumerate() {
            let point = interface % Point::ALL.len();
            // Which port a lost record was of is not known: those of a point are told of at the first.
            let lost = if interface < Point::ALL.len() { lost[point] } else { 0 };
            let seen = (interface == 0).then(|| self.session.counts.seen.load(Ordering::Relaxed));
            let (interface, written) = (interface as u32, *written);
            pcapng::statistics(to, &Statistics { interface, began: self.began, now, seen, lost, written });
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.session.stop();
        if let Some(on_end) = self.on_end.take() {
            on_end(&self.session);
        }
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Feed({:?}, {} packets)", self.session.what, self.packets)
    }
}

fn lines(to: &mut Vec<u8>, lines: &[impl Serialize]) {
    for line in lines {
        // It has strings and numbers only, which can always be written.
        if serde_json::to_writer(&mut *to, line).is_ok() {
            to.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::io::steer::Watched;
    use crate::watch::session::Filter;
    use std::sync::atomic::AtomicBool;

    struct Recording(Arc<AtomicBool>);

    impl WatchDriver for Recording {
        fn take(&mut self, _: usize, _: &mut dyn FnMut(Watched)) {}
        fn lost(&self) -> u64 {
            17
        }
        fn port(&self, _: u32) -> Option<(u8, String)> {
            None
        }
        fn offset(&self) -> i64 {
            0
        }
    }

    impl Drop for Recording {
        fn drop(&mut self) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn packets_are_recorded_no_longer_than_asked_for_also_where_nobody_reads() {
        let recording = Arc::new(AtomicBool::new(true));
        let session = Arc::new(Session::new(What::Trace, Filter::default(), 128, 0, true));
        let source = Source {
            plan: Arc::new(ArcSwap::from_pointee(Plan::default())),
            ports: Vec::new(),
            steer: Box::new(|_, _, _| None),
            driver: Ok(Box::new(Recording(recording.clone()))),
            offset: 0,
            filter: String::new(),
        };
        let mut feed = Feed::new(session.clone(), source, 1, Box::new(|_| ()));
        let reads_nothing = async {
            while recording.load(Ordering::Relaxed) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let begun = Instant::now();
        tokio::time::timeout(Duration::from_secs(20), feed.wait_for(reads_nothing)).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1) && session.is_over());
        // What there is comes all the same, and how it was.
        let bytes = feed.next().await.unwrap();
        let Ok(Line::Ended { ended }) = serde_json::from_slice(&bytes) else { panic!("{bytes:?}") };
        assert_eq!(ended, Ended { seen: 0, matched: 0, lost: 17 });
        assert!(feed.next().await.is_none());
    }
}
