//! The kernel's policies as workers ask them: which way out a packet takes.

use super::model::{Flow, StateKey};
use super::spd::{Out, Spd};
use crate::plan::rules::ip;
use softdpu_ebpf_common::walk::{Fragment, Headers, proto};
use std::collections::HashMap;

/// The way of packets that must be sealed and have no association yet: it seals nothing, so they wait.
pub const NO_STATE: u32 = 0;

/// The policies, and the ways out of the states that they name.
#[derive(Debug, Default)]
pub struct XfrmSelector {
    pub spd: Spd,
    pub ways: HashMap<StateKey, u32>,
}

impl XfrmSelector {
    /// The way out of a flow. `None`: no policy seals it, or softdpu cannot.
    pub fn way(&self, flow: &Flow) -> Option<u32> {
        match self.spd.out(flow) {
            Out::Seal { state, .. } => self.ways.get(&state.key).copied(),
            Out::NoState(_) => Some(NO_STATE),
            Out::NoPolicy(_) | Out::Clear(_) | Out::Block(_) | Out::Kernel { .. } => None,
        }
    }
}

/// What a packet is to the kernel's selectors. `bytes` begin with its IP header.
pub fn flow_of(headers: &Headers, bytes: &[u8]) -> Flow {
    let (src, dst) = (ip(headers.l3, &headers.src), ip(headers.l3, &headers.dst));
    let l4 = usize::from(headers.l4_off);
    let (sport, dport) = match headers.proto {
        _ if headers.fragment == Fragment::Later => (0, 0),
        proto::ICMP | proto::ICMPV6 => match bytes.get(l4..l4 + 2) {
            Some([kind, code]) => ((*kind).into(), (*code).into()),
            _ => (0, 0),
        },
        _ => (headers.sport, headers.dport),
    };
    Flow::new(src, dst, headers.proto, sport, dport)
}
