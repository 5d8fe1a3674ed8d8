//! Path MTU of the tunnels' ways: errors about outer packets are compared with what was sent, and lower the way's MTU.
//!
//! RFC 4301 §8.2: what is believed and what is not is this host's policy. Ours: the error must quote an association or session
//! that is in force, towards its peer, and a number that was sent of late. Where a router quotes only 8 bytes of a UDP
//! packet, which RFC 792 permits, only the ports can be compared; then not below [`UNPROVEN_LEAST`].

use super::keys::{Keys, Seal, Way};
use crate::host::icmp_errors::IcmpErrors;
use crate::wire::pmtu::{About, Report, recently_sent};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Packets back that an error may be about: a second or so at full rate.
const RECENT: u32 = 1 << 20;
/// Least MTU taken from an error that shows nothing but ports.
const UNPROVEN_LEAST: u16 = 1280;
/// Pause between two errors: more than a thousand a second are an attack, and the kernel drops what does not fit its buffer.
const PAUSE: Duration = Duration::from_millis(1);

/// A way whose path MTU was lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowered {
    pub tunnel: u16,
    pub way: u32,
    pub mtu: u16,
}

/// How well a report fits a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    No,
    PortsOnly,
    Proven,
}

/// Compares a report with all ways and lowers the MTU of the one that it is about. `now`: monotonic nanoseconds. `None`: it is
/// about none of them, or changes nothing.
pub fn apply(keys: &Keys, report: &Report, now: u64) -> Option<Lowered> {
    let (tunnel, way, found, fit) = keys.ways().find_map(|(tunnel, at, way)| match fit(way, report, now) {
        Fit::No => None,
        fit => Some((tunnel, at, way, fit)),
    })?;
    let mtu = if fit == Fit::Proven { report.mtu } else { report.mtu.max(UNPROVEN_LEAST) };
    found.state.path_mtu.lower(now, mtu).then_some(Lowered { tunnel, way, mtu })
}

fn fit(way: &Way, report: &Report, now: u64) -> Fit {
    if way.remote.ip() != report.remote {
        return Fit::No;
    }
    let yes = |holds: bool| if holds { Fit::Proven } else { Fit::No };
    match (&way.seal, &report.about) {
        (Seal::Esp(out), About::Esp { spi, seq }) => {
            yes(*spi == out.sa.spi() && recently_sent(*seq, out.sa.sequence().wrapping_add(1), RECENT))
        }
        (seal, About::Udp { remote_port, payload, .. }) => {
            if way.remote != SocketAddr::new(report.remote, *remote_port) {
                return Fit::No;
            }
            match seal {
                Seal::Nothing => Fit::No,
                Seal::Esp(out) => match payload.esp() {
                    Some((spi, seq)) => {
                        yes(spi == out.sa.spi() && recently_sent(seq, out.sa.sequence().wrapping_add(1), RECENT))
                    }
                    None => Fit::PortsOnly,
                },
                Seal::WireGuard(out) => match (payload.wireguard(), out.session(now)) {
                    (Some((index, counter)), Some(session)) => {
                        let sent = session.messages();
                        yes(index == session.remote_index() && counter < sent && sent - counter <= RECENT.into())
                    }
                    (None, Some(_)) if payload.bytes().is_empty() => Fit::PortsOnly,
                    _ => Fit::No,
                },
            }
        }
        (Seal::Nothing | Seal::WireGuard(_), About::Esp { .. }) => Fit::No,
    }
}

/// Listens for errors of both families, for as long as the process runs. `clock`: monotonic nanoseconds. Where the kernel
/// refuses the sockets, a warning says so and the tunnels go on without.
pub async fn listen(keys: Arc<ArcSwap<Keys>>, clock: fn() -> u64) {
    tokio::join!(family(&keys, clock, false), family(&keys, clock, true));
}

async fn family(keys: &ArcSwap<Keys>, clock: fn() -> u64, v6: bool) {
    let errors = match IcmpErrors::open(v6) {
        Ok(errors) => errors,
        Err(error) => {
            let family = if v6 { "IPv6" } else { "IPv4" };
            tracing::warn!(%error, family, "cannot listen for ICMP errors: the path MTU of tunnels is not learnt");
            return;
        }
    };
    loop {
        match errors.next().await {
            Ok(report) => {
                if let Some(lowered) = apply(&keys.load(), &report, clock()) {
                    tracing::info!(remote = %report.remote, mtu = lowered.mtu, "the path to a tunnel's peer has a lower MTU");
                }
            }
            Err(error) => tracing::debug!(%error, "reading ICMP errors"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
