//! A wire that delivers out of order: in place of the bridge, a thread per direction that passes frames on in shuffled blocks.

use std::{
    ffi::CString,
    io,
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{generator::Generator, netns::NetNs, process, topology::Topology};

/// Linux's `PACKET_IGNORE_OUTGOING` (packet(7)): what we send ourselves is not received.
const IGNORE_OUTGOING: libc::c_int = 23;
/// A block that does not fill is passed on after so long.
const PATIENCE_MS: libc::c_int = 5;

/// The wire while it shuffles. When dropped the frames pass in order again, over the bridge.
#[derive(Debug)]
pub struct Shuffle<'a> {
    wire: &'a NetNs,
    stop: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl<'a> Shuffle<'a> {
    /// From here on every `block` frames of a direction are delivered in another order, none later than `block` - 1 places.
    ///
    /// # Errors
    /// When the bridge cannot be replaced.
    pub fn start(topology: &'a Topology, block: usize) -> Result<Self> {
        // Raw sockets see frames before segmentation and checksums, which nobody would do after them.
        for edge in [&topology.edge_a, &topology.edge_b] {
            let mut command = edge.command("ethtool");
            command.args(["-K", "uplink", "tx", "off", "tso", "off", "gso", "off"]);
            process::run(&mut command, Duration::from_secs(10))?.ok()?;
        }
        let wire = &topology.wire;
        let mut this = Self { wire, stop: Arc::default(), moved: Arc::default(), threads: Vec::new() };
        for (from, to) in [("to-a", "to-b"), ("to-b", "to-a")] {
            wire.ip(&format!("link set dev {from} nomaster promisc on"))?;
            let receiver = wire.within(|| receiver(from))?;
            let sender = Generator::open(wire, to)?;
            let (stop, moved) = (this.stop.clone(), this.moved.clone());
            this.threads.push(std::thread::spawn(move || pass(&receiver, &sender, block, &stop, &moved)));
        }
        Ok(this)
    }

    /// Frames passed on so far that left before one that had come earlier.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Shuffle<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("the shuffled wire: {error:#}");
            }
        }
        for link in ["to-a", "to-b"] {
            let _ = self.wire.ip(&format!("link set dev {link} promisc off master wire"));
        }
    }
}

fn receiver(link: &str) -> Result<OwnedFd> {
    const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: numbers only; protocol 0 receives nothing until the socket is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    ensure!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
    // SAFETY: just opened, ours.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let name = CString::new(link)?;
    // SAFETY: a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no link {link}");
    for (level, option, value) in
        [(libc::SOL_PACKET, IGNORE_OUTGOING, 1), (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)]
    {
        let value: libc::c_int = value;
        // SAFETY: the value outlives the call and its size is given.
        let done =
            unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of_val(&value) as u32) };
        ensure!(done == 0, "option {option} of a packet socket: {}", io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ALL;
    address.sll_ifindex = index as i32;
    // SAFETY: the address is valid for its size.
    let done = unsafe { libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32) };
    ensure!(done == 0, "bind to {link}: {}", io::Error::last_os_error());
    Ok(socket)
}

/// Takes frames until told to stop and passes them on a block at a time, each block in another order.
fn pass(from: &OwnedFd, to: &Generator, block: usize, stop: &AtomicBool, moved: &AtomicU64) -> Result<()> {
    let mut held: Vec<Vec<u8>> = Vec::with_capacity(block);
    let mut buffer = vec![0u8; 65_536];
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: the buffer is as long as said.
        let got = unsafe { libc::recv(from.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_TRUNC) };
        if got > 0 {
            ensure!(got as usize <= buffer.len(), "a frame of {got} bytes");
            held.push(buffer[..got as usize].to_vec());
        }
        let idle = got <= 0 && !readable(from, PATIENCE_MS);
        if held.len() >= block || (idle && !held.is_empty()) {
            moved.fetch_add(shuffle(&mut held, &mut seed), Ordering::Relaxed);
            to.send(held.iter().map(Vec::as_slice)).context("pass frames on")?;
            held.clear();
        }
    }
    Ok(())
}

fn readable(socket: &OwnedFd, milliseconds: libc::c_int) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, as said.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) > 0 }
}

/// Fisher and Yates' shuffle. Returns how many went to an earlier place.
fn shuffle<T>(frames: &mut Vec<T>, seed: &mut u64) -> u64 {
    let mut order: Vec<usize> = (0..frames.len()).collect();
    for last in (1..order.len()).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        order.swap(last, (*seed % (last as u64 + 1)) as usize);
    }
    let mut old: Vec<Option<T>> = frames.drain(..).map(Some).collect();
    frames.extend(order.iter().filter_map(|at| old[*at].take()));
    order.iter().enumerate().filter(|(new, old)| new < *old).count() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        peers::probe::Numbered,
        topology::{Options, SERVER},
    };

    #[test]
    fn a_shuffle_keeps_all() {
        let mut seed = 1;
        let mut all: Vec<u32> = (0..100).collect();
        assert!(shuffle(&mut all, &mut seed) > 10);
        assert_ne!(all, (0..100).collect::<Vec<u32>>());
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<u32>>());
        assert_eq!(shuffle(&mut vec![1], &mut seed), 0);
    }

    #[test]
    fn a_shuffled_wire_loses_nothing() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let topology = Topology::new(&Options::new("unit-shuffle")).unwrap();
        let load = Numbered { rate: 5000, length: 300, time: Duration::from_millis(400), v6: false, reverse: false };
        let wire = Shuffle::start(&topology, 16).unwrap();
        topology.reachable(SERVER[0], Duration::from_secs(5)).unwrap();
        let all = load.run(&topology, || Ok(())).unwrap();
        assert!(all.missing() == 0 && all.overtaken > 100 && wire.moved() > 100, "{all:?}");
        drop(wire);
        topology.reachable(SERVER[0], Duration::from_secs(5)).unwrap();
        assert_eq!(load.run(&topology, || Ok(())).unwrap().overtaken, 0);
    }
}
