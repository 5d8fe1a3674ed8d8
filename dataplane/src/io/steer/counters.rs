//! What the steer program counted.

use softdpu_ebpf_common::maps::{Counter, MAX_RULES, Reason, names};

use super::{
    Steer,
    error::{Result, SteerError},
    maps::sum,
};
use softdpu_ebpf_common::maps::ActiveFlags;

/// Packets and bytes (Ethernet header included) a rule was the first to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleCounter {
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
}

impl Steer {
    /// One per rule, in their order. They go on over [`Steer::set_rules`] for rules that keep their name.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn rule_counters(&self) -> Result<Vec<RuleCounter>> {
        let generation = self.active & ActiveFlags::GENERATION;
        let read = |(i, name): (usize, &String)| {
            let now = self.rule_counter(generation, i)?;
            let before = self.carried.get(name).copied().unwrap_or_default();
            let counter = add(before, now);
            Ok(RuleCounter { name: name.clone(), packets: counter.packets, bytes: counter.bytes })
        };
        self.rules.iter().enumerate().map(read).collect()
    }

    /// Every reason, those never met too. Each packet is counted under exactly one.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn reason_counters(&self) -> Result<Vec<(Reason, Counter)>> {
        let read = |reason: &Reason| {
            let values = self.maps.reasons.get(&(*reason as u32), 0).map_err(SteerError::map(names::REASONS))?;
            Ok((*reason, sum(&values)))
        };
        Reason::ALL.iter().map(read).collect()
    }

    fn rule_counter(&self, generation: u32, rule: usize) -> Result<Counter> {
        let index = generation * MAX_RULES as u32 + rule as u32;
        let values = self.maps.rule_counters.get(&index, 0).map_err(SteerError::map(names::RULE_COUNTERS))?;
        Ok(sum(&values))
    }

    /// Keeps what the rules of an ended generation counted, for those that still exist under their name.
    pub(super) fn carry(&mut self, generation: u32, old: &[String]) -> Result<()> {
        let mut carried = std::collections::HashMap::new();
        for (i, name) in old.iter().enumerate() {
            let before = self.carried.get(name).copied().unwrap_or_default();
            carried.insert(name.clone(), add(before, self.rule_counter(generation, i)?));
        }
        carried.retain(|name, _| self.rules.contains(name));
        self.carried = carried;
        Ok(())
    }
}

fn add(a: Counter, b: Counter) -> Counter {
    Counter { packets: a.packets.wrapping_add(b.packets), bytes: a.bytes.wrapping_add(b.bytes) }
}
