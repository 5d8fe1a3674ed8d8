//! What a rule does to packets that go on: `meter_rate`, ceilings, `sample`, `mirror` and `dscp`. The driver does the same to a flow that
//! has gone down, and goes on where this left off; flows under a ceiling stay here, where they are counted together.

use crate::flow::{FlowIdx, Tick};
use crate::graph::packet::NO_FLOW;
use crate::graph::{Cx, DropReason, Packet};
use crate::io::steer::Progress;
use crate::nodes::mirror;
use crate::plan::Plan;
use crate::plan::rules::Rule;
use crate::wire::ip;

/// How far meters and samples have come, by flow. Takes its memory at the start, and none where no rule needs it.
#[derive(Debug, Default)]
pub struct Treated {
    flows: Box<[Slot]>,
    /// By rule: for packets that have no flow, because the table is full.
    strangers: Box<[Slot]>,
    /// By share: what this worker has drawn and not used, nanoseconds.
    credits: Box<[u64]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Of the flow that it is of, so that a later one in the same place begins anew.
    created: Tick,
    /// By direction: when the bucket is full again, nanoseconds of the worker's clock.
    full_at: [u64; 2],
    /// By direction: packets met.
    met: [u64; 2],
}

impl Treated {
    /// For so many flows.
    pub fn new(plan: &Plan, flows: usize) -> Self {
        let mut new = Self::default();
        new.follow(plan, flows);
        new
    }

    /// Another plan: flows go on where they were.
    pub fn follow(&mut self, plan: &Plan, flows: usize) {
        self.credits = vec![0; plan.shares.len()].into();
        let (slots, strangers) = if plan.keeps_slots { (flows, plan.rules.len()) } else { (0, 0) };
        // What is there already is the flows'; to make it anew would hold packets up.
        if self.flows.len() != slots {
            self.flows = vec![Slot::default(); slots].into();
        }
        self.strangers = vec![Slot::default(); strangers].into();
    }

    /// A flow's slot; of none, the rule's.
    fn slot(&mut self, at: Option<(u32, Tick)>, rule: u16) -> Option<&mut Slot> {
        let Some((place, created)) = at else { return self.strangers.get_mut(usize::from(rule)) };
        let slot = self.flows.get_mut(place as usize)?;
        if slot.created != created {
            *slot = Slot { created, ..Slot::default() };
        }
        Some(slot)
    }

    /// How far a flow has come, by direction.
    pub fn progress(&self, idx: FlowIdx, created: Tick, now: u64) -> [Progress; 2] {
        let slot = self.flows.get(idx.0 as usize).filter(|slot| slot.created == created);
        let slot = slot.copied().unwrap_or_default();
        [0, 1].map(|i| Progress { until_full: slot.full_at[i].saturating_sub(now), met: slot.met[i] })
    }

    /// A flow is back. What the worker itself let by meanwhile is the less of both.
    pub fn resume(&mut self, idx: FlowIdx, created: Tick, progress: [Progress; 2], now: u64) {
        let Some(slot) = self.slot(Some((idx.0, created)), 0) else { return };
        for (i, from) in progress.into_iter().enumerate() {
            slot.full_at[i] = slot.full_at[i].max(now.saturating_add(from.until_full));
            slot.met[i] = slot.met[i].max(from.met);
        }
    }
}

impl Slot {
    /// The virtual scheduling algorithm of ITU-T I.371, as the driver has it. `cost`, `burst`: nanoseconds.
    #[inline]
    fn conforms(&mut self, side: usize, now: u64, cost: u64, burst: u64) -> bool {
        let from = self.full_at[side].max(now);
        if from - now + cost > burst {
            return false;
        }
        self.full_at[side] = from + cost;
        true
    }
}

/// Meters, samples and marks a packet of a rule, in the driver's order.
///
/// # Errors
/// [`DropReason::Metered`].
#[cold]
pub fn treat(cx: &mut Cx<'_>, packet: &mut Packet, number: u16, rule: &Rule) -> Result<(), DropReason> {
    let side = packet.meta.direction.index();
    let flow = (packet.meta.flow != NO_FLOW).then(|| (packet.meta.flow, cx.flows.get(FlowIdx(packet.meta.flow))));
    // What the driver hands up of a flow it has was met and sampled there.
    let below = flow.is_some_and(|(_, flow)| flow.tier() != crate::flow::Tier::Worker);
    let at = flow.map(|(place, flow)| (place, flow.created()));
    let len = packet.frame.total_len() as u64;
    let counters = cx.rules.treated(number);
    // What the driver hands up of a flow that it has is what it sampled.
    let mut copied = rule.sample == 0 || below;
    if let Some(slot) = cx.treated.slot(at, number) {
        if let Some(meter) = &rule.meter {
            let cost = len.saturating_mul(meter.per_byte) >> 16;
            if !slot.conforms(side, cx.now, cost, meter.burst) {
                if let Some(counters) = counters {
                    counters.metered.inc();
                }
                return Err(DropReason::Metered);
            }
        }
        if rule.sample > 0 && !below {
            slot.met[side] += 1;
            copied = slot.met[side].is_multiple_of(u64::from(rule.sample));
            if copied && let Some(counters) = counters {
                counters.sampled.inc();
            }
        }
    }
    if let Some(number) = rule.share.map(usize::from)
        && let (Some(share), Some(credit)) = (cx.plan.shares.get(number), cx.treated.credits.get_mut(number))
    {
        let cost = len.saturating_mul(share.meter.per_byte) >> 16;
        if !share.conforms(credit, cx.now, cost) {
            if let Some(counters) = counters {
                counters.metered.inc();
            }
            return Err(DropReason::Metered);
        }
    }
    if let (Some(port), Some(counters), true) = (rule.mirror, counters, copied) {
        mirror::copy(cx, packet, port, counters);
    }
    if let Some(dscp) = rule.dscp {
        ip::set_dscp(packet.frame.bytes_mut(), packet.headers.l3, dscp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::steer::Meter;
    use crate::plan::rules::RuleMeter;

    fn treated() -> (Treated, RuleMeter) {
        let meter = RuleMeter::new(Meter { rate: 1_000_000, burst: 10_000 });
        let rules = vec![Rule { meter: Some(meter), sample: 4, ..Rule::default() }];
        (Treated::new(&Plan { rules: rules.into(), keeps_slots: true, ..Plan::default() }, 8), meter)
    }

    #[test]
    fn a_meter_lets_its_rate_by_wherever_the_flow_is() {
        let (mut treated, meter) = treated();
        let cost = (1000 * meter.per_byte) >> 16;
        let (idx, created) = (FlowIdx(3), Tick(7));
        let mut passed = 0u64;
        // Ten times the rate, for a second; taken down and up again every 100 ms.
        for n in 0..10_000u64 {
            let now = 1_000_000_000 + n * 100_000;
            if n % 1000 == 999 {
                let progress = treated.progress(idx, created, now);
                treated.flows[3] = Slot { created, ..Slot::default() };
                treated.resume(idx, created, progress, now);
            }
            let slot = treated.slot(Some((3, created)), 0);
            passed += u64::from(slot.is_some_and(|slot| slot.conforms(0, now, cost, meter.burst)));
        }
        assert!((1005..=1012).contains(&passed), "1 MB and the burst: {passed}");
        // The other direction has a bucket of its own, and so has the next flow of the place.
        assert!(treated.slot(Some((3, created)), 0).is_some_and(|slot| slot.conforms(
            1,
            3_000_000_000,
            cost,
            meter.burst
        )));
        assert_eq!(treated.progress(idx, Tick(8), 0), [Progress::default(); 2]);
    }

    #[test]
    fn rules_without_meters_take_no_memory() {
        let rules = vec![Rule { dscp: Some(46), ..Rule::default() }];
        let treated = Treated::new(&Plan { rules: rules.into(), ..Plan::default() }, 1 << 20);
        assert_eq!((treated.flows.len(), treated.strangers.len()), (0, 0));
    }
}
