//! Ports and their queues.

use super::super::sample::{Rate, View};
use super::super::table::{Cell, Table, Tone, figure, text};
use super::{by_name, plus};
use crate::telemetry::snapshot::{PortTraffic, QueueTraffic};

pub fn ports(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Ports",
        columns: vec![
            text("port", 0),
            text("interface", 6),
            text("mode", 3),
            figure("rx", 0),
            figure("rx rate", 1),
            figure("tx", 0),
            figure("tx rate", 1),
            figure("rx full/s", 2),
            figure("tx full/s", 2),
            figure("rx full", 4),
            figure("tx full", 4),
            figure("rx packets", 5),
            figure("tx packets", 5),
        ],
        history_of: "packets/s in and out",
        nothing: "no ports",
        ..Table::default()
    };
    for port in &view.now.counters.ports {
        let rate = |of: fn(&PortTraffic) -> u64| by_name(view, &port.name, |c| &c.ports, |p| &p.name, of);
        let facts = view.now.status.ports.iter().find(|facts| facts.name == port.name);
        let mode = facts.map_or_else(String::new, |facts| match (&facts.mode, &facts.copy) {
            (Some(mode), Some(copy)) => format!("{mode}, {copy}"),
            _ => facts.kind.clone(),
        });
        let (rx, tx) = (rate(|p| p.rx.packets), rate(|p| p.tx.packets));
        table.add(
            &port.name,
            plus(rx, tx),
            [
                Cell::text(&port.name),
                Cell::text(facts.and_then(|facts| facts.interface.as_deref()).unwrap_or_default()),
                Cell::text(mode),
                Cell::rate(rx, "pps"),
                Cell::bits(rate(|p| p.rx.bytes)),
                Cell::rate(tx, "pps"),
                Cell::bits(rate(|p| p.tx.bytes)),
                Cell::rate(rate(|p| p.rx_ring_full), "pps").if_any(Tone::Bad),
                Cell::rate(rate(|p| p.tx_ring_full), "pps").if_any(Tone::Bad),
                Cell::count(port.rx_ring_full).if_any(Tone::Warn),
                Cell::count(port.tx_ring_full).if_any(Tone::Warn),
                Cell::count(port.rx.packets),
                Cell::count(port.tx.packets),
            ],
        );
    }
    for facts in &view.now.status.ports {
        table.notes.extend(facts.notes.iter().map(|note| format!("{}: {note}", facts.name)));
    }
    table
}

/// Queues of ports that have more than one.
pub fn queues(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Queues",
        columns: vec![
            text("port", 0),
            figure("queue", 0),
            figure("worker", 3),
            figure("rx", 0),
            figure("rx rate", 1),
            figure("tx", 0),
            figure("tx rate", 1),
            figure("rx full", 2),
            figure("tx full", 2),
        ],
        ..Table::default()
    };
    for port in &view.now.counters.ports {
        for (at, queue) in port.queues.iter().enumerate().filter(|_| port.queues.len() > 1) {
            let rate = |of: fn(&QueueTraffic) -> u64| -> Rate {
                view.rate(|sample| {
                    let port = sample.counters.ports.iter().find(|other| other.name == port.name)?;
                    port.queues.get(at).map(of)
                })
            };
            let rx = rate(|q| q.rx.packets);
            table.add(
                format!("{} {}", port.name, queue.queue),
                rx,
                [
                    Cell::text(&port.name),
                    Cell::number(queue.queue.into(), queue.queue.to_string()).toned(Tone::Plain),
                    Cell::number(queue.worker as f64, queue.worker.to_string()).toned(Tone::Plain),
                    Cell::rate(rx, "pps"),
                    Cell::bits(rate(|q| q.rx.bytes)),
                    Cell::rate(rate(|q| q.tx.packets), "pps"),
                    Cell::bits(rate(|q| q.tx.bytes)),
                    Cell::count(queue.rx_ring_full).if_any(Tone::Warn),
                    Cell::count(queue.tx_ring_full).if_any(Tone::Warn),
                ],
            );
        }
    }
    table
}
