//! The families of the workers' loops, flow tables and recognition.

use std::collections::BTreeMap;
use std::fmt;

use super::super::snapshot::{Frames, L7Refusals, WorkerLoop};
use super::{Family, Put, Scrape, counter, gauge};

pub const WORKERS: &[Family] = &[
    gauge("worker_running", &["worker"], "1 while a worker runs, 0 when it stopped or failed.", |s, put| {
        let running = |worker: &crate::control::WorkerStatus| u64::from(worker.state == "running");
        s.status.workers.iter().zip(&s.numbers).try_for_each(|(worker, id)| put.add(&[id], running(worker)))
    }),
    counter(
        "worker_busy_seconds",
        &["worker"],
        "Time in turns of the loop that had packets. Its rate is the share of a core that packets take.",
        |s, put| of_workers(s).try_for_each(|(id, w)| put.add_f64(&[id], w.busy_ns as f64 / 1e9)),
    ),
    counter("worker_batches", &["worker"], "Batches that had packets.", |s, put| worker(s, put, |w| w.batches)),
    counter("worker_packets", &["worker"], "Packets that walked the graph.", |s, put| worker(s, put, |w| w.packets)),
    counter("worker_idle_rounds", &["worker"], "Rounds that found nothing.", |s, put| worker(s, put, |w| w.idle)),
    counter("worker_polls", &["worker"], "Times the worker slept.", |s, put| worker(s, put, |w| w.polls)),
    gauge("worker_flows", &["worker"], "Flows in the table, those that are offloaded too.", |s, put| {
        worker(s, put, |w| w.flows)
    }),
    gauge("worker_flows_unproven", &["worker"], "Flows that are opening or one-sided.", |s, put| {
        worker(s, put, |w| w.flows_unproven)
    }),
    counter(
        "worker_flows_refused",
        &["worker"],
        "Packets that found the flow table full and were judged by themselves.",
        |s, put| worker(s, put, |w| w.flows_refused),
    ),
    counter(
        "worker_flows_unread",
        &["worker"],
        "Flows of which too little could be read for rules over class and host: those that protect hold.",
        |s, put| worker(s, put, |w| w.flows_unread),
    ),
    counter(
        "worker_flows_evicted",
        &["worker", "reason"],
        "Flows that made way for others, by what there were too many of: table_full or unproven.",
        |s, put| full_or_unproven(s, put, |w| [w.flows_evicted_full, w.flows_evicted_unproven]),
    ),
    counter(
        "worker_flow_refusals",
        &["worker", "reason"],
        "Packets within and without that got no flow: table_full or unproven.",
        |s, put| full_or_unproven(s, put, |w| [w.flows_refused_full, w.flows_refused_unproven]),
    ),
    counter(
        "worker_tcp_unbelieved",
        &["worker"],
        "RST and FIN segments forwarded, but too far from what their sender sends to end a flow.",
        |s, put| worker(s, put, |w| w.tcp_unbelieved),
    ),
    counter(
        "worker_fragments_orphaned",
        &["worker"],
        "Later fragments whose first was not seen, judged by themselves.",
        |s, put| worker(s, put, |w| w.fragments_orphaned),
    ),
    counter(
        "worker_l7_given_up",
        &["worker", "reason"],
        "Flows that stay unknown, by reason: no_match, too_many_packets, too_much_data, too_many_pieces, no_buffer, no_transport.",
        |s, put| by_reason(s, put, |l7| &l7.given_up),
    ),
    counter(
        "worker_l7_cut_short",
        &["worker", "reason"],
        "Flows with a class of which less was read than they say, by the bound that was reached.",
        |s, put| by_reason(s, put, |l7| &l7.cut_short),
    ),
    counter("worker_l7_names_refused", &["worker"], "Host names that found no place.", |s, put| {
        worker(s, put, |w| w.l7.names_refused)
    }),
    counter(
        "worker_l7_names_bad",
        &["worker"],
        "Messages whose host name was none: too long, not printable, or of parts that do not add up.",
        |s, put| worker(s, put, |w| w.l7.names_bad),
    ),
    counter("worker_l7_buffers_lost", &["worker"], "Reassembly buffers that silent flows lost to others.", |s, put| {
        worker(s, put, |w| w.l7.buffers_lost)
    }),
    counter(
        "worker_l7_conflicts",
        &["worker"],
        "Segments that said something else than one before them at the same place.",
        |s, put| worker(s, put, |w| w.l7.conflicts),
    ),
    gauge("worker_l7_buffers", &["worker"], "Reassembly buffers in use.", |s, put| worker(s, put, |w| w.l7.buffers)),
    counter(
        "worker_inner_packets",
        &["worker"],
        "Packets within packets of overlays, counted to their own flows too.",
        |s, put| worker(s, put, |w| w.inner_packets),
    ),
    counter("worker_icmp_matched", &["worker"], "ICMP errors counted to the flow that they quote.", |s, put| {
        worker(s, put, |w| w.icmp_matched)
    }),
    counter("worker_icmp_sent", &["worker"], "ICMP errors sent.", |s, put| worker(s, put, |w| w.icmp_sent)),
    counter("worker_reassembled", &["worker"], "Datagrams put together from fragments.", |s, put| {
        worker(s, put, |w| w.reassembled)
    }),
    counter("worker_outer_fragmented", &["worker"], "Sealed packets cut into fragments.", |s, put| {
        worker(s, put, |w| w.outer_fragmented)
    }),
    counter("worker_mss_clamped", &["worker"], "SYNs whose MSS was lowered.", |s, put| {
        worker(s, put, |w| w.mss_clamped)
    }),
    gauge("worker_datagrams_held", &["worker"], "Incomplete datagrams.", |s, put| worker(s, put, |w| w.datagrams_held)),
    gauge("worker_fragments_held", &["worker"], "Fragments held for their datagrams.", |s, put| {
        worker(s, put, |w| w.fragments_held)
    }),
    gauge(
        "worker_frames",
        &["worker", "place"],
        "Frames of the UMEM, by where they are: free, fill, tx, graph.",
        frames,
    ),
    gauge("worker_frames_all", &["worker"], "Frames of the UMEM.", |s, put| worker(s, put, |w| w.frames.total)),
];

/// Each worker, and its number.
fn of_workers(s: &Scrape) -> impl Iterator<Item = (&str, &WorkerLoop)> {
    s.numbers.iter().map(String::as_str).zip(&s.counters.workers)
}

fn worker(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&WorkerLoop) -> u64) -> fmt::Result {
    of_workers(s).try_for_each(|(id, worker)| put.add(&[id], of(worker)))
}

fn full_or_unproven(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&WorkerLoop) -> [u64; 2]) -> fmt::Result {
    for (id, worker) in of_workers(s) {
        for (reason, n) in ["table_full", "unproven"].into_iter().zip(of(worker)) {
            put.add(&[id, reason], n)?;
        }
    }
    Ok(())
}

fn by_reason(s: &Scrape, put: &mut Put<'_, '_>, of: fn(&L7Refusals) -> &BTreeMap<String, u64>) -> fmt::Result {
    for (id, worker) in of_workers(s) {
        of(&worker.l7).iter().try_for_each(|(reason, n)| put.add(&[id, reason], *n))?;
    }
    Ok(())
}

fn frames(s: &Scrape, put: &mut Put<'_, '_>) -> fmt::Result {
    let places = |f: &Frames| [("free", f.free), ("fill", f.fill), ("tx", f.tx), ("graph", f.graph)];
    for (id, worker) in of_workers(s) {
        places(&worker.frames).into_iter().try_for_each(|(place, n)| put.add(&[id, place], n))?;
    }
    Ok(())
}
