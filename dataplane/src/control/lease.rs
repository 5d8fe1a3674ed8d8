//! How long a connection may last: a minute with all its requests; one that follows events for as long as it reads them, one
//! that watches packets for as long as it asked to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::journal::Journal;

/// Who follows events is sent something at least every [`KEEP_ALIVE`](super::events::KEEP_ALIVE); who has taken nothing for
/// this long is gone, or too slow. Tests have no time to wait.
const STALLED: Duration = if cfg!(test) { Duration::from_millis(1500) } else { Duration::from_secs(45) };

/// One connection's.
#[derive(Debug)]
pub struct Lease {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The start, or the end of the last stream of events.
    since: Instant,
    following: Option<(Instant, Arc<Journal>)>,
    /// Its answer has an end of its own.
    lasts: bool,
}

impl Default for Lease {
    fn default() -> Self {
        Self { state: Mutex::new(State { since: Instant::now(), following: None, lasts: false }) }
    }
}

impl Lease {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A stream of events was begun, or the client has taken something of it.
    pub fn takes(&self, journal: &Arc<Journal>) {
        self.change(|state| state.following = Some((Instant::now(), journal.clone())));
    }

    /// The stream is over.
    pub fn stops(&self) {
        self.change(|state| *state = State { since: Instant::now(), following: None, lasts: false });
    }

    /// An answer was begun that ends by itself.
    pub fn lasts(&self) {
        self.change(|state| state.lasts = true);
    }

    /// Returns when the connection has lasted long enough. `plain`: without events.
    pub async fn ended(&self, plain: Duration) {
        loop {
            let mut until = Instant::now();
            let mut stalled = None;
            self.change(|state| match &state.following {
                Some((taken, journal)) => {
                    until = *taken + STALLED;
                    stalled = Some(journal.clone());
                }
                None if state.lasts => until += plain,
                None => until = state.since + plain,
            });
            if until <= Instant::now() {
                if let Some(journal) = stalled {
                    journal.count_cut_off();
                }
                return;
            }
            // A stream may begin meanwhile, whose reader is waited for no longer than this.
            tokio::time::sleep_until(until.min(Instant::now() + STALLED)).await;
        }
    }
}
