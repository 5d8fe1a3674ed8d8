//! The security policy database as workers ask it (RFC 4301 §4.4.1), with the kernel's rules of precedence.
//!
//! Built once, read by all. Policies are kept by the shape of their selector (lengths of both prefixes, port masks, whether
//! they name a protocol); each shape is one hash table. A look-up probes one table per shape that occurs, best
//! first, and stops where no better policy can follow: 10,000 policies of a few shapes cost a few probes. It is asked
//! for the first packet of a flow only.

use super::model::{Action, Defaults, Direction, Flow, Mode, Policy, State, Template, Unsupported};
use super::tables::Snapshot;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What to do with a packet that leaves.
#[derive(Clone, Copy, Debug)]
pub enum Out<'a> {
    /// No policy is for it.
    NoPolicy(Action),
    /// It goes as it is.
    Clear(&'a Arc<Policy>),
    Block(&'a Arc<Policy>),
    /// It goes by this state.
    Seal {
        policy: &'a Arc<Policy>,
        template: &'a Template,
        state: &'a Arc<State>,
    },
    /// It must be sealed and there is no state: it must not leave, and the key daemon should be asked
    /// ([`super::report::Reporter::acquire`]).
    NoState(&'a Arc<Policy>),
    /// The kernel would do what softdpu cannot.
    Kernel {
        policy: &'a Arc<Policy>,
        why: Why<'a>,
    },
}

/// Why a packet is for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why<'a> {
    State(&'a Unsupported),
    /// This many transforms on one packet.
    Bundle(u8),
    OffloadedPolicy,
}

/// Why a packet that came in is refused (RFC 4301 §5.2 step 4). Names as in `/proc/net/xfrm_stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// `XfrmInNoPols`: no policy lets what was opened (or, by default, anything) in.
    NoPolicy,
    /// `XfrmInPolBlock`.
    Blocked,
    /// `XfrmInTmplMismatch`: not what the policy wants: in clear, by another state, or sealed where it must be clear.
    Template,
    /// `XfrmInStateMismatch`: the state's own selector is for other packets.
    Selector,
}

impl Refused {
    /// Stable, for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Refused::NoPolicy => "no-policy",
            Refused::Blocked => "policy-block",
            Refused::Template => "policy-mismatch",
            Refused::Selector => "selector-mismatch",
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Spd {
    policies: Vec<Arc<Policy>>,
    /// By direction, then IPv4 and IPv6.
    shapes: [[Vec<Shape>; 2]; 3],
    states: HashMap<End, Vec<Arc<State>>>,
    defaults: Defaults,
    asks_ports: bool,
}

/// What states are looked up by to send.
#[derive(Debug, PartialEq, Eq, Hash)]
struct End {
    dst: IpAddr,
    reqid: u32,
    mode: Mode,
    protocol: u8,
}

/// All policies whose selectors have the same masks.
#[derive(Debug)]
struct Shape {
    masks: Masks,
    /// Rank of the best of them.
    best: (u32, u32),
    /// Indices into `policies`, best first.
    values: HashMap<Values, Vec<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Masks {
    src: u128,
    dst: u128,
    sport: u16,
    dport: u16,
    protocol: u8,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Values {
    src: u128,
    dst: u128,
    sport: u16,
    dport: u16,
    protocol: u8,
}

impl Masks {
    fn of(policy: &Policy) -> Self {
        let s = &policy.selector;
        let mask = |len: u8, width: u32| u128::MAX.checked_shl(width - u32::from(len)).unwrap_or(0);
        let width = if s.src.addr().is_ipv4() { 32 } else { 128 };
        Self {
            src: mask(s.src.prefix_len(), width),
            dst: mask(s.dst.prefix_len(), width),
            sport: s.sport_mask,
            dport: s.dport_mask,
            protocol: if s.protocol == 0 { 0 } else { u8::MAX },
        }
    }

    fn apply(&self, src: IpAddr, dst: IpAddr, sport: u16, dport: u16, protocol: u8) -> Values {
        Values {
            src: bits(src) & self.src,
            dst: bits(dst) & self.dst,
            sport: sport & self.sport,
            dport: dport & self.dport,
            protocol: protocol & self.protocol,
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

impl Spd {
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut spd = Self { defaults: snapshot.defaults, ..Self::default() };
        spd.policies = snapshot.policies.clone();
        spd.policies.sort_by_key(|p| p.rank());
        for (index, policy) in spd.policies.iter().enumerate() {
            let s = &policy.selector;
            if s.src.addr().is_ipv4() != s.dst.addr().is_ipv4() {
                continue;
            }
            let shapes =
                &mut spd.shapes[usize::from(policy.key.direction.number())][usize::from(s.src.addr().is_ipv6())];
            let masks = Masks::of(policy);
            spd.asks_ports |= (masks.sport | masks.dport) != 0 && policy.key.direction != Direction::In;
            let at = shapes.iter().position(|shape| shape.masks == masks).unwrap_or_else(|| {
                // Policies come best first, so shapes are found in the order of their best.
                shapes.push(Shape { masks, best: policy.rank(), values: HashMap::new() });
                shapes.len() - 1
            });
            let values = masks.apply(s.src.addr(), s.dst.addr(), s.sport, s.dport, s.protocol);
            shapes[at].values.entry(values).or_default().push(index as u32);
        }
        for state in &snapshot.states {
            if state.unsupported != Some(Unsupported::Larval) && !state.flags.wildcard_receive {
                let end = End { dst: state.dst(), reqid: state.reqid, mode: state.mode, protocol: state.key.protocol };
                spd.states.entry(end).or_default().push(state.clone());
            }
        }
        for states in spd.states.values_mut() {
            // `xfrm_state_look_at`: dying ones last, then the youngest first.
            states.sort_by_key(|s| (s.dying, Reverse((s.used.added, s.age))));
        }
        spd
    }

    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// Whether a policy for what is forwarded or leaves asks for ports (or, of ICMP, types).
    pub fn asks_ports(&self) -> bool {
        self.asks_ports
    }

    /// The policy for a packet.
    pub fn policy(&self, direction: Direction, flow: &Flow) -> Option<&Arc<Policy>> {
        let shapes = &self.shapes[usize::from(direction.number())][usize::from(flow.src.is_ipv6())];
        if flow.src.is_ipv4() != flow.dst.is_ipv4() {
            return None;
        }
        let mut found: Option<&Arc<Policy>> = None;
        for shape in shapes {
            if found.is_some_and(|policy| policy.rank() <= shape.best) {
                break;
            }
            let values = shape.masks.apply(flow.src, flow.dst, flow.sport, flow.dport, flow.protocol);
            let Some(list) = shape.values.get(&values) else { continue };
            let first = list.iter().map(|index| &self.policies[*index as usize]).find(|policy| policy.matches(flow));
            if let Some(policy) = first
                && found.is_none_or(|best| policy.rank() < best.rank())
            {
                found = Some(policy);
            }
        }
        found
    }

    /// What to do with a packet that leaves. Forwarded packets are asked about here too.
    pub fn out(&self, flow: &Flow) -> Out<'_> {
        let Some(policy) = self.policy(Direction::Out, flow) else {
            return Out::NoPolicy(self.defaults.of(Direction::Out));
        };
        if policy.action == Action::Block {
            return Out::Block(policy);
        }
        let (mut src, mut dst) = (flow.src, flow.dst);
        let mut found = None;
        let mut transforms = 0;
        for template in &policy.templates {
            let ends = match template.mode {
                Mode::Transport => (src, dst),
                _ => (template.src, template.dst),
            };
            match self.state(policy, template, flow, ends) {
                Some(state) => {
                    (src, dst) = ends;
                    transforms += 1;
                    found = Some((template, state));
                }
                None if template.optional => {}
                None => return Out::NoState(policy),
            }
        }
        let Some((template, state)) = found else { return Out::Clear(policy) };
        let why = if policy.offloaded {
            Some(Why::OffloadedPolicy)
        } else if transforms > 1 {
            Some(Why::Bundle(transforms))
        } else {
            state.unsupported.as_ref().map(Why::State)
        };
        match why {
            Some(why) => Out::Kernel { policy, why },
            None => Out::Seal { policy, template, state },
        }
    }

    /// The best state for a template between these outer addresses, as `xfrm_state_find` picks it. Where the template leaves
    /// the source open, any will do (the kernel would ask its routes).
    fn state(
        &self,
        policy: &Policy,
        template: &Template,
        flow: &Flow,
        (src, dst): (IpAddr, IpAddr),
    ) -> Option<&Arc<State>> {
        let end = End { dst, reqid: template.reqid, mode: template.mode, protocol: template.protocol };
        let states = self.states.get(&end)?;
        let mark = policy.mark.value & policy.mark.mask;
        let fits = |state: &State| {
            state.key.mark.matches(mark)
                && state.if_id == policy.if_id
                && (template.spi == 0 || template.spi == state.key.spi)
                && state.selector.is_none_or(|selector| selector.matches(flow))
        };
        let exact = states.iter().find(|s| (src.is_unspecified() || s.src == src) && fits(s));
        exact.or_else(|| states.iter().find(|s| s.src.is_unspecified() && fits(s)))
    }

    /// Whether a packet that came in may go on: `Direction::In` to this host, `Direction::Forward` through it. `via`: the
    /// states that opened it, the first one first; empty for what came in clear.
    ///
    /// Returns the policy that let it in, if any was needed.
    ///
    /// # Errors
    /// Where the policy does not let it in this way.
    pub fn check(&self, direction: Direction, flow: &Flow, via: &[&State]) -> Result<Option<&Arc<Policy>>, Refused> {
        if via.iter().any(|state| state.selector.is_some_and(|selector| !selector.matches(flow))) {
            return Err(Refused::Selector);
        }
        let tunnelled = |from: usize| via[from..].iter().any(|state| state.mode != Mode::Transport);
        let Some(policy) = self.policy(direction, flow) else {
            let refuse = tunnelled(0) || self.defaults.of(direction) == Action::Block;
            return if refuse { Err(Refused::NoPolicy) } else { Ok(None) };
        };
        if policy.action == Action::Block {
            return Err(Refused::Blocked);
        }
        let mut next = 0;
        for template in policy.templates.iter().rev() {
            next = satisfied(template, via, next, policy.if_id).ok_or(Refused::Template)?;
        }
        if tunnelled(next) { Err(Refused::Template) } else { Ok(Some(policy)) }
    }
}

/// Which of `via` is next after the one that satisfies this template (`xfrm_policy_ok`).
fn satisfied(template: &Template, via: &[&State], from: usize, if_id: u32) -> Option<usize> {
    if template.optional && template.mode == Mode::Transport {
        return Some(from);
    }
    for (index, state) in via.iter().enumerate().skip(from) {
        if template.accepts(state, if_id) {
            return Some(index + 1);
        }
        if state.mode != Mode::Transport {
            break;
        }
    }
    template.optional.then_some(from)
}

#[cfg(test)]
#[path = "spd_tests.rs"]
mod tests;
