//! What each intent came to: the counters of the rules it became, summed.

use std::collections::HashMap;

use super::snapshot::{RuleTraffic, Snapshot, Traffic};
use crate::plan::contract::{Contract, Outcome};

/// An intent's traffic. Workers count it, and what the driver or a device did comes in once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntentTraffic {
    /// Of its flows, whatever became of them.
    pub all: Traffic,
    /// Packets dropped, whatever the reason.
    pub dropped: u64,
    /// Inner packets encrypted, and decrypted.
    pub sealed: Traffic,
    pub opened: Traffic,
}

impl IntentTraffic {
    fn take(&mut self, rule: &RuleTraffic) {
        let plus = |sum: &mut Traffic, more: Traffic| {
            sum.packets += more.packets;
            sum.bytes += more.bytes;
        };
        plus(&mut self.all, Traffic { packets: rule.packets, bytes: rule.bytes });
        plus(&mut self.sealed, rule.sealed);
        plus(&mut self.opened, rule.opened);
        self.dropped += rule.dropped;
    }

    /// Of `all`, bytes that went through a tunnel.
    pub fn encrypted_bytes(&self) -> u64 {
        self.sealed.bytes + self.opened.bytes
    }

    fn add(mut self, other: Self) -> Self {
        for (sum, more) in
            [(&mut self.all, other.all), (&mut self.sealed, other.sealed), (&mut self.opened, other.opened)]
        {
            sum.packets += more.packets;
            sum.bytes += more.bytes;
        }
        self.dropped += other.dropped;
        self
    }

    /// Sum of many.
    pub fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), Self::add)
    }
}

/// Each intent of the contract with its traffic, in the contract's order.
pub fn by_intent<'a>(contract: &'a Contract, counters: &Snapshot) -> Vec<(&'a Outcome, IntentTraffic)> {
    let rules: HashMap<&str, &RuleTraffic> = counters.rules.iter().map(|rule| (rule.name.as_str(), rule)).collect();
    let traffic = |intent: &Outcome| {
        let mut sum = IntentTraffic::default();
        intent.rules.iter().filter_map(|name| rules.get(name.as_str())).for_each(|rule| sum.take(rule));
        sum
    };
    contract.intents.iter().map(|intent| (intent, traffic(intent))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_is_the_sum_of_its_rules() {
        let rule = |name: &str, n: u64| RuleTraffic {
            name: name.into(),
            packets: n,
            bytes: 100 * n,
            dropped: 1,
            sealed: Traffic { packets: n, bytes: 90 * n },
            opened: Traffic { packets: 1, bytes: 10 },
            ..RuleTraffic::default()
        };
        let counters =
            Snapshot { rules: vec![rule("pay", 3), rule("pay-2", 4), rule("own", 5)], ..Snapshot::default() };
        let intent = |name: &str, rules: &[&str]| Outcome {
            name: name.into(),
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            ..Outcome::default()
        };
        let intents = vec![intent("payments", &["pay", "pay-2", "gone"]), intent("refused", &[])];
        let contract = Contract { intents, ..Contract::default() };
        let all = by_intent(&contract, &counters);
        let payments = all[0].1;
        assert_eq!((payments.all.packets, payments.all.bytes, payments.dropped), (7, 700, 2));
        assert_eq!(payments.encrypted_bytes(), 7 * 90 + 20);
        assert_eq!((all[1].0.name.as_str(), all[1].1), ("refused", IntentTraffic::default()));
        assert_eq!(IntentTraffic::sum(all.iter().map(|(_, traffic)| *traffic)), payments);
    }
}
