//! The exporter's thread: takes records from the queue, sends messages, writes lines.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::ipfix::Message;
use super::lines::Lines;
use super::{Counts, FlowRecord, Queue, ndjson};
use crate::config::policy::Export;

/// How often the queue is looked at.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a message that is not full waits for more.
const WAIT: Duration = Duration::from_millis(500);
/// How often it is looked whether the log was moved away.
const LOOK: Duration = Duration::from_secs(1);

/// Where records go, open and ready.
pub struct Exporter {
    queue: Arc<Queue>,
    collector: Option<Collector>,
    log: Option<Log>,
}

struct Collector {
    socket: UdpSocket,
    address: SocketAddr,
    domain: u32,
    template_interval: Duration,
    templates_sent: Option<Instant>,
    message: Message,
    begun: Instant,
    sequence: u32,
}

struct Log {
    path: PathBuf,
    lines: Lines<File>,
    inode: u64,
    looked: Instant,
}

/// A running exporter.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Opens socket and file.
    ///
    /// # Errors
    /// The file cannot be written, or there is no socket to be had; with the place.
    pub fn open(export: &Export, queue: Arc<Queue>) -> Result<Self> {
        let collector = export.ipfix.map(|address| Collector::open(address, export)).transpose()?;
        let log = export.log.as_deref().map(Log::open).transpose()?;
        Ok(Self { queue, collector, log })
    }

    /// Runs on a thread of its own until told to stop; what is in the queue then is still sent.
    ///
    /// # Errors
    /// No thread.
    pub fn start(mut self) -> Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("export".to_owned()).spawn(move || {
            while !told.load(Ordering::Acquire) {
                self.take(Instant::now());
                std::thread::sleep(PAUSE);
            }
            self.finish();
        })?;
        Ok(Running { stop, thread: Some(thread) })
    }

    /// Takes what is in the queue, and sends what is full or has waited long enough.
    pub fn take(&mut self, now: Instant) {
        while let Some(record) = self.queue.records.pop() {
            if let Some(collector) = &mut self.collector {
                collector.add(&record, now, &self.queue.counts);
            }
            if let Some(log) = &mut self.log {
                let lost = log.lines.add(|line| ndjson::write(&record, line));
                Counts::add(&self.queue.counts.unwritten, lost);
            }
        }
        if let Some(collector) = &mut self.collector
            && now.duration_since(collector.begun) >= WAIT
        {
            collector.send(now, &self.queue.counts);
        }
        if let Some(log) = &mut self.log {
            log.settle(now, &self.queue.counts);
        }
    }

    /// Everything that is left.
    pub fn finish(&mut self) {
        self.take(Instant::now());
        if let Some(collector) = &mut self.collector {
            collector.send(Instant::now(), &self.queue.counts);
        }
    }
}

impl Running {
    /// After the workers are done.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flow exporter had panicked");
        }
    }
}

impl Collector {
    fn open(address: SocketAddr, export: &Export) -> Result<Self> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).context("no UDP socket for flow export")?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            address,
            domain: export.observation_domain,
            template_interval: export.template_interval,
            templates_sent: None,
            message: Message::new(),
            begun: Instant::now(),
            sequence: 0,
        })
    }

    fn add(&mut self, record: &FlowRecord, now: Instant, counts: &Counts) {
        self.keep_templates(now, counts);
        if self.message.is_empty() {
            self.begun = now;
        }
        if !self.message.record(record) {
            self.send(now, counts);
            self.begun = now;
            // A record alone always fits.
            self.message.record(record);
        }
    }

    /// Over UDP templates are sent again and again (RFC 7011 §8.4), and before the first record.
    fn keep_templates(&mut self, now: Instant, counts: &Counts) {
        if self.templates_sent.is_none_or(|sent| now.duration_since(sent) >= self.template_interval) {
            self.send(now, counts);
            self.message.templates();
            self.templates_sent = Some(now);
            self.send(now, counts);
        }
    }

    fn send(&mut self, now: Instant, counts: &Counts) {
        if self.message.is_empty() {
            return;
        }
        self.begun = now;
        let message = std::mem::replace(&mut self.message, Message::new());
        let records = message.records();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as u32;
        let bytes = message.finish(seconds, self.sequence, self.domain);
        self.sequence = self.sequence.wrapping_add(records);
        match self.socket.send_to(&bytes, self.address) {
            Ok(_) => Counts::add(&counts.messages, 1),
            Err(error) => {
                Counts::add(&counts.unsent, 1);
                tracing::debug!(collector = %self.address, %error, "a flow message could not be sent");
            }
        }
    }
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write the flow log {}", path.display()))?;
        let inode = file.metadata()?.ino();
        Ok(Self { path: path.to_owned(), lines: Lines::new(file), inode, looked: Instant::now() })
    }

    /// Lets readers see whole lines, and begins a new file where the old one was moved away (logrotate).
    fn settle(&mut self, now: Instant, counts: &Counts) {
        Counts::add(&counts.unwritten, self.lines.flush());
        if now.duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        if std::fs::metadata(&self.path).map_or(0, |there| there.ino()) != self.inode {
            match Self::open(&self.path) {
                Ok(new) => *self = new,
                Err(error) => tracing::debug!("{error:#}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::record;
    use super::*;

    fn export(ipfix: Option<SocketAddr>, log: Option<PathBuf>) -> Export {
        Export {
            ipfix,
            log,
            observation_domain: 5,
            template_interval: Duration::from_secs(60),
            active_timeout: Duration::from_secs(60),
        }
    }

    #[test]
    fn templates_first_then_records_in_sequence() {
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        collector.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let queue = Queue::new();
        let mut exporter = Exporter::open(&export(collector.local_addr().ok(), None), queue.clone()).unwrap();
        for _ in 0..30 {
            queue.push(record("192.0.2.1", "192.0.2.2", "shop.example"));
        }
        exporter.finish();
        let mut next = 0;
        let mut buffer = [0; 2048];
        for at in 0..queue.counts.messages.load(Ordering::Relaxed) {
            let n = collector.recv(&mut buffer).unwrap();
            let sequence = u32::from_be_bytes(buffer[8..12].try_into().unwrap());
            assert_eq!(sequence, next);
            let set = u16::from_be_bytes([buffer[16], buffer[17]]);
            assert_eq!(set, if at == 0 { 2 } else { 256 });
            if at > 0 {
                next += (n as u32 - 20) / 104;
            }
        }
        assert_eq!(next, 30);
    }

    #[test]
    fn each_line_that_a_full_disk_refuses_is_counted() {
        let queue = Queue::new();
        let mut exporter = Exporter::open(&export(None, Some("/dev/full".into())), queue.clone()).unwrap();
        for round in 1..=3 {
            for _ in 0..200 {
                queue.push(record("192.0.2.1", "192.0.2.2", "shop.example"));
            }
            exporter.take(Instant::now() + 2 * LOOK * round);
            assert_eq!(queue.counts.unwritten.load(Ordering::Relaxed), 200 * u64::from(round));
        }
    }

    #[test]
    fn the_log_goes_on_after_it_was_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.ndjson");
        let queue = Queue::new();
        let mut exporter = Exporter::open(&export(None, Some(path.clone())), queue.clone()).unwrap();
        queue.push(record("192.0.2.1", "192.0.2.2", "one.example"));
        exporter.take(Instant::now());
        let moved = folder.path().join("flows.1");
        std::fs::rename(&path, &moved).unwrap();
        exporter.take(Instant::now() + 2 * LOOK);
        queue.push(record("2001:db8::1", "2001:db8::2", "two.example"));
        exporter.finish();
        let line = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap();
            assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        assert_eq!(line(&moved)["host"], "one.example");
        assert_eq!((&line(&path)["a"], &line(&path)["bytes_ba"]), (&"[2001:db8::1]:40000".into(), &900.into()));
    }
}
