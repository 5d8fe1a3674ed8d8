//! What the XDP program decided about a packet. Where it cannot say so itself ([`super::driver`]) this is found again in user space, from
//! the same bytes by the same header walk, and the rules in their order. The program finds them by table; its tests hold the two against
//! each other.

use super::step::Edit;
use crate::io::steer::SteerRule;
use crate::nodes::open::Part;
use serde::{Deserialize, Serialize};
use softdpu_ebpf_common::maps::{Reason, RuleAction};
use softdpu_ebpf_common::walk::{self, Headers, L3, proto};

/// A verdict of the XDP program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steered {
    /// As `softdpu status` counts it: `worker`, `rule_pass`, …
    pub verdict: String,
    /// The first rule that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Found again in user space, with the rules of now: not what the program itself said.
    pub recomputed: bool,
    /// Why it had to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Whether the driver's flow table has the packet's flow.
    pub flow_table: String,
    /// Port that the flow table sent it out by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// What the program wrote over, of the packet's first bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
}

/// The same decision, for a frame that came by the interface with index `interface` and of which `bytes` are the first.
pub fn steered(rules: &[SteerRule], interface: u32, bytes: &[u8], len: usize) -> Steered {
    let said = |reason: Reason, rule: Option<&SteerRule>| Steered {
        verdict: reason.name().to_owned(),
        rule: rule.map(|rule| rule.name.clone()),
        recomputed: true,
        ..Steered::default()
    };
    let frame = Part { bytes, total: len };
    let headers = match walk::walk(&frame) {
        Ok(headers) => headers,
        Err(error) => return said(Reason::of(error), None),
    };
    if headers.l3 == L3::Other {
        return said(Reason::NotIp, None);
    }
    if is_neighbour_discovery(&headers, bytes) {
        return said(Reason::NeighbourDiscovery, None);
    }
    let rule = rules.iter().find(|rule| rule.matches(interface, &headers));
    let reason = match rule.map(|rule| rule.action) {
        None => Reason::NoRule,
        Some(RuleAction::Worker) => Reason::Worker,
        Some(RuleAction::Pass) => Reason::RulePass,
        Some(RuleAction::Drop) => Reason::RuleDrop,
    };
    said(reason, rule)
}

/// As in the program (RFC 4861 §4).
fn is_neighbour_discovery(headers: &Headers, bytes: &[u8]) -> bool {
    headers.l3 == L3::V6
        && headers.proto == proto::ICMPV6
        && headers.ttl == 255
        && matches!(bytes.get(usize::from(headers.l4_off)), Some(133..=137))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(dport: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x10, 0]);
        frame.extend(dport.to_be_bytes());
        frame.extend([0, 8, 0, 0]);
        frame
    }

    #[test]
    fn the_first_rule_that_matches_says() {
        let mut drop = SteerRule::any("no-dns", RuleAction::Drop);
        drop.ports = std::iter::once(53..=53).collect();
        let mut there = SteerRule::any("there", RuleAction::Worker);
        there.interfaces = vec![7];
        let rules = [drop, there];
        let say = |interface, dport| {
            let frame = frame(dport);
            let said = steered(&rules, interface, &frame, frame.len());
            assert!(said.recomputed);
            (said.verdict, said.rule.unwrap_or_default())
        };
        assert_eq!(say(7, 53), ("rule_drop".into(), "no-dns".into()));
        assert_eq!(say(7, 80), ("worker".into(), "there".into()));
        assert_eq!(say(8, 80), ("no_rule".into(), String::new()));
        assert_eq!(steered(&rules, 7, &[0; 60], 60).verdict, "not_ip");
        assert_eq!(steered(&rules, 7, &frame(80)[..20], 20).verdict, "truncated");
    }
}
