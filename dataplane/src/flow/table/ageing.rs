//! Ageing: which flows' time has come, and what becomes of them.
//!
//! Among millions of flows everything that a look needs is far away. So some flows at a time are taken off their lists, and the
//! memory that their ends need is asked for, before the first of them ends.

use super::{FlowTable, ask_for};
use crate::flow::entry::{Flow, FlowIdx, Tier};
use crate::flow::timers::{FIRST_LOOK, Tick};
use crate::flow::young::{QUEUES, STATES};

/// How many flows are taken off their lists together.
const TOGETHER: usize = 16;

/// How long a flow that is on another tier is kept at least: such leave their tier after 5 s of silence.
const ELSEWHERE: u32 = 15 * Tick::PER_SECOND;

/// Flows that are off their lists, and the hashes of the keys of those that end now.
struct Taken {
    flows: [(u32, Option<u64>); TOGETHER],
    n: usize,
}

impl FlowTable {
    /// Ends the flows that have been idle for their timeout. Looks at no more than `budget` flows; `ended` is called
    /// with each that ends. Gives how many were looked at: less than half of the budget when none are left that are due (and
    /// the budget is more than 12). Invalidates every [`FlowIdx`].
    pub fn expire(&mut self, now: Tick, budget: usize, mut ended: impl FnMut(FlowIdx, &Flow)) -> usize {
        let mut looks = 0;
        let mut taken = Taken { flows: [(0, None); TOGETHER], n: 0 };
        for queue in 0..QUEUES {
            // The wheel has its turn too.
            while looks < budget - budget / 4
                && let Some(place) = self.due(queue, now, &mut looks)
            {
                self.take(place, now, &mut taken, &mut ended);
            }
        }
        while looks < budget {
            let slab = &self.slab;
            let Some(place) = self.wheel.next_due(now, |i| slab[i as usize].link()) else { break };
            if let Some(next) = self.wheel.next() {
                ask_for(&slab[next as usize]);
            }
            looks += 1;
            self.take(place, now, &mut taken, &mut ended);
        }
        self.let_go(&mut taken, now, &mut ended);
        looks
    }

    /// Takes the head off a queue if its time has come.
    fn due(&mut self, queue: usize, now: Tick, looks: &mut usize) -> Option<u32> {
        let stay = self.timeouts.of(STATES[queue]);
        // Where an entry was taken over in the queue's middle, its flow is younger than those behind it.
        for _ in 0..2 {
            let place = self.young.head(queue)?;
            *looks += 1;
            let flow = &self.slab[place as usize];
            let next = flow.link();
            if let Some(next) = next {
                ask_for(&self.slab[next as usize]);
            }
            let age = now.since(flow.created);
            if age >= stay || !flow.is_live() {
                return self.young.pop(&self.slab, queue);
            }
            let older = next.is_some_and(|next| now.since(self.slab[next as usize].created) > age);
            if !older {
                return None;
            }
            self.young.rotate(&mut self.slab, queue);
        }
        None
    }

    /// Puts a flow that is off its list to the others; when they are enough, lets all go.
    #[inline]
    fn take(&mut self, place: u32, now: Tick, taken: &mut Taken, ended: &mut impl FnMut(FlowIdx, &Flow)) {
        let flow = &self.slab[place as usize];
        let ends = flow.is_live() && now.since(flow.last_seen) >= self.patience(flow);
        let hash = ends.then(|| flow.key.hash(&self.seed));
        if let Some(hash) = hash {
            self.index.prefetch(hash);
            self.marks.prefetch(place);
        }
        taken.flows[taken.n] = (place, hash);
        taken.n += 1;
        if taken.n == TOGETHER {
            self.let_go(taken, now, ended);
        }
    }

    /// Ends those that were silent for long enough, and hangs the others up again.
    fn let_go(&mut self, taken: &mut Taken, now: Tick, ended: &mut impl FnMut(FlowIdx, &Flow)) {
        for (place, hash) in &taken.flows[..taken.n] {
            if let Some(hash) = hash {
                self.end(*place, *hash, ended);
                self.give_back(*place);
            } else {
                self.pass_on(*place, now);
            }
        }
        taken.n = 0;
    }

    /// How long a flow may be silent. One on another tier leaves that first, and its last counts come with it.
    fn patience(&self, flow: &Flow) -> u32 {
        let own = self.timeouts.of(flow.state());
        if flow.tier() == Tier::Worker { own } else { own.max(ELSEWHERE) }
    }

    /// Hangs an entry on the wheel; one without a flow goes to the free ones.
    pub(super) fn pass_on(&mut self, place: u32, now: Tick) {
        let flow = &mut self.slab[place as usize];
        if !flow.is_live() {
            return self.give_back(place);
        }
        let left = self.timeouts.of(flow.state()).saturating_sub(now.since(flow.last_seen));
        let mut left = left.min(FIRST_LOOK.max(now.since(flow.created)));
        if flow.tier() != Tier::Worker {
            // Never at once: it may be due, and yet not to be ended.
            left = left.max(Tick::PER_SECOND);
        }
        let at = now.plus(left);
        let link = self.wheel.hang(place, at);
        flow.set_link(link);
    }
}
