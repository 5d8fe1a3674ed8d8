//! UDP sockets of client and server.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A socket on `port`. Its datagrams carry no checksum (RFC 768 allows that in IPv4): a veth leaves it to nobody, and who
/// makes it up is not what is measured.
///
/// # Errors
/// The kernel's refusal.
pub fn udp(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    set(&socket, libc::SO_NO_CHECK, 1)?;
    Ok(socket)
}

/// Sets a number of the socket's level.
///
/// # Errors
/// The kernel's refusal.
pub fn set(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value lives across the call and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until there is something to read, at most so long. A signal ends it early.
pub fn wait(socket: &UdpSocket, at_most: Duration) {
    let mut fd = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = libc::timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
    // SAFETY: one descriptor and one time that live across the call; no signal mask.
    unsafe { libc::ppoll(&raw mut fd, 1, &raw const time, std::ptr::null()) };
}

/// Timers of this thread come when they are due, not up to 50 µs later.
pub fn exact_timers() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Sends the same datagram so many times to where the socket is connected, in as few calls as go. Returns how many the kernel took.
pub fn send_many(socket: &UdpSocket, datagram: &[u8], times: u64) -> u64 {
    const AT_ONCE: usize = 64;
    let mut part = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
    // SAFETY: an all-zero mmsghdr is one that names nothing.
    let mut messages: [libc::mmsghdr; AT_ONCE] = unsafe { std::mem::zeroed() };
    for m in &mut messages {
        m.msg_hdr.msg_iov = &raw mut part;
        m.msg_hdr.msg_iovlen = 1;
    }
    let mut sent = 0;
    while sent < times {
        let n = (times - sent).min(AT_ONCE as u64) as libc::c_uint;
        // SAFETY: `n` messages of `messages`; all name `part`, which names `datagram`; all live across the call, which only reads.
        let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), n, 0) };
        if done <= 0 {
            break;
        }
        sent += done as u64;
    }
    sent
}
