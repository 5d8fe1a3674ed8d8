//! The flow table in the driver. Filled by the bench today; offload has its place here.

use softdpu_ebpf_common::maps::{ActiveFlags, Counter, FlowAction, FlowKey, FlowValue, names};

use super::{
    Steer,
    error::{Result, SteerError},
    not_found,
};

/// What to do with the packets of one direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowRule {
    Pass,
    Drop,
    /// Out by another interface. Packets with TTL 1, and IP packets larger than `mtu` bytes, go to the rules instead.
    Forward {
        ifindex: u32,
        mtu: u16,
        dst_mac: [u8; 6],
        src_mac: [u8; 6],
    },
}

impl Steer {
    /// Puts a flow into the table, or replaces it (its counters start again).
    ///
    /// # Errors
    /// The table is full, or the interface to leave by does not exist.
    pub fn flow_insert(&mut self, key: &FlowKey, rule: FlowRule) -> Result<()> {
        let mut value = FlowValue::default();
        match rule {
            FlowRule::Pass => value.action = FlowAction::Pass as u8,
            FlowRule::Drop => value.action = FlowAction::Drop as u8,
            FlowRule::Forward { ifindex, mtu, dst_mac, src_mac } => {
                value = FlowValue { action: FlowAction::Forward as u8, mtu, dst_mac, src_mac, ..value };
                value.device = self.slot(ifindex)?;
                self.maps.devices.set(value.device, ifindex, None, 0).map_err(SteerError::map(names::DEVICES))?;
            }
        }
        let known = self.maps.flows.get(key, 0).is_ok();
        self.maps.flows.insert(key, value, 0).map_err(SteerError::map(names::FLOWS))?;
        self.flows += usize::from(!known);
        self.flows_used()
    }

    /// Takes a flow out and returns what it counted, if it was there.
    ///
    /// # Errors
    /// The map refuses.
    pub fn flow_remove(&mut self, key: &FlowKey) -> Result<Option<Counter>> {
        let counter = self.flow_counter(key)?;
        if counter.is_some() {
            self.maps.flows.remove(key).map_err(SteerError::map(names::FLOWS))?;
            self.flows = self.flows.saturating_sub(1);
            self.flows_used()?;
        }
        Ok(counter)
    }

    /// What a flow counted so far.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flow_counter(&self, key: &FlowKey) -> Result<Option<Counter>> {
        match self.maps.flows.get(key, 0) {
            Ok(flow) => Ok(Some(Counter { packets: flow.packets, bytes: flow.bytes })),
            Err(error) if not_found(&error) => Ok(None),
            Err(error) => Err(SteerError::map(names::FLOWS)(error)),
        }
    }

    /// Packets look into the table only while it has flows.
    fn flows_used(&mut self) -> Result<()> {
        let rest = self.active & !ActiveFlags::FLOWS;
        let word = rest | if self.flows > 0 { ActiveFlags::FLOWS } else { 0 };
        if word == self.active { Ok(()) } else { self.activate(word) }
    }
}
