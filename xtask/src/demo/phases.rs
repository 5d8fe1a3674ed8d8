//! The demo with privileges: one topology, the same work in two phases.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use softdpu_testbed::{
    account,
    capture::{Capture, NOT_ESP, Seen, describe},
    cleanup::RunDir,
    edge::Edge,
    policy::{self, EdgeFiles},
    status::{self, Figures},
    topology::{self, SERVER, Topology},
};

use super::{
    Arguments,
    apps::Apps,
    checks,
    classes::by_class,
    corpus::{self, MARKER},
    report::{Compression, Report, Wire},
    say,
    workload::{Amount, Measured, Workload, binary as present, gbit_s},
};

const FULL: Amount = Amount { iperf_seconds: 5, echoes: 4000, repeats: 3 };
const QUICK: Amount = Amount { iperf_seconds: 2, echoes: 1000, repeats: 1 };
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs both phases and fills the report.
///
/// # Errors
/// When the rig fails; what the dataplane does wrong is a failed check instead, wherever that can be told.
pub fn run(arguments: &Arguments, binary: &Path, report: &mut Report) -> Result<()> {
    report.mode = "namespaces";
    let mut folder = RunDir::new("demo")?;
    if arguments.keep {
        folder.keep();
        eprintln!("everything is kept in {}", folder.path().display());
    }
    let topology = Topology::new(&topology::Options::new("demo"))?;
    let www = folder.file("www");
    std::fs::create_dir(&www)?;
    let documents = corpus::write(&www, 4 << 20, 24 << 20)?;
    say("servers: nginx (HTTP, HTTPS), dnsmasq, iperf3");
    let _apps = Apps::start(&topology, &folder)?;
    let amount = if arguments.quick { QUICK } else { FULL };
    let mut workload = Workload { topology: &topology, folder: &folder, documents: &documents, amount, pids: vec![] };
    busy_machine(report);

    say("kernel forwarding, in clear");
    topology.reachable(SERVER[0], PATIENCE)?;
    let kernel = phase(&workload, None)?.0;
    checks::transfers(report, "kernel forwarding: all transfers complete with equal checksums", &kernel);
    report.kernel_forwarding = Some(kernel);
    if arguments.kernel_only {
        return Ok(());
    }

    say("softdpu on both edges, ESP (aes-256-gcm) and LZ4 between them");
    present(binary)?;
    let files = policy::write(&folder, &policy::Options::default())?;
    let edges = start(binary, &topology, &files)?;
    workload.pids = edges.iter().map(Edge::id).collect();
    let result = with_edges(&workload, &edges, report);
    if result.is_err() || arguments.keep {
        for (edge, name) in edges.iter().zip(["edge-a", "edge-b"]) {
            eprintln!("{name} said:\n{}", softdpu_testbed::process::tail(&edge.said(), 30));
        }
    }
    result?;
    let clean = edges.into_iter().map(Edge::stop).collect::<Result<Vec<_>>>();
    let ended = clean.as_ref().is_ok_and(|all| all.iter().all(|status| status.success()));
    report.check(
        "both edges end cleanly on SIGTERM",
        ended,
        clean.map_or_else(|error| error.to_string(), |all| format!("{all:?}")),
    );
    Ok(())
}

fn start(binary: &Path, topology: &Topology, files: &[EdgeFiles; 2]) -> Result<[Edge; 2]> {
    let a = Edge::start(binary, &topology.edge_a, &files[0]).context("edge-a")?;
    let b = Edge::start(binary, &topology.edge_b, &files[1]).context("edge-b")?;
    Ok([a, b])
}

/// The second phase, with the wire watched.
fn with_edges(workload: &Workload<'_>, edges: &[Edge; 2], report: &mut Report) -> Result<()> {
    let wire = &workload.topology.wire;
    // All that is not ESP, through the whole phase; and some of the ESP, whole, to look into.
    let clear = Capture::start(wire, "wire", NOT_ESP, 128, 0, workload.folder)?;
    let sample = Capture::start(wire, "wire", "ip proto 50 or ip6 proto 50", 0, 5000, workload.folder)?;
    workload.topology.reachable(SERVER[0], PATIENCE)?;
    let (measured, text) = phase(workload, Some(edges))?;
    let idle = idle_percent(&workload.pids, Duration::from_secs(2))?;
    let wire = look(&clear.stop()?, &sample.stop()?);

    let flows = [status::flows(&edges[0].flows()?), status::flows(&edges[1].flows()?)];
    for (edge, name) in edges.iter().zip(["edge-a", "edge-b"]) {
        report.edges.insert(name, Figures::read(&edge.status()?));
    }
    let total = report.edges["edge-b"].compressed_since(&Figures::default());
    report.compression = vec![
        Compression::new("HTTP text, server to client", text),
        Compression::new("everything, server to client", total),
    ];
    report.flows_by_class = by_class(&flows[0]);
    report.idle_core_percent = Some(idle);

    checks::transfers(report, "softdpu: all transfers complete with equal checksums", &measured);
    checks::dns(report, &measured);
    checks::wire(report, &wire);
    checks::compression(report);
    for (flows, name) in flows.iter().zip(["edge-a", "edge-b"]) {
        checks::classes(report, name, flows);
    }
    checks::edges(report);
    checks::idle(report, idle);
    report.wire = Some(wire);
    report.softdpu = Some(measured);
    Ok(())
}

/// The client's work, once. With edges, also what edge-b's compressor made of the HTTP text: bytes before and after.
fn phase(workload: &Workload<'_>, edges: Option<&[Edge; 2]>) -> Result<(Measured, (u64, u64))> {
    let mut measured = Measured { dns_answers: workload.dns()?, ..Measured::default() };
    let compressor = || edges.map(|edges| edges[1].status().map(|status| Figures::read(&status))).transpose();
    let before = compressor()?;
    for _ in 0..workload.amount.repeats {
        measured.transfers.extend(workload.fetch("http", false, |document| document.text)?);
    }
    let text = match (before, compressor()?) {
        (Some(before), Some(after)) => after.compressed_since(&before),
        _ => (0, 0),
    };
    for _ in 0..workload.amount.repeats {
        measured.transfers.extend(workload.fetch("http", false, |document| !document.text)?);
    }
    measured.http_gbit_s = gbit_s(&measured.transfers);
    measured.transfers.extend(workload.fetch("https", false, |_| true)?);
    measured.transfers.extend(workload.fetch("http", true, |document| document.text)?);
    workload.tcp(&mut measured)?;
    workload.udp(&mut measured)?;
    workload.echo(&mut measured)?;
    Ok((measured, text))
}

/// Processor time that softdpu uses with no traffic, both edges together, in percent of a core each.
fn idle_percent(pids: &[u32], over: Duration) -> Result<f64> {
    // The last connections' FINs should be through, and a spinning worker asleep.
    std::thread::sleep(Duration::from_millis(500));
    let busy = || pids.iter().map(|pid| account::process_busy(*pid)).sum::<Result<Duration>>();
    let before = busy()?;
    std::thread::sleep(over);
    Ok((busy()? - before).as_secs_f64() / over.as_secs_f64() / pids.len().max(1) as f64 * 100.0)
}

fn look(clear: &Seen, sample: &Seen) -> Wire {
    let leaks = sample.frames.iter().filter(|frame| frame.bytes.windows(MARKER.len()).any(|window| window == MARKER));
    let mut examples: Vec<String> = clear.frames.iter().take(5).map(describe).collect();
    examples.extend(leaks.take(5).map(|frame| format!("clear text inside: {}", describe(frame))));
    Wire {
        esp_frames_looked_into: sample.frames.len(),
        frames_not_esp: clear.frames.len(),
        frames_missed: clear.lost,
        examples,
    }
}

/// Says in the report when others use the machine: figures are then of the moment.
fn busy_machine(report: &mut Report) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let one = load.split_whitespace().next().and_then(|one| one.parse::<f64>().ok()).unwrap_or(0.0);
    if one > 1.0 {
        report
            .notes
            .push(format!("the machine was busy already (load {one}): throughput and CPU figures are of the moment"));
    }
}
