//! The loaded program, and its attachments in network namespaces of their own. Need root, and the object.
#![allow(clippy::unwrap_used)]

mod attach;
mod flow_counts;
mod flow_options;
mod flows;
mod thousand;
mod verdicts;
mod watched;

use super::*;
use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// `BPF_PROG_TEST_RUN` runs on loopback unless told otherwise.
const LO: u32 = 1;

/// Without root there is nothing to load into: says so.
fn root(test: &str) -> bool {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

fn load() -> Steer {
    Steer::load(&LoadOptions { flow_capacity: 16, ..LoadOptions::default() }).unwrap_or_else(|e| panic!("{e}"))
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, ttl: u8, fragment: u16, l4: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, ttl, protocol, 0, 0];
    ip[2..4].copy_from_slice(&((20 + l4.len()) as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip.extend(src);
    ip.extend(dst);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    f.extend(ip);
    f.extend(l4);
    f
}

fn v6(next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    f.extend((payload.len() as u16).to_be_bytes());
    f.extend([next, hops]);
    f.extend([0xfd; 16]);
    f.extend([0xfc; 16]);
    f.extend(payload);
    f
}

fn udp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    [sport, dport, 8 + data.len() as u16, 0]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .chain(data.iter().copied())
        .collect()
}

fn tcp(sport: u16, dport: u16) -> Vec<u8> {
    let mut t: Vec<u8> = [sport, dport].into_iter().flat_map(u16::to_be_bytes).collect();
    t.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    t
}

fn to_port(dport: u16) -> Vec<u8> {
    v4([10, 0, 0, 1], [10, 0, 0, 2], 17, 64, 0, &udp(1000, dport, &[0; 22]))
}

fn rule(name: &str, dport: u16, action: RuleAction) -> SteerRule {
    SteerRule { ports: vec![dport..=dport], ..SteerRule::any(name, action) }
}

fn action(steer: &mut Steer, frame: &[u8]) -> u32 {
    steer.test_run(frame, None, 1).unwrap().action
}

fn reason(steer: &Steer, reason: Reason) -> Counter {
    steer.reason_counters().unwrap().iter().find(|(r, _)| *r == reason).unwrap().1
}

/// An AF_XDP socket; the map takes it without its being bound.
fn xsk() -> OwnedFd {
    // SAFETY: plain system call; the descriptor is checked and then owned here alone.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

/// Runs in a network namespace that ends with it. Children are born into it too.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let result = std::thread::spawn(|| {
        // SAFETY: changes this thread only.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        body();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn veth(name: &str, peer: &str) -> u32 {
    ip(&format!("link add {name} type veth peer name {peer}"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {peer} up"));
    index(name)
}

fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a string that ends.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index > 0);
    index
}

/// A packet socket on one interface: frames out, and what came in past XDP.
struct Packets(OwnedFd);

impl Packets {
    fn on(ifindex: u32) -> Self {
        // SAFETY: plain system calls on a fresh descriptor, with structures valid for their sizes.
        unsafe {
            let all = (libc::ETH_P_ALL as u16).to_be();
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all));
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            address.sll_ifindex = ifindex as i32;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32), 0);
            let wait = libc::timeval { tv_sec: 0, tv_usec: 300_000 };
            let size = size_of_val(&wait) as u32;
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), size);
            Packets(socket)
        }
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is valid for its length.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(n, frame.len() as isize);
    }

    /// Destination ports of the test's own packets; others are neighbour discovery of the fresh interfaces.
    fn destination_ports(&self) -> Vec<u16> {
        let own = to_port(1);
        let frames = self.frames(|f| f[..34] == own[..34]);
        frames.iter().map(|f| u16::from_be_bytes([f[36], f[37]])).collect()
    }

    /// Frames that are wanted, until none comes for a while.
    fn frames(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0u8; 2048];
        loop {
            // SAFETY: the buffer is valid for its length.
            let n = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if n < 0 {
                return frames;
            }
            let frame = &buffer[..n as usize];
            if frame.len() >= 38 && wanted(frame) {
                frames.push(frame.to_vec());
            }
        }
    }
}
