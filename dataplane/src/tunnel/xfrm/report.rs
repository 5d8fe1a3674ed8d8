//! What softdpu tells the kernel of states that it runs: sequence numbers and usage, so that key daemons see them and the
//! kernel (or the next softdpu) can go on; limits that were hit; states that are missing.
//!
//! # Sequence numbers are leased
//!
//! For AES-GCM and ChaCha20-Poly1305 two packets of one key with one nonce are the end of both secrets. softdpu's IV is the
//! 64-bit sequence number (RFC 4106 §3.1 asks for a unique one, RFC 8750 is the same idea), so *no two processes may ever use
//! a number twice*. Hence the kernel's `oseq` is always at or beyond the last number that softdpu may use:
//!
//! 1. [`Reporter::lease`] moves `oseq` to the end of a range, and only after the kernel has acknowledged may workers use it.
//! 2. A softdpu that starts takes its first number above `oseq`. Whatever the one before had sent (it may have been killed at
//!    any point) was below. So softdpu never repeats an IV of softdpu.
//! 3. A kernel that takes over goes on above `oseq`, so the peer's replay window takes its packets.
//! 4. Where the kernel sends on the state too (host's own packets while softdpu runs), its numbers are above the lease's end.
//!    The next lease starts above these, with a gap of [`GUARD`] for what it sends between our question and our answer.
//!
//! What is left: the kernel's IV is its sequence number XOR a random 64-bit salt of its own (`seqiv`, drawn when the state is
//! made). So a number used by both, should it ever happen, is not a nonce used by both; and the IVs of the two meet, for numbers
//! below 2^n, only if the upper 64 − n bits of the salt are zero: 2^−32 per state without ESN. That is the price of
//! sharing a key with the kernel at all, and nobody pays it while only one of both sends.
//!
//! # Usage
//!
//! charon asks for bytes and packets with `GETSA`. What the kernel carried itself is kept: ours is added to its count. Time limits
//! are watched by the kernel, also for states it does not carry; limits in bytes and packets are watched here.
//!
//! The replay window is told once per report. A process that takes over after a crash would accept again what came since
//! the last report: at most the packets of one report interval.

use super::message::Message;
use super::model::{Flow, Policy, State, StateKey, Used};
use super::replay::{Received, Replay};
use super::request::{self, Request};
use super::socket::Socket;
use std::collections::HashMap;
use std::io;
use zeroize::Zeroizing;

/// Numbers left out where the kernel may be sending on the same state.
pub const GUARD: u64 = 1024;
/// A lease is not shorter than this (but for the end of the number space).
pub const SHORTEST_LEASE: u64 = 1 << 20;
/// Requests in one system call.
const BATCH: usize = 64;
const RECEIVE_BUFFER: usize = 1 << 20;

/// Numbers that may be used to send, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub first: u64,
    pub last: u64,
}

impl Lease {
    /// How many to ask for: some seconds of what was sent in the last one. Extended when half is used, a lease does not end
    /// under load.
    pub fn length(packets_last_second: u64) -> u64 {
        packets_last_second.saturating_mul(8).max(SHORTEST_LEASE)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("the sequence numbers of this state are used up")]
    Exhausted,
    #[error("the kernel has no such state")]
    Gone,
    #[error(transparent)]
    Netlink(#[from] io::Error),
}

/// What softdpu did with a state since it took it: totals that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub packets: u64,
    /// Seconds since 1970 of the latest packet, 0 for none.
    pub last_use: u64,
}

/// One state's news.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub state: &'a State,
    pub usage: Usage,
    /// The replay window, of states that receive.
    pub received: Option<&'a Received>,
}

/// What came of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// States that the kernel does not have any more.
    pub gone: Vec<StateKey>,
    /// Soft limits hit now: the key daemons were told.
    pub soft: Vec<StateKey>,
    /// Hard limits hit now: the key daemons were told and the kernel has removed the state. It must not be used again.
    pub hard: Vec<StateKey>,
}

#[derive(Debug, Default)]
struct Told {
    usage: Usage,
    highest: u64,
    /// End of the lease, 0 before the first.
    leased: u64,
    soft: bool,
}

/// Speaks to the kernel. Its calls block only for the system calls: the kernel answers within them.
pub struct Reporter {
    socket: Socket,
    told: HashMap<StateKey, Told>,
}

impl Reporter {
    /// In the network namespace of the calling thread.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN` or XFRM.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(&[], RECEIVE_BUFFER)?, told: HashMap::new() })
    }

    /// Forgets states that are not in use any more.
    pub fn retain(&mut self, mut keep: impl FnMut(&StateKey) -> bool) {
        self.told.retain(|key, _| keep(key));
    }

    /// Reserves the next `count` sequence numbers of a state that sends. The old lease stays good; the new one need not begin
    /// right after it.
    ///
    /// # Errors
    /// Where the number space ends, or the kernel does not know the state. Then nothing was reserved.
    pub fn lease(&mut self, state: &State, count: u64) -> Result<Lease, LeaseError> {
        let (mut replay, _) = self.ask(&state.key)?.ok_or(LeaseError::Gone)?;
        let told = self.told.entry(state.key).or_default();
        let lease = next_lease(replay.oseq, told.leased, count, state.flags.esn).ok_or(LeaseError::Exhausted)?;
        replay.oseq = lease.last;
        told.leased = lease.last;
        let key = state.key;
        match self.one(|sequence| request::set_usage(sequence, &key, Some(&replay), None))? {
            0 => Ok(lease),
            code if code == -libc::ESRCH => Err(LeaseError::Gone),
            code => Err(LeaseError::Netlink(io::Error::from_raw_os_error(-code))),
        }
    }

    /// Tells what is new of these states, watches their limits in bytes and packets.
    ///
    /// # Errors
    /// Of the socket. What was not told then is told with the next report.
    pub fn report(&mut self, reports: &[Report<'_>]) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        let news: Vec<&Report<'_>> = reports.iter().filter(|report| self.is_news(report)).collect();
        for batch in news.chunks(BATCH) {
            self.batch(batch, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn is_news(&self, report: &Report<'_>) -> bool {
        let highest = report.received.map_or(0, |r| r.highest);
        match self.told.get(&report.state.key) {
            Some(told) => told.usage != report.usage || told.highest != highest,
            None => report.usage != Usage::default(),
        }
    }

    fn batch(&mut self, batch: &[&Report<'_>], outcome: &mut Outcome) -> io::Result<()> {
        let known = self.exchange(batch.iter().map(|report| {
            let key = report.state.key;
            move |sequence| request::get_usage(sequence, &key)
        }))?;
        let mut sent = Vec::with_capacity(batch.len());
        for (report, answer) in batch.iter().zip(known) {
            let key = report.state.key;
            let Some(Message::Usage { replay: Some(replay), used: Some(used), .. }) = answer else {
                outcome.gone.push(key);
                self.told.remove(&key);
                continue;
            };
            let before = self.told.entry(key).or_default().usage;
            let used = add(used, before, report.usage);
            let replay = report.received.map(|received| {
                let window = if replay.bitmap_words.is_some() { replay.window } else { 32 };
                Replay { received: received.merge(&replay.received, window), ..replay }
            });
            sent.push((*report, used, replay));
        }
        let answers = self.exchange(sent.iter().map(|(report, used, replay)| {
            let key = report.state.key;
            move |sequence| request::set_usage(sequence, &key, replay.as_ref(), Some(used))
        }))?;
        for ((report, used, _), answer) in sent.iter().zip(answers) {
            let key = report.state.key;
            match answer {
                Some(Message::Answer(0)) => {
                    let told = self.told.entry(key).or_default();
                    told.usage = report.usage;
                    told.highest = report.received.map_or(0, |r| r.highest);
                    self.limits(report.state, used, outcome)?;
                }
                Some(Message::Answer(code)) if code == -libc::ESRCH => {
                    outcome.gone.push(key);
                    self.told.remove(&key);
                }
                other => tracing::warn!("the kernel would not take the usage of state {:08x}: {other:?}", key.spi),
            }
        }
        Ok(())
    }

    fn limits(&mut self, state: &State, used: &Used, outcome: &mut Outcome) -> io::Result<()> {
        let beyond = |bytes: Option<u64>, packets: Option<u64>| {
            bytes.is_some_and(|limit| used.bytes >= limit) || packets.is_some_and(|limit| used.packets >= limit)
        };
        let (soft, hard) = (&state.lifetimes.soft, &state.lifetimes.hard);
        if beyond(hard.bytes, hard.packets) {
            self.expire(state, used, true)?;
            outcome.hard.push(state.key);
        } else if beyond(soft.bytes, soft.packets) && !self.told.get(&state.key).is_some_and(|told| told.soft) {
            self.expire(state, used, false)?;
            self.told.entry(state.key).or_default().soft = true;
            outcome.soft.push(state.key);
        }
        Ok(())
    }

    /// Tells the key daemons that a limit of a state was hit: `XFRM_MSG_EXPIRE` goes to all who listen. `hard` removes the
    /// state from the kernel. False where the kernel does not have it.
    ///
    /// # Errors
    /// Of the socket.
    pub fn expire(&mut self, state: &State, used: &Used, hard: bool) -> io::Result<bool> {
        let state = State { used: *used, ..state.clone() };
        let code = self.one(|sequence| request::expire(sequence, &state, hard))?;
        if hard {
            self.told.remove(&state.key);
        }
        match code {
            0 => Ok(true),
            code if code == -libc::ENOENT || code == -libc::ESRCH => Ok(false),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }

    /// Asks the key daemons for a state, as the kernel does where a packet meets a policy and no state. False for a policy that
    /// wants none. To be called at most now and then for a policy: each is a message to every daemon.
    ///
    /// # Errors
    /// `ESRCH`: no daemon listens.
    pub fn acquire(&mut self, policy: &Policy, flow: &Flow) -> io::Result<bool> {
        let sequence = self.socket.next_sequence();
        let Some(request) = request::acquire(sequence, policy, flow) else { return Ok(false) };
        match self.deliver(&request, sequence, 1)?.pop().flatten() {
            Some(Message::Answer(0)) => Ok(true),
            Some(Message::Answer(code)) => Err(io::Error::from_raw_os_error(-code)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Numbers and usage as the kernel has them. `None`: no such state.
    ///
    /// # Errors
    /// Of the socket.
    pub fn ask(&mut self, key: &StateKey) -> io::Result<Option<(Replay, Used)>> {
        let key = *key;
        let answers = self.exchange([move |sequence| request::get_usage(sequence, &key)].into_iter())?;
        match answers.into_iter().next().flatten() {
            Some(Message::Usage { replay: Some(replay), used: Some(used), .. }) => Ok(Some((replay, used))),
            Some(Message::Answer(code)) if code == -libc::ESRCH => Ok(None),
            Some(Message::Answer(code)) => Err(io::Error::from_raw_os_error(-code)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// One request, its answer's code: 0 or a negative errno.
    fn one(&mut self, request: impl Fn(u32) -> Request) -> io::Result<i32> {
        match self.exchange(std::iter::once(request))?.pop().flatten() {
            Some(Message::Answer(code)) => Ok(code),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends requests together; the answers in their order, `None` for those that are missing.
    fn exchange<R: Fn(u32) -> Request>(
        &mut self,
        requests: impl Iterator<Item = R>,
    ) -> io::Result<Vec<Option<Message>>> {
        let mut all = Zeroizing::new(Vec::new());
        let (mut first, mut count) = (0, 0);
        for request in requests {
            let sequence = self.socket.next_sequence();
            if count == 0 {
                first = sequence;
            }
            count += 1;
            all.extend_from_slice(&request(sequence));
        }
        if count == 0 { Ok(Vec::new()) } else { self.deliver(&all, first, count) }
    }

    fn deliver(&mut self, requests: &[u8], first: u32, count: usize) -> io::Result<Vec<Option<Message>>> {
        self.socket.send(requests)?;
        let mut answers: Vec<Option<Message>> = (0..count).map(|_| None).collect();
        let mut missing = count;
        while missing > 0 {
            let read = self.socket.receive(|received| {
                let at = received.sequence.wrapping_sub(first) as usize;
                if let Some(answer @ None) = answers.get_mut(at) {
                    *answer = Some(received.message);
                    missing -= 1;
                }
            });
            match read {
                Ok(()) => {}
                // The kernel has worked on all of it: what is not there does not come.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }
}

/// The range after `oseq`, the kernel's last number. `leased`: the end of our last range, where the kernel should be.
fn next_lease(oseq: u64, leased: u64, count: u64, esn: bool) -> Option<Lease> {
    let limit = if esn { u64::MAX } else { u64::from(u32::MAX) };
    let gap = if leased != 0 && leased == oseq { 1 } else { 1 + GUARD };
    let first = oseq.max(leased).checked_add(gap).filter(|first| *first <= limit)?;
    Some(Lease { first, last: first.saturating_add(count.max(1) - 1).min(limit) })
}

/// The kernel's count and what is new of ours.
fn add(kernel: Used, told: Usage, now: Usage) -> Used {
    Used {
        bytes: kernel.bytes.saturating_add(now.bytes.saturating_sub(told.bytes)),
        packets: kernel.packets.saturating_add(now.packets.saturating_sub(told.packets)),
        added: kernel.added,
        first_use: if kernel.first_use == 0 { now.last_use } else { kernel.first_use },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// softdpu is killed and started again, the kernel sends now and then: no number is used twice, but for what the kernel
        /// sends between question and answer beyond the gap.
        #[test]
        fn no_number_is_used_twice(
            steps in proptest::collection::vec((0_u64..4, 1_u64..5000, 0..GUARD), 1..60),
            start in prop_oneof![Just(0_u64), Just(u64::from(u32::MAX) - 60_000)],
            esn: bool,
        ) {
            let (mut oseq, mut leased) = (start, 0);
            let mut used: Vec<(u64, u64)> = Vec::new();
            for (what, count, between) in steps {
                let limit = if esn { u64::MAX } else { u64::from(u32::MAX) };
                match what {
                    0 => leased = 0, // a new process
                    1 => {
                        let to = oseq.saturating_add(count).min(limit);
                        used.push((oseq, to));
                        oseq = to;
                    }
                    _ => {
                        let racing = if leased == oseq && leased != 0 { 0 } else { between };
                        let Some(lease) = next_lease(oseq, leased, count, esn) else { continue };
                        used.push((oseq, (oseq + racing).min(limit)));
                        prop_assert!(lease.first <= lease.last && lease.last <= limit);
                        used.push((lease.first - 1, lease.last));
                        (oseq, leased) = (lease.last, lease.last);
                    }
                }
            }
            // Ranges are (after, to].
            used.retain(|(after, to)| after < to);
            used.sort_unstable();
            for pair in used.windows(2) {
                prop_assert!(pair[0].1 <= pair[1].0, "{:?}", pair);
            }
        }
    }

    #[test]
    fn numbers_end() {
        let end = u64::from(u32::MAX);
        assert_eq!(next_lease(end, end, 10, false), None);
        assert_eq!(next_lease(end - 5, end - 5, 10, false), Some(Lease { first: end - 4, last: end }));
        assert_eq!(next_lease(end, end, 10, true), Some(Lease { first: end + 1, last: end + 10 }));
        assert_eq!(next_lease(u64::MAX, 0, 10, true), None);
    }

    #[test]
    fn what_the_kernel_counted_is_kept() {
        let kernel = Used { bytes: 1000, packets: 10, added: 5, first_use: 0 };
        let told = Usage { bytes: 300, packets: 3, last_use: 90 };
        let now = Usage { bytes: 450, packets: 4, last_use: 99 };
        let used = add(kernel, told, now);
        assert_eq!(used, Used { bytes: 1150, packets: 11, added: 5, first_use: 99 });
        assert_eq!(add(Used { first_use: 7, ..kernel }, now, now).first_use, 7, "the first use stays the first");
    }
}
