//! The UDP sockets of a listen port, one per address family. Each datagram comes with the address of ours that it was sent to,
//! and leaves from the one that is asked for (IP_PKTINFO of ip(7), RFC 3542 §6.1), so that a host with many addresses
//! answers from the right one.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket as StdSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Room for one control message with either kind of packet information, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// The sockets of one port.
#[derive(Debug)]
pub struct Sockets {
    v4: UdpSocket,
    /// `None` where this host has no IPv6.
    v6: Option<UdpSocket>,
    port: u16,
}

impl Sockets {
    /// Binds `port` (0: any that is free in both families), and marks what is sent with `fwmark` (0: not at all).
    ///
    /// # Errors
    /// The port is taken, or what else the system says; no right to mark.
    pub fn bind(port: u16, fwmark: u32) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let v4 = bound(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
            let got = v4.local_addr()?.port();
            let v6 = match bound(SocketAddr::from((Ipv6Addr::UNSPECIFIED, got))) {
                Ok(socket) => Some(socket),
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
                // Chosen for us, and free in one family only.
                Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse && tries < 100 => {
                    tries += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let sockets =
                Self { v4: UdpSocket::from_std(v4)?, v6: v6.map(UdpSocket::from_std).transpose()?, port: got };
            if fwmark != 0 {
                sockets.mark(fwmark)?;
            }
            return Ok(sockets);
        }
    }

    /// The port that was bound.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Marks what is sent from now on (SO_MARK of socket(7)).
    ///
    /// # Errors
    /// No right to.
    pub fn mark(&self, fwmark: u32) -> io::Result<()> {
        for socket in [Some(&self.v4), self.v6.as_ref()].into_iter().flatten() {
            set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, fwmark as libc::c_int)?;
        }
        Ok(())
    }

    /// Waits until a datagram may be there.
    ///
    /// # Errors
    /// What the system says.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.v6 {
            Some(v6) => tokio::select! {
                ready = self.v4.readable() => ready,
                ready = v6.readable() => ready,
            },
            None => self.v4.readable().await,
        }
    }

    /// The next datagram: its length in `buffer`, its sender, and our address that it was sent to. A longer one is cut.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where there is none, or what the system says.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
        let got = self.v4.try_io(Interest::READABLE, || receive(self.v4.as_raw_fd(), buffer));
        match (&self.v6, got) {
            (Some(v6), Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                v6.try_io(Interest::READABLE, || receive(v6.as_raw_fd(), buffer))
            }
            (_, got) => got,
        }
    }

    /// Sends a datagram, from `from` where that is (still) an address of ours. Where the socket is full it is lost, as
    /// datagrams may be.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&self, to: SocketAddr, from: Option<IpAddr>, bytes: &[u8]) -> io::Result<()> {
        let socket = match (to, &self.v6) {
            (SocketAddr::V4(_), _) => &self.v4,
            (SocketAddr::V6(_), Some(v6)) => v6,
            (SocketAddr::V6(_), None) => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        };
        // Not `try_io`: a socket that nobody has seen to be writable yet most likely is.
        let fd = socket.as_raw_fd();
        match send(fd, to, from, bytes) {
            Err(error)
                if from.is_some()
                    && matches!(
                        error.raw_os_error(),
                        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH)
                    ) =>
            {
                send(fd, to, None, bytes)
            }
            sent => sent,
        }
    }
}

fn bound(address: SocketAddr) -> io::Result<StdSocket> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is handed over; the result is checked.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let raw = fd.as_raw_fd();
    let (storage, len) = raw_address(address);
    if address.is_ipv4() {
        set_option(raw, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    } else {
        set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
    }
    // SAFETY: `storage` holds an address of `len` bytes, alive across the call.
    if unsafe { libc::bind(raw, (&raw const storage).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd.into())
}

fn set_option(fd: i32, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is alive across the call, and of the length that is said.
    let result =
        unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<libc::c_int>() as u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(in crate::tunnel) fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let len = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has the room and the alignment for any kind of address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

fn address_of(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this family into it.
            let raw = unsafe { (&raw const *storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(raw.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { (&raw const *storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn receive(fd: i32, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid address and a valid header without parts.
    let (mut storage, mut header): (libc::sockaddr_storage, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    header.msg_name = (&raw mut storage).cast();
    header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    // SAFETY: every pointer in `header` is to memory that is alive across the call, with its length beside it.
    let got = unsafe { libc::recvmsg(fd, &raw mut header, 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut local = None;
    // SAFETY: the kernel filled the control memory and said how much of it; the macros stay within, and each kind of message
    // has the structure of its kind behind it, perhaps unaligned.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(m) = message.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (m.cmsg_level, m.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    local = Some(IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    local = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    let from = address_of(&storage).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    Ok((got as usize, from, local))
}

fn send(fd: i32, to: SocketAddr, from: Option<IpAddr>, bytes: &[u8]) -> io::Result<()> {
    let (mut storage, len) = raw_address(to);
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid header without parts.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = (&raw mut storage).cast();
    header.msg_namelen = len;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    match (from, to) {
        (Some(IpAddr::V4(from)), SocketAddr::V4(_)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(from).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            attach(&mut header, &mut control, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        (Some(IpAddr::V6(from)), SocketAddr::V6(to)) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: to.scope_id() };
            attach(&mut header, &mut control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        _ => {}
    }
    // SAFETY: every pointer in `header` is to memory that is alive across the call, with its length beside it.
    let sent = unsafe { libc::sendmsg(fd, &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    match sent {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()).or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Ok(()),
            _ => Err(error),
        }),
    }
}

/// Puts one control message with `info` into `header`.
fn attach<T>(header: &mut libc::msghdr, control: &mut Control, level: i32, kind: i32, info: T) {
    const { assert!(size_of::<T>() <= 20) };
    header.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: pure arithmetic.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<T>() as u32) } as usize;
    // SAFETY: the control memory has 64 bytes, aligned for a header: room for it (16) and `info` (at most 20).
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const *header);
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as usize;
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(info);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_address_asked_for_is_the_one_it_came_to() {
        let (a, b) = (Sockets::bind(0, 0).unwrap(), Sockets::bind(0, 0).unwrap());
        let mut buffer = [0; 64];
        for (to, from) in [("127.0.0.2", "127.0.0.3"), ("::1", "::1")] {
            let (to, from): (IpAddr, IpAddr) = (to.parse().unwrap(), from.parse().unwrap());
            if to.is_ipv6() && a.send((to, b.port()).into(), None, b"?").is_err() {
                eprintln!("SKIPPED: no IPv6 here");
                continue;
            }
            a.send((to, b.port()).into(), Some(from), b"hello").unwrap();
            loop {
                b.readable().await.unwrap();
                match b.try_receive(&mut buffer) {
                    Ok((5, sender, local)) => {
                        assert_eq!((sender, local), ((from, a.port()).into(), Some(to)));
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        }
        // An address that is not ours (any more).
        a.send(([127, 0, 0, 1], b.port()).into(), Some([192, 0, 2, 77].into()), b"x").unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_taken() {
        let a = Sockets::bind(0, 0).unwrap();
        assert_eq!(Sockets::bind(a.port(), 0).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    }
}
