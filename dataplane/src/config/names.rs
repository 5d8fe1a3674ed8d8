//! Addresses of the names that intents ask for: the host's resolver, and what it said before.
//!
//! What was known of a name holds where the resolver does not answer, and for an hour where it answers something else: servers with
//! many addresses name some of them at a time, and connections to an address outlive its mention. A flow that must be encrypted is
//! so until then.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::intent::Intent;

/// How long all names together may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Names that are asked for at a time.
const ASKING: usize = 16;
/// How long an address counts that is not named any more.
const LINGER: Duration = Duration::from_secs(3600);
/// Most addresses of a name that are kept beyond those of the last answer.
const MOST: usize = 64;
/// Names that are remembered; where there are more, those that were not asked for last are forgotten.
const MOST_NAMES: usize = 65_536;

/// What this process has heard. One for all policies that it reads: a name has the same addresses in each.
static KNOWN: Mutex<BTreeMap<String, Known>> = Mutex::new(BTreeMap::new());

/// A name's addresses, and when each was last named.
#[derive(Default)]
struct Known(Vec<(IpAddr, Instant)>);

impl Known {
    fn hear(&mut self, found: &[IpAddr], now: Instant) {
        self.0.retain(|(address, at)| !found.contains(address) && now.duration_since(*at) < LINGER);
        // The newest first, as far as there is room.
        self.0.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        self.0.truncate(MOST.saturating_sub(found.len()));
        self.0.extend(found.iter().map(|address| (*address, now)));
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.0.iter().map(|(address, _)| *address).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// What came of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// In order. A name without an address is not there.
    pub known: HashMap<String, Vec<IpAddr>>,
    /// Names without an answer now, whatever was known before.
    pub failed: Vec<String>,
}

/// The names of all flows, each once.
pub fn of(intents: &[Intent]) -> Vec<String> {
    let flows = intents.iter().flat_map(|intent| &intent.flows);
    let mut names: Vec<String> = flows.flat_map(|flow| &flow.names).map(|name| name.value.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// Asks for all of them, and puts what was known before where there is no answer. Blocks, three seconds at most.
pub fn look_up(names: Vec<String>) -> Answers {
    if names.is_empty() {
        return Answers::default();
    }
    let found = ask(names.clone());
    let now = Instant::now();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() > MOST_NAMES {
        known.retain(|name, _| names.contains(name));
    }
    let mut answers = Answers::default();
    for name in names {
        match found.get(&name).filter(|found| !found.is_empty()) {
            Some(found) => known.entry(name.clone()).or_default().hear(found, now),
            None => answers.failed.push(name.clone()),
        }
        if let Some(of) = known.get(&name) {
            answers.known.insert(name, of.addresses());
        }
    }
    answers
}

/// In which names what is known differs from what these intents have, in words; empty: in none.
pub fn news(intents: &[Intent], answers: &Answers) -> Vec<String> {
    let mut all = BTreeMap::new();
    for (name, used) in intents.iter().flat_map(|intent| &intent.flows).flat_map(|flow| &flow.addresses) {
        let Some(now) = answers.known.get(name).filter(|now| *now != used) else { continue };
        let list = |of: &[IpAddr], not: &[IpAddr]| {
            let new: Vec<String> = of.iter().filter(|a| !not.contains(a)).map(IpAddr::to_string).collect();
            new.join(", ")
        };
        let (new, gone) = (list(now, used), list(used, now));
        let said = match (new.is_empty(), gone.is_empty()) {
            (false, true) => format!("{name} has {new} too"),
            (true, _) => format!("{name} has {gone} no more"),
            (false, false) => format!("{name} has {new}, and {gone} no more"),
        };
        all.insert(name.as_str(), said);
    }
    all.into_values().collect()
}

/// Asks the host's resolver, several names at a time. Names without an answer in time have no addresses.
fn ask(names: Vec<String>) -> HashMap<String, Vec<IpAddr>> {
    let until = Instant::now() + PATIENCE;
    let (answer, answers) = mpsc::channel();
    let count = names.len();
    let (work, queue) = crossbeam::channel::unbounded();
    names.into_iter().for_each(|name| drop(work.send(name)));
    drop(work);
    for _ in 0..ASKING.min(count) {
        let (answer, queue) = (answer.clone(), queue.clone());
        // Left alone when the resolver hangs: it ends with its question.
        std::thread::spawn(move || {
            for name in queue {
                let found = (name.as_str(), 0).to_socket_addrs();
                let found: Vec<IpAddr> =
                    found.map(|all| all.map(|one| one.ip().to_canonical()).collect()).unwrap_or_default();
                if Instant::now() > until || answer.send((name, found)).is_err() {
                    return;
                }
            }
        });
    }
    drop(answer);
    let mut known = HashMap::new();
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let Ok((name, found)) = answers.recv_timeout(left) else { break };
        known.insert(name, found);
    }
    known
}

/// As if the resolver had named this address.
#[cfg(test)]
pub fn heard(name: &str, address: &str) {
    let address = address.parse().expect("an address");
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(name.to_owned()).or_default().0.push((address, Instant::now()));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn an_address_that_is_not_named_any_more_counts_for_an_hour() {
        let (mut known, begun) = (Known::default(), Instant::now());
        known.hear(&[ip(1), ip(2)], begun);
        known.hear(&[ip(2), ip(3)], begun + LINGER / 2);
        assert_eq!(known.addresses(), [ip(1), ip(2), ip(3)]);
        known.hear(&[ip(3)], begun + LINGER);
        assert_eq!(known.addresses(), [ip(2), ip(3)], "the first was last named an hour ago");
        // Without an answer nothing is heard, and nothing ages.
        assert_eq!(known.addresses(), [ip(2), ip(3)]);
    }

    #[test]
    fn what_lingers_is_bounded_and_an_answer_is_not_cut() {
        let (mut known, begun) = (Known::default(), Instant::now());
        for n in 0..200 {
            known.hear(&[ip(n)], begun + Duration::from_secs(n.into()));
        }
        assert_eq!(known.addresses().len(), MOST);
        assert!(known.addresses().contains(&ip(199)) && !known.addresses().contains(&ip(0)), "the newest stay");
        let many: Vec<IpAddr> = (0..100).map(ip).collect();
        known.hear(&many, begun + Duration::from_secs(300));
        assert_eq!(known.addresses(), many);
    }

    #[test]
    fn the_last_good_answer_holds_where_there_is_none() {
        let name = "no-such-name.invalid";
        let answers = look_up(vec![name.to_owned()]);
        assert!(answers.known.is_empty() && answers.failed == [name]);
        heard(name, "10.9.0.1");
        let answers = look_up(vec![name.to_owned()]);
        assert_eq!(answers.known[name], ["10.9.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(answers.failed, [name], "it is said all the same");
        assert_eq!(look_up(Vec::new()), Answers::default());
    }
}
