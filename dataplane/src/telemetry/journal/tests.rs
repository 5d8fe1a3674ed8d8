#![allow(clippy::unwrap_used)]

use super::*;

fn note(kind: Kind, n: u64) -> Note {
    Note::new(kind, "x", format!("{n}")).with("n", n)
}

fn ids(events: &[Arc<Event>]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

#[test]
fn readers_get_what_they_want_in_order() {
    let journal = Journal::beginning_at(100);
    let mut all = journal.reader(Wanted::default(), None).unwrap();
    let mut plans = journal.reader("plan".parse().unwrap(), None).unwrap();
    journal.tell(note(Kind::PlanApplied, 1));
    journal.tell(note(Kind::DropsRising, 2));
    journal.tell(note(Kind::PlanRefused, 3));
    assert_eq!(ids(&all.read().unwrap()), [100, 101, 102]);
    assert_eq!(ids(&plans.read().unwrap()), [100, 102]);
    assert!(all.read().unwrap().is_empty() && all.missed().is_none());
    let mut later = journal.reader(Wanted::default(), Some(100)).unwrap();
    assert_eq!(ids(&later.read().unwrap()), [101, 102]);
    assert_eq!(ids(&journal.reader(Wanted::default(), Some(0)).unwrap().read().unwrap()), [100, 101, 102]);
    // Of an instance before this one, and of one whose clock was ahead.
    assert_eq!(ids(&journal.reader(Wanted::default(), Some(7)).unwrap().read().unwrap()), [100, 101, 102]);
    assert!(journal.reader(Wanted::default(), Some(u64::MAX)).unwrap().read().unwrap().is_empty());
    assert_eq!(journal.figures().events, 3);
}

#[test]
fn memory_is_bounded_and_the_slow_are_cut_off_with_a_count() {
    let journal = Journal::beginning_at(1);
    let mut slow = journal.reader("plan".parse().unwrap(), None).unwrap();
    let mut often = journal.reader("drops_rising".parse().unwrap(), None).unwrap();
    let most = KEPT[0] as u64;
    for n in 1..=most + 10 {
        journal.tell(note(Kind::PlanApplied, n));
    }
    assert_eq!(journal.rings().kept[0].len(), KEPT[0]);
    assert_eq!(slow.read().unwrap_err(), 10);
    assert!(often.read().unwrap().is_empty(), "one that reads the other ring has missed nothing");
    assert_eq!(journal.figures().cut_off, 1);
    let back = journal.reader("plan".parse().unwrap(), Some(4)).unwrap();
    assert_eq!((back.missed(), back.oldest(), back.at()), (Some(6), 11, 10));
    assert_eq!(journal.reader("plan".parse().unwrap(), Some(0)).unwrap().missed(), None, "whatever there is");
}

#[test]
fn floods_are_cut_and_counted_and_push_nothing_else_out() {
    let journal = Journal::beginning_at(1);
    journal.tell(note(Kind::PlanApplied, 0));
    for n in 0..50_000 {
        journal.tell(note(Kind::NeighbourChanged, n));
    }
    let figures = journal.figures();
    assert_eq!(figures.events + figures.left_out, 50_001 + u64::from(figures.events > 101));
    assert!(figures.left_out > 45_000, "{figures:?}");
    let mut reader = journal.reader("plan".parse().unwrap(), Some(0)).unwrap();
    assert_eq!(ids(&reader.read().unwrap()), [1]);
    let mut rings = journal.rings();
    let flood = rings.floods.get_mut("neighbour_changed").unwrap();
    flood.second -= 1;
    drop(rings);
    journal.tell_left_out();
    let mut reader = journal.reader("left_out".parse().unwrap(), Some(0)).unwrap();
    let told: Vec<_> =
        std::iter::from_fn(|| reader.read().ok().filter(|events| !events.is_empty())).flatten().collect();
    assert_eq!(told.last().unwrap().about, "neighbour_changed");
}

#[test]
fn readers_are_bounded_and_wishes_end_with_them() {
    let journal = Journal::new();
    assert!(!journal.is_wished());
    let readers: Vec<Reader> =
        (0..MAX_READERS).map(|_| journal.reader("flow".parse().unwrap(), None).unwrap()).collect();
    assert!(journal.reader(Wanted::default(), None).is_none());
    assert!(journal.is_wished());
    drop(readers);
    assert!(!journal.is_wished() && journal.reader(Wanted::default(), None).is_some());
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let text = Note::new(Kind::PlanRefused, "", "ä".repeat(2000)).with("why", "ü".repeat(2000)).event(1);
    assert!(text.text.len() <= LONGEST && text.text.ends_with("ä…"));
    assert!(text.facts["why"].as_str().unwrap().len() <= LONGEST);
}

#[tokio::test]
async fn a_reader_that_waits_is_woken() {
    let journal = Journal::new();
    let mut reader = journal.reader(Wanted::default(), None).unwrap();
    let writer = journal.clone();
    std::thread::spawn(move || writer.tell(note(Kind::PortUp, 1)));
    assert!(tokio::time::timeout(std::time::Duration::from_secs(5), reader.wait()).await.unwrap());
    assert_eq!(reader.read().unwrap()[0].kind, Kind::PortUp);
}
