//! Workers.

use super::super::sample::{Rate, Sample, View};
use super::super::table::{Cell, Table, Tone, figure, text};
use crate::telemetry::snapshot::WorkerLoop;

/// Share of a core above which a worker has little left.
const FULL: f64 = 0.9;

pub fn workers(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Workers",
        columns: vec![
            figure("worker", 0),
            figure("core", 4),
            text("state", 1),
            figure("busy", 0),
            figure("packets", 0),
            figure("per batch", 1),
            figure("idle rounds/s", 3),
            figure("sleeps/s", 2),
            figure("flows", 1),
            figure("refused/s", 5),
            figure("frames free", 3),
        ],
        history_of: "busy share of a core",
        nothing: "no workers",
        ..Table::default()
    };
    for (at, worker) in view.now.counters.workers.iter().enumerate() {
        let find = |of: fn(&WorkerLoop) -> u64| move |sample: &Sample| sample.counters.workers.get(at).map(of);
        let rate = |of: fn(&WorkerLoop) -> u64| -> Rate { view.rate(find(of)) };
        let busy = rate(|w| w.busy_ns).map(|ns| (ns / 1e9).min(1.0));
        let facts = view.now.status.workers.get(at);
        let state = facts.map_or("", |facts| facts.state.as_str());
        let free = worker.frames.free as f64 / worker.frames.total.max(1) as f64;
        let batch = view.ratio(find(|w| w.packets), find(|w| w.batches));
        table.add(
            at.to_string(),
            busy,
            [
                Cell::number(at as f64, at.to_string()).toned(Tone::Plain),
                facts
                    .and_then(|facts| facts.core)
                    .map_or_else(Cell::none, |core| Cell::number(core as f64, core.to_string()).toned(Tone::Plain)),
                Cell::text(state).toned(if state == "running" { Tone::Good } else { Tone::Bad }),
                match busy {
                    Some(share) if share >= FULL => Cell::percent(busy).toned(Tone::Warn),
                    _ => Cell::percent(busy),
                },
                Cell::rate(rate(|w| w.packets), "pps"),
                batch.map_or_else(Cell::none, |n| Cell::number(n, format!("{n:.1}"))),
                Cell::rate(rate(|w| w.idle), "/s"),
                Cell::rate(rate(|w| w.polls), "/s"),
                Cell::count(worker.flows),
                Cell::rate(rate(|w| w.flows_refused), "/s").if_any(Tone::Bad),
                Cell::number(free, format!("{}/{}", worker.frames.free, worker.frames.total)).toned(
                    // The receive rings have theirs all the time; a twentieth is what is left for bursts.
                    if free < 0.05 { Tone::Warn } else { Tone::Plain },
                ),
            ],
        );
    }
    table
}
