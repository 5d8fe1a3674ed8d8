//! What the kernel's messages add up to. Pure: the mirror feeds it.

use super::message::{Message, Received};
use super::model::{Defaults, Policy, PolicyKey, State, StateKey, Unsupported};
use std::collections::HashMap;
use std::sync::Arc;

/// What a message asks of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    Nothing,
    /// Publish when the burst has settled.
    Changed,
    /// Publish now: a state that packets may use the moment the peer hears of it.
    Urgent,
    /// What is held may be wrong: read everything again.
    ReadAgain,
}

/// One view of the kernel's tables.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By key.
    pub states: Vec<Arc<State>>,
    /// By precedence ([`Policy::rank`]).
    pub policies: Vec<Arc<Policy>>,
    pub defaults: Defaults,
}

#[derive(Debug)]
struct Entry<T> {
    value: Arc<T>,
    /// Last dump that showed it, or during which it came.
    seen: u64,
}

#[derive(Debug, Default)]
pub struct Tables {
    states: HashMap<StateKey, Entry<State>>,
    policies: HashMap<PolicyKey, Entry<Policy>>,
    defaults: Defaults,
    dump: u64,
    /// Ages given so far: those of dumps count down (the kernel dumps the youngest first), those of events up.
    youngest: i64,
    oldest: i64,
}

impl Tables {
    /// From here to [`Tables::end_dump`], what is not seen is gone.
    pub fn begin_dump(&mut self) {
        self.dump += 1;
        // Room below for all that this dump may show first, above everything known.
        self.oldest = self.youngest + (1 << 32);
        self.youngest = self.oldest;
    }

    /// The dump has shown everything.
    pub fn end_dump(&mut self) {
        let dump = self.dump;
        self.states.retain(|_, entry| entry.seen == dump);
        self.policies.retain(|_, entry| entry.seen == dump);
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut states: Vec<_> = self.states.values().map(|e| e.value.clone()).collect();
        states.sort_unstable_by_key(|s| s.key);
        let mut policies: Vec<_> = self.policies.values().map(|e| e.value.clone()).collect();
        policies.sort_unstable_by_key(|p| (p.key.direction, p.rank()));
        Snapshot { states, policies, defaults: self.defaults }
    }

    pub fn state(&self, key: &StateKey) -> Option<&Arc<State>> {
        self.states.get(key).map(|e| &e.value)
    }

    /// `dumped`: the message is part of the dump under way, not news.
    pub fn apply(&mut self, received: Received, dumped: bool) -> Effect {
        match received.message {
            Message::State(state) => self.add(*state, dumped),
            Message::Update(state) => self.update(*state),
            Message::StateGone(key) | Message::Expired { key, hard: true } => {
                changed(self.states.remove(&key).is_some())
            }
            Message::Expired { key, hard: false } => {
                let Some(entry) = self.states.get_mut(&key) else { return Effect::Nothing };
                let first = !entry.value.dying;
                entry.value = Arc::new(State { dying: true, ..State::clone(&entry.value) });
                changed(first)
            }
            Message::StatesFlushed(protocol) => {
                let before = self.states.len();
                self.states.retain(|key, _| !flushes(protocol, key.protocol));
                changed(self.states.len() != before)
            }
            Message::Policy(policy) => {
                let same = self.policies.get(&policy.key).is_some_and(|e| *e.value == *policy);
                let entry = Entry { seen: self.dump, value: Arc::new(*policy) };
                self.policies.insert(entry.value.key, entry);
                changed(!same)
            }
            Message::PolicyGone(key) => changed(self.policies.remove(&key).is_some()),
            Message::PoliciesFlushed => {
                let any = !self.policies.is_empty();
                self.policies.clear();
                changed(any)
            }
            Message::Defaults(defaults) => {
                let same = self.defaults == defaults;
                self.defaults = defaults;
                changed(!same)
            }
            Message::Migrated | Message::Overrun => Effect::ReadAgain,
            Message::Malformed(kind) => {
                // Never seen from a kernel. What it was about is not known, so the old view cannot be trusted either.
                tracing::warn!("a message of type {kind} on NETLINK_XFRM is not as linux/xfrm.h has it");
                if dumped { Effect::Nothing } else { Effect::ReadAgain }
            }
            Message::Usage { .. } | Message::Done | Message::Answer(_) | Message::Other(_) => Effect::Nothing,
        }
    }

    fn add(&mut self, mut state: State, dumped: bool) -> Effect {
        let key = state.key;
        let old = self.states.get(&key);
        let known = old.filter(|e| dumped && same_sa(&e.value, &state)).map(|e| &e.value);
        state.age = match known {
            Some(known) => known.age,
            None if dumped => {
                self.oldest -= 1;
                self.oldest
            }
            None => {
                self.youngest += 1;
                self.youngest
            }
        };
        state.dying = known.is_some_and(|known| known.dying);
        let effect = match known {
            _ if dumped => Effect::Changed,
            _ if state.supported() => Effect::Urgent,
            _ => Effect::Changed,
        };
        self.states.insert(key, Entry { value: Arc::new(state), seen: self.dump });
        effect
    }

    /// `UPDSA` fills a larval state. Of one that has keys it changes only this (`xfrm_state_update`); the message shows the
    /// request, not the state, so its keys, numbers and usage are not to be believed.
    fn update(&mut self, state: State) -> Effect {
        let Some(old) = self.states.get(&state.key).filter(|e| e.value.unsupported != Some(Unsupported::Larval)) else {
            return self.add(state, false);
        };
        let new = State {
            encap: state.encap.or(old.value.encap),
            lifetimes: state.lifetimes,
            output_mark: state.output_mark.or(old.value.output_mark),
            if_id: if state.if_id == 0 { old.value.if_id } else { state.if_id },
            dying: false,
            ..State::clone(&old.value)
        };
        self.states.insert(state.key, Entry { value: Arc::new(new), seen: self.dump });
        Effect::Urgent
    }
}

fn changed(really: bool) -> Effect {
    if really { Effect::Changed } else { Effect::Nothing }
}

/// `xfrm_id_proto_match`: 0 is all, 255 all of IPsec.
fn flushes(which: u8, protocol: u8) -> bool {
    which == 0 || which == protocol || (which == 255 && matches!(protocol, 50 | 51 | 108))
}

/// The same SA as before a dump, not another under its key.
fn same_sa(a: &State, b: &State) -> bool {
    let id = |s: &State| s.material.as_ref().map(|m| m.id());
    id(a) == id(b) && a.used.added == b.used.added
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
