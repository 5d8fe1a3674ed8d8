//! The inspector's work on datagrams: each is asked for itself, and pieces of a handshake are put together.

use softdpu_ebpf_common::walk::Headers;

use super::{Inspector, MAX_DATAGRAMS, MAX_PACKETS, Outcome, Reason};
use crate::flow::entry::NO_SLOT;
use crate::flow::{Direction, Flow, FlowIdx, Tick};
use crate::l7::reassembly::CAP;
use crate::l7::web::pieces;
use crate::l7::{Look, Notes, Verdict};

impl Inspector {
    pub(super) fn datagram(
        &mut self,
        idx: FlowIdx,
        flow: &mut Flow,
        dir: Direction,
        h: &Headers,
        payload: &[u8],
        now: Tick,
    ) -> Outcome {
        if payload.is_empty() {
            return Outcome::NeedMore;
        }
        flow.l7_packets = flow.l7_packets.saturating_add(1);
        let before = self.beginnings.before(idx, flow, dir, payload);
        let look = Look { before: before.bytes(), ..Look::whole(payload, dir, (h.sport, h.dport)) };
        let mut verdict = self.table.udp.ask(&look, &mut self.scratch);
        if let Verdict::Class(found) = verdict
            && !self.scratch.pieces.is_empty()
        {
            self.note(idx, flow, found);
            match self.gather(idx, flow, dir, now) {
                Ok(whole) => {
                    verdict = whole;
                    if !matches!(whole, Verdict::More | Verdict::Class(_)) {
                        self.drop_buffer(idx, flow);
                    }
                }
                Err(reason) => return self.close(idx, flow, reason),
            }
        }
        match verdict {
            Verdict::Done(found) => {
                self.note(idx, flow, found);
                self.close(idx, flow, Reason::NoMatch)
            }
            Verdict::Settled(found) => {
                self.note(idx, flow, found);
                self.hear(idx, flow, dir);
                match self.settle_now(flow) {
                    Outcome::NeedMore => self.at_most(idx, flow, most_datagrams(flow)),
                    recognised => recognised,
                }
            }
            Verdict::Class(found) | Verdict::Other(found) => {
                self.note(idx, flow, found);
                self.at_most(idx, flow, most_datagrams(flow))
            }
            Verdict::No | Verdict::More => self.at_most(idx, flow, most_datagrams(flow)),
        }
    }

    /// Puts pieces of a handshake, which the scratch notes hold, to those that came before.
    ///
    /// # Errors
    /// Why they could not be.
    fn gather(&mut self, idx: FlowIdx, flow: &mut Flow, dir: Direction, now: Tick) -> Result<Verdict, Reason> {
        let Self { pool, scratch: Notes { host, facts, pieces, .. }, .. } = self;
        let held = pool.held(flow.l7_slot, idx);
        if flow.l7_slot != NO_SLOT && held.is_none() {
            flow.l7_slot = NO_SLOT;
            return Err(Reason::NoBuffer);
        }
        let slot = match held {
            Some((held_dir, id)) if (held_dir, id) == (dir, pieces.id) => flow.l7_slot,
            // Another message, or the other side's: what was begun is given up for it.
            _ => {
                pool.give_back(flow.l7_slot, idx);
                flow.l7_slot = pool.take(idx, dir, pieces.id, now).unwrap_or(NO_SLOT);
                flow.l7_slot
            }
        };
        if slot == NO_SLOT {
            return Err(Reason::NoBuffer);
        }
        for (offset, bytes) in pieces.iter() {
            pool.insert(slot, offset, bytes, now).map_err(|_| Reason::TooManyPieces)?;
        }
        let data = pool.insert(slot, 0, &[], now).map_err(|_| Reason::TooManyPieces)?;
        host.clear();
        facts.clear();
        if data.is_empty() {
            return Ok(Verdict::More);
        }
        let last = data.len() == CAP || flow.l7_packets >= MAX_PACKETS;
        if last {
            let verdict = pieces::hello(data, pieces.carrier, false, host, facts);
            if !matches!(verdict, Verdict::More | Verdict::Class(_)) {
                return Ok(verdict);
            }
            if !flow.is_settled() {
                flow.set_cut_short();
            }
            host.clear();
            facts.clear();
        }
        Ok(pieces::hello(data, pieces.carrier, last, host, facts))
    }
}

/// Datagrams after which a flow is left alone: more while a handshake is being put together.
fn most_datagrams(flow: &Flow) -> u8 {
    if flow.l7_slot == NO_SLOT { MAX_DATAGRAMS } else { MAX_PACKETS }
}
