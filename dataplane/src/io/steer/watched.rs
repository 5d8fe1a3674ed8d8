//! The steer program says what it does: the program that records every packet takes its place on the interfaces, and gives it back.

use std::mem::size_of;
use std::os::fd::{AsFd as _, BorrowedFd};

use softdpu_ebpf_common::flows::{FlowAction, Options};
use softdpu_ebpf_common::maps::{ActiveFlags, PROGRAM_NAME, Reason};
use softdpu_ebpf_common::watch::{NO_DEVICE, NO_ENTRY, NO_RULE, SNAP, Seen, names};

use super::error::{Result, SteerError};
use super::maps::sum;
use super::{Steer, program, xdp, xdp_fd};

/// What the program did with one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Monotonic nanoseconds.
    pub time: u64,
    /// Interface index and queue it came by.
    pub interface: u32,
    pub queue: u32,
    /// Of the whole frame, bytes; those below are its first, at most 128.
    pub len: usize,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
    pub reason: Reason,
    /// It went on to the kernel's stack (`XDP_PASS`).
    pub passed: bool,
    /// The rule that decided; a number where the rules have changed since.
    pub rule: Option<String>,
    /// What the flow table is to do with its flow (`forward`, …, and what else: `mark`, …); `None`: it does not have the flow.
    pub entry: Option<String>,
    /// Index of the interface that the flow table sent it out by.
    pub out: Option<u32>,
}

impl Steer {
    /// From now on every packet is recorded; read them with [`Self::take_watched`]. What is attached later is recorded too.
    ///
    /// # Errors
    /// The kernel refuses the recording program, or to exchange it on an interface: then nothing has changed.
    pub fn watch(&mut self) -> Result<()> {
        if self.watch_id.is_none() {
            let program = xdp(&mut self.ebpf, names::PROGRAM)?;
            program.load().map_err(|e| SteerError::program(&e))?;
            let fd = program.fd().map_err(|e| SteerError::program(&e))?;
            let id = program::id(fd.as_fd())
                .map_err(|e| SteerError::Load { what: format!("no program id: {e}"), errno: e.raw_os_error() })?;
            self.watch_id = Some(id);
        }
        // Of the watch before.
        self.take_watched(usize::MAX, |_| ());
        self.exchange(true)
    }

    /// Records packets no more.
    ///
    /// # Errors
    /// The kernel refuses to exchange the program on an interface, which goes on recording for nobody; it steers as before.
    pub fn unwatch(&mut self) -> Result<()> {
        self.exchange(false)
    }

    /// One program in the other's place on every interface, or on none.
    fn exchange(&mut self, watching: bool) -> Result<()> {
        if self.watching == watching {
            return Ok(());
        }
        let before = self.in_place()?;
        let after = xdp_fd(&self.ebpf, if watching { names::PROGRAM } else { PROGRAM_NAME })?;
        let mut done = Vec::new();
        for (&ifindex, &mode) in &self.attached {
            match self.netlink.attach(ifindex, after, mode, Some(before)) {
                Ok(()) => done.push((ifindex, mode)),
                // It has gone, and its program with it.
                Err(SteerError::Link { error, .. }) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) if watching => {
                    for (ifindex, mode) in done {
                        self.netlink.attach(ifindex, before, mode, Some(after))?;
                    }
                    return Err(error);
                }
                Err(error) => tracing::warn!(ifindex, %error, "the recording program stays: it steers as before"),
            }
        }
        self.watching = watching;
        Ok(())
    }

    /// The program that is, or is to be, on the interfaces.
    pub(super) fn in_place(&self) -> Result<BorrowedFd<'_>> {
        xdp_fd(&self.ebpf, self.name_in_place())
    }

    pub(super) fn name_in_place(&self) -> &'static str {
        if self.watching { names::PROGRAM } else { PROGRAM_NAME }
    }

    /// The program with this id, if it is one of ours.
    pub(super) fn own(&self, id: u32) -> Result<Option<BorrowedFd<'_>>> {
        let name = match id {
            _ if id == self.id => PROGRAM_NAME,
            _ if Some(id) == self.watch_id => names::PROGRAM,
            _ => return Ok(None),
        };
        xdp_fd(&self.ebpf, name).map(Some)
    }

    /// Gives the oldest records to `to`, at most so many.
    pub fn take_watched(&mut self, most: usize, mut to: impl FnMut(Watched)) {
        for _ in 0..most {
            let Some(item) = self.maps.watched.next() else { break };
            if item.len() < size_of::<Seen>() {
                continue;
            }
            // SAFETY: the program writes a `Seen` and the length was just checked; any bit pattern is one.
            let seen = unsafe { std::ptr::read_unaligned(item.as_ptr().cast::<Seen>()) };
            drop(item);
            if let Some(watched) = self.named(&seen) {
                to(watched);
            }
        }
    }

    /// Records there was no room for, ever.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn watch_lost(&self) -> Result<u64> {
        let values = self.maps.watch_lost.get(&0, 0).map_err(SteerError::map(names::LOST))?;
        Ok(sum(&values).packets)
    }

    /// `None`: of a program of another build.
    fn named(&self, seen: &Seen) -> Option<Watched> {
        const XDP_PASS: u32 = 2;
        let reason = *Reason::ALL.get(seen.reason as usize)?;
        let kept = (seen.kept as usize).min(SNAP);
        let rule = (seen.rule != NO_RULE).then(|| match self.rules.get(seen.rule as usize) {
            Some(name) if seen.generation == self.active & ActiveFlags::GENERATION => name.clone(),
            _ => format!("#{} of the rules before", seen.rule),
        });
        let out = (seen.device != NO_DEVICE && reason == Reason::FlowForward)
            .then(|| self.slots.iter().find(|(_, slot)| **slot == seen.device).map(|(interface, _)| *interface));
        Some(Watched {
            time: seen.time,
            interface: seen.interface,
            queue: seen.queue,
            len: seen.len as usize,
            before: seen.before[..kept].to_vec(),
            after: seen.after[..kept].to_vec(),
            reason,
            passed: seen.action == XDP_PASS,
            rule,
            entry: (seen.entry != NO_ENTRY).then(|| entry(seen.entry)),
            out: out.flatten(),
        })
    }
}

/// An entry's action and options, in words.
fn entry(word: u32) -> String {
    let [action, options, ..] = word.to_le_bytes();
    let mut words = vec![match action {
        a if a == FlowAction::Forward as u8 => "forward",
        a if a == FlowAction::Drop as u8 => "drop",
        _ => "pass",
    }];
    let all =
        [(Options::MARK, "mark"), (Options::METER, "meter"), (Options::SAMPLE, "sample"), (Options::MIRROR, "mirror")];
    words.extend(all.iter().filter(|(bit, _)| options & bit != 0).map(|(_, word)| *word));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_told_by_its_words() {
        let word = softdpu_ebpf_common::watch::entry;
        assert_eq!(entry(word(FlowAction::Drop as u8, 0)), "drop");
        assert_eq!(entry(word(FlowAction::Pass as u8, Options::LINEAR)), "pass");
        assert_eq!(entry(word(FlowAction::Forward as u8, Options::MARK | Options::METER)), "forward, mark, meter");
    }
}
