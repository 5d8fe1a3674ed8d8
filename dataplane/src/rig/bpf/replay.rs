//! Frames that are ready, sent over and over by the kernel: as the generator, but each of its frames becomes the next of a
//! table. A stranger who floods an instance costs the machine little more than the frames' way through the veth then.

use std::io;
use std::os::fd::OwnedFd;

use super::asm::{Asm, Cond, Insn, Op, Reg, Size};
use super::programs::{HELPER_REDIRECT, MD_DATA, MD_DATA_END, XDP_DROP};
use super::sys::{Program, Words};

use Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9};

/// Frames that are handed on together, each time followed by their receiver's turn. A veth's ring has 256 places, and others
/// want some.
const BATCH: u32 = 64;
/// The longest frame: what an instruction's offset and the program's length bear easily.
const LONGEST: usize = 1514;

/// A table of frames, and the program that sends them.
#[derive(Debug)]
pub struct Replay {
    program: Program,
    counter: Words,
    _table: Words,
    /// Made into frames by the kernel; the program writes all of each.
    packet: Vec<u8>,
    /// Keeps the program in the kernel's dispatcher: otherwise each call would wait some 20 ms to put it in and out.
    _parked: OwnedFd,
}

impl Replay {
    /// `frames`: as many as a power of two, all of one length, Ethernet header first, 14 to 1514 bytes. They leave by the link with
    /// index `out`. On the link `parking` (`lo` does) the program is attached meanwhile, which must have no traffic of its own:
    /// it would be sent on. Both are links of the calling thread's namespace.
    ///
    /// # Errors
    /// `InvalidInput` for other frames, and the kernel's refusal.
    pub fn new(frames: &[Vec<u8>], out: u32, parking: u32) -> io::Result<Self> {
        let length = frames.first().map_or(0, Vec::len);
        let alike = frames.iter().all(|frame| frame.len() == length);
        if !frames.len().is_power_of_two() || !alike || !(14..=LONGEST).contains(&length) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let stride = length.next_multiple_of(8);
        let mut words = Vec::with_capacity(frames.len() * stride / 8);
        for frame in frames {
            let mut frame = frame.clone();
            frame.resize(stride, 0);
            words.extend(frame.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)));
        }
        let (counter, table) = (Words::new(1)?, Words::new(words.len())?);
        table.write(&words)?;
        let code = replay(length, frames.len() as u32, out, counter.fd(), table.fd());
        let program = Program::load("replay", &code)?;
        let parked = program.attach_generic(parking)?;
        Ok(Self { program, counter, _table: table, packet: vec![0; length], _parked: parked })
    }

    /// Sends the next `count` frames, from a thread in the namespace of the links. Returns when their receiver's driver has had
    /// them.
    ///
    /// # Errors
    /// The kernel's refusal; `Interrupted` where a signal came.
    pub fn send(&self, count: u32) -> io::Result<()> {
        self.program.run_live(&self.packet, count, BATCH)
    }

    /// Frames sent so far. A veth whose ring is full drops and counts them itself.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn sent(&self) -> io::Result<u64> {
        Ok(self.counter.read()?[0])
    }
}

/// Writes frame `n` of the table behind `table` into the packet and redirects it to `out`. `n` is word 0 of `counter`, modulo
/// `frames`; it counts up.
fn replay(length: usize, frames: u32, out: u32, counter: i32, table: i32) -> Vec<Insn> {
    let mut a = Asm::new();
    a.load(Size::W, R6, R1, MD_DATA).load(Size::W, R8, R1, MD_DATA_END);
    a.alu_reg(Op::Mov, R2, R6).alu(Op::Add, R2, length as i32).jump_reg(Cond::Gt, R2, R8, "drop");
    // One thread runs this, so counting needs no atomics.
    a.map_value(R7, counter, 0).load(Size::D, R9, R7, 0);
    a.alu_reg(Op::Mov, R2, R9).alu(Op::And, R2, frames as i32 - 1);
    a.alu(Op::Mul, R2, length.next_multiple_of(8) as i32);
    a.map_value(R4, table, 0).alu_reg(Op::Add, R4, R2);
    let mut at = 0;
    for (size, bytes) in [(Size::D, 8), (Size::W, 4), (Size::H, 2), (Size::B, 1)] {
        while at + bytes <= length {
            a.load(size, R3, R4, at as i16).store(size, R6, at as i16, R3);
            at += bytes;
        }
    }
    a.alu(Op::Add, R9, 1).store(Size::D, R7, 0, R9);
    a.alu(Op::Mov, R1, out as i32).alu(Op::Mov, R2, 0).call(HELPER_REDIRECT).exit();
    a.label("drop").alu(Op::Mov, R0, XDP_DROP).exit();
    a.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rig::net::namespace::{Namespace, ifindex};
    use std::time::{Duration, Instant};

    #[test]
    fn frames_are_alike_and_a_power_of_two() {
        for frames in [vec![], vec![vec![0; 60]; 3], vec![vec![0; 60], vec![0; 61]], vec![vec![0; 13]; 2]] {
            assert_eq!(Replay::new(&frames, 1, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn every_frame_of_the_table_arrives_as_often_as_it_was_sent() {
        // SAFETY: no arguments, cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: needs root");
            return;
        }
        // A packet socket at the far end of a veth sees what came.
        let ns = Namespace::new().unwrap();
        for line in
            ["link set lo up", "link add near type veth peer name far", "link set near up", "link set far up arp off"]
        {
            ns.ip(line).unwrap();
        }
        ns.tool("ethtool", "-K far gro on").unwrap();
        let frames: Vec<Vec<u8>> = (0..8u8)
            .map(|n| {
                let mut frame = vec![n; 67];
                frame[12..14].copy_from_slice(&[0x88, 0xb5]);
                frame
            })
            .collect();
        let seen = ns
            .run(|| {
                let (out, parking) = (ifindex("near")?, ifindex("lo")?);
                let socket = packet_socket(ifindex("far")?);
                let replay = Replay::new(&frames, out, parking)?;
                let began = Instant::now();
                (0..25).try_for_each(|_| replay.send(8))?;
                assert!(began.elapsed() < Duration::from_millis(400), "a call is quick: {:?}", began.elapsed());
                assert_eq!(replay.sent()?, 200);
                let mut seen = [0; 8];
                let deadline = Instant::now() + Duration::from_secs(5);
                while seen.iter().sum::<u32>() < 200 && Instant::now() < deadline {
                    let frame = receive(&socket);
                    if let Some(at) = frames.iter().position(|known| *known == frame) {
                        seen[at] += 1;
                    }
                }
                Ok(seen)
            })
            .unwrap();
        assert_eq!(seen, [25; 8]);
    }

    /// Sees frames of the ethertype for experiments on a link.
    fn packet_socket(link: u32) -> OwnedFd {
        use std::os::fd::{AsRawFd, FromRawFd};
        const EXPERIMENTS: u16 = 0x88b5u16.to_be();
        // SAFETY: numbers only; the descriptor is fresh.
        let socket = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, kind, i32::from(EXPERIMENTS)))
        };
        // SAFETY: all-zero is a valid address, which is as long as said.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = EXPERIMENTS;
            address.sll_ifindex = link as i32;
            let length = size_of::<libc::sockaddr_ll>() as u32;
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
        };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        socket
    }

    fn receive(socket: &OwnedFd) -> Vec<u8> {
        use std::os::fd::AsRawFd;
        let mut frame = vec![0; 2048];
        // SAFETY: the buffer is as long as said.
        let length = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(length.max(0) as usize);
        frame
    }
}
