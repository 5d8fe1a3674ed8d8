//! Who handled packets, and what the XDP program did with those it saw.

use super::super::sample::View;
use super::super::table::{Cell, Table, figure, text};

pub fn tiers(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Tiers",
        columns: vec![
            text("tier", 0),
            figure("packets", 0),
            figure("rate", 0),
            figure("share", 0),
            figure("flows", 0),
            figure("packets so far", 1),
            figure("bytes so far", 1),
        ],
        history_of: "packets/s",
        nothing: "no port of kind xdp: workers do everything",
        ..Table::default()
    };
    let all = view.rate(|sample| Some(sample.status.tiers.iter().map(|tier| tier.packets).sum()));
    for tier in &view.now.status.tiers {
        let rate = |bytes: bool| {
            view.rate(|sample| {
                let tier = sample.status.tiers.iter().find(|other| other.tier == tier.tier)?;
                Some(if bytes { tier.bytes } else { tier.packets })
            })
        };
        let packets = rate(false);
        let share = packets.zip(all.filter(|all| *all > 0.0)).map(|(packets, all)| packets / all);
        table.add(
            &tier.tier,
            packets,
            [
                Cell::text(&tier.tier),
                Cell::rate(packets, "pps"),
                Cell::bits(rate(true)),
                Cell::percent(share),
                tier.flows.map_or_else(Cell::none, Cell::count),
                Cell::count(tier.packets),
                Cell::bytes(tier.bytes),
            ],
        );
    }
    table
}

pub fn verdicts(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "XDP verdicts",
        columns: vec![text("verdict", 0), figure("packets", 0), figure("rate", 0), figure("packets so far", 0)],
        sorted_by: Some(3),
        ..Table::default()
    };
    for verdict in &view.now.status.xdp {
        let rate = |bytes: bool| {
            view.rate(|sample| {
                let verdict = sample.status.xdp.iter().find(|other| other.verdict == verdict.verdict);
                // A verdict that has counted nothing is not told.
                Some(verdict.map_or(0, |v| if bytes { v.bytes } else { v.packets }))
            })
        };
        table.add(
            &verdict.verdict,
            rate(false),
            [
                Cell::text(&verdict.verdict),
                Cell::rate(rate(false), "pps"),
                Cell::bits(rate(true)),
                Cell::count(verdict.packets),
            ],
        );
    }
    table
}
