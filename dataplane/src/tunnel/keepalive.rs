//! Keepalives of ESP in UDP (RFC 3948 §4): sent where nothing else was for a while, past the workers.

use super::control::lock;
use super::esp::StaticEsp;
use super::publisher::Publisher;
use super::wireguard::udp::raw_address;
use crate::config::policy::{Encapsulation, Policy};
use crate::crypto::esp::NAT_T_PORT;
use crate::wire::natt::{KEEPALIVE, Keepalives};
use crate::worker::clock;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the tunnels are looked at: the interval is of tens of seconds.
const LOOK: Duration = Duration::from_secs(1);

struct Tunnel {
    at: usize,
    keepalives: Keepalives,
    sent: u64,
}

/// Runs until it is dropped; returns at once where no tunnel wants keepalives.
pub async fn run(policy: Policy, publisher: Arc<Mutex<Publisher>>) {
    let begin = clock::now();
    let wants =
        policy.esp_tunnels().filter(|(_, esp)| esp.encapsulation == Encapsulation::Udp && !esp.keepalive.is_zero());
    let mut tunnels: Vec<Tunnel> = wants
        .map(|(at, esp)| Tunnel {
            at,
            keepalives: Keepalives { interval: esp.keepalive.as_nanos() as u64 },
            sent: begin,
        })
        .collect();
    if tunnels.is_empty() {
        return;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let now = clock::now();
        for tunnel in &mut tunnels {
            let Some(esp) = lock(&publisher).part(tunnel.at).and_then(StaticEsp::of) else { continue };
            tunnel.sent = tunnel.sent.max(esp.last_sent());
            if tunnel.keepalives.due(now, tunnel.sent) {
                tunnel.sent = now;
                if let Err(error) = send(esp.local(), esp.remote()) {
                    tracing::debug!(%error, remote = %esp.remote(), "a keepalive could not be sent");
                }
            }
        }
    }
}

/// By a raw UDP socket: an IKE daemon may have the port itself.
fn send(local: IpAddr, remote: SocketAddr) -> io::Result<()> {
    let socket = Raw::open(local)?;
    let mut datagram = [0; 8 + KEEPALIVE.len()];
    datagram[..2].copy_from_slice(&NAT_T_PORT.to_be_bytes());
    datagram[2..4].copy_from_slice(&remote.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&(8 + KEEPALIVE.len() as u16).to_be_bytes());
    datagram[8..].copy_from_slice(&KEEPALIVE);
    socket.send(&datagram, remote.ip())
}

struct Raw(OwnedFd);

impl Raw {
    /// Sends from `local`, an address of this host.
    fn open(local: IpAddr) -> io::Result<Self> {
        let family = if local.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        // SAFETY: no memory is handed over; the result is checked.
        let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        if local.is_ipv6() {
            // The kernel writes the checksum that IPv6 asks for, at this offset.
            let offset: libc::c_int = 6;
            let (option, len) = ((&raw const offset).cast(), size_of::<libc::c_int>() as libc::socklen_t);
            // SAFETY: the option's value is the number behind the pointer, of the size given.
            done(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, option, len) })?;
        }
        let (address, len) = raw_address(SocketAddr::new(local, 0));
        // SAFETY: the address lives across the call, and `len` is its length.
        done(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(Self(fd))
    }

    fn send(&self, datagram: &[u8], remote: IpAddr) -> io::Result<()> {
        let (address, len) = raw_address(SocketAddr::new(remote, 0));
        let fd = self.0.as_raw_fd();
        let (data, bytes) = (datagram.as_ptr().cast(), datagram.len());
        // SAFETY: the datagram and the address live across the call, and their lengths are theirs.
        let sent = unsafe { libc::sendto(fd, data, bytes, libc::MSG_DONTWAIT, (&raw const address).cast(), len) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
