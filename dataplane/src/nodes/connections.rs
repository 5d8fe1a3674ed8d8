//! Which flows of a worker are counted against the limits of applications ([`crate::plan::connections`]).

use std::sync::Arc;

use crate::flow::FlowIdx;
use crate::plan::Plan;
use crate::plan::connections::{Limit, Open};

/// Of a flow that is counted nowhere.
const NOWHERE: u16 = 0;

/// One worker's. Takes its memory when a plan first has a limit, and keeps it: flows that were counted must be counted out.
#[derive(Debug, Default)]
pub struct Counted {
    /// By flow: its tally's place, from 1; [`NOWHERE`].
    flows: Box<[u16]>,
    tallies: Vec<Tally>,
    /// By the plan's number of a limit: its tally's place.
    places: Box<[u16]>,
}

/// How many of this worker's flows are counted in one number.
#[derive(Debug)]
struct Tally {
    open: Arc<Open>,
    flows: u32,
}

impl Counted {
    /// For so many flows.
    pub fn new(plan: &Plan, flows: usize) -> Self {
        let mut new = Self::default();
        new.follow(plan, flows);
        new
    }

    /// Another plan. Its limits go on counting in the numbers they had; flows stay where they are counted until they are asked
    /// for again.
    pub fn follow(&mut self, plan: &Plan, flows: usize) {
        if !plan.limits.is_empty() && self.flows.is_empty() {
            self.flows = vec![NOWHERE; flows].into();
        }
        self.places = plan.limits.iter().map(|limit| self.place(limit, &plan.limits)).collect();
    }

    /// The tally of a limit; a new one takes the place of one that is no longer needed, where there is one.
    fn place(&mut self, limit: &Limit, all: &[Limit]) -> u16 {
        let is = |tally: &Tally| Arc::ptr_eq(&tally.open, limit.open());
        let needed = |tally: &Tally| tally.flows > 0 || all.iter().any(|limit| Arc::ptr_eq(&tally.open, limit.open()));
        if let Some(at) = self.tallies.iter().position(is) {
            return at as u16 + 1;
        }
        let new = Tally { open: limit.open().clone(), flows: 0 };
        match self.tallies.iter().position(|tally| !needed(tally)) {
            Some(at) => {
                self.tallies[at] = new;
                at as u16 + 1
            }
            None => {
                self.tallies.push(new);
                self.tallies.len() as u16
            }
        }
    }

    /// Counts a flow against the limit that its rule has under this plan, and no longer against another. `old`: it was let in
    /// under a plan before, and stays whatever the limit is now. Whether it may go on.
    pub fn admit(&mut self, idx: FlowIdx, rule_limit: Option<u16>, limits: &[Limit], old: bool) -> bool {
        let Some(at) = self.flows.get(idx.0 as usize).copied() else { return true };
        let Some((limit, place)) =
            rule_limit.map(usize::from).and_then(|n| limits.get(n).zip(self.places.get(n).copied()))
        else {
            self.leave(idx);
            return true;
        };
        if at == place {
            return true;
        }
        if !limit.open().enter(if old { u32::MAX } else { limit.most }) {
            return false;
        }
        self.leave(idx);
        self.flows[idx.0 as usize] = place;
        self.tallies[usize::from(place) - 1].flows += 1;
        true
    }

    /// A flow has ended, or is of no limited application any more.
    #[inline]
    pub fn leave(&mut self, idx: FlowIdx) {
        let Some(at) = self.flows.get_mut(idx.0 as usize).filter(|at| **at != NOWHERE) else { return };
        let tally = self.tallies.get_mut(usize::from(std::mem::replace(at, NOWHERE)) - 1);
        if let Some(tally) = tally {
            tally.flows -= 1;
            tally.open.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{self, policy::Shared};
    use crate::graph::DropReason;
    use crate::wire::checksum;
    use crate::worker::harness::Harness;
    use proptest::prelude::*;

    fn plan(limits: &[(&str, u32)]) -> Plan {
        let limits = limits.iter().map(|(name, most)| Limit::new((*name).into(), *most)).collect();
        Plan { limits, ..Plan::default() }
    }

    fn after(mut plan: Plan, before: &Plan) -> Plan {
        Limit::follow(&mut plan.limits, &before.limits);
        plan
    }

    #[test]
    fn a_flow_counts_once_and_until_it_ends() {
        let plan = plan(&[("app", 2)]);
        let mut counted = Counted::new(&plan, 8);
        let mut ask = |n, old| counted.admit(FlowIdx(n), Some(0), &plan.limits, old);
        assert!(ask(0, false) && ask(0, false) && ask(1, false) && !ask(2, false));
        // Whoever was there before the limit stays.
        assert!(ask(3, true) && !ask(2, false));
        for n in [0, 1, 3, 2, 7] {
            counted.leave(FlowIdx(n));
        }
        assert_eq!(plan.limits[0].open().count(), 0);
        assert!(counted.admit(FlowIdx(2), Some(0), &plan.limits, false));
    }

    #[test]
    fn without_limits_there_is_no_memory_and_no_refusal() {
        let plan = plan(&[]);
        let mut counted = Counted::new(&plan, 1 << 20);
        assert!(counted.flows.is_empty() && counted.admit(FlowIdx(5), None, &plan.limits, false));
        counted.leave(FlowIdx(5));
    }

    /// A UDP packet from this port.
    fn frame(port: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 7, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 2]);
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame[36..38].copy_from_slice(&7000u16.to_be_bytes());
        frame[38..40].copy_from_slice(&26u16.to_be_bytes());
        frame
    }

    #[test]
    fn a_worker_refuses_flows_beyond_the_limit_until_others_have_ended() {
        let policy = "[workers]\ncount = 1\nframes = 1024\n[flows]\ncapacity = 1024\n\
            [[port]]\nname = \"near\"\nkind = \"loopback\"\nloop_to = \"far\"\n\
            [[port]]\nname = \"far\"\nkind = \"loopback\"\nloop_to = \"near\"\n\
            [[steer]]\nname = \"all\"\naction = \"worker\"\n[[rule]]\nname = \"all\"\naction = \"forward\"\n";
        let mut policy = config::parse(policy, "test").unwrap();
        policy.rules[0].ceiling = Some(Shared { of: "app".into(), meter: None, connections: Some(2) });
        let mut edge = Harness::new(policy).unwrap();
        let open = edge.shared.plan.load().limits[0].open().clone();
        let passes = |edge: &mut Harness, port| !edge.pass(0, &frame(port)).is_empty();
        // Twice over: those that are in stay in, the third stays out.
        for _ in 0..2 {
            assert_eq!([1, 2, 3].map(|port| passes(&mut edge, port)), [true, true, false]);
        }
        assert_eq!((open.count(), open.refused(), edge.dropped(DropReason::ConnectionLimit)), (2, 2, 2));
        edge.wait(400_000_000_000);
        assert_eq!(open.count(), 0, "all have ended");
        assert_eq!([3, 1, 2].map(|port| passes(&mut edge, port)), [true, true, false]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u32, Option<u16>, bool),
        End(u32),
        /// Limits by name, of four.
        Plan(Vec<(u8, u32)>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u32..12, proptest::option::of(0u16..4), any::<bool>()).prop_map(|(n, of, old)| Step::Ask(n, of, old)),
            2 => (0u32..12).prop_map(Step::End),
            1 => proptest::collection::vec((0u8..4, 1u32..5), 0..4).prop_map(Step::Plan),
        ]
    }

    proptest! {
        /// Whatever happens: a number is how many flows are counted in it, and when all have ended it is 0.
        #[test]
        fn numbers_are_of_flows(steps in proptest::collection::vec(step(), 1..80)) {
            let mut now = plan(&[("0", 2), ("1", 2)]);
            let mut seen: Vec<Arc<Open>> = now.limits.iter().map(|limit| limit.open().clone()).collect();
            let mut counted = Counted::new(&now, 12);
            for step in steps {
                match step {
                    Step::Ask(n, of, old) => {
                        let before = of.and_then(|of| now.limits.get(usize::from(of))).map(|limit| limit.open().count());
                        let entered = counted.admit(FlowIdx(n), of, &now.limits, old);
                        prop_assert!(entered || before.is_some_and(|open| open >= now.limits[usize::from(of.unwrap())].most));
                    }
                    Step::End(n) => counted.leave(FlowIdx(n)),
                    Step::Plan(limits) => {
                        let mut names: Vec<(String, u32)> = limits.iter().map(|(n, most)| (n.to_string(), *most)).collect();
                        names.sort();
                        names.dedup_by(|a, b| a.0 == b.0);
                        let names: Vec<(&str, u32)> = names.iter().map(|(name, most)| (name.as_str(), *most)).collect();
                        now = after(plan(&names), &now);
                        counted.follow(&now, 12);
                        seen.extend(now.limits.iter().map(|limit| limit.open().clone()));
                    }
                }
                let flows = counted.flows.iter().filter(|at| **at != NOWHERE).count() as u32;
                prop_assert_eq!(flows, counted.tallies.iter().map(|tally| tally.flows).sum::<u32>());
                for tally in &counted.tallies {
                    prop_assert_eq!(tally.flows, tally.open.count());
                }
            }
            (0..12).for_each(|n| counted.leave(FlowIdx(n)));
            prop_assert!(seen.iter().all(|open| open.count() == 0));
        }
    }
}
