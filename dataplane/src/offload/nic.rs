//! Tier `nic`: flows that a rule drops, dropped by the device. What a device can do, and why it is only this: ADR 14.
//!
//! A worker proposes such a flow as others are proposed for the driver, the same thread places it, and the same things end it:
//! `take_out` of the [`Gate`](super::Gate) takes out of both tables. The worker still meets whatever the device lets by.

use super::lane::{Ask, Back, Client, Counts, FlowRef, What};
use super::reason::Reason;
use crate::flow::{Direction, FlowIdx, Net, Tier};
use crate::graph::packet::{NO_FLOW, NONE};
use crate::graph::{Cx, Packet};
use crate::host::fib::PortId;
use crate::host::xdp_features;
use crate::io::nic::{Device, EntryId, NotTaken, Refused, Step};
use crate::io::steer::{FlowCount, FlowKey};
use crate::nodes::offload::is_due;
use crate::nodes::policy::{is_settled, rule_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use softdpu_ebpf_common::walk::{Fragment, proto};
use std::collections::HashMap;

/// Rounds of counting without a packet after which a flow leaves.
const SILENT_ROUNDS: u8 = 5;
/// Code and meaning of drops by devices, beside those of workers and of the XDP program.
pub const DROPPED: (&str, &str) =
    ("nic_drop", "A rule with `action = \"drop\"`, in the device: the flow was on tier `nic`.");

/// Whether devices are asked to take flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NicMode {
    /// Each port's device is asked; where it refuses, the reason is kept and all goes on without it.
    #[default]
    Auto,
    /// No device is asked.
    Off,
    /// softdpu does not start unless the devices of all ports of kind xdp take it.
    Require,
}

/// How it went with a port's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Off,
    /// Flows it has room for.
    Loaded(u32),
    Refused(Reason, Refused),
}

/// Asks a device to take the program and a table of `entries`, or of as many as it has room for.
pub fn open(ifindex: u32, entries: u32) -> (Option<Device>, State) {
    match Device::load(ifindex, entries) {
        Ok(device) => {
            let state = State::Loaded(device.capacity());
            (Some(device), state)
        }
        Err(refused) => {
            // Kernels before 6.3 do not say what drivers can. What they answer for one that cannot is one of two.
            let without = xdp_features::of(ifindex).map_or(true, |features| !features.offloads());
            let plain = refused.step == Step::Map && matches!(refused.errno, Some(libc::EINVAL | libc::EOPNOTSUPP));
            (None, State::Refused(if without && plain { Reason::NoDeviceOffload } else { Reason::NicRefused }, refused))
        }
    }
}

/// One direction of a flow that a rule drops, for the device or the driver that it comes by.
#[derive(Clone, Copy, Debug)]
pub struct Blocked {
    pub flow: FlowRef,
    /// What its verdict was found in ([`Cx::generation`]): it is good for nothing in another.
    pub generation: u32,
    pub port: PortId,
    pub direction: Direction,
    pub key: FlowKey,
}

/// A packet is about to be dropped by a rule: its flow may be one for the device or the driver that it came by.
#[inline]
pub fn look(cx: &mut Cx<'_>, packet: &Packet) {
    let Some(client) = cx.offload else { return };
    if packet.meta.flow == NO_FLOW {
        return;
    }
    let flow = cx.flows.get(FlowIdx(packet.meta.flow));
    if flow.tier() == Tier::Worker && is_due(flow) {
        propose(cx, client, packet);
    }
}

#[cold]
fn propose(cx: &mut Cx<'_>, client: &Client, packet: &Packet) {
    let reason = match consider(cx, client, packet) {
        Ok(blocked) if client.lane.ask(Ask::Block(blocked)) => Reason::Asked,
        Ok(_) => Reason::Busy,
        Err(reason) => reason,
    };
    cx.flows.get_mut(FlowIdx(packet.meta.flow)).set_offload_reason(reason as u8);
}

/// Whether device or driver may drop the packet's flow.
///
/// # Errors
/// The first reason against it.
fn consider(cx: &Cx<'_>, client: &Client, packet: &Packet) -> Result<Blocked, Reason> {
    let meta = &packet.meta;
    if meta.tunnel_in != NONE {
        return Err(Reason::Protected);
    }
    let port = usize::from(meta.port_in);
    let device = client.devices.get(port) == Some(&true);
    if !device && client.interfaces.get(port).is_none_or(|index| *index == 0) {
        return Err(Reason::NotXdp);
    }
    if cx.plan.guards_by_class {
        return Err(Reason::ByClass);
    }
    let idx = FlowIdx(meta.flow);
    let flow = cx.flows.get(idx);
    let key = flow.key();
    if !matches!(key.proto(), proto::TCP | proto::UDP) {
        return Err(Reason::Protocol);
    }
    if key.net() != Net::OUTSIDE || key.vlan() != [0, 0] {
        return Err(Reason::Inner);
    }
    if packet.headers.fragment != Fragment::No || !is_settled(flow, cx.generation()) {
        return Err(Reason::RuleUndecided);
    }
    match rule_of(flow, cx.plan, cx.generation()) {
        Some(rule) if rule.keep => return Err(Reason::PolicyNever),
        Some(rule) if rule.drop => {}
        _ => return Err(Reason::RuleUndecided),
    }
    if flow.packets(Direction::FromInitiator) + flow.packets(Direction::FromResponder) < client.min_packets {
        return Err(Reason::FewPackets);
    }
    let station = cx.fib.links()[usize::from(meta.port_in)].mac.0;
    let flow = FlowRef { idx, key: *key, created: flow.created() };
    let key = FlowKey::of(&packet.headers, station);
    Ok(Blocked { flow, generation: cx.generation(), port: meta.port_in, direction: meta.direction, key })
}

/// A flow that a device drops.
struct Record {
    flow: FlowRef,
    port: usize,
    direction: Direction,
    entry: EntryId,
    /// Not told yet, for want of room.
    pending: FlowCount,
    silent: u8,
}

/// The devices of all ports, and what they have.
#[derive(Default)]
pub struct Nics {
    /// By port; `None` where there is none, or not any more.
    devices: Vec<Option<Device>>,
    /// By worker and place.
    records: HashMap<(usize, u32), Record>,
    /// Ends that workers had no room for.
    untold: Vec<(usize, FlowRef, What)>,
    /// All that devices dropped.
    dropped: FlowCount,
}

impl Nics {
    /// `devices`: by port.
    pub fn new(devices: Vec<Option<Device>>) -> Self {
        Self { devices, ..Self::default() }
    }

    /// By port: whether there is a device to ask.
    pub(super) fn there(&self) -> Vec<bool> {
        self.devices.iter().map(Option::is_some).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// Flows that a port's device has, and `None` where it has gone.
    pub(super) fn flows(&self, port: usize) -> Option<u32> {
        self.devices.get(port)?.as_ref().map(Device::len)
    }

    pub(super) fn dropped(&self) -> FlowCount {
        self.dropped
    }

    /// Puts a flow in; nothing where it is in already.
    pub(super) fn place(&mut self, worker: usize, blocked: &Blocked) -> Result<(), Reason> {
        let at = (worker, blocked.flow.idx.0);
        if self.records.contains_key(&at) {
            return Ok(());
        }
        let port = usize::from(blocked.port);
        let device = self.devices.get_mut(port).and_then(Option::as_mut).ok_or(Reason::NoDeviceOffload)?;
        let entry = device.insert(&blocked.key).map_err(|error| match error {
            NotTaken::Full => Reason::NicFull,
            NotTaken::Driver(error) => {
                tracing::warn!(port, "the device's flow table: {error}");
                Reason::Driver
            }
        })?;
        let (flow, direction) = (blocked.flow, blocked.direction);
        self.records.insert(at, Record { flow, port, direction, entry, pending: FlowCount::default(), silent: 0 });
        Ok(())
    }

    /// Takes out the flows that `leaves` names. Gives how many.
    pub(super) fn take_out(
        &mut self,
        why: Reason,
        leaves: impl Fn(&(usize, u32)) -> bool,
        mut tell: impl FnMut(usize, FlowRef, What) -> bool,
    ) -> usize {
        let gone: Vec<_> = self.records.extract_if(|at, _| leaves(at)).collect();
        let count = gone.len();
        for ((worker, _), mut record) in gone {
            let rest = self.remove(record.port, &record.entry);
            add(&mut self.dropped, rest);
            add(&mut record.pending, rest);
            let what = What::Left(why, counts(record.direction, record.pending), Back::default());
            if !tell(worker, record.flow, what) {
                self.untold.push((worker, record.flow, what));
            }
        }
        count
    }

    fn remove(&mut self, port: usize, entry: &EntryId) -> FlowCount {
        let Some(device) = self.devices.get_mut(port).and_then(Option::as_mut) else { return FlowCount::default() };
        device.remove(entry).unwrap_or_else(|error| {
            // An entry that cannot be taken back must not go on dropping: the program leaves the device.
            tracing::error!(port, "the device does not give an entry back, so its program is taken out: {error}");
            self.devices[port] = None;
            FlowCount::default()
        })
    }

    /// The worker does not have the flow any more.
    pub(super) fn leave(&mut self, worker: usize, flow: &FlowRef, tell: impl FnMut(usize, FlowRef, What) -> bool) {
        let at = (worker, flow.idx.0);
        if self.records.get(&at).is_some_and(|record| record.flow == *flow) {
            self.take_out(Reason::Closing, |key| *key == at, tell);
        }
    }

    /// Reads all counters, tells the workers, and takes out what has been silent or whose device is gone.
    pub(super) fn fold(&mut self, mut tell: impl FnMut(usize, FlowRef, What) -> bool) {
        self.untold.retain(|(worker, flow, what)| !tell(*worker, *flow, *what));
        for (port, device) in self.devices.iter_mut().enumerate() {
            if device.as_ref().is_some_and(|device| !device.is_at_work()) {
                tracing::warn!(port, "the device is gone, or its program was taken out");
                *device = None;
            }
        }
        let (mut silent, mut lost) = (Vec::new(), Vec::new());
        for (at, record) in &mut self.records {
            let Some(device) = self.devices.get_mut(record.port).and_then(Option::as_mut) else {
                lost.push(*at);
                continue;
            };
            let count = device.count(&record.entry);
            record.silent = if count.packets == 0 { record.silent + 1 } else { 0 };
            if record.silent >= SILENT_ROUNDS {
                silent.push(*at);
            }
            add(&mut self.dropped, count);
            add(&mut record.pending, count);
            let told = What::Counted(counts(record.direction, record.pending));
            if record.pending.packets > 0 && tell(at.0, record.flow, told) {
                record.pending = FlowCount::default();
            }
        }
        for (why, flows) in [(Reason::Idle, silent), (Reason::Driver, lost)] {
            if !flows.is_empty() {
                self.take_out(why, |at| flows.contains(at), &mut tell);
            }
        }
    }
}

fn add(sum: &mut FlowCount, more: FlowCount) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}

fn counts(direction: Direction, count: FlowCount) -> Counts {
    let mut counts = Counts::default();
    counts.traffic[direction.index()] = count;
    counts
}

#[cfg(test)]
#[path = "nic_tests.rs"]
mod tests;
