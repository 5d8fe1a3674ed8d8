//! Rates are differences, and know when there is nothing to compare.
#![allow(clippy::unwrap_used)]

use super::super::pages::Tab;
use super::super::sample::{Rekeys, Sample, View, per_second};
use super::made_up::sample;

fn cell(before: Option<&Sample>, now: &Sample, tab: Tab, column: &str, row: &str) -> String {
    let mut rekeys = Rekeys::default();
    if let Some(before) = before {
        rekeys.look(before, now);
    }
    let table = tab.tables(&View::new(before, now, &rekeys)).remove(0);
    let at = table.columns.iter().position(|c| c.title == column).unwrap_or_else(|| panic!("no column {column}"));
    let row = table.rows.iter().find(|r| r.key.starts_with(row)).unwrap_or_else(|| panic!("no row {row}"));
    row.cells[at].text.clone()
}

#[test]
fn figures_are_per_second() {
    let (before, mut now) = (sample(1), sample(2));
    now.taken = 1.5;
    let is = |tab, column, row: &str| cell(Some(&before), &now, tab, column, row);
    // 35 × 10,000 packets more, in half a second.
    assert_eq!(is(Tab::Ports, "rx", "apps"), "700 kpps");
    assert_eq!(is(Tab::Ports, "rx rate", "apps"), "3.92 Gbit/s");
    assert_eq!(is(Tab::Ports, "rx full/s", "apps"), "6 pps");
    assert_eq!(is(Tab::Ports, "rx full", "apps"), "6");
    assert_eq!(is(Tab::Workers, "per batch", "0"), "20.0");
    assert_eq!(is(Tab::Tiers, "share", "xdp"), "90 %");
    assert_eq!(is(Tab::Tiers, "flows", "kernel"), "-");
    assert_eq!(is(Tab::Apps, "encrypted", "payments"), "100 %");
    assert_eq!(is(Tab::Apps, "encrypted", "video"), "0 %");
    assert_eq!(is(Tab::Apps, "encrypted", "backups"), "-", "all dropped: nothing went anywhere");
    assert_eq!(is(Tab::Apps, "drops", "backups"), "18.0 kpps");
    assert_eq!(is(Tab::Drops, "rate", "policy policy_drop"), "18.0 kpps");
    assert_eq!(is(Tab::Drops, "rate", "icmp ttl"), "0 pps");
    // Flows have a clock of their own: listing them takes its time.
    assert_eq!(is(Tab::Flows, "rate", "0:9"), "3.60 Mbit/s");
    assert_eq!(is(Tab::Tunnels, "rekeys", "to-b"), "1", "the handshake is younger than the one before");
}

#[test]
fn a_busy_share_is_of_a_core() {
    let (before, now) = (sample(1), sample(2));
    assert_eq!(cell(Some(&before), &now, Tab::Workers, "busy", "0"), "20 %");
    assert_eq!(cell(Some(&before), &now, Tab::Workers, "busy", "1"), "94 %");
}

#[test]
fn without_a_look_before_nothing_is_known() {
    let now = sample(2);
    assert_eq!(cell(None, &now, Tab::Ports, "rx", "apps"), "-");
    assert_eq!(cell(None, &now, Tab::Ports, "rx packets", "apps"), "450 k");
}

#[test]
fn another_run_is_not_compared_with() {
    let before = sample(9);
    let mut other = sample(9 + 1);
    other.status.pid = 1;
    assert_eq!(cell(Some(&before), &other, Tab::Ports, "rx", "apps"), "-");
    let mut again = sample(1);
    again.taken = 10.0;
    assert_eq!(cell(Some(&before), &again, Tab::Tunnels, "out", "to-b"), "-", "it runs for less long than before");
}

#[test]
fn a_counter_that_began_anew_has_no_rate_this_time() {
    assert_eq!(per_second(100, 40, 1.0), None);
    assert_eq!(per_second(40, 100, 0.0), None);
    assert_eq!(per_second(40, 100, 2.0), Some(30.0));
    let (before, mut now) = (sample(2), sample(3));
    now.counters.ports[0].rx.packets = 1;
    assert_eq!(cell(Some(&before), &now, Tab::Ports, "rx", "apps"), "-");
    assert_ne!(cell(Some(&before), &now, Tab::Ports, "rx", "uplink"), "-", "the other goes on");
}

#[test]
fn a_place_that_another_flow_has_now_is_another_flow() {
    let (before, mut now) = (sample(2), sample(3));
    now.flows.as_mut().unwrap().list[1].a = "10.9.9.9:1".into();
    assert_eq!(cell(Some(&before), &now, Tab::Flows, "rate", "0:9"), "-");
}
