//! Somebody's captures as flows by class: what softdpu's own flow table and recognisers say of them, and packets that can be sent
//! again.
//!
//! Packets keep their lengths, order and payloads. Addresses become those of two sites (the bench's tunnel is between them), link
//! headers new ones. What the capture has cut off is made anew from what it has of the packet; segments that the sender's device
//! would have cut are cut to 1,500 bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use softdpu::cli::classify::capture::{self, Captured};
use softdpu::cli::classify::headers;
use softdpu::flow::{Direction, Flow, FlowConfig, FlowTable, Hit, L4State, Net, Seed, Tick, Timeouts};
use softdpu::l7::{Class, Inspector, L7Config};
use softdpu::offload::{Reason, Setting};
use softdpu::wire::overlay;
use softdpu_ebpf_common::walk::{Fragment, Headers, L3, proto};

/// A capture, by what was taken from it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Source {
    /// The file's name, without its folder.
    pub file: String,
    pub packets: u64,
    /// IP packets' bytes, as they were on the wire.
    pub bytes: u64,
    pub flows: u64,
    /// From the first packet to the last.
    pub seconds: f64,
    /// Packets whose end the capture has not; their payload was made anew.
    pub regenerated: u64,
    /// Packets that are not sent again, by why.
    pub left_out: BTreeMap<String, u64>,
    /// Why the file was not read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// One IP packet of a flow.
#[derive(Clone, Debug)]
pub struct IpPacket {
    /// Nanoseconds since the capture's first packet.
    pub time: u64,
    /// From the responder.
    pub back: bool,
    /// SYN, FIN or RST: of a connection's beginning or end.
    pub edge: bool,
    pub bytes: Vec<u8>,
}

/// One flow as captured.
#[derive(Clone, Debug)]
pub struct OneFlow {
    pub class: &'static str,
    /// `tcp`, `udp` or the protocol's number.
    pub transport: String,
    pub packets: Vec<IpPacket>,
    /// Packets of the flow in the capture, with those that are not sent again.
    pub seen: u64,
    pub bytes: u64,
    /// Packets that a worker saw when nothing kept the flow from the driver any more; else what did.
    pub before: Result<u64, Reason>,
    /// Pauses after which an offloaded flow would have left the driver's table.
    pub pauses: u64,
    last: u64,
}

/// Flows of a class and transport.
#[derive(Clone, Debug)]
pub struct FlowClass {
    /// As in `tls/tcp`.
    pub name: String,
    pub flows: Vec<OneFlow>,
}

impl FlowClass {
    pub fn bytes(&self) -> u64 {
        self.flows.iter().map(|f| f.bytes).sum()
    }

    pub fn packets(&self) -> u64 {
        self.flows.iter().map(|f| f.seen).sum()
    }
}

/// What captures have.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    pub sources: Vec<Source>,
    /// Most bytes first.
    pub classes: Vec<FlowClass>,
}

/// Longest IP packet that is sent again.
const LONGEST: usize = 1500;
/// An offloaded flow that is silent for so long leaves the driver's table (reason `idle`).
const SILENT: u64 = 5_000_000_000;
const IDLE: Duration = Duration::from_secs(120 * 86_400);
/// Most flows of a capture.
const FLOWS: u32 = 1 << 18;

impl Traffic {
    /// # Errors
    /// A file cannot be read, or all of them have no packet that can be sent again.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self> {
        let mut all = Self::default();
        let mut by_name: BTreeMap<String, Vec<OneFlow>> = BTreeMap::new();
        for path in files {
            let path = path.as_ref();
            let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
            let mut reader = Reader::new(size);
            let read = capture::for_each(path, |p| reader.packet(&p));
            let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            let damaged = read.err().map(|e| format!("{e:#}"));
            if let (0, Some(why)) = (reader.source.packets, &damaged) {
                anyhow::bail!("{}: {why}", path.display());
            }
            let Reader { source, flows, .. } = reader;
            all.sources.push(Source { file, damaged, flows: flows.len() as u64, ..source });
            for flow in flows {
                by_name.entry(format!("{}/{}", flow.class, flow.transport)).or_default().push(flow);
            }
        }
        all.classes = by_name.into_iter().map(|(name, flows)| FlowClass { name, flows }).collect();
        all.classes.sort_by_key(|c| std::cmp::Reverse(c.bytes()));
        ensure!(
            all.classes.iter().flat_map(|c| &c.flows).any(|f| !f.packets.is_empty()),
            "no packets of flows in what was given"
        );
        Ok(all)
    }
}

struct Reader {
    table: FlowTable,
    inspector: Inspector,
    flows: Vec<OneFlow>,
    /// Of each place in the table, the flow's number.
    number: Vec<u32>,
    epoch: Option<u64>,
    padded: Vec<u8>,
    source: Source,
    setting: Setting,
}

impl Reader {
    fn new(size: u64) -> Self {
        let capacity = (size / 20 + 64).min(u64::from(FLOWS)) as u32;
        let config = FlowConfig { capacity, timeouts: Timeouts::all(IDLE), unproven_percent: 100 };
        Self {
            table: FlowTable::new(&config, Seed::fixed(1), Tick(0)),
            inspector: Inspector::new(&L7Config::default()),
            flows: Vec::new(),
            number: vec![u32::MAX; capacity as usize],
            epoch: None,
            padded: Vec::new(),
            source: Source::default(),
            setting: Setting::default(),
        }
    }

    fn packet(&mut self, p: &Captured) {
        self.source.packets += 1;
        let time = p.time.saturating_sub(*self.epoch.get_or_insert(p.time));
        self.source.seconds = self.source.seconds.max(time as f64 / 1e9);
        let Some(h) = headers(p, &mut self.padded) else { return self.leave("not IP, or malformed") };
        self.source.bytes += u64::from(h.end - h.l3_off);
        let now = Tick::from_nanos(time);
        let Self { table, inspector, .. } = self;
        let found = table.prepare_in(Net::OUTSIDE, &h, p.data, now).and_then(|key| {
            let hit = table.lookup_or_insert(&key, now, |idx, flow| inspector.release(idx, flow))?;
            table.touch(hit, &key, p.original, now);
            Ok(hit)
        });
        let Ok(Hit { idx, dir, new }) = found else { return self.leave("fragments, and what has no flow") };
        let flow = self.table.get_mut(idx);
        if new {
            flow.set_carries(overlay::carries(&h));
            self.number[idx.0 as usize] = self.flows.len() as u32;
            self.flows.push(OneFlow::new(&h, time));
        }
        if !flow.is_decided() {
            self.inspector.inspect(idx, flow, dir, &h, p.data, now);
        }
        let one = &mut self.flows[self.number[idx.0 as usize] as usize];
        one.class = Class::from_number(flow.class).name();
        one.seen += 1;
        one.bytes += u64::from(h.end - h.l3_off);
        one.pauses += u64::from(time.saturating_sub(one.last) > SILENT);
        one.last = time;
        if let Err(before) = one.before {
            match stays(flow, &self.setting, one.seen) {
                None => one.before = Ok(one.seen),
                // What had kept it so far says more than that it is over.
                Some(Reason::Closing) if one.seen > 1 => one.before = Err(before),
                Some(reason) => one.before = Err(reason),
            }
        }
        let back = dir != Direction::FromInitiator;
        match whole(p, &h) {
            Ok((pieces, made)) => {
                self.source.regenerated += u64::from(made);
                let edge = h.proto == proto::TCP && h.tcp_flags & 7 != 0;
                one.packets.extend(pieces.into_iter().map(|bytes| IpPacket { time, back, edge, bytes }));
            }
            Err(why) => self.leave(why),
        }
    }

    fn leave(&mut self, why: &str) {
        *self.source.left_out.entry(why.to_owned()).or_default() += 1;
    }
}

impl OneFlow {
    fn new(h: &Headers, time: u64) -> Self {
        let transport = match h.proto {
            proto::TCP => "tcp".to_owned(),
            proto::UDP => "udp".to_owned(),
            proto::ICMP | proto::ICMPV6 => "icmp".to_owned(),
            other => format!("ip-{other}"),
        };
        Self {
            class: Class::Unknown.name(),
            transport,
            packets: Vec::new(),
            seen: 0,
            bytes: 0,
            before: Err(Reason::NotProven),
            pauses: 0,
            last: time,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(class: &'static str, seen: u64, bytes: u64) -> Self {
        let mut flow = Self::new(&Headers::default(), 0);
        (flow.class, flow.seen, flow.bytes) = (class, seen, bytes);
        flow
    }
}

/// What keeps a flow of a rule that only forwards with its worker: `offload::candidate`'s questions that the flow alone answers.
fn stays(flow: &Flow, setting: &Setting, packets: u64) -> Option<Reason> {
    let key = flow.key();
    match key.proto() {
        proto::TCP => match flow.state() {
            L4State::TcpEstablished => {}
            L4State::TcpOpening | L4State::TcpAnswered | L4State::TcpFound => return Some(Reason::NotProven),
            _ => return Some(Reason::Closing),
        },
        proto::UDP if flow.state() == L4State::Udp => {}
        proto::UDP => return Some(Reason::NotProven),
        _ => return Some(Reason::Protocol),
    }
    if key.vlan() != [0, 0] {
        return Some(Reason::Inner);
    }
    if flow.carries() {
        return Some(Reason::Carrier);
    }
    if setting.wait_for_class && !flow.is_decided() {
        return Some(Reason::Undecided);
    }
    (packets < setting.min_packets).then_some(Reason::FewPackets)
}

/// The IP packet as it was on the wire, or its segments; and whether some of it had to be made anew.
fn whole(p: &Captured, h: &Headers) -> std::result::Result<(Vec<Vec<u8>>, bool), &'static str> {
    if h.fragment != Fragment::No {
        return Err("fragments, and what has no flow");
    }
    let (from, end) = (usize::from(h.l3_off), usize::from(h.end));
    let there = p.data.len().min(end);
    let mut ip = p.data.get(from..there).ok_or("not IP, or malformed")?.to_vec();
    let payload = usize::from(h.payload_off) - from;
    let made = regrow(&mut ip, payload, end - from);
    if ip.len() <= LONGEST {
        return Ok((vec![ip], made));
    }
    if h.proto != proto::TCP || payload >= LONGEST {
        return Err("longer than 1,500 bytes");
    }
    let sequence = usize::from(h.l4_off) - from + 4;
    let pieces = ip[payload..].chunks(LONGEST - payload).enumerate().map(|(n, part)| {
        let mut piece = [&ip[..payload], part].concat();
        let number =
            u32::from_be_bytes([piece[sequence], piece[sequence + 1], piece[sequence + 2], piece[sequence + 3]]);
        let number = number.wrapping_add((n * (LONGEST - payload)) as u32);
        piece[sequence..sequence + 4].copy_from_slice(&number.to_be_bytes());
        let total = piece.len();
        match h.l3 {
            L3::V6 => piece[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes()),
            _ => piece[2..4].copy_from_slice(&(total as u16).to_be_bytes()),
        }
        piece
    });
    Ok((pieces.collect(), made))
}

/// Makes `ip` as long as it was. What is missing repeats what there is of the payload: as compressible as that. Without any
/// payload, bytes without order.
fn regrow(ip: &mut Vec<u8>, payload: usize, length: usize) -> bool {
    let missing = length.saturating_sub(ip.len());
    if missing == 0 {
        return false;
    }
    let known = ip.len().saturating_sub(payload);
    let mut random = crate::stats::random::Random::new(length as u64);
    for i in 0..missing {
        let byte = if known >= 16 { ip[payload + i % known] } else { random.next_u64() as u8 };
        ip.push(byte);
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use softdpu_ebpf_common::walk::walk_ip;

    fn real(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/tests/real").join(name)
    }

    #[test]
    fn flows_of_real_captures_are_told_and_kept() {
        let traffic = Traffic::read(&[real("redis.pcap"), real("nats.pcap")]).unwrap();
        let names: Vec<&str> = traffic.classes.iter().map(|c| c.name.as_str()).collect();
        assert!(names.contains(&"redis/tcp") && names.contains(&"nats/tcp"), "{names:?}");
        assert_eq!(traffic.sources.len(), 2);
        for source in &traffic.sources {
            assert!(source.packets > 0 && source.damaged.is_none() && source.regenerated == 0, "{source:?}");
        }
        let redis = traffic.classes.iter().find(|c| c.name == "redis/tcp").unwrap();
        assert!(redis.flows.iter().all(|f| f.packets.len() as u64 == f.seen && !f.packets[0].back));
        assert!(redis.flows.iter().any(|f| f.packets.iter().any(|p| p.back)));
    }

    #[test]
    fn what_keeps_a_flow_with_its_worker_is_named() {
        let traffic = Traffic::read(&[real("kafka.pcap")]).unwrap();
        let flow = &traffic.classes[0].flows[0];
        // A handshake and one request.
        assert!(flow.before.is_err() || flow.before.unwrap() >= 4, "{:?}", flow.before);
    }

    #[test]
    fn a_file_that_is_none_is_an_error() {
        assert!(Traffic::read(&["/nonexistent.pcap"]).unwrap_err().to_string().contains("cannot read"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"this is text").unwrap();
        assert!(Traffic::read(&[file.path()]).unwrap_err().to_string().contains("neither pcap"));
    }

    fn tcp(payload: &[u8]) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([0, 80, 4, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x50, 16, 255, 255, 0, 0, 0, 0]);
        ip.extend_from_slice(payload);
        let total = ip.len() as u16;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip
    }

    #[test]
    fn long_segments_are_cut_and_short_captures_regrown() {
        let bytes: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
        let ip = tcp(&bytes);
        let h = walk_ip(&ip[..], 0).unwrap();
        let p = Captured { link: 101, time: 0, original: ip.len() as u32, data: &ip };
        let (pieces, made) = whole(&p, &h).unwrap();
        assert!(!made && pieces.iter().all(|p| p.len() <= LONGEST));
        assert_eq!(pieces.iter().flat_map(|p| p[40..].to_vec()).collect::<Vec<_>>(), bytes);
        let numbers: Vec<u32> = pieces.iter().map(|p| u32::from_be_bytes([p[24], p[25], p[26], p[27]])).collect();
        assert_eq!(numbers, [10, 10 + 1460, 10 + 2920]);
        assert!(pieces.iter().all(|p| walk_ip(&p[..], 0).is_ok_and(|h| usize::from(h.end) == p.len())));
        let short = tcp(&bytes[..1000]);
        let h = walk_ip(&short[..], 0).unwrap();
        let p = Captured { link: 101, time: 0, original: short.len() as u32, data: &short[..140] };
        let (pieces, made) = whole(&p, &h).unwrap();
        assert!(made && pieces[0].len() == short.len() && pieces[0][..140] == short[..140]);
        assert_eq!(pieces[0][140..240], short[40..140]);
    }
}
