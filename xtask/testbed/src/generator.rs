//! Sends raw frames on a link as fast as the kernel takes them from user space: AF_PACKET, many per system call.

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use crate::netns::NetNs;

/// Frames per system call.
const BATCH: usize = 256;

/// A packet socket that sends on one link.
#[derive(Debug)]
pub struct Generator {
    socket: OwnedFd,
}

impl Generator {
    /// Opens a socket on `link` of the host. Frames skip the queueing discipline: none is held back or dropped there.
    ///
    /// # Errors
    /// When there is no such link or no privilege.
    pub fn open(ns: &NetNs, link: &str) -> Result<Self> {
        ns.within(|| Ok(Self { socket: open(link)? }))
    }

    /// Sends all frames, in order. Returns how many the kernel took: frames that the link refuses (longer than its MTU,
    /// shorter than a header) are left out.
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn send<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<u64> {
        let mut frames = frames.into_iter().peekable();
        let mut sent = 0;
        while frames.peek().is_some() {
            let batch: Vec<&[u8]> = frames.by_ref().take(BATCH).collect();
            sent += self.send_batch(&batch)?;
        }
        Ok(sent)
    }

    fn send_batch(&self, batch: &[&[u8]]) -> Result<u64> {
        let mut vectors: Vec<libc::iovec> = batch
            .iter()
            .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all-zero is a valid mmsghdr: null pointers with zero lengths.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let (mut at, mut sent) = (0, 0);
        while at < messages.len() {
            let rest = &mut messages[at..];
            // SAFETY: `rest` is as long as said; every message points at a vector and a frame that outlive the call.
            let done = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            if done > 0 {
                at += done as usize;
                sent += done as u64;
                continue;
            }
            match io::Error::last_os_error() {
                // This frame is refused for what it is; the next may pass.
                error if [libc::EMSGSIZE, libc::EINVAL].contains(&error.raw_os_error().unwrap_or(0)) => at += 1,
                // The receiver's queue is full for now.
                error if [libc::ENOBUFS, libc::EAGAIN].contains(&error.raw_os_error().unwrap_or(0)) => {
                    std::thread::yield_now();
                }
                error => return Err(error).context("sendmmsg"),
            }
        }
        Ok(sent)
    }
}

fn open(link: &str) -> Result<OwnedFd> {
    let name = CString::new(link)?;
    // SAFETY: a C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no link {link}");
    // Protocol 0: the socket receives nothing.
    // SAFETY: numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
    // SAFETY: a fresh descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    // SAFETY: the address is as long as said.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    ensure!(bound == 0, "bind to {link}: {}", io::Error::last_os_error());
    let on: libc::c_int = 1;
    // SAFETY: the option's value is as long as said.
    let set = unsafe {
        let length = size_of::<libc::c_int>() as u32;
        libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, (&raw const on).cast(), length)
    };
    ensure!(set == 0, "PACKET_QDISC_BYPASS: {}", io::Error::last_os_error());
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        cleanup,
        garbage::Garbage,
        netns::{LinkCounter, NetNs},
    };

    #[test]
    fn all_frames_arrive_at_the_peer() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let ns = NetNs::new(&cleanup::unique("unit-gen")).unwrap();
        ns.ip("link add left type veth peer name right").unwrap();
        ns.ip("link set dev left up").unwrap();
        ns.ip("link set dev right up").unwrap();
        let generator = Generator::open(&ns, "left").unwrap();
        let mut garbage = Garbage::new(7, [2, 0, 0, 0, 0, 1]);
        let frames: Vec<Vec<u8>> = (0..5000).map(|_| garbage.next_frame()).collect();
        let before = ns.link_counter("right", LinkCounter::RxPackets).unwrap();
        let sent = generator.send(frames.iter().map(Vec::as_slice)).unwrap();
        let arrived = crate::process::eventually(std::time::Duration::from_secs(5), || {
            let now = ns.link_counter("right", LinkCounter::RxPackets).unwrap() - before;
            (now >= sent).then_some(now)
        });
        assert!(sent > 4900, "{sent} of 5000 taken");
        // The kernels of the two ends say a few words of their own.
        assert!(arrived.is_some_and(|arrived| arrived - sent < 50), "{arrived:?} of {sent}");
        assert!(Generator::open(&ns, "none").is_err());
    }
}
