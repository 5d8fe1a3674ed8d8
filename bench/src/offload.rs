//! Offloaded flows: the driver's flow table against a bare redirect and against the worker, with one entry and a million.

use std::time::Instant;

use anyhow::Result;

use softdpu::io::steer::SteerError;

use crate::net::namespace::{Namespace, ifindex};
use crate::net::topology::{Napi, Topology};
use crate::report::{Bound, Section, Target};
use crate::stop;
use crate::veth::contenders::{Contender, Placement, Running, Start, bare_xdp};
use crate::veth::{self, Options, worker};

const MILLION: u32 = 1_000_000;
/// Rows that waste nothing on packets that are dropped.
const PRICED: [&str; 3] = ["bare-xdp", "one", "worker-taken"];
/// Of the traffic that goes over all entries: the generator makes powers of two.
const SPREAD: u32 = 1 << 19;

fn one(s: &Start<'_>) -> Result<Running> {
    worker::xdp_with(s, 1)
}

fn million(s: &Start<'_>) -> Result<Running> {
    worker::xdp_with(s, MILLION)
}

/// A row: who forwards, and what is sent.
struct Row {
    contender: Contender,
    flows: u32,
    /// Bytes of a frame.
    length: usize,
}

/// Packets per second that a worker takes without loss here, about: what it costs is measured while it wastes nothing on those that it
/// would drop.
const TAKEN: f64 = 1.8e6;
/// A worker drops what it cannot take: it gets a bounded offer.
const TOO_MANY: f64 = 4e6;
/// Frames of a full MTU.
const LONG: usize = 1514;

/// First those whose work in the driver is done where veths do it, on the generator's core; then those with all their work on the tested
/// core, and nothing else there.
fn rows() -> Vec<Row> {
    let row = |name, title, placement, flows, length, start: fn(&Start<'_>) -> Result<Running>| {
        let worker = str::starts_with(name, "worker");
        let offered = match name {
            "worker-taken" => Some(TAKEN),
            _ => worker.then_some(TOO_MANY),
        };
        Row { contender: Contender { name, title, placement, offered, xdp_sink: !worker, start }, flows, length }
    };
    use Placement::{OwnCore, Sender};
    let short = |name, title, placement, flows, start| row(name, title, placement, flows, veth::SHORTEST, start);
    vec![
        short("bare-xdp", "bare XDP redirect", Sender, 1, bare_xdp),
        short("one", "offloaded, 1 entry, 1 flow sent", Sender, 1, one),
        short("million-one", "offloaded, 1,000,000 entries, 1 flow sent", Sender, 1, million),
        short("million-some", "offloaded, 1,000,000 entries, 4,096 flows sent", Sender, 4096, million),
        short("million-all", "offloaded, 1,000,000 entries, 524,288 flows sent in turn", Sender, SPREAD, million),
        short("bare-xdp-all", "bare XDP redirect, 524,288 flows sent in turn", Sender, SPREAD, bare_xdp),
        short("worker", "softdpu, worker forward", Sender, 1, worker::worker),
        short("worker-taken", "softdpu, worker forward, offered no more than it takes", Sender, 1, worker::worker),
        row("bare-xdp-long", "bare XDP redirect, 1514 B", Sender, 1, LONG, bare_xdp),
        row("one-long", "offloaded, 1514 B", Sender, 1, LONG, one),
        row("worker-long", "softdpu, worker forward, 1514 B", Sender, 1, LONG, worker::worker),
        short("bare-xdp-own-core", "bare XDP redirect, on the tested core", OwnCore, 1, bare_xdp),
        short("one-own-core", "offloaded, 1 entry, 1 flow sent, on the tested core", OwnCore, 1, one),
        short(
            "worker-own-core",
            "softdpu, worker forward, its softirq on the tested core, too",
            OwnCore,
            1,
            worker::worker,
        ),
    ]
}

/// Runs all, and returns the sections and their targets.
///
/// # Errors
/// Without root or where the links cannot be made. A contender that fails is named as missing instead.
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let shared = Topology::new('f', Napi::Inline)?;
    let own = Topology::new('o', Napi::Thread(options.dut_core))?;
    let mut section = Section::new(
        "offload",
        "flows in the driver's table, between two veths, 64 B where not said otherwise",
        "Mpps",
    );
    let mut rows = rows();
    for Row { contender: c, .. } in &rows {
        section.declare(c.name, c.title);
    }
    let mut price =
        Section::new("offload-price", "the same by CPU time of both cores, generation included", "Mpps per core");
    let mut inserts = Section::new("offload-table", "the driver's flow table, written by one thread", "million/s");
    for _ in 0..options.rounds {
        for Row { contender: c, flows, length } in &mut rows {
            if stop::asked() {
                break;
            }
            let options = Options { flows: *flows, length: *length, ..options.clone() };
            let topology = if c.placement == Placement::OwnCore { &own } else { &shared };
            match veth::turn(topology, c, &options) {
                Ok(t) => {
                    let line = section.round(c.name, c.title, t.arrived);
                    line.more.entry("sent Mpps".into()).or_default().push(t.sent);
                    line.more.entry("core busy %".into()).or_default().push(t.core);
                    if PRICED.contains(&c.name) {
                        price.round(c.name, c.title, t.arrived / t.cores.max(0.01));
                    }
                }
                Err(e) => section.missing(c.name, c.title, format!("{e:#}")),
            }
        }
        if !stop::asked() {
            table(&mut inserts)?;
        }
    }
    let bare = section.ratio("one", "bare-xdp");
    let worker = section.ratio("one", "worker");
    let worker_long = section.ratio("one-long", "worker-long");
    section.ratio("one-long", "bare-xdp-long");
    let worker_priced = price.ratio("one", "worker-taken");
    let kept = section.ratio("million-one", "one");
    let some = section.ratio("million-some", "one");
    let all = section.ratio("million-all", "one");
    section.ratio("bare-xdp-all", "bare-xdp");
    section.ratio("one-own-core", "bare-xdp-own-core");
    section.ratio("one-own-core", "worker-own-core");
    section.notes = vec![
        format!(
            "The generator is on core {}. There the driver's part of the first rows is done too: their packets include being made. A worker has \
             core {} for itself, besides; the table by CPU time counts both.",
            options.generator_core, options.dut_core
        ),
        format!(
            "On the tested core: the near port's NAPI is a kernel thread on core {}, where a worker is, too; sent and not arrived is what \
             they had no time for.",
            options.dut_core
        ),
    ];
    let rate = inserts.median("insert");
    let targets = vec![
        Target::new("offloaded / bare XDP redirect", Bound::AtLeast, 0.85, bare),
        Target::new("offloaded / worker forward, 64 B", Bound::AtLeast, 5.0, worker),
        Target::new("offloaded / worker forward, 1514 B", Bound::AtLeast, 5.0, worker_long),
        Target::new("offloaded / worker forward, 64 B, by CPU time", Bound::AtLeast, 5.0, worker_priced),
        Target::new("1,000,000 entries / 1 entry, one flow sent", Bound::AtLeast, 0.85, kept),
        Target::new("1,000,000 entries / 1 entry, 4,096 flows sent", Bound::AtLeast, 0.85, some),
        Target::new("1,000,000 entries / 1 entry, 524,288 flows sent in turn", Bound::AtLeast, 0.85, all),
        Target::new("million entries inserted per second", Bound::AtLeast, 0.5, rate),
    ];
    Ok((vec![section, price, inserts], targets))
}

/// A million entries in, their counters read, and out again.
fn table(section: &mut Section) -> Result<()> {
    let plain = |e: SteerError| anyhow::anyhow!("{e}");
    let namespace = Namespace::new()?;
    namespace.ip("link set lo up")?;
    let rate = |begun: Instant| f64::from(MILLION) / begun.elapsed().as_secs_f64() / 1e6;
    let [insert, read, remove] = namespace.run(|| {
        let mut steer = worker::table(MILLION)?;
        let out = ifindex("lo")?;
        let begun = Instant::now();
        worker::fill(&mut steer, MILLION, out)?;
        let insert = rate(begun);
        let entries: Vec<_> = (0..MILLION).filter_map(|n| steer.flows().find(&crate::steer::flow_key(n))).collect();
        anyhow::ensure!(entries.len() == MILLION as usize, "{} entries are found again", entries.len());
        let begun = Instant::now();
        let packets: u64 = entries.iter().map(|id| steer.flows().count(*id).packets).sum();
        anyhow::ensure!(packets == 0, "{packets} packets from nowhere");
        let read = rate(begun);
        let begun = Instant::now();
        for id in entries {
            steer.flow_remove(id).map_err(plain)?;
        }
        steer.flows().settle(|_, _| {});
        Ok([insert, read, rate(begun)])
    })?;
    section.round("insert", "entries inserted, fresh pages included", insert);
    section.round("read", "counters read", read);
    section.round("remove", "entries taken out, with the grace period", remove);
    Ok(())
}
