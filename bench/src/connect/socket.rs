//! TCP sockets that never wait, and epoll, for both ends.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

fn check(done: libc::c_int) -> io::Result<libc::c_int> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*of.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

const ADDRESS: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;

fn tcp() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the descriptor is new and owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0))?)) }
}

/// A connection under way.
///
/// # Errors
/// The kernel's refusal: no port is free, or no route.
pub fn connect(to: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = tcp()?;
    let to = address(to);
    // SAFETY: the address lives across the call and its size is given.
    match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const to).cast(), ADDRESS) }) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(socket),
    }
}

/// # Errors
/// The kernel's refusal: another listens there.
pub fn listen(port: u16, backlog: i32) -> io::Result<OwnedFd> {
    let socket = tcp()?;
    let one: libc::c_int = 1;
    // SAFETY: the value lives across the call and its size is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    let here = address(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
    // SAFETY: the address lives across the call and its size is given.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const here).cast(), ADDRESS) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(socket)
}

/// The next connection; `WouldBlock` where there is none.
///
/// # Errors
/// The kernel's.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = listener.as_raw_fd();
    // SAFETY: no address is asked for; the descriptor is new and owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags))?)) }
}

/// Sends all of `bytes`, which are few: a socket that has no room for them is an error.
///
/// # Errors
/// The kernel's, and `WriteZero`.
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `bytes` within the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// What is there; 0 at the end of the stream.
///
/// # Errors
/// The kernel's: `WouldBlock` where there is nothing yet, and why a connection failed.
pub fn receive(socket: &OwnedFd, room: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the room's length.
    let got = unsafe { libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Many sockets at once. Each is told of once when something changes (edge-triggered).
pub struct Epoll(OwnedFd);

/// What happened to the socket that was added under `token`.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

impl Epoll {
    /// # Errors
    /// The kernel's refusal.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is new and owned by nobody else.
        unsafe { Ok(Self(OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?))) }
    }

    /// Until it is closed.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add(&self, socket: RawFd, token: u64, writable: bool) -> io::Result<()> {
        let out = if writable { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | out | libc::EPOLLET) as u32, u64: token };
        // SAFETY: the event lives across the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event) })?;
        Ok(())
    }

    /// Waits until there is something, at most so long. A signal ends it early.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self, events: &mut Vec<Event>, at_most: Duration) -> io::Result<()> {
        const ROOM: usize = 128;
        let mut seen = [libc::epoll_event { events: 0, u64: 0 }; ROOM];
        let ms = libc::c_int::try_from(at_most.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most ROOM events.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), seen.as_mut_ptr(), ROOM as libc::c_int, ms) };
        events.clear();
        let n = match check(n) {
            Ok(n) => n as usize,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            Err(e) => return Err(e),
        };
        let failed = libc::EPOLLERR | libc::EPOLLHUP;
        events.extend(seen[..n].iter().map(|e| Event {
            token: e.u64,
            // A failure is read as well.
            readable: e.events & (libc::EPOLLIN | failed) as u32 != 0,
            writable: e.events & libc::EPOLLOUT as u32 != 0,
        }));
        Ok(())
    }
}
