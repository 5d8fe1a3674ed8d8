//! Who is promised what: floors, encryption and connections are booked in the order of priority, until there is no more.

use super::super::contract::{Because, Budget, Finding, Place, Reason, Takes};
use super::{Draft, Effect, Findings, Given};
use crate::config::intent::Demand;
use crate::config::rates::Bandwidth;
use crate::config::terms::Written;
use std::cmp::Reverse;

/// Something that can run out.
struct Stock {
    what: &'static str,
    have: Option<u64>,
    limited_by: String,
    by: Place,
    asked: u64,
    booked: u64,
    /// Names of those that got none.
    without: Vec<String>,
    first_without: Option<Place>,
}

impl Stock {
    /// What the policy writes, or what the site has where that is less.
    fn new(given: &Given<'_>, what: &'static str, written: Option<&Written<u64>>, site: Option<u64>) -> Self {
        let policy = written.map(|written| written.value);
        let (have, limited_by) = match (policy, site) {
            (Some(policy), Some(site)) if site < policy => (Some(site), given.site.label.clone()),
            (Some(policy), _) => (Some(policy), "policy".into()),
            (None, Some(site)) => (Some(site), given.site.label.clone()),
            (None, None) => (None, String::new()),
        };
        let by = given.in_policy(written.map(|written| &written.span));
        Self { what, have, limited_by, by, asked: 0, booked: 0, without: Vec::new(), first_without: None }
    }

    fn take(&mut self, amount: u64, who: &str, at: &Place) -> bool {
        self.asked = self.asked.saturating_add(amount);
        let sum = self.booked.saturating_add(amount);
        if self.have.is_some_and(|have| sum > have) {
            self.without.push(who.to_owned());
            self.first_without.get_or_insert_with(|| at.clone());
            return false;
        }
        self.booked = sum;
        true
    }

    fn amount(&self, value: u64) -> String {
        if self.what == "connections" { format!("{value} connections") } else { bits(value) }
    }
}

/// As written in a policy.
pub(super) fn bits(value: u64) -> String {
    Bandwidth(value).to_string()
}

/// Books for all drafts.
pub(super) fn book(given: &Given<'_>, drafts: &mut [Draft<'_>], findings: &mut Findings) -> Vec<Budget> {
    let (terms, site) = (&given.policy.terms, given.site);
    let mut bandwidth = Stock::new(given, "bandwidth", terms.bandwidth.as_ref(), site.bandwidth);
    let mut crypto = Stock::new(given, "crypto", terms.crypto.as_ref(), site.crypto);
    let mut connections = Stock::new(given, "connections", terms.connections.as_ref(), site.connections);
    let mut order: Vec<usize> = (0..drafts.len()).collect();
    order.sort_by_key(|at| Reverse(drafts[*at].intent.priority));
    for at in order {
        let draft = &mut drafts[at];
        // What is dropped takes nothing.
        if draft.own == Effect::Drop {
            continue;
        }
        let (floor, count) = limited(given, draft);
        let place = given.in_intent(draft.intent, &draft.intent.name_span);
        let name = draft.intent.name.clone();
        let mut takes = Takes::default();
        let lacks = |reason, stock: &Stock, amount: u64, draft: &mut Draft<'_>| {
            let left = stock.have.unwrap_or(u64::MAX).saturating_sub(stock.booked);
            draft.all.push(Because {
                reason,
                text: format!("it asks for {}, {} is left of {}", stock.amount(amount), stock.amount(left), stock.what),
                by: stock.by.clone(),
            });
        };
        if floor > 0 {
            if bandwidth.take(floor, &name, &place) {
                takes.bandwidth = floor;
            } else {
                lacks(Reason::OverbookedBandwidth, &bandwidth, floor, draft);
            }
            if matches!(draft.own, Effect::Encrypt(_)) {
                if crypto.take(floor, &name, &place) {
                    takes.crypto = floor;
                } else {
                    lacks(Reason::OverbookedCrypto, &crypto, floor, draft);
                    if draft.intent.encrypt == Demand::Preferred {
                        draft.own = Effect::Clear;
                    }
                }
            }
        }
        if count > 0 {
            if connections.take(count, &name, &place) {
                takes.connections = count;
            } else {
                lacks(Reason::OverbookedConnections, &connections, count, draft);
            }
        }
        draft.takes = takes;
    }
    let stocks = [bandwidth, crypto, connections];
    for stock in stocks.iter().filter(|stock| !stock.without.is_empty()) {
        findings.add(Finding {
            kind: "overbooked".into(),
            text: format!(
                "{}: {} is asked for, there is {} ({}); without a promise: {}",
                stock.what,
                stock.amount(stock.asked),
                stock.amount(stock.have.unwrap_or(0)),
                stock.limited_by,
                stock.without.join(", ")
            ),
            here: stock.by.clone(),
            other: stock.first_without.clone(),
        });
    }
    let budget = |stock: Stock| Budget {
        what: stock.what.into(),
        have: stock.have,
        asked: stock.asked,
        booked: stock.booked,
        limited_by: stock.limited_by,
    };
    stocks.into_iter().map(budget).collect()
}

/// Floor and connections, held to the policy's limit for the application.
fn limited(given: &Given<'_>, draft: &mut Draft<'_>) -> (u64, u64) {
    let intent = draft.intent;
    let value = |written: &Option<Written<u64>>| written.as_ref().map_or(0, |written| written.value);
    let (mut floor, mut count) = (value(&intent.floor), value(&intent.connections));
    let Some(ceiling) = given.policy.terms.ceilings.get(&intent.name) else { return (floor, count) };
    if let Some(most) = ceiling.bandwidth.as_ref().filter(|most| most.value < floor) {
        draft.all.push(Because {
            reason: Reason::AppLimit,
            text: format!("it asks for {}, its limit is {}", bits(floor), bits(most.value)),
            by: given.in_policy(Some(&most.span)),
        });
        floor = most.value;
    }
    if let Some(most) = ceiling.connections.as_ref().filter(|most| most.value < count) {
        draft.all.push(Because {
            reason: Reason::AppLimit,
            text: format!("it asks for {count} connections, its limit is {}", most.value),
            by: given.in_policy(Some(&most.span)),
        });
        count = most.value;
    }
    (floor, count)
}
