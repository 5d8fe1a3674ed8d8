//! What differs between two forwarding tables that somebody may want to know: links and neighbours.

use crate::host::fib::{Fib, Link, PortId};
use crate::telemetry::counters::Names;
use crate::telemetry::journal::{Journal, Kind, Note};
use crate::wire::ethernet::Mac;
use std::collections::HashMap;
use std::net::IpAddr;

/// Tells of each link and neighbour that is another one in `new`. Of the first table nothing is told.
pub fn links(journal: &Journal, names: &Names, old: &Fib, new: &Fib) {
    if old.generation() == 0 {
        return;
    }
    let name = |port: usize| names.ports.get(port).map_or("?", String::as_str);
    for (port, (old, new)) in old.links().iter().zip(new.links()).enumerate() {
        link(journal, name(port), old, new);
    }
    let known: HashMap<(PortId, IpAddr), Mac> = old.neighbours().collect();
    let now: HashMap<(PortId, IpAddr), Mac> = new.neighbours().collect();
    let gone = known.keys().filter(|at| !now.contains_key(at)).map(|at| (at, None));
    let mut changed: Vec<_> = now
        .iter()
        .filter(|(at, mac)| known.get(at) != Some(mac))
        .map(|(at, mac)| (at, Some(mac)))
        .chain(gone)
        .collect();
    changed.sort_unstable_by_key(|(at, _)| **at);
    for ((port, address), mac) in changed {
        let before = known.get(&(*port, *address));
        let text = match (before, mac) {
            (None, Some(mac)) => format!("{address} is at {mac}"),
            (Some(before), Some(mac)) => format!("{address} is at {mac}, was at {before}"),
            _ => format!("{address} is not known any more"),
        };
        let about = format!("{}/{address}", name(usize::from(*port)));
        let text_of = |mac: Option<&Mac>| mac.map(ToString::to_string);
        let note = Note::new(Kind::NeighbourChanged, about, text);
        journal.tell(note.with("from", text_of(before)).with("to", text_of(mac)));
    }
}

fn link(journal: &Journal, port: &str, old: &Link, new: &Link) {
    let tell = |kind: Kind, text: &str| journal.tell(Note::new(kind, port, text));
    if old == new {
        return;
    }
    if *new == Link::default() {
        return tell(
            Kind::PortGone,
            "the interface was removed; what replaces it is not served until softdpu is restarted",
        );
    }
    match (old.up, new.up) {
        (false, true) => tell(Kind::PortUp, "the link is up"),
        (true, false) => tell(Kind::PortDown, "the link is down"),
        _ => {}
    }
    let mut changes = Vec::new();
    if old.mtu != new.mtu {
        changes.push(format!("MTU {} -> {}", old.mtu, new.mtu));
    }
    if old.mac != new.mac {
        changes.push(format!("link address {} -> {}", old.mac, new.mac));
    }
    let or_none = |address: Option<String>| address.unwrap_or_else(|| "none".into());
    let addresses = |link: &Link| [link.v4.map(|a| a.to_string()), link.v6.map(|a| a.to_string())].map(or_none);
    for (before, after) in addresses(old).into_iter().zip(addresses(new)) {
        if before != after {
            changes.push(format!("address {before} -> {after}"));
        }
    }
    if !changes.is_empty() {
        journal.tell(Note::new(Kind::PortChanged, port, changes.join(", ")).with("changes", changes));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::journal::Wanted;

    fn fib(up: bool, mtu: u16, neighbour: Option<u8>) -> Fib {
        let link = Link { mac: Mac([2; 6]), mtu, up, ..Link::default() };
        let mut fib = Fib::new(1, vec![link]);
        if let Some(last) = neighbour {
            fib.add_neighbour(0, "192.0.2.2".parse().unwrap(), Mac([2, 0, 0, 0, 0, last]));
        }
        fib
    }

    #[test]
    fn links_and_neighbours_that_change_are_told_of() {
        let names = Names { ports: vec!["uplink".into()], ..Names::default() };
        let told = |old: &Fib, new: &Fib| {
            let journal = Journal::new();
            links(&journal, &names, old, new);
            let mut reader = journal.reader(Wanted::default(), Some(0)).unwrap();
            let events = reader.read().unwrap();
            events.iter().map(|e| format!("{} {}: {}", e.kind, e.about, e.text)).collect::<Vec<_>>()
        };
        let usual = fib(true, 1500, Some(1));
        assert!(told(&usual, &usual).is_empty() && told(&Fib::default(), &usual).is_empty());
        assert_eq!(told(&usual, &fib(false, 1500, Some(1))), ["port_down uplink: the link is down"]);
        assert_eq!(
            told(&usual, &fib(true, 9000, Some(7))),
            [
                "port_changed uplink: MTU 1500 -> 9000",
                "neighbour_changed uplink/192.0.2.2: 192.0.2.2 is at 02:00:00:00:00:07, was at 02:00:00:00:00:01",
            ]
        );
        assert!(told(&usual, &fib(true, 1500, None))[0].ends_with("192.0.2.2 is not known any more"));
        let mut gone = Fib::new(2, vec![Link::default()]);
        gone.set_generation(2);
        assert!(told(&usual, &gone)[0].starts_with("port_gone uplink"));
    }
}
