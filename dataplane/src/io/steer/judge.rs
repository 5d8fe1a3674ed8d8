//! What the XDP program does with a frame that no flow entry is for, told without a kernel: for `softdpu test`.

use softdpu_ebpf_common::{
    maps::{Reason, RuleAction},
    walk::{L3, walk},
};

use super::{RuleTables, rule::SteerRule};

/// The program's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub reason: Reason,
    /// Index of the rule that decided.
    pub rule: Option<usize>,
}

impl RuleTables {
    /// Judges a frame that came in by interface `ifindex`, every queue of which has a socket. `rules`: what these tables were
    /// compiled from.
    pub fn judge(&self, rules: &[SteerRule], ifindex: u32, frame: &[u8]) -> Judged {
        let of = |reason| Judged { reason, rule: None };
        let headers = match walk(frame) {
            Ok(headers) => headers,
            Err(error) => return of(Reason::of(error)),
        };
        if headers.l3 == L3::Other {
            return of(Reason::NotIp);
        }
        if headers.is_neighbour_discovery(frame) {
            return of(Reason::NeighbourDiscovery);
        }
        let Some(index) = self.evaluate(ifindex, &headers) else { return of(Reason::NoRule) };
        let reason = match rules.get(index).map(|rule| rule.action) {
            Some(RuleAction::Worker) => Reason::Worker,
            Some(RuleAction::Pass) => Reason::RulePass,
            Some(RuleAction::Drop) => Reason::RuleDrop,
            None => Reason::Internal,
        };
        Judged { reason, rule: Some(index) }
    }
}
