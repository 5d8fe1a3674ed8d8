//! Intents and the operator's applications: what was asked, what became of it, what goes on now.

use std::collections::HashMap;

use super::super::sample::View;
use super::super::table::{Cell, Table, Tone, figure, text};
use super::by_name;
use crate::plan::contract::Verdict;
use crate::telemetry::intents::{IntentTraffic, by_intent};

pub fn intents(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Intents",
        columns: vec![
            text("intent", 0),
            text("verdict", 0),
            figure("encrypted", 0),
            text("asked", 2),
            figure("packets", 0),
            figure("rate", 0),
            figure("drops", 1),
            text("tier", 3),
            text("tunnel", 3),
            text("why", 4),
            text("owner", 5),
        ],
        history_of: "packets/s",
        nothing: "the policy has no folder of intents, or there are none in it",
        sorted_by: Some(4),
        ..Table::default()
    };
    // Once for all intents: there may be a thousand.
    let sums = |sample: &super::Sample| -> HashMap<String, IntentTraffic> {
        let all = by_intent(&view.now.contract, &sample.counters);
        all.into_iter().map(|(intent, traffic)| (intent.name.clone(), traffic)).collect()
    };
    let now = sums(view.now);
    let before = view.before().map(sums);
    for intent in &view.now.contract.intents {
        let rate = |of: fn(&IntentTraffic) -> u64| {
            let (was, is) = (before.as_ref()?.get(&intent.name)?, now.get(&intent.name)?);
            super::super::sample::per_second(of(was), of(is), view.seconds())
        };
        let packets = rate(|t| t.all.packets);
        let delivered = rate(|t| t.all.packets).zip(rate(|t| t.dropped)).map(|(all, dropped)| all - dropped);
        let encrypted = rate(|t| t.sealed.packets + t.opened.packets);
        // Packets that are cut before they are sealed count as several.
        let share = encrypted.zip(delivered.filter(|n| *n > 0.0)).map(|(some, all)| (some / all).min(1.0));
        let tone = match intent.verdict {
            Verdict::Met => Tone::Good,
            Verdict::Degraded => Tone::Warn,
            Verdict::Refused => Tone::Bad,
        };
        table.add(
            &intent.name,
            packets,
            [
                Cell::text(&intent.name),
                Cell::text(intent.verdict.as_str()).toned(tone),
                Cell::percent(share),
                Cell::text(&intent.encrypt),
                Cell::rate(packets, "pps"),
                Cell::bits(rate(|t| t.all.bytes)),
                Cell::rate(rate(|t| t.dropped), "pps").if_any(Tone::Warn),
                Cell::text(intent.tier.as_deref().unwrap_or_default()),
                Cell::text(intent.tunnel.as_deref().unwrap_or_default()),
                Cell::text(intent.because.reason.code()),
                Cell::text(&intent.owner),
            ],
        );
    }
    table
}

pub fn applications(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Applications",
        columns: vec![
            text("application", 0),
            figure("packets", 0),
            figure("rate", 0),
            figure("flows so far", 1),
            figure("packets so far", 2),
            figure("bytes so far", 2),
        ],
        sorted_by: Some(1),
        ..Table::default()
    };
    for app in view.now.counters.applications.iter().filter(|app| app.flows > 0) {
        let packets = by_name(view, &app.name, |c| &c.applications, |a| &a.name, |a| a.packets);
        table.add(
            &app.name,
            packets,
            [
                Cell::text(&app.name),
                Cell::rate(packets, "pps"),
                Cell::bits(by_name(view, &app.name, |c| &c.applications, |a| &a.name, |a| a.bytes)),
                Cell::count(app.flows),
                Cell::count(app.packets),
                Cell::bytes(app.bytes),
            ],
        );
    }
    table
}
