//! The largest flows.

use super::super::sample::{View, per_second};
use super::super::table::{Cell, Table, figure, text};
use crate::control::FlowInfo;
use crate::telemetry::figures::duration;

pub fn flows(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Flows",
        columns: vec![
            text("class", 1),
            text("from", 0),
            text("to", 0),
            figure("rate", 0),
            figure("packets", 2),
            figure("bytes so far", 0),
            text("tier", 1),
            text("app", 3),
            text("host", 5),
            text("rule", 4),
            text("tunnel", 4),
            text("l4", 6),
            text("state", 8),
            figure("age", 7),
            figure("idle", 7),
        ],
        history_of: "bytes/s",
        nothing: "no flows",
        sorted_by: Some(5),
        ..Table::default()
    };
    let Some(flows) = &view.now.flows else {
        table.nothing = "asking for flows …";
        return table;
    };
    let before = view.flows_before();
    for flow in &flows.list {
        let rate = |of: fn(&FlowInfo) -> u64| {
            let (before, seconds) = before.as_ref()?;
            // A place in the table is used again: the flow is the same when its ends are.
            let was = before.get(flow.id.as_str()).filter(|was| was.a == flow.a && was.b == flow.b)?;
            per_second(of(was), of(flow), *seconds)
        };
        let bytes = rate(|f| f.bytes_ab.saturating_add(f.bytes_ba));
        table.add(
            format!("{} {} {}", flow.id, flow.a, flow.b),
            bytes,
            [
                Cell::text(&flow.class),
                Cell::text(&flow.a),
                Cell::text(&flow.b),
                Cell::bits(bytes),
                Cell::rate(rate(|f| f.packets_ab.saturating_add(f.packets_ba)), "pps"),
                Cell::bytes(flow.bytes_ab.saturating_add(flow.bytes_ba)),
                Cell::text(&flow.tier),
                Cell::text(flow.application.as_deref().unwrap_or_default()),
                Cell::text(flow.host.as_deref().unwrap_or_default()),
                Cell::text(flow.rule.as_deref().unwrap_or_default()),
                Cell::text(flow.tunnel.as_deref().unwrap_or_default()),
                Cell::text(&flow.l4),
                Cell::text(&flow.state),
                Cell::number(flow.age_s, duration(flow.age_s)),
                Cell::number(flow.idle_s, duration(flow.idle_s)),
            ],
        );
    }
    if flows.more {
        table.notes.push(format!("of the first {} that were listed; there are more (--flows N)", flows.list.len()));
    }
    table
}
