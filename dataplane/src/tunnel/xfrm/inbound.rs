//! Associations that receive, and how one is made anew while packets come.
//!
//! A key daemon may change limits, window and flags of a state that has its keys (`ip xfrm state update`, or a state deleted and
//! added in one go). The association is built anew then and goes on behind what the old one has seen and carried. Workers
//! that still have the old one go on marking numbers there: those are learnt until the last worker has let go of it, some
//! milliseconds later. Only a number that came in these milliseconds could come twice.

use super::model::State;
use super::parts;
use crate::crypto::ecn::Exit;
use crate::crypto::inbound::{InboundOptions, NatFix, Sequence};
use crate::crypto::lifetime::Used;
use crate::crypto::{InboundConfig, InboundSa};
use anyhow::{Context, Result};
use std::sync::Arc;

/// One association that receives.
#[derive(Debug)]
pub(super) struct Inbound {
    pub state: Arc<State>,
    pub sa: Arc<InboundSa>,
    /// Bytes that the kernel had counted when it was taken over: limits include them.
    before: u64,
}

/// An association whose place another has taken, as long as workers may have it.
#[derive(Debug)]
pub(super) struct Handed {
    from: Arc<InboundSa>,
    to: Arc<InboundSa>,
    /// What it had carried when it was last looked at.
    told: Used,
}

impl Inbound {
    /// # Errors
    /// Without keys, or under a reserved SPI.
    pub fn begin(state: &Arc<State>, now: u64) -> Result<Self> {
        let before = state.used.bytes;
        let mut sa = build(state, before, Used::default(), now)?;
        let received = &state.replay.received;
        if received.highest > 0 {
            let was = |seq: u64| {
                let before = received.highest.checked_sub(seq).and_then(|before| u32::try_from(before).ok());
                before.is_none_or(|before| before >= state.replay.window || received.was_seen(before))
            };
            sa.set_sequence(received.highest, was);
        }
        Ok(Self { state: state.clone(), sa: Arc::new(sa), before })
    }

    /// The same key in a new view: as it is, or, where what it was built from is another now, built anew.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn go_on(self, state: &Arc<State>, now: u64) -> Result<(Self, Option<Handed>)> {
        if !reshaped(&self.state, state) {
            return Ok((Self { state: state.clone(), ..self }, None));
        }
        let told = self.sa.used();
        let mut sa = build(state, self.before, told, now)?;
        sa.go_on_from(&self.sa);
        let sa = Arc::new(sa);
        let handed = Handed { from: self.sa, to: sa.clone(), told };
        Ok((Self { state: state.clone(), sa, before: self.before }, Some(handed)))
    }
}

impl Handed {
    /// Takes over what the old one has opened since. Whether a worker may still have it.
    pub fn follow(&mut self) -> bool {
        let held = Arc::strong_count(&self.from) > 1;
        self.told = self.to.learn_from(&self.from, self.told);
        held
    }
}

fn build(state: &State, before: u64, used: Used, now: u64) -> Result<InboundSa> {
    let material = state.material.as_deref().context("it has no keys")?;
    Ok(InboundSa::new(&InboundConfig {
        spi: state.spi(),
        material,
        sequence: if state.flags.esn { Sequence::Extended } else { Sequence::Short },
        window: state.replay.window,
        options: InboundOptions {
            mode: parts::mode(state),
            exit: Exit { ecn: !state.flags.no_ecn, dscp: state.flags.decap_dscp },
            nat: NatFix::Recompute,
            lifetime: parts::lifetime(state, before),
            added_ns: now,
            used,
        },
    })?)
}

/// Whether what an association was built from is another now.
fn reshaped(was: &State, is: &State) -> bool {
    let shape = |state: &State| (state.mode, state.flags, state.lifetimes.hard, state.replay.window);
    shape(was) != shape(is)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::model::{Lifetimes, Limits, Mode};
    use super::super::testing;
    use super::*;
    use crate::crypto::lifetime::Expiry;

    fn state(change: impl FnOnce(&mut State)) -> Arc<State> {
        let mut state = testing::state("192.0.2.1", "192.0.2.2", 0x1234, 1);
        change(&mut state);
        Arc::new(state)
    }

    fn bytes(limit: u64) -> Lifetimes {
        Lifetimes { hard: Limits { bytes: Some(limit), ..Limits::default() }, ..Lifetimes::default() }
    }

    /// As a worker does that has opened these.
    fn opened(sa: &InboundSa, numbers: &[u64]) {
        numbers.iter().for_each(|seq| sa.window().accept(*seq).unwrap());
        sa.carried(numbers.len() as u64, 100 * numbers.len() as u64, 7);
    }

    #[test]
    fn what_has_not_changed_stays_the_same_association() {
        let first = Inbound::begin(&state(|_| {}), 1).unwrap();
        let sa = first.sa.clone();
        let other = state(|s| (s.reqid, s.dying, s.age) = (9, true, 4));
        let (next, handed) = first.go_on(&other, 2).unwrap();
        assert!(handed.is_none() && Arc::ptr_eq(&sa, &next.sa));
        assert_eq!(next.state.reqid, 9);
    }

    #[test]
    fn a_larger_window_and_another_limit_forget_nothing() {
        let first =
            Inbound::begin(&state(|s| (s.replay.window, s.used.bytes, s.lifetimes) = (64, 500, bytes(1000))), 1);
        let first = first.unwrap();
        let old = first.sa.clone();
        opened(&old, &[1, 2, 3, 200, 180]);
        assert_eq!(old.expired(0), Some(Expiry::Hard), "500 before and 500 here");
        let wide =
            state(|s| (s.replay.window, s.used.bytes, s.lifetimes, s.flags.no_ecn) = (1024, 900, bytes(2000), true));
        let (next, handed) = first.go_on(&wide, 2).unwrap();
        let mut handed = handed.unwrap();
        assert_eq!((next.sa.window().size(), next.sa.window().top(), next.sa.exit().ecn), (1024, 200, false));
        for seq in [1, 2, 3, 100, 136, 180, 200] {
            assert!(next.sa.window().check(seq).is_err(), "{seq} was seen, or could not have been told");
        }
        assert!(next.sa.window().check(181).is_ok() && next.sa.window().check(201).is_ok());
        assert_eq!((next.sa.used().bytes, next.sa.expired(0)), (500, None));

        // A worker that has not heard of it yet.
        opened(&old, &[181, 260]);
        assert!(handed.follow(), "still held");
        assert!(next.sa.window().check(181).is_err() && next.sa.window().check(260).is_err());
        assert_eq!((next.sa.window().top(), next.sa.used().packets), (260, 7));
        opened(&next.sa, &[261]);
        opened(&old, &[262]);
        drop(old);
        assert!(!handed.follow(), "nobody has it any more");
        assert!(next.sa.window().check(262).is_err());
        assert_eq!((next.sa.used().packets, next.sa.used().bytes), (9, 900));
        opened(&next.sa, &[300; 1]);
        assert_eq!(next.sa.expired(0), None);
        next.sa.carried(1, 500, 8);
        assert_eq!(next.sa.expired(0), Some(Expiry::Hard), "500 before, 1500 since");
    }

    #[test]
    fn a_smaller_window_and_another_mode_are_taken_too() {
        let first = Inbound::begin(&state(|s| s.replay.window = 512), 1).unwrap();
        opened(&first.sa, &[500, 1, 437]);
        let (next, _) = first.go_on(&state(|s| (s.replay.window, s.mode) = (64, Mode::Transport)), 2).unwrap();
        assert_eq!((next.sa.window().size(), next.sa.mode()), (64, crate::crypto::esp::Mode::Transport));
        assert!(next.sa.window().check(437).is_err() && next.sa.window().check(438).is_ok());
        assert!(next.sa.window().check(2).is_err(), "too old for it");
    }
}
