//! Tunnels and their peers.

use super::super::sample::View;
use super::super::table::{Cell, Table, Tone, figure, text};
use super::{by_name, plus};
use crate::control::PeerStatus;
use crate::telemetry::figures::duration;
use crate::telemetry::snapshot::TunnelTraffic;

/// Seconds after which a session without a new handshake is no longer used (WireGuard's Reject-After-Time).
const STALE: f64 = 180.0;

pub fn tunnels(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Tunnels",
        columns: vec![
            text("tunnel", 0),
            text("type", 3),
            figure("out", 0),
            figure("out rate", 1),
            figure("in", 0),
            figure("in rate", 1),
            figure("escaped", 0),
            figure("refused/s", 2),
            figure("rekeys", 2),
            figure("peers", 4),
            figure("lz4", 5),
            text("cipher", 6),
            figure("sealed", 7),
            figure("opened", 7),
            text("remote", 8),
        ],
        history_of: "packets/s out and in",
        nothing: "the policy has no tunnels",
        ..Table::default()
    };
    for tunnel in &view.now.counters.tunnels {
        let rate = |of: fn(&TunnelTraffic) -> u64| by_name(view, &tunnel.name, |c| &c.tunnels, |t| &t.name, of);
        let facts = view.now.status.tunnels.iter().find(|facts| facts.name == tunnel.name);
        let (out, back) = (rate(|t| t.sealed.packets), rate(|t| t.opened.packets));
        table.add(
            &tunnel.name,
            plus(out, back),
            [
                Cell::text(&tunnel.name),
                Cell::text(facts.map_or("", |facts| &facts.kind)),
                Cell::rate(out, "pps"),
                Cell::bits(rate(|t| t.sealed.bytes)),
                Cell::rate(back, "pps"),
                Cell::bits(rate(|t| t.opened.bytes)),
                Cell::bytes(tunnel.escaped_bytes).if_any(Tone::Bad),
                Cell::rate(rate(|t| t.replayed + t.forged), "pps").if_any(Tone::Warn),
                Cell::count(view.rekeys.of(&tunnel.name)),
                Cell::count(facts.map_or(0, |facts| facts.peers.len() as u64)),
                tunnel.ratio().map_or_else(Cell::none, |ratio| Cell::number(ratio, format!("{ratio:.2}"))),
                Cell::text(facts.map_or("", |facts| &facts.cipher)),
                Cell::bytes(tunnel.sealed.bytes),
                Cell::bytes(tunnel.opened.bytes),
                Cell::text(facts.map_or("", |facts| &facts.remote)),
            ],
        );
    }
    for facts in &view.now.status.tunnels {
        table.notes.extend(facts.notes.iter().map(|note| format!("{}: {note}", facts.name)));
    }
    table
}

pub fn peers(view: &View<'_>) -> Table {
    let mut table = Table {
        title: "Peers",
        columns: vec![
            text("tunnel", 0),
            text("peer", 0),
            figure("handshake", 0),
            figure("sent", 0),
            figure("received", 0),
            text("endpoint", 1),
            figure("sent so far", 2),
            figure("received so far", 2),
        ],
        sorted_by: Some(3),
        ..Table::default()
    };
    for tunnel in &view.now.status.tunnels {
        for peer in &tunnel.peers {
            let rate = |of: fn(&PeerStatus) -> u64| {
                view.rate(|sample| {
                    let tunnel = sample.status.tunnels.iter().find(|other| other.name == tunnel.name)?;
                    tunnel.peers.iter().find(|other| other.public_key == peer.public_key).map(of)
                })
            };
            let handshake = peer.last_handshake_s.map_or_else(
                || Cell::text("never").toned(Tone::Warn),
                |age| Cell::number(age, duration(age)).toned(if age > STALE { Tone::Warn } else { Tone::Plain }),
            );
            let sent = rate(|p| p.sent_bytes);
            table.add(
                format!("{} {}", tunnel.name, peer.public_key),
                sent,
                [
                    Cell::text(&tunnel.name),
                    Cell::text(&peer.name),
                    handshake,
                    Cell::bits(sent),
                    Cell::bits(rate(|p| p.received_bytes)),
                    Cell::text(peer.endpoint.as_deref().unwrap_or_default()),
                    Cell::bytes(peer.sent_bytes),
                    Cell::bytes(peer.received_bytes),
                ],
            );
        }
    }
    table
}
