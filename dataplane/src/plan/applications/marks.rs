//! How a flow remembers its application: twelve bits of its number, and four that say which plan's numbers these are, so that
//! another plan's are not taken for this one's.

use super::{AppId, Applications, Facts};
use crate::flow::{Flow, FlowIdx};
use crate::l7::{Alpn, By, Fact, Inspector};

const BITS: u32 = 12;
/// Most applications.
pub const ROOM: usize = (1 << BITS) - 1;

/// Upper bits of a mark; never 0, which means "not looked for yet".
pub(super) fn epoch(generation: u32) -> u16 {
    (generation % 15 + 1) as u16
}

impl Applications {
    /// What the flow was found to be of, once its class and host stood: a number as [`AppId::number`] gives it, 0 none. `None`:
    /// not looked for yet under this plan.
    #[inline]
    pub fn settled(&self, flow: &Flow) -> Option<u16> {
        if self.is_empty() {
            return Some(0);
        }
        self.marked(flow.app)
    }

    /// The number in a flow's mark, where it is of this plan.
    #[inline]
    pub fn marked(&self, mark: u16) -> Option<u16> {
        (mark >> BITS == self.epoch).then_some(mark & ROOM as u16)
    }

    /// Looks for the application of a flow whose class and host stand, and writes it down. Says which, where it is another than
    /// before.
    pub fn settle(&self, at: FlowIdx, flow: &mut Flow, inspector: &Inspector) -> Option<AppId> {
        if self.is_empty() {
            return None;
        }
        let before = self.settled(flow);
        let now = self.find(&self.facts(at, flow, inspector));
        let number = now.map_or(0, AppId::number);
        flow.app = self.epoch << BITS | number;
        now.filter(|_| before != Some(number))
    }

    /// The flow's application as far as is known: for people, not for rules, which wait until it is settled.
    pub fn of(&self, at: FlowIdx, flow: &Flow, inspector: &Inspector) -> Option<AppId> {
        match self.settled(flow) {
            Some(number) => AppId::from_number(number),
            None => self.find(&self.facts(at, flow, inspector)),
        }
    }

    /// The application's number of what has no flow, and nothing recognised in it but its protocol; 0 none.
    pub fn of_bare(&self, ends: [(std::net::IpAddr, u16); 2], protocol: u8, class: Option<u16>) -> u16 {
        let class = class.unwrap_or(0);
        let facts = Facts { ends, protocol, class, alpn: Alpn::None, host: None, ja4: None };
        self.find(&facts).map_or(0, AppId::number)
    }

    fn facts<'a>(&self, at: FlowIdx, flow: &Flow, inspector: &'a Inspector) -> Facts<'a> {
        let end = |e: crate::flow::key::Endpoint| (e.addr, e.port);
        Facts {
            ends: [end(flow.responder()), end(flow.initiator())],
            protocol: flow.key().proto(),
            class: flow.class,
            alpn: flow.alpn(),
            host: inspector.host_of(flow).filter(|_| flow.host_by() != By::Dns),
            ja4: if self.ja4.is_empty() {
                None
            } else {
                inspector.facts_of(at, flow).and_then(|facts| facts.get(Fact::Ja4))
            },
        }
    }
}
