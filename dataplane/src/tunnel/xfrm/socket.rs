//! A `NETLINK_XFRM` socket. What it reads may hold keys: buffers are zeroed when dropped.

use super::message::{Messages, Received};
use rtnetlink::sys::{Socket as Netlink, SocketAddr, protocols::NETLINK_XFRM};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use zeroize::{Zeroize, Zeroizing};

/// Multicast groups (`XFRMNLGRP_…`).
pub mod group {
    pub const EXPIRE: u32 = 2;
    pub const SA: u32 = 3;
    pub const POLICY: u32 = 4;
    pub const MIGRATE: u32 = 7;
}

/// The kernel's dumps come in at most 32 KiB, single messages are shorter.
const LARGEST: usize = 64 << 10;

/// Non-blocking. In the network namespace of the thread that opens it. Needs `CAP_NET_ADMIN`.
pub struct Socket {
    netlink: Netlink,
    buffer: Zeroizing<Vec<u8>>,
    port: u32,
    sequence: u32,
}

impl Socket {
    /// # Errors
    /// Without `CAP_NET_ADMIN`, or where the kernel has no XFRM.
    pub fn open(groups: &[u32], receive_buffer: usize) -> io::Result<Self> {
        let mut netlink = Netlink::new(NETLINK_XFRM)?;
        let port = netlink.bind_auto()?.port_number();
        if receive_buffer > 0 && force_receive_buffer(&netlink, receive_buffer).is_err() {
            netlink.set_rx_buf_sz(receive_buffer as libc::c_int)?;
        }
        for group in groups {
            netlink.add_membership(*group)?;
        }
        // Errors come without the request quoted: it may hold keys.
        netlink.set_cap_ack(true)?;
        netlink.set_non_blocking(true)?;
        Ok(Self { netlink, buffer: Zeroizing::new(vec![0; LARGEST]), port, sequence: 0 })
    }

    /// Ours, as headers name it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// A number for the next request.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// One or several messages in one system call. The kernel has worked on them when this returns.
    ///
    /// # Errors
    /// Of the socket; what the kernel thinks of a request comes as its answer.
    pub fn send(&self, requests: &[u8]) -> io::Result<()> {
        let sent = self.netlink.send_to(requests, &SocketAddr::new(0, 0), 0)?;
        if sent == requests.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads a datagram and hands each of its messages on.
    ///
    /// # Errors
    /// `WouldBlock`: nothing there. `ENOBUFS`: the kernel had to drop messages. `InvalidData`: one was longer than any there is.
    pub fn receive(&mut self, mut each: impl FnMut(Received)) -> io::Result<()> {
        let (len, from) = loop {
            let mut room: &mut [u8] = &mut self.buffer;
            match self.netlink.recv_from(&mut room, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if len > self.buffer.len() {
            self.buffer.fill(0);
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message of more than 64 KiB"));
        }
        // Only the kernel speaks here; another process could address this socket.
        if from.port_number() == 0 {
            Messages::new(&self.buffer[..len]).for_each(&mut each);
        }
        self.buffer[..len].zeroize();
        Ok(())
    }
}

/// Beyond `net.core.rmem_max`, which `CAP_NET_ADMIN` allows.
fn force_receive_buffer(netlink: &Netlink, bytes: usize) -> io::Result<()> {
    let value = bytes as libc::c_int;
    // SAFETY: the option's value is a c_int that lives across the call, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            netlink.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.netlink.as_raw_fd()
    }
}
