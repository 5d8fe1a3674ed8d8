#![allow(clippy::unwrap_used)]
use super::*;
use crate::machine::{Machine, Noise};
use crate::stats::random::Random;

/// Rounds of a noisy machine: a few percent around the middle, now and then one that something else got into.
fn rounds(random: &mut Random, n: usize, middle: f64, spread: f64) -> Vec<f64> {
    (0..n)
        .map(|_| {
            let hit = if random.below(12) == 0 { 1.0 + 3.0 * spread * random.unit() } else { 1.0 };
            middle * (1.0 + spread * random.normal()) * hit
        })
        .collect()
}

fn fast() -> Settings {
    Settings { resamples: 1000, ..Settings::default() }
}

fn verdict(a: &[f64], b: &[f64], pairing: Pairing, comparisons: usize) -> Verdict {
    let figures = Figures { a, b, pairing, better: Better::Lower };
    judge(&figures, &verdict::Noise::default(), comparisons, fast()).verdict
}

#[test]
fn two_samples_of_one_distribution_cannot_be_told_apart() {
    for (n, spread) in [(5, 0.01), (5, 0.05), (7, 0.03), (7, 0.1), (15, 0.02), (31, 0.05)] {
        for pairing in [Pairing::Apart, Pairing::Paired] {
            let mut random = Random::new(n as u64 * 1000 + (spread * 1000.0) as u64);
            let trials = 300;
            let alarms = (0..trials)
                .filter(|_| {
                    let (a, b) = (rounds(&mut random, n, 50.0, spread), rounds(&mut random, n, 50.0, spread));
                    verdict(&a, &b, pairing, 1) != Verdict::CannotTell
                })
                .count();
            let rate = alarms as f64 / f64::from(trials);
            println!("{n} rounds, spread {spread}, {pairing:?}: false alarms {rate:.3}");
            assert!(rate <= 0.05, "{n} rounds, spread {spread}, {pairing:?}: {rate}");
        }
    }
}

#[test]
fn a_false_alarm_in_a_whole_report_is_as_rare() {
    let mut random = Random::new(99);
    let (trials, things) = (60, 20);
    let alarms = (0..trials)
        .filter(|_| {
            (0..things).any(|_| {
                let (a, b) = (rounds(&mut random, 7, 9.0, 0.04), rounds(&mut random, 7, 9.0, 0.04));
                verdict(&a, &b, Pairing::Apart, things) != Verdict::CannotTell
            })
        })
        .count();
    println!("{alarms} of {trials} reports of {things} things with a false alarm");
    assert!(alarms <= trials / 20, "{alarms} of {trials}");
}

#[test]
fn ten_percent_slower_is_worse() {
    // What is seen of rounds in memory (1–2 %) and between veths (3 %).
    for (n, spread, least) in [(7, 0.01, 0.99), (7, 0.02, 0.95), (7, 0.03, 0.8), (15, 0.03, 0.95)] {
        let mut random = Random::new(n as u64 + (spread * 1e4) as u64);
        let trials = 200;
        let seen: Vec<Verdict> = (0..trials)
            .map(|_| {
                let (a, b) = (rounds(&mut random, n, 50.0, spread), rounds(&mut random, n, 55.0, spread));
                verdict(&a, &b, Pairing::Apart, 1)
            })
            .collect();
        let worse = seen.iter().filter(|v| **v == Verdict::Worse).count() as f64 / f64::from(trials);
        println!("{n} rounds, spread {spread}: worse {worse:.3}");
        assert!(worse >= least, "{n} rounds, spread {spread}: {worse}");
        assert!(!seen.contains(&Verdict::Better));
    }
}

#[test]
fn which_way_is_better_is_by_the_unit() {
    let (a, b) = ([10.0, 10.1, 9.9, 10.0, 10.05, 9.95, 10.0], [12.0, 12.1, 11.9, 12.0, 12.0, 12.05, 11.95]);
    let of = |better| {
        let figures = Figures { a: &a, b: &b, pairing: Pairing::Apart, better };
        judge(&figures, &verdict::Noise::default(), 1, fast()).verdict
    };
    assert_eq!(of(Better::Lower), Verdict::Worse);
    assert_eq!(of(Better::Higher), Verdict::Better);
}

/// A report of one section with rounds of `values` (in ns).
fn report(values: &[f64], noise: Noise, reference: f64) -> Report {
    let mut section = Section::new("x", "X", "ns");
    for v in values {
        section.round("a", "A", *v);
    }
    section.contenders[0].at.clear();
    section.reference = vec![reference; values.len()];
    section.noise = Some(noise);
    let mut machine = Machine::look();
    machine.build = "release".into();
    Report { sections: vec![section], ..Report::new(machine) }
}

const SLOW: [f64; 7] = [11.0, 11.1, 10.9, 11.0, 11.05, 10.95, 11.0];
const QUICK: [f64; 7] = [10.0, 10.1, 9.9, 10.0, 10.05, 9.95, 10.0];

fn told(a: &Report, b: &Report) -> (Verdict, String) {
    let done = compare(a, b, fast());
    let judged = done.rows[0].judged.clone();
    (judged.verdict, judged.why.unwrap_or_default())
}

#[test]
fn noise_larger_than_the_difference_is_a_refusal() {
    let quiet = Noise::default;
    let a = report(&QUICK, quiet(), 30.0);
    assert_eq!(told(&a, &report(&SLOW, quiet(), 30.0)).0, Verdict::Worse);
    let stolen = report(&SLOW, Noise { stolen_percent: 12.0, ..quiet() }, 30.0);
    assert!(told(&a, &stolen).1.contains("stolen"));
    let busy = report(&SLOW, Noise { others_percent: 40.0, ..quiet() }, 30.0);
    assert!(told(&a, &busy).1.contains("others"));
    let slower = report(&SLOW, quiet(), 33.5);
    assert!(told(&a, &slower).1.contains("own speed"));
    let wild = report(&[8.0, 14.0, 11.0, 9.5, 12.5, 11.0, 13.0], quiet(), 30.0);
    assert_eq!(told(&a, &wild), (Verdict::CannotTell, "the spread between rounds is 16.8 %".into()));
}

#[test]
fn what_cannot_be_compared_is_not() {
    let a = report(&QUICK, Noise::default(), 30.0);
    let mut other = report(&SLOW, Noise::default(), 30.0);
    other.machine.cpu = "another".into();
    assert!(told(&a, &other).1.contains("another CPU"));
    let across = compare(&a, &other, Settings { across: true, ..fast() });
    assert_eq!(across.rows[0].judged.verdict, Verdict::Worse);
    let mut debug = report(&SLOW, Noise::default(), 30.0);
    debug.machine.build = "debug".into();
    assert!(told(&a, &debug).1.contains("debug"));
    let (mut one, mut many) = (a.clone(), report(&SLOW, Noise::default(), 30.0));
    one.settings.insert("flows".into(), "1".into());
    many.settings.insert("flows".into(), "1024".into());
    assert!(told(&one, &many).1.contains("another setting: flows"));
    assert!(told(&a, &report(&SLOW[..2], Noise::default(), 30.0)).1.contains("no sample"));
    assert!(told(&a, &report(&[0.0; 7], Noise::default(), 30.0)).1.contains("above zero"));
    // 2 / (6 over 3) is 10 %.
    assert!(
        told(&report(&QUICK[..3], Noise::default(), 30.0), &report(&SLOW[..3], Noise::default(), 30.0))
            .1
            .contains("too few")
    );
}

#[test]
fn only_what_both_have_is_compared() {
    let a = report(&QUICK, Noise::default(), 30.0);
    let mut b = report(&SLOW, Noise::default(), 30.0);
    b.sections[0].round("new", "New", 1.0);
    b.sections[0].missing("gone", "Gone", "not installed");
    let done = compare(&a, &b, fast());
    assert_eq!((done.rows.len(), done.comparisons), (1, 1));
    assert_eq!((done.only_a.len(), done.only_b), (0, vec!["x/new".to_owned()]));
    assert!(compare(&b, &a, fast()).text().contains("only in A: x/new"));
}

#[test]
fn runs_that_took_turns_are_paired() {
    assert!(take_turns(&[1.0, 3.0, 5.0], &[2.0, 4.0, 6.0]));
    assert!(take_turns(&[1.0, 4.0, 5.0], &[2.0, 3.0, 6.0]));
    assert!(!take_turns(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]));
    assert!(!take_turns(&[1.0, 2.0, 3.0], &[4.0, 5.0]));
    assert!(!take_turns(&[], &[]));
    // Noise that both had does not hide a difference.
    let drift = [10.0, 30.0, 15.0, 25.0, 20.0, 12.0, 28.0];
    let with_times = |factor: f64, from: f64| {
        let values: Vec<f64> = drift.iter().map(|d| d * factor).collect();
        let mut r = report(&values, Noise { stolen_percent: 30.0, ..Noise::default() }, 30.0);
        r.sections[0].contenders[0].at = (0..7).map(|i| from + 10.0 * f64::from(i)).collect();
        r
    };
    let done = compare(&with_times(1.0, 0.0), &with_times(1.1, 5.0), fast());
    assert!(done.rows[0].paired);
    assert_eq!(done.rows[0].judged.verdict, Verdict::Worse, "{:?}", done.rows[0].judged);
}
