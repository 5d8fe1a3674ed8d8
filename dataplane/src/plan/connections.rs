//! The most connections that an application may have at once (`[[limit]] connections`), over all of its rules and all workers.
//!
//! What counts is a flow that workers have an entry of, of UDP and ICMP too; of TCP until both sides have closed or one has reset it. Each
//! worker remembers which of its flows it has counted ([`crate::nodes::connections`]); the number is one for all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The limit of one application.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Whose it is.
    pub name: Arc<str>,
    pub most: u32,
    /// Stays when plans change.
    open: Arc<Open>,
}

/// How many there are. Of plans and workers that mean the same application it is the same one.
#[derive(Debug, Default)]
pub struct Open {
    flows: AtomicU32,
    refused: AtomicU64,
}

impl Open {
    pub fn count(&self) -> u32 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Packets of flows that were one too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// One more, if that is no more than `most`. Whether it is counted.
    pub fn enter(&self, most: u32) -> bool {
        let more = |open: u32| open.checked_add(1).filter(|open| *open <= most);
        let entered = self.flows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !entered {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    /// One less. It was counted before.
    pub fn leave(&self) {
        self.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limit {
    pub fn new(name: Arc<str>, most: u32) -> Self {
        Self { name, most, open: Arc::default() }
    }

    pub fn open(&self) -> &Arc<Open> {
        &self.open
    }

    /// Goes on counting where the limits of the plan before are.
    pub fn follow(list: &mut [Self], before: &[Self]) {
        let by_name: HashMap<&str, &Self> = before.iter().map(|limit| (&*limit.name, limit)).collect();
        for limit in list {
            if let Some(before) = by_name.get(&*limit.name) {
                limit.open = before.open.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_more_than_the_limit_get_in_however_many_ask_at_once() {
        let limit = Limit::new("app".into(), 100);
        let entered = std::thread::scope(|scope| {
            let ask = || (0..80).filter(|_| limit.open().enter(limit.most)).count();
            let threads = [scope.spawn(ask), scope.spawn(ask)];
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((entered, limit.open().count(), limit.open().refused()), (100, 100, 60));
        limit.open().leave();
        assert!(limit.open().enter(100) && !limit.open().enter(100));
    }

    #[test]
    fn the_next_plan_goes_on_counting() {
        let before = [Limit::new("app".into(), 3), Limit::new("other".into(), 3)];
        assert!(before[0].open().enter(3) && before[0].open().enter(3));
        let mut next = [Limit::new("new".into(), 3), Limit::new("app".into(), 1)];
        Limit::follow(&mut next, &before);
        assert_eq!((next[0].open().count(), next[1].open().count()), (0, 2));
        assert!(!next[1].open().enter(next[1].most));
    }
}
