//! Drops by reason.

use super::super::sample::View;
use super::super::table::{Cell, Table, Tone, figure, text};

/// Reasons that are no loss: what is counted there has done its work.
const EXPECTED: [&str; 2] = ["handshake", "keepalive"];

pub fn drops(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Drops",
        columns: vec![
            text("reason", 0),
            figure("rate", 0),
            figure("so far", 0),
            text("node", 1),
            text("what it means", 2),
        ],
        history_of: "packets/s",
        detail: Some(4),
        nothing: "nothing was dropped",
        sorted_by: Some(1),
        ..Table::default()
    };
    for drop in view.now.status.drops.iter().filter(|drop| drop.count > 0) {
        let rate = view.rate(|sample| {
            let same = sample.status.drops.iter().find(|other| other.reason == drop.reason && other.node == drop.node);
            // A reason that has counted nothing is not told.
            Some(same.map_or(0, |same| same.count))
        });
        let tone = if EXPECTED.contains(&drop.reason.as_str()) { Tone::Dim } else { Tone::Warn };
        table.add(
            format!("{} {}", drop.node, drop.reason),
            rate,
            [
                Cell::text(&drop.reason),
                Cell::rate(rate, "pps").if_any(tone),
                Cell::count(drop.count),
                Cell::text(&drop.node),
                Cell::text(&drop.help),
            ],
        );
    }
    // Equal rates: the larger sum first.
    table.rows.sort_by_key(|row| {
        std::cmp::Reverse(
            view.now
                .status
                .drops
                .iter()
                .find(|drop| row.key == format!("{} {}", drop.node, drop.reason))
                .map_or(0, |drop| drop.count),
        )
    });
    table
}
