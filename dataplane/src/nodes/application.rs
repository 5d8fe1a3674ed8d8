//! The operator's application of a flow: looked for when its class and host stand, and again under another plan; and its counters.

use crate::flow::{Flow, FlowIdx};
use crate::l7::Inspector;
use crate::plan::applications::Applications;
use crate::telemetry::counters::WorkerCounters;

/// Names the application of a flow whose class and host stand.
pub(super) fn name(
    applications: &Applications,
    counters: &WorkerCounters,
    inspector: &Inspector,
    at: FlowIdx,
    flow: &mut Flow,
) {
    if let Some(found) = applications.settle(at, flow, inspector)
        && let Some(counters) = counters.applications.get(found.place())
    {
        counters.flows.inc();
    }
}

/// Counts packets and bytes under the application of a flow's mark.
pub(crate) fn count(counters: &WorkerCounters, applications: &Applications, mark: u16, (packets, bytes): (u64, u64)) {
    let place = applications.marked(mark).and_then(|number| usize::from(number).checked_sub(1));
    if let Some(counters) = place.and_then(|place| counters.applications.get(place)) {
        counters.packets.add(packets);
        counters.bytes.add(bytes);
    }
}
