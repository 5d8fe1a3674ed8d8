//! Young flows, oldest first: a queue each for TCP, UDP and everything else.
//!
//! A flow enters at its birth and leaves for the timer wheel when it is as old as an unproven flow of its kind may be silent.
//! So the heads are the oldest flows that nobody has proven yet, or flows that were proven meanwhile and are passed on when
//! somebody looks. The links are the flows' own, and each flow is in one queue, on the wheel or free.

use super::entry::Flow;
use super::key::FlowKey;
use super::tcp::{L4State, TCP, UDP};

pub(super) const QUEUES: usize = 3;

/// The state that an unproven flow of each queue is in: its timeout is how long the queue keeps it.
pub(super) const STATES: [L4State; QUEUES] = [L4State::TcpOpening, L4State::UdpOneSided, L4State::OtherOneSided];

#[derive(Clone, Copy, Default)]
struct Queue {
    /// First and last.
    ends: Option<(u32, u32)>,
}

#[derive(Default)]
pub(super) struct Young {
    queues: [Queue; QUEUES],
}

fn queue_of(key: &FlowKey) -> usize {
    match key.proto() {
        TCP => 0,
        UDP => 1,
        _ => 2,
    }
}

impl Young {
    pub(super) fn push(&mut self, slab: &mut [Flow], place: u32) {
        let flow = &mut slab[place as usize];
        flow.set_link(None);
        let queue = &mut self.queues[queue_of(flow.key())];
        match &mut queue.ends {
            Some((_, last)) => {
                slab[*last as usize].set_link(Some(place));
                *last = place;
            }
            none => *none = Some((place, place)),
        }
    }

    pub(super) fn head(&self, queue: usize) -> Option<u32> {
        Some(self.queues[queue].ends?.0)
    }

    pub(super) fn pop(&mut self, slab: &[Flow], queue: usize) -> Option<u32> {
        let (first, last) = self.queues[queue].ends?;
        self.queues[queue].ends = slab[first as usize].link().filter(|_| first != last).map(|next| (next, last));
        Some(first)
    }

    /// Puts the head behind all others.
    pub(super) fn rotate(&mut self, slab: &mut [Flow], queue: usize) {
        if let Some((first, last)) = self.queues[queue].ends
            && let Some(next) = slab[first as usize].link().filter(|_| first != last)
        {
            slab[first as usize].set_link(None);
            slab[last as usize].set_link(Some(first));
            self.queues[queue].ends = Some((next, first));
        }
    }
}
