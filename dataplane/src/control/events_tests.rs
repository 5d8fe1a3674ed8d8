//! The stream of events over real sockets.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::follow::{Ask, Ended, follow};
use super::lease::Lease;
use super::tests::{Running, runtime};
use crate::telemetry::journal::{Event, Journal, Kind, Note};

/// Whoever follows.
struct Follower {
    stream: BufReader<UnixStream>,
}

impl Follower {
    fn new(running: &Running, target: &str, header: &str) -> Self {
        let mut stream = UnixStream::connect(running.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nhost: x\r\n{header}\r\n").unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// The next event, and the `id` line before it. `None`: the stream is over.
    fn next(&mut self) -> Option<(Option<u64>, Event)> {
        let (mut id, mut line) = (None, String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(number) = line.strip_prefix("id: ") {
                id = Some(number.trim().parse().unwrap());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some((id, serde_json::from_str(data).unwrap()));
            }
        }
    }

    fn hello(&mut self) -> Event {
        let (id, event) = self.next().unwrap();
        assert_eq!((id, event.kind), (None, Kind::Hello));
        event
    }
}

fn tell(journal: &Journal, kind: Kind, n: u64) {
    journal.tell(Note::new(kind, "x", format!("the {n}th")).with("n", n));
}

/// Waits for a moment that comes by itself.
fn until(what: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !what() {
        if start.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[test]
fn events_come_as_they_happen_and_from_where_one_was() {
    let running = Running::start(false);
    tell(&running.journal, Kind::PlanApplied, 1);
    let mut all = Follower::new(&running, "/v1/events", "");
    let hello = all.hello();
    assert_eq!((hello.facts["instance"].as_str(), hello.facts.get("missed")), (Some("edge-a"), None));
    let mut peers = Follower::new(&running, "/v1/events?kind=peer", "");
    peers.hello();
    tell(&running.journal, Kind::DropsRising, 2);
    tell(&running.journal, Kind::PeerUp, 3);
    let (id, event) = all.next().unwrap();
    assert_eq!((event.kind, id), (Kind::DropsRising, Some(event.id)), "what was before is no news");
    assert_eq!(all.next().unwrap().1.kind, Kind::PeerUp);
    assert_eq!(peers.next().unwrap().1.kind, Kind::PeerUp);
    drop(all);
    tell(&running.journal, Kind::PortDown, 4);
    let mut back = Follower::new(&running, "/v1/events?since=0", &format!("Last-Event-ID: {}\r\n", event.id));
    back.hello();
    let kinds: Vec<Kind> = (0..2).map(|_| back.next().unwrap().1.kind).collect();
    assert_eq!(kinds, [Kind::PeerUp, Kind::PortDown], "the header is stronger than the query");
    let mut past = Follower::new(&running, "/v1/events?follow=false", "connection: close\r\n");
    past.hello();
    assert_eq!(std::iter::from_fn(|| past.next()).count(), 4, "all that is kept, and the end");
    assert!(until(|| running.journal.figures().readers == 2), "{:?}", running.journal.figures());
}

#[test]
fn flows_are_told_of_on_wish() {
    let running = Running::start(false);
    let mut usual = Follower::new(&running, "/v1/events", "");
    usual.hello();
    assert!(!running.journal.is_wished());
    let mut flows = Follower::new(&running, "/v1/events?kind=flow", "");
    flows.hello();
    assert!(running.journal.is_wished());
    tell(&running.journal, Kind::FlowDemoted, 1);
    tell(&running.journal, Kind::PortUp, 2);
    assert_eq!(flows.next().unwrap().1.kind, Kind::FlowDemoted);
    assert_eq!(usual.next().unwrap().1.kind, Kind::PortUp);
    drop(flows);
    assert!(until(|| !running.journal.is_wished()), "the server notices that it is gone");
}

#[test]
fn a_slow_reader_is_cut_off_with_a_count_and_others_miss_nothing() {
    let running = Running::start(false);
    let mut slow = Follower::new(&running, "/v1/events?kind=plan", "");
    slow.hello();
    let mut last = 0;
    // More than the ring and all buffers between hold, in less time than makes it a reader that is gone.
    for n in 0..40_000 {
        tell(&running.journal, Kind::PlanApplied, n);
    }
    let mut got = 0;
    while let Some((_, event)) = slow.next() {
        got += 1;
        if event.kind == Kind::CutOff {
            assert!(event.facts["missed"].as_u64().unwrap() > 0, "{event:?}");
            last = event.id;
            break;
        }
    }
    assert!(last > 0 && got < 40_000, "{got}");
    assert!(slow.next().is_none(), "and it is over");
    let figures = running.journal.figures();
    assert_eq!(figures.cut_off, 1, "{figures:?}");
    let mut back = Follower::new(&running, "/v1/events?kind=plan", &format!("last-event-id: {last}\r\n"));
    assert!(back.hello().facts["missed"].as_u64().unwrap() > 0);
    assert_eq!(back.next().unwrap().1.facts["n"], 40_000 - 4096, "the oldest that is kept");
}

#[test]
fn a_reader_that_takes_nothing_is_shown_out() {
    let running = Running::start(false);
    let mut stalled = UnixStream::connect(running.socket()).unwrap();
    stalled.write_all(b"GET /v1/events?kind=plan HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(until(|| running.journal.figures().readers == 1));
    let mut reads = Follower::new(&running, "/v1/events?kind=port", "");
    reads.hello();
    for n in 0..3_000 {
        // Long ones: together more than any socket holds, however many go into it at once.
        running.journal.tell(Note::new(Kind::PlanApplied, "x", format!("{n:0400}")));
    }
    std::thread::scope(|scope| {
        // One that reads lasts, also where nothing happens.
        scope.spawn(|| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(100));
            }
            tell(&running.journal, Kind::PortUp, 1);
        });
        assert_eq!(reads.next().unwrap().1.kind, Kind::PortUp);
    });
    assert!(until(|| running.journal.figures().readers == 1), "{:?}", running.journal.figures());
    assert_eq!(running.journal.figures().cut_off, 1);
    let mut rest = Vec::new();
    stalled.read_to_end(&mut rest).unwrap();
}

#[tokio::test]
async fn a_connection_lasts_a_while_and_longer_with_events() {
    let lease = Arc::new(Lease::default());
    let start = Instant::now();
    lease.ended(Duration::from_millis(50)).await;
    assert!(start.elapsed() >= Duration::from_millis(50));
    let journal = Journal::new();
    lease.takes(&journal);
    let plain = tokio::time::timeout(Duration::from_millis(300), lease.ended(Duration::from_millis(50)));
    assert!(plain.await.is_err());
    lease.stops();
    assert!(tokio::time::timeout(Duration::from_secs(5), lease.ended(Duration::from_millis(50))).await.is_ok());
    assert_eq!(journal.figures().cut_off, 0);
}

#[test]
fn the_client_follows_to_the_end_of_the_instance() {
    let running = Running::start(false);
    let (socket, journal) = (running.socket(), running.journal.clone());
    let follower = std::thread::spawn(move || {
        let mut kinds = Vec::new();
        let ask = Ask { kinds: "all".into(), since: Some(0) };
        let each = |event: Event| {
            kinds.push(event.kind);
            Ok(())
        };
        let ended = runtime().block_on(follow(&socket, &ask, each));
        (kinds, ended)
    });
    assert!(until(|| journal.figures().readers == 1));
    tell(&journal, Kind::PeerDown, 1);
    std::thread::sleep(Duration::from_millis(200));
    drop(running);
    let (kinds, ended) = follower.join().unwrap();
    assert_eq!(kinds, [Kind::Hello, Kind::PeerDown]);
    assert!(matches!(ended, Ended::Gone(_)), "{ended:?}");
    let wrong = Running::start(false);
    let ask = Ask { kinds: "plann".into(), since: None };
    match runtime().block_on(follow(&wrong.socket(), &ask, |_| Ok(()))) {
        Ended::Refused(error) => assert!(error.to_string().contains("did you mean `plan`"), "{error}"),
        other => panic!("{other:?}"),
    }
}
