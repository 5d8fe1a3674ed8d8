//! When a worker with nothing to do sleeps, and what wakes it.

use crate::config::policy::Idle;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Empty turns before an adaptive worker sleeps. A turn over two idle ports costs some 100 ns, so this spins for about the
/// time a sleep and a wake-up cost (5 to 10 µs).
const SPINS: u32 = 64;
/// Longest sleep in milliseconds: flows age and counters are taken at least this often.
const LONGEST: i32 = 500;

/// Wakes a sleeping worker from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is handed over; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live across the call. A full counter (EAGAIN) is a wake-up already pending.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight bytes that live across the call; EAGAIN says it was not set.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Decides at the end of every turn whether to go on or to sleep.
#[derive(Debug)]
pub struct Idler {
    mode: Idle,
    waker: Waker,
    polls: Vec<libc::pollfd>,
    empty_turns: u32,
    sleeps: u64,
}

impl Idler {
    pub fn new(mode: Idle, waker: Waker, sockets: impl IntoIterator<Item = RawFd>) -> Self {
        let descriptors = std::iter::once(waker.0.as_raw_fd()).chain(sockets);
        let polls = descriptors.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        Self { mode, waker, polls, empty_turns: 0, sleeps: 0 }
    }

    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Is it time to sleep, after a turn with this many packets?
    pub fn tired(&mut self, packets: usize) -> bool {
        if packets > 0 {
            self.empty_turns = 0;
            return false;
        }
        self.empty_turns = self.empty_turns.saturating_add(1);
        match self.mode {
            Idle::Busy => false,
            Idle::Adaptive => self.empty_turns > SPINS,
            Idle::Interrupt => true,
        }
    }

    /// Sleeps until a packet comes, somebody calls [`Waker::wake`], or `at_most` milliseconds have passed.
    pub fn sleep(&mut self, at_most: i32) {
        self.sleeps += 1;
        let timeout = at_most.clamp(0, LONGEST);
        // SAFETY: the array lives across the call and its length is given. EINTR is a short sleep.
        let woken = unsafe { libc::poll(self.polls.as_mut_ptr(), self.polls.len() as libc::nfds_t, timeout) };
        if woken > 0 && self.polls[0].revents != 0 {
            self.waker.clear();
        }
        self.empty_turns = 0;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_wake_up_before_the_sleep_is_not_lost() {
        let waker = Waker::new().unwrap();
        let mut idler = Idler::new(Idle::Adaptive, waker.clone(), []);
        waker.wake();
        let start = std::time::Instant::now();
        idler.sleep(LONGEST);
        assert!(start.elapsed().as_millis() < LONGEST as u128);
        idler.sleep(1);
        assert_eq!(idler.sleeps(), 2);
    }

    #[test]
    fn busy_never_tires_and_traffic_wakes() {
        let mut busy = Idler::new(Idle::Busy, Waker::new().unwrap(), []);
        assert!(!(0..1000).any(|_| busy.tired(0)));
        let mut adaptive = Idler::new(Idle::Adaptive, Waker::new().unwrap(), []);
        assert!((0..=SPINS).any(|_| adaptive.tired(0)));
        assert!(!adaptive.tired(1));
        assert!(!adaptive.tired(0));
    }
}
