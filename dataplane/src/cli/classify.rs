//! `softdpu classify`: what a capture's flows are, by the very table and recognisers of the packet path.

pub mod capture;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use softdpu_ebpf_common::walk::{Headers, L3, walk, walk_ip};

use crate::flow::{Direction, Flow, FlowConfig, FlowIdx, FlowTable, Hit, Net, Seed, Tick, Timeouts};
use crate::l7::{Inspector, L7Config};
use crate::plan::applications::Applications;
use crate::wire::overlay;

/// One flow of a capture, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowRow {
    /// Name of the file, without its folder.
    pub file: String,
    /// `TCP`, `UDP` and so on; the protocol number where it has no name.
    pub l4: String,
    /// The initiator: `ip:port`, IPv6 in brackets, port 0 where the protocol has none.
    pub a: String,
    pub b: String,
    /// Name of the class, lower case.
    pub protocol: String,
    /// Empty where none is known.
    pub host: String,
    /// The operator's name for it. Empty where the policy has none, or there is no policy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub application: String,
    /// What its packets are within: `vxlan 5`, or `gre`. Empty outside.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub within: String,
    /// Both directions together.
    pub packets: u64,
    /// Bytes on the wire with link-layer headers, both directions together; of what is within others, from the IP header on.
    pub bytes: u64,
    /// What the protocol rests on: `payload`, `handshake`, `protocol`; `dns` where only the address has a name; `nothing`.
    pub by: String,
    /// What the host name rests on, likewise; empty without one.
    pub host_by: String,
    /// First protocol that a TLS client offers; empty where it offers none.
    pub alpn: String,
    /// What else is known, by name.
    pub facts: BTreeMap<&'static str, String>,
}

/// What was gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub flows: usize,
    pub packets: u64,
    /// Packets that belong to no flow: not IP, malformed, a fragment whose first is missing, a link type not known here.
    pub skipped: u64,
}

/// The applications of a policy file. Its key files are not looked at.
///
/// # Errors
/// What is wrong with the policy.
pub fn applications(policy: &Path) -> anyhow::Result<Applications> {
    let policy = crate::config::load_without_keys(policy)?;
    Ok(Applications::compile(&policy.applications)?)
}

/// Classifies the flows of each file, in order of their first packet, and writes them to `out`: one JSON object a line,
/// or a table. Where there are `applications` flows are named by them.
///
/// # Errors
/// Any file that could not be read to its end, with the reason and the place; the others (and what was read of it) have
/// been written by then. Or `out` could not be written.
pub fn run(
    files: &[PathBuf],
    applications: Option<&Applications>,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<Summary> {
    let mut all = Vec::new();
    let mut sum = Summary::default();
    let mut bad = Vec::new();
    for path in files {
        let (rows, of_file, result) = classify_file_as(path, applications.unwrap_or(&Applications::default()));
        sum.flows += rows.len();
        sum.packets += of_file.packets;
        sum.skipped += of_file.skipped;
        if let Err(e) = result {
            bad.push(format!("{}: {e:#}", path.display()));
        }
        if json {
            for row in &rows {
                serde_json::to_writer(&mut *out, row).context("cannot write")?;
                out.write_all(b"\n").context("cannot write")?;
            }
        } else {
            all.extend(rows);
        }
    }
    if !json {
        write_table(&all, applications.is_some(), out).context("cannot write")?;
    }
    out.flush().context("cannot write")?;
    if bad.is_empty() {
        return Ok(sum);
    }
    bail!("{} of {} files could not be read whole\n{}", bad.len(), files.len(), bad.join("\n"))
}

/// The flows of one file: also those up to the place where it turns out damaged.
pub fn classify_file(path: &Path) -> (Vec<FlowRow>, Summary, anyhow::Result<()>) {
    classify_file_as(path, &Applications::default())
}

/// The same, with names for the flows.
pub fn classify_file_as(path: &Path, applications: &Applications) -> (Vec<FlowRow>, Summary, anyhow::Result<()>) {
    let size = std::fs::metadata(path).map_or(0, |m| m.len());
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut run = Run::new(name, size, applications);
    let result = capture::for_each(path, |p| run.packet(&p));
    let (rows, summary) = run.finish();
    (rows, summary, result)
}

/// No flow of a capture is split by its pauses: as long as timeouts can be, 120 days.
const IDLE: Duration = Duration::from_secs(120 * 86_400);
const NO_ROW: u32 = u32::MAX;

struct Run<'a> {
    file: String,
    applications: &'a Applications,
    table: FlowTable,
    inspector: Inspector,
    rows: Vec<FlowRow>,
    /// Row of each flow, by its place in the table.
    row_of: Vec<u32>,
    /// Timestamp of the first packet.
    epoch: Option<u64>,
    padded: Vec<u8>,
    summary: Summary,
}

impl<'a> Run<'a> {
    /// `size` of the file bounds its flows: each takes a packet, or one within, and that 20 bytes of file.
    fn new(file: String, size: u64, applications: &'a Applications) -> Self {
        let capacity = (size / 20 + 64).min(1 << 20) as u32;
        let timeouts = Timeouts::all(IDLE);
        Self {
            file,
            applications,
            table: FlowTable::new(&FlowConfig { capacity, timeouts, unproven_percent: 100 }, Seed::random(), Tick(0)),
            inspector: Inspector::new(&L7Config {
                buffers: (capacity as usize).min(512),
                hosts: (capacity as usize).min(1 << 17),
                starts: capacity as usize,
                facts: capacity as usize,
                addresses: (capacity as usize).min(1 << 16),
            }),
            rows: Vec::new(),
            row_of: vec![NO_ROW; capacity as usize],
            epoch: None,
            padded: Vec::new(),
            summary: Summary::default(),
        }
    }

    fn packet(&mut self, p: &capture::Captured) {
        self.summary.packets += 1;
        let epoch = *self.epoch.get_or_insert(p.time);
        let now = Tick::from_nanos(p.time.saturating_sub(epoch));
        let Self { table, inspector, rows, row_of, file, applications, .. } = self;
        let of = (file.as_str(), *applications);
        table.expire(now, 256, |idx, flow| end((idx, flow), of, rows, row_of, inspector));
        let Some(h) = headers(p, &mut self.padded) else {
            self.summary.skipped += 1;
            return;
        };
        let (mut net, mut h, mut bytes) = (Net::OUTSIDE, h, p.original.max(p.data.len() as u32));
        // The packet, then those within.
        for depth in 0..=overlay::DEPTH {
            let hit = table.prepare_in(net, &h, p.data, now).and_then(|key| {
                let hit =
                    table.lookup_or_insert(&key, now, |idx, flow| end((idx, flow), of, rows, row_of, inspector))?;
                table.touch(hit, &key, bytes, now);
                // Fragments that had come before their first have their flow now.
                self.summary.skipped -= if depth == 0 { u64::from(key.early().packets) } else { 0 };
                Ok(hit)
            });
            let Ok(Hit { idx, dir, new }) = hit else {
                self.summary.skipped += u64::from(depth == 0);
                return;
            };
            let flow = table.get_mut(idx);
            if new {
                row_of[idx.0 as usize] = rows.len() as u32;
                rows.push(describe(of, idx, flow, inspector));
            }
            inspector.inspect(idx, flow, dir, &h, p.data, now);
            let Some(inner) = overlay::inner(p.data, &h) else { return };
            (net, h) = (Net::new(inner.kind as u8, inner.id), inner.headers);
            bytes = u32::from(h.end - h.l3_off);
        }
    }

    fn finish(mut self) -> (Vec<FlowRow>, Summary) {
        for (idx, flow) in self.table.iter() {
            if let Some(row) = self.rows.get_mut(self.row_of[idx.0 as usize] as usize) {
                *row = describe((&self.file, self.applications), idx, flow, &self.inspector);
            }
        }
        self.summary.flows = self.rows.len();
        (self.rows, self.summary)
    }
}

/// Writes an ended flow's row for good.
fn end(
    (idx, flow): (FlowIdx, &Flow),
    of: (&str, &Applications),
    rows: &mut [FlowRow],
    row_of: &mut [u32],
    inspector: &mut Inspector,
) {
    let row = &mut row_of[idx.0 as usize];
    if let Some(row) = rows.get_mut(*row as usize) {
        *row = describe(of, idx, flow, inspector);
    }
    *row = NO_ROW;
    inspector.release(idx, flow);
}

fn describe((file, applications): (&str, &Applications), idx: FlowIdx, flow: &Flow, inspector: &Inspector) -> FlowRow {
    let proto = flow.key().proto();
    // What stands for ports in an ICMP echo's key is its identifier.
    let end = |mut e: crate::flow::key::Endpoint| {
        if !matches!(proto, 6 | 17 | 132) {
            e.port = 0;
        }
        e.to_string()
    };
    let both = |f: fn(&Flow, Direction) -> u64| f(flow, Direction::FromInitiator) + f(flow, Direction::FromResponder);
    FlowRow {
        file: file.to_owned(),
        l4: l4_name(proto),
        a: end(flow.initiator()),
        b: end(flow.responder()),
        protocol: flow.class().name().to_owned(),
        host: inspector.host_of(flow).unwrap_or_default().to_owned(),
        application: applications.of(idx, flow, inspector).map_or("", |app| applications.name(app)).to_owned(),
        within: within(flow),
        packets: both(Flow::packets),
        bytes: both(Flow::bytes),
        by: flow.by().name().to_owned(),
        host_by: if flow.host().is_some() { flow.host_by().name().to_owned() } else { String::new() },
        alpn: flow.alpn().name().to_owned(),
        facts: inspector
            .facts_of(idx, flow)
            .map(|facts| facts.iter().map(|(fact, value)| (fact.name(), value.to_owned())).collect())
            .unwrap_or_default(),
    }
}

/// What the flow's packets are within: `vxlan 5`, or `gre`. Empty outside.
pub fn within(flow: &Flow) -> String {
    let net = flow.key().net();
    overlay::Kind::of(net.kind()).map(|kind| kind.label(net.id())).unwrap_or_default()
}

fn l4_name(proto: u8) -> String {
    let name = match proto {
        1 => "ICMP",
        2 => "IGMP",
        6 => "TCP",
        17 => "UDP",
        47 => "GRE",
        50 => "ESP",
        51 => "AH",
        58 => "ICMPV6",
        89 => "OSPF",
        112 => "VRRP",
        132 => "SCTP",
        n => return n.to_string(),
    };
    name.to_owned()
}

/// Walks a captured packet by its link type. `None`: no IP, or malformed. `padded` is room to work in.
///
/// Where the capture has cut the packet short, the walk sees zeros in place of what is missing.
pub fn headers(p: &capture::Captured, padded: &mut Vec<u8>) -> Option<Headers> {
    let whole = (p.original as usize).min(usize::from(u16::MAX));
    let frame = if whole > p.data.len() {
        padded.clear();
        padded.extend_from_slice(p.data);
        padded.resize(whole, 0);
        &padded[..]
    } else {
        p.data
    };
    let walked = match link_header(p.link, frame)? {
        0 if p.link == ETHERNET => walk(frame),
        l3_off => walk_ip(frame, l3_off),
    };
    walked.ok().filter(|h: &Headers| h.l3 != L3::Other && usize::from(h.payload_off) <= p.data.len())
}

/// Number of the link type.
pub const ETHERNET: u32 = 1;

/// Length of the link-layer header where IP follows. For Ethernet 0: the walk does that itself.
pub fn link_header(link: u32, d: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u16::from_be_bytes([*d.get(at)?, *d.get(at + 1)?]));
    let is_ip = |ethertype: u16| matches!(ethertype, 0x0800 | 0x86dd);
    match link {
        ETHERNET => Some(pppoe(d).unwrap_or(0)),
        // Raw IP under its four numbers.
        12 | 14 | 101 | 228 | 229 => Some(0),
        // BSD loopback: the address family, in the host's or the network's byte order.
        0 | 108 => Some(4),
        // Cisco HDLC, which also hides under PPP's numbers: an ethertype behind two bytes.
        9 | 50 | 104 if matches!(word(0)?, 0x0f00 | 0x8f00) => is_ip(word(2)?).then_some(4),
        // PPP with and without address and control bytes (RFC 1662), carrying IPv4 or IPv6.
        9 | 50 => {
            let at = if word(0)? == 0xff03 { 2 } else { 0 };
            matches!(word(at)?, 0x0021 | 0x0057).then_some(at + 2)
        }
        // Linux cooked, first and second form.
        113 => is_ip(word(14)?).then_some(16),
        276 => is_ip(word(0)?).then_some(20),
        _ => None,
    }
}

/// Length of an Ethernet header and what is behind it where PPPoE carries IP (RFC 2516 §4), behind up to two tags.
fn pppoe(d: &[u8]) -> Option<usize> {
    const SESSION: u16 = 0x8864;
    let word = |at: usize| Some(u16::from_be_bytes([*d.get(at)?, *d.get(at + 1)?]));
    let mut at = 12;
    while at < 20 && matches!(word(at)?, 0x8100 | 0x88a8) {
        at += 4;
    }
    let is_ip = word(at)? == SESSION && matches!(word(at + 8)?, 0x0021 | 0x0057);
    is_ip.then_some(at + 10)
}

/// Columns as wide as their widest cell; the last two are numbers and stand to the right.
fn write_table(rows: &[FlowRow], named: bool, out: &mut impl Write) -> std::io::Result<()> {
    let application = if named { "APPLICATION" } else { "" };
    let head = ["FILE", "L4", "A", "B", "PROTOCOL", application, "HOST", "PACKETS", "BYTES"].map(str::to_owned);
    let cells = |r: &FlowRow| {
        let [file, l4, a, b, protocol, app, host] =
            [&r.file, &r.l4, &r.a, &r.b, &r.protocol, &r.application, &r.host].map(Clone::clone);
        [file, l4, a, b, protocol, app, host, r.packets.to_string(), r.bytes.to_string()]
    };
    let mut widths = head.each_ref().map(String::len);
    for r in rows {
        for (w, c) in widths.iter_mut().zip(cells(r)) {
            *w = (*w).max(c.chars().count());
        }
    }
    for row in std::iter::once(head).chain(rows.iter().map(cells)) {
        let [file, l4, a, b, protocol, app, host, packets, bytes] = row;
        let [wf, wl, wa, wb, wp, wo, wh, wn, wy] = widths;
        // Without a policy there is no such column.
        let app = if named { format!("{app:wo$}  ") } else { String::new() };
        writeln!(
            out,
            "{file:wf$}  {l4:wl$}  {a:wa$}  {b:wb$}  {protocol:wp$}  {app}{host:wh$}  {packets:>wn$}  {bytes:>wy$}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "classify/tests.rs"]
mod tests;
