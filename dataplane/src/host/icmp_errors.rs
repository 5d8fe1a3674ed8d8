//! The kernel's copies of ICMP errors "too big" that came to this host: a raw socket per family, which takes nothing away from
//! anybody. The packets that they are about were sent past the kernel, which can do nothing with such errors itself.

use crate::wire::ip::V6_HEADER;
use crate::wire::pmtu::{Report, of_message, outer_pmtu};
use softdpu_ebpf_common::walk::walk_ip;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// `ICMP_FILTER` of linux/icmp.h, an option of level `SOL_RAW`: a bit that is set keeps a type out.
const SOL_RAW: libc::c_int = 255;
const ICMP_FILTER: libc::c_int = 1;
const UNREACHABLE: u32 = 3;
/// `ICMPV6_FILTER` of linux/icmpv6.h, likewise.
const ICMPV6_FILTER: libc::c_int = 1;
const PACKET_TOO_BIG: u32 = 2;
/// Longest error that is read: routers send up to 576 bytes (RFC 1812 §4.3.2.3), or 1280 (RFC 4443 §3.2).
const MOST: usize = 1600;

/// One family's errors. To be made within a tokio runtime, by who may open raw sockets (`CAP_NET_RAW`).
#[derive(Debug)]
pub struct IcmpErrors {
    fd: AsyncFd<OwnedFd>,
    v6: bool,
}

impl IcmpErrors {
    /// # Errors
    /// What the kernel says: no privilege, or a kernel without the family.
    pub fn open(v6: bool) -> io::Result<Self> {
        let (family, protocol) =
            if v6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
        // SAFETY: no memory is handed over; the result is checked.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if v6 {
            let mut filter = [u32::MAX; 8];
            filter[0] &= !(1 << PACKET_TOO_BIG);
            set(&fd, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &filter)?;
        } else {
            set(&fd, SOL_RAW, ICMP_FILTER, &!(1u32 << UNREACHABLE))?;
        }
        // SAFETY: the descriptor is owned by what registers it, so it stays open, and the same, for as long as it is registered.
        Ok(Self { fd: unsafe { AsyncFd::register(fd) }?, v6 })
    }

    /// The next error that is worth believing, as far as can be told without knowing the tunnels.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn next(&self) -> io::Result<Report> {
        loop {
            let mut buf = [0; MOST];
            let len = self.fd.async_io(tokio::io::Interest::READABLE, |fd| receive(fd, &mut buf)).await?;
            if let Some(report) = if self.v6 { read_v6(&buf[..len]) } else { read_v4(&buf[..len]) } {
                return Ok(report);
            }
        }
    }
}

fn set<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, which lives across the call.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn receive(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`, which lives across the call.
    let len = unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// With its IP header; nobody has looked at the ICMP checksum yet.
fn read_v4(packet: &[u8]) -> Option<Report> {
    outer_pmtu(packet, &walk_ip(packet, 0).ok()?)
}

/// The message alone, its checksum found right by the kernel. It came to one of this host's addresses; which, the quotation
/// says.
fn read_v6(message: &[u8]) -> Option<Report> {
    let quote = message.get(8..8 + V6_HEADER)?;
    let local: [u8; 16] = quote[8..24].try_into().ok()?;
    of_message(IpAddr::V6(Ipv6Addr::from(local)), message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::checksum;
    use crate::wire::ip::{write_v4, write_v6};
    use crate::wire::pmtu::About;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    /// An error about a packet of ours that went to ourselves, from its ICMP header on. The SPI tells this test's from others'.
    fn error(v6: bool, spi: u32) -> Vec<u8> {
        let mut quote = vec![0; if v6 { 56 } else { 36 }];
        let head = quote.len() - 16;
        if v6 {
            write_v6(&mut quote, &Ipv6Addr::LOCALHOST.octets(), &Ipv6Addr::LOCALHOST.octets(), 50, 64, 1460);
        } else {
            write_v4(&mut quote, Ipv4Addr::LOCALHOST.octets(), [127, 9, 9, 9], 50, 64, 1500);
        }
        quote[head..head + 4].copy_from_slice(&spi.to_be_bytes());
        quote[head + 7] = 9;
        let mut message = if v6 { vec![2, 0, 0, 0, 0, 0, 5, 0x14] } else { vec![3, 4, 0, 0, 0, 0, 5, 0x14] };
        message.extend(quote);
        if !v6 {
            let sum = checksum::of(&message);
            message[2..4].copy_from_slice(&sum);
        }
        message
    }

    fn send(v6: bool, message: &[u8]) {
        let (family, protocol) =
            if v6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
        // SAFETY: no memory is handed over; the result is checked.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        assert!(fd >= 0);
        // SAFETY: a descriptor just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut to = [0u8; 28];
        to[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        if v6 {
            to[23] = 1
        } else {
            to[4..8].copy_from_slice(&[127, 0, 0, 1])
        }
        let len = if v6 { 28 } else { 16 };
        // SAFETY: the kernel reads `message` and `len` bytes of `to`, a socket address, which both live across the call.
        let sent =
            unsafe { libc::sendto(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0, to.as_ptr().cast(), len) };
        assert_eq!(sent, message.len() as isize, "{}", io::Error::last_os_error());
    }

    #[tokio::test]
    async fn the_kernels_copy_of_an_error_is_read() {
        // SAFETY: asks who we are.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root for raw sockets");
            return;
        }
        for v6 in [false, true] {
            let errors = match IcmpErrors::open(v6) {
                Ok(errors) => errors,
                Err(error) => {
                    println!("skipped: {error}");
                    continue;
                }
            };
            let spi = 0x4000_0000 | std::process::id();
            let mut damaged = error(v6, spi + 1);
            damaged[40] ^= 1;
            if !v6 {
                send(v6, &damaged);
            }
            send(v6, &error(v6, spi));
            let report = tokio::time::timeout(Duration::from_secs(10), async {
                loop {
                    let report = errors.next().await.unwrap();
                    if matches!(report.about, About::Esp { spi: got, .. } if got == spi || got == spi + 1) {
                        return report;
                    }
                }
            });
            let report = report.await.unwrap();
            assert_eq!((report.mtu, report.about), (1300, About::Esp { spi, seq: 9 }));
        }
    }
}
