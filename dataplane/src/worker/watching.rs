//! A running instance's watch: given to its workers between two batches, taken back when nobody reads any more.

use super::clock;
use super::instance::WorkerState;
use super::reload::Switch;
use super::turn::{Question, Shared, Worker};
use crate::control::WatchRefused;
use crate::io::steer::{Steer, SteerError, SteerRule, Watched};
use crate::telemetry::journal::{Journal, Kind, Note};
use crate::tunnel::steering::Steering;
use crate::watch::driver;
use crate::watch::feed::{self, Source};
use crate::watch::steered::steered;
use crate::watch::{Feed, Session, Watch, WatchRequest, What};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// Link header and two VLAN tags.
const LINK: usize = 22;

/// At most one watch at a time.
pub struct Watching {
    shared: Shared,
    journal: Arc<Journal>,
    now: Mutex<Weak<Session>>,
    /// Whose the XDP program's records are: of several watches the newest's. One that is over may not have been dropped yet.
    turn: Arc<AtomicU64>,
}

impl Watching {
    pub fn new(shared: Shared, journal: Arc<Journal>) -> Self {
        Self { shared, journal, now: Mutex::new(Weak::new()), turn: Arc::default() }
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Weak<Session>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the watch that there is.
    pub fn stop(&self) -> bool {
        let session = self.now().upgrade().filter(|session| !session.is_over());
        session.inspect(|session| session.stop()).is_some()
    }

    /// Begins one. `ports`: name and interface of each.
    ///
    /// # Errors
    /// There is one already, or the request makes no sense.
    pub fn begin(
        &self,
        switch: &Arc<Switch>,
        ports: Vec<(String, String)>,
        request: &WatchRequest,
        trace: bool,
        by: u32,
    ) -> Result<Feed, WatchRefused> {
        let mut now = self.now();
        if now.upgrade().is_some_and(|session| !session.is_over()) {
            return Err(WatchRefused::Busy);
        }
        let largest =
            self.shared.fib.load().links().iter().map(|link| usize::from(link.mtu)).max().unwrap_or(1500) + LINK;
        let session = Arc::new(request.session(trace, largest)?);
        // Before the workers: what comes to one of them was recorded already.
        let driver = if trace {
            in_its_own_words(&switch.steering, &ports, &self.turn)
        } else {
            Err("a capture does not ask it".to_owned())
        };
        for (at, worker) in switch.workers.iter().enumerate() {
            let runs = worker.state.lock().is_ok_and(|state| *state == WorkerState::Running);
            if !runs {
                continue;
            }
            let watch = Box::new(Watch::new(session.clone(), at as u16));
            let question: Question = Box::new(move |worker: &mut Worker| worker.watch = Some(watch));
            if worker.ask.try_send(question).is_err() {
                session.stop();
                return Err(WatchRefused::Unable(format!("worker {at} is busy or gone")));
            }
            worker.waker.wake();
        }
        *now = Arc::downgrade(&session);
        let kind = if session.what == What::Trace { "trace" } else { "capture" };
        tracing::info!(
            kind,
            by,
            at = ?request.at,
            filter = request.expression(),
            count = request.count,
            seconds = request.seconds,
            "packets are watched: whoever asked sees what they carry, in clear"
        );
        let note =
            Note::new(Kind::WatchBegan, kind, "packets are watched: whoever asked sees what they carry, in clear");
        let note = note.with("uid", by).with("filter", request.expression());
        self.journal.tell(note.with("count", request.count).with("seconds", request.seconds));
        let journal = self.journal.clone();
        let source = Source {
            plan: self.shared.plan.clone(),
            driver,
            ports,
            steer: steer(switch.steering.rules(), switch.steering.interfaces().to_vec()),
            offset: since_1970(),
            filter: request.expression().to_owned(),
        };
        let switch = switch.clone();
        let on_end = move |session: &Session| {
            disarm(&switch);
            let (seen, matched) = (&session.counts.seen, &session.counts.matched);
            let (seen, matched) = (seen.load(Ordering::Relaxed), matched.load(Ordering::Relaxed));
            let lost = session.lost().iter().sum::<u64>();
            tracing::info!(kind, by, seen, matched, lost, "packets are watched no more");
            let note = Note::new(Kind::WatchEnded, kind, "packets are watched no more");
            journal.tell(note.with("uid", by).with("seen", seen).with("matched", matched).with("lost", lost));
        };
        Ok(Feed::new(session, source, request.seconds, Box::new(on_end)))
    }
}

/// Workers that cannot be told now go on without: the session says that it is over.
fn disarm(switch: &Switch) {
    for worker in &switch.workers {
        let question: Question = Box::new(|worker: &mut Worker| {
            worker.watch.take_if(|watch| watch.is_over());
        });
        if worker.ask.try_send(question).is_ok() {
            worker.waker.wake();
        }
    }
}

/// The XDP program says what it does from here on. Or why it cannot; then what it decided is recomputed.
fn in_its_own_words(
    steering: &Arc<Steering>,
    ports: &[(String, String)],
    turn: &Arc<AtomicU64>,
) -> Result<Box<dyn driver::Watch>, String> {
    let began = steering.ask_mut(|steer| {
        // Nothing that may fail behind it: nobody would put the program back.
        let lost = steer.watch_lost()?;
        steer.watch()?;
        // In the program's lock, as is all that is done of it.
        Ok::<_, SteerError>((lost, turn.fetch_add(1, Ordering::Relaxed) + 1))
    });
    let (lost_before, mine) = began.ok_or_else(|| "there is no XDP program".to_owned())?.map_err(|error| {
        tracing::warn!(%error, "the XDP program cannot say what it does: a trace recomputes it");
        format!("the kernel refused the recording program: {error}")
    })?;
    let interfaces = steering.interfaces().iter().zip(ports).enumerate();
    let ports = interfaces.filter_map(|(at, (interface, port))| Some(((*interface)?, (at as u8, port.0.clone()))));
    let (steering, turn) = (steering.clone(), turn.clone());
    Ok(Box::new(Driver { steering, ports: ports.collect(), lost_before, offset: since_boot(), turn, mine }))
}

struct Driver {
    steering: Arc<Steering>,
    /// Number and name, by interface index.
    ports: HashMap<u32, (u8, String)>,
    lost_before: u64,
    offset: i64,
    turn: Arc<AtomicU64>,
    mine: u64,
}

impl Driver {
    /// `None`: another watch has begun, and the records are that one's.
    fn ask<T>(&self, task: impl FnOnce(&mut Steer) -> T) -> Option<T> {
        let mine = |steer: &mut Steer| (self.turn.load(Ordering::Relaxed) == self.mine).then(|| task(steer));
        self.steering.ask_mut(mine).flatten()
    }
}

impl driver::Watch for Driver {
    fn take(&mut self, most: usize, to: &mut dyn FnMut(Watched)) {
        self.ask(|steer| steer.take_watched(most, to));
    }

    fn lost(&self) -> u64 {
        let lost = self.ask(|steer| steer.watch_lost().unwrap_or(self.lost_before));
        lost.map_or(0, |lost| lost.saturating_sub(self.lost_before))
    }

    fn port(&self, interface: u32) -> Option<(u8, String)> {
        self.ports.get(&interface).cloned()
    }

    fn offset(&self) -> i64 {
        self.offset
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.ask(Steer::unwatch) {
            tracing::warn!(%error, "the XDP program goes on saying what it does, to nobody");
        }
    }
}

/// What the XDP program decides, by these rules. `interfaces`: of each port, `None` for ports that XDP has no part in.
pub fn steer(rules: Vec<SteerRule>, interfaces: Vec<Option<u32>>) -> feed::Steer {
    Box::new(move |port, bytes, len| {
        let interface = interfaces.get(usize::from(port)).copied().flatten()?;
        Some(steered(&rules, interface, bytes, len))
    })
}

/// From the kernel's monotonic clock to nanoseconds since 1970.
fn since_boot() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for the call to write.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    wall.wrapping_sub(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) as i64
}

/// From the workers' clock to nanoseconds since 1970.
fn since_1970() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    wall.wrapping_sub(clock::now()) as i64
}
