//! Whether a flow can do without its worker, and what the thread needs to know of it.

use super::lane::{Client, FlowRef};
use super::reason::Reason;
use crate::flow::{Direction, FlowIdx, L4State, Net};
use crate::graph::packet::NONE;
use crate::graph::{Cx, Packet};
use crate::host::fib::PortId;
use crate::io::steer::{Meter, Progress};
use crate::nodes::policy::{is_settled, rule_of};
use softdpu_ebpf_common::walk::{Fragment, proto};

/// A flow to be offloaded.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub flow: FlowRef,
    /// What its verdict was found in ([`Cx::generation`]): it is good for nothing in another.
    pub generation: u32,
    /// By direction of travel: the port it comes in by, and the one it leaves by.
    pub ports: [(PortId, PortId); 2],
    /// Both ends as the directions have them: source of the initiator's packets first.
    pub ends: [([u8; 16], u16); 2],
    pub treatment: Treatment,
    /// Of TCP, by direction: see [`numbers_on`](softdpu_ebpf_common::flows::numbers_on).
    pub numbers: [u32; 2],
}

/// What the flow's rule does to packets, and how far it has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Treatment {
    pub meter: Option<Meter>,
    pub dscp: Option<u8>,
    pub sample: u32,
    pub progress: [Progress; 2],
}

/// The flow of a packet that is about to leave, or why it stays with the worker.
///
/// # Errors
/// The first reason that is found, in the order of what costs least to ask.
pub fn consider(cx: &Cx<'_>, client: &Client, packet: &Packet) -> Result<Candidate, Reason> {
    let meta = &packet.meta;
    if meta.tunnel_in != NONE || meta.tunnel_out != NONE {
        return Err(Reason::Protected);
    }
    if cx.plan.guards_by_class {
        return Err(Reason::ByClass);
    }
    let at = FlowIdx(meta.flow);
    let flow = cx.flows.get(at);
    let key = flow.key();
    match key.proto() {
        proto::TCP => match flow.state() {
            L4State::TcpEstablished => {}
            L4State::TcpOpening | L4State::TcpAnswered | L4State::TcpFound => return Err(Reason::NotProven),
            _ => return Err(Reason::Closing),
        },
        proto::UDP if flow.state() == L4State::Udp => {}
        proto::UDP => return Err(Reason::NotProven),
        _ => return Err(Reason::Protocol),
    }
    if key.net() != Net::OUTSIDE || key.vlan() != [0, 0] {
        return Err(Reason::Inner);
    }
    if flow.carries() {
        return Err(Reason::Carrier);
    }
    if packet.headers.fragment != Fragment::No {
        return Err(Reason::RuleUndecided);
    }
    if !is_settled(flow, cx.generation()) {
        return Err(if flow.is_decided() { Reason::RuleUndecided } else { Reason::Undecided });
    }
    let mut treatment = Treatment::default();
    if let Some(rule) = rule_of(flow, cx.plan, cx.generation()) {
        if rule.tunnel.is_some() || flow.is_protected() {
            return Err(Reason::Protected);
        }
        if rule.share.is_some() {
            return Err(Reason::Ceiling);
        }
        if rule.keep {
            return Err(Reason::PolicyNever);
        }
        if rule.mirror.is_some() && rule.sample == 0 {
            return Err(Reason::Mirror);
        }
        if rule.treats() {
            let progress = cx.treated.progress(at, flow.created(), cx.now);
            let meter = rule.meter.map(|meter| meter.meter);
            treatment = Treatment { meter, dscp: rule.dscp, sample: rule.sample, progress };
        }
    }
    let packets = flow.packets(Direction::FromInitiator) + flow.packets(Direction::FromResponder);
    if packets < client.min_packets {
        return Err(Reason::FewPackets);
    }
    if client.wait_for_class && !flow.is_decided() {
        return Err(Reason::Undecided);
    }
    let back = flow.next_hop(meta.direction.other(), cx.fib.generation()).and_then(|hop| cx.fib.adjacency(hop));
    let back = back.ok_or(Reason::NoNextHop)?.port;
    let mut ports = [(meta.port_in, meta.port_out); 2];
    // The other direction comes in where this one leaves; where it does not, its packets have another station's address
    // and stay with the worker.
    ports[meta.direction.other().index()] = (meta.port_out, back);
    for (from, to) in ports {
        if from == to {
            return Err(Reason::SamePort);
        }
        let xdp = |port: PortId| client.interfaces.get(usize::from(port)).is_some_and(|index| *index != 0);
        if !xdp(from) || !xdp(to) {
            return Err(Reason::NotXdp);
        }
        if cx.plan.ports[usize::from(from)].finish_checksums {
            return Err(Reason::Checksums);
        }
    }
    let numbers = match flow.tcp_next() {
        [Some(a), Some(b)] => [(a, b), (b, a)].map(|(next, ack)| u32::from(next) | u32::from(ack) << 16),
        // Without both, what ends the connection could not be told from what was made up.
        _ if key.proto() == proto::TCP => return Err(Reason::NotProven),
        _ => [0; 2],
    };
    let swapped = flow.initiator_is_high();
    let ends = if swapped { [key.high(), key.low()] } else { [key.low(), key.high()] };
    let flow = FlowRef { idx: at, key: *key, created: flow.created() };
    Ok(Candidate { flow, generation: cx.generation(), ports, ends, treatment, numbers })
}
