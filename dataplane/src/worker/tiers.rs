//! Who handled packets: what `status` and the metrics say of tiers.

use softdpu_ebpf_common::maps::Reason;

use crate::control::{TierStatus, XdpVerdict};
use crate::offload::Gate;
use crate::telemetry::snapshot::Snapshot;

/// What is below the workers now, and what devices kept from the driver.
#[derive(Clone, Copy, Debug, Default)]
struct Below {
    driver_flows: u64,
    device_flows: u64,
    /// Packets and bytes.
    by_devices: (u64, u64),
}

/// The tiers, the highest first; empty where no XDP program has counted anything. `malformed`: the program drops what it cannot
/// walk. A packet that a device or the driver handled is in none of the tiers below.
pub fn of(xdp: &[XdpVerdict], malformed: bool, gate: Option<&Gate>, counters: &Snapshot) -> Vec<TierStatus> {
    let below = gate.map_or_else(Below::default, |gate| {
        let ((driver_flows, device_flows), kept) = (gate.below(), gate.dropped_by_devices());
        Below { driver_flows, device_flows, by_devices: (kept.packets, kept.bytes) }
    });
    sum(xdp, malformed, below, counters.workers.iter().map(|worker| worker.flows).sum())
}

fn sum(xdp: &[XdpVerdict], malformed: bool, below: Below, flows: u64) -> Vec<TierStatus> {
    if xdp.is_empty() {
        return Vec::new();
    }
    let tier = |name: &str, flows| TierStatus { tier: name.to_owned(), flows, ..TierStatus::default() };
    let (packets, bytes) = below.by_devices;
    let mut tiers = [
        TierStatus { packets, bytes, ..tier("nic", Some(below.device_flows)) },
        tier("xdp", Some(below.driver_flows)),
        // Its table has those too that are below.
        tier("worker", Some(flows.saturating_sub(below.driver_flows + below.device_flows))),
        tier("kernel", None),
    ];
    for counted in xdp {
        let at = match Reason::ALL.iter().find(|reason| reason.name() == counted.verdict) {
            Some(Reason::Worker) => 2,
            Some(Reason::FlowForward) => 1,
            Some(reason) if reason.drop_help(malformed).is_some() => 1,
            _ => 3,
        };
        tiers[at].packets += counted.packets;
        tiers[at].bytes += counted.bytes;
    }
    tiers.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_is_somebodys() {
        let each = |reason: &Reason| XdpVerdict { verdict: reason.name().into(), packets: 1, bytes: 100 };
        let all: Vec<XdpVerdict> = Reason::ALL.iter().map(each).collect();
        let below = Below { driver_flows: 5, device_flows: 2, by_devices: (9, 90) };
        for malformed in [false, true] {
            let tiers = sum(&all, malformed, below, 20);
            let names: Vec<&str> = tiers.iter().map(|tier| tier.tier.as_str()).collect();
            assert_eq!(names, ["nic", "xdp", "worker", "kernel"]);
            assert_eq!((tiers[0].packets, tiers[0].bytes), (9, 90));
            assert_eq!(tiers[2].packets, 1);
            let seen: u64 = tiers[1..].iter().map(|tier| tier.packets).sum();
            assert_eq!(seen, Reason::ALL.len() as u64, "each once");
            let flows: Vec<Option<u64>> = tiers.iter().map(|tier| tier.flows).collect();
            assert_eq!(flows, [Some(2), Some(5), Some(13), None]);
        }
        let dropped = |malformed| sum(&all, malformed, below, 20)[1].packets;
        assert_eq!(dropped(true), dropped(false) + 5, "what cannot be walked goes to the kernel, or nowhere");
    }

    #[test]
    fn without_an_xdp_program_there_are_no_tiers() {
        assert_eq!(sum(&[], true, Below::default(), 20), []);
    }
}
