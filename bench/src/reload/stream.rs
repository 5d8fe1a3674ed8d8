//! A paced stream of numbered packets, and a sink that knows which have arrived and which came twice.
//!
//! The sender is a UDP socket that gives the kernel many datagrams at a time (`UDP_SEGMENT`), every 200 µs, and sleeps in between: of
//! the two cores of a small machine one is the worker's, and what the sender does not need of the other is there for all else, as it
//! would be on a host whose senders are elsewhere.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use super::real_time;
use crate::bpf::asm::{Asm, Cond, Insn, Op, Reg, Size};
use crate::bpf::programs::HEADERS;
use crate::bpf::sys::{Program, Words};
use crate::net::cores;
use crate::net::namespace::ifindex;
use crate::net::topology::{PORT, SINK, Topology};

/// To this UDP port go packets that the sink sends back.
pub const ECHO: u16 = 10;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;
/// Numbers told apart in one turn: 2^24, one bit each.
const NUMBERS: u64 = 1 << 24;
const WORDS: usize = (NUMBERS / 64) as usize;
/// Between two bursts, ns.
const INTERVAL: u64 = 200_000;
/// A late sender catches up at so many times its rate: what it did not send is not sent at once, which would say more of rings
/// than of reloads.
const CATCH_UP: f64 = 1.5;
/// Datagrams of one system call: what every kernel with `UDP_SEGMENT` takes, and less than a veth's ring holds.
const CALL: u64 = 64;
/// 64 bytes on the wire are 60 without the checksum at the end: the number, and zeros.
const PAYLOAD: usize = 60 - HEADERS;

/// Notes each number in `bits`; word 0 of `counter` counts arrivals, word 1 those that had arrived before. Echoes what is for
/// [`ECHO`], and lets the rest by.
fn receiver(counter: i32, bits: i32) -> Vec<Insn> {
    use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9};
    let mut a = Asm::new();
    a.load(Size::W, R6, R1, 0).load(Size::W, R3, R1, 4).alu(Op::Mov, R0, XDP_PASS);
    a.alu_reg(Op::Mov, R2, R6).alu(Op::Add, R2, HEADERS as i32 + 8).jump_reg(Cond::Gt, R2, R3, "out");
    a.load(Size::B, R2, R6, 23).jump_imm(Cond::Ne, R2, 17, "out");
    a.load(Size::H, R2, R6, 36).jump_imm(Cond::Eq, R2, i32::from(ECHO.to_be()), "echo");
    a.jump_imm(Cond::Ne, R2, i32::from(PORT.to_be()), "out");
    a.map_value(R7, counter, 0).load(Size::D, R2, R7, 0).alu(Op::Add, R2, 1).store(Size::D, R7, 0, R2);
    a.load(Size::D, R9, R6, HEADERS as i16).alu_reg(Op::Mov, R4, R9).alu(Op::And, R4, 63);
    a.alu(Op::Mov, R5, 1).alu_reg(Op::Shl, R5, R4);
    a.alu(Op::Shr, R9, 6).alu(Op::And, R9, WORDS as i32 - 1).alu(Op::Shl, R9, 3);
    a.map_value(R8, bits, 0).alu_reg(Op::Add, R8, R9).load(Size::D, R2, R8, 0);
    // Only the interface's one queue runs this, so no atomics here either.
    a.alu_reg(Op::Mov, R4, R2).alu_reg(Op::And, R4, R5).jump_imm(Cond::Ne, R4, 0, "again");
    a.alu_reg(Op::Or, R2, R5).store(Size::D, R8, 0, R2).alu(Op::Mov, R0, XDP_DROP).exit();
    a.label("again").load(Size::D, R2, R7, 8).alu(Op::Add, R2, 1).store(Size::D, R7, 8, R2);
    a.alu(Op::Mov, R0, XDP_DROP).exit();
    a.label("echo");
    for (size, x, y) in [(Size::W, 0, 6), (Size::H, 4, 10), (Size::W, 26, 30), (Size::H, 34, 36)] {
        a.load(size, R2, R6, x).load(size, R4, R6, y).store(size, R6, x, R4).store(size, R6, y, R2);
    }
    a.alu(Op::Mov, R0, XDP_TX).label("out").exit();
    a.finish()
}

/// The sink of one turn.
pub struct Stream {
    arrived: Words,
    bits: Words,
    _links: (Program, OwnedFd),
}

/// What became of the packets of a turn.
pub struct Outcome {
    pub sent: u64,
    pub duplicates: u64,
    /// Numbers that did not arrive.
    pub lost: Vec<u64>,
}

impl Stream {
    /// # Errors
    /// The kernel's refusal.
    pub fn new(topology: &Topology) -> Result<Self> {
        let (arrived, bits) = (Words::new(2)?, Words::new(WORDS)?);
        let sink = Program::load("numbers", &receiver(arrived.fd(), bits.fd()))?;
        let link = topology.sink.run(|| Ok(sink.attach(ifindex(&topology.sink_if)?)?)).context("attaching the sink")?;
        Ok(Self { arrived, bits, _links: (sink, link) })
    }

    /// Sends so many packets a second from `core`, until it is told to stop.
    ///
    /// # Errors
    /// No thread, or no socket.
    pub fn send(&self, topology: &Topology, rate: f64, core: usize) -> Result<Sending> {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = socket(topology)?;
        let told = stop.clone();
        let thread = thread::Builder::new().name("stream".into()).spawn(move || {
            cores::pin(0, core)?;
            real_time::prefer(1);
            let begun = real_time::now();
            let (mut next, mut sent, mut pause) = (begun, 0u64, 0);
            let burst = ((rate * INTERVAL as f64 * CATCH_UP / 1e9) as u64).max(1);
            let (mut log, mut data) = (Vec::with_capacity(1 << 16), vec![0; CALL as usize * PAYLOAD]);
            while !told.load(Ordering::Relaxed) && sent + burst < NUMBERS {
                next = (next + INTERVAL).max(real_time::now());
                real_time::sleep_until(next);
                let now = real_time::now();
                let due = ((now - begun) as f64 * rate / 1e9) as u64;
                let end = sent + due.saturating_sub(sent).min(burst);
                if end > sent {
                    pause = pause.max(now - log.last().map_or(begun, |(_, at)| *at));
                    log.push((sent, now));
                }
                while sent < end {
                    let count = (end - sent).min(CALL);
                    let data = &mut data[..count as usize * PAYLOAD];
                    for (n, datagram) in (sent..).zip(data.chunks_exact_mut(PAYLOAD)) {
                        datagram[..8].copy_from_slice(&n.to_le_bytes());
                    }
                    socket.send(data).context("sending")?;
                    sent += count;
                }
            }
            Ok(Sent { packets: sent, begun, ended: real_time::now(), pause, log })
        })?;
        Ok(Sending { stop, thread: Some(thread) })
    }

    /// After the last packet has had its time to arrive.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn outcome(&self, sent: u64) -> Result<Outcome> {
        let bits = self.bits.read()?;
        let there = |n: &u64| bits[(n / 64) as usize] >> (n % 64) & 1 == 1;
        let lost = (0..sent.min(NUMBERS)).filter(|n| !there(n)).collect();
        Ok(Outcome { sent, duplicates: self.arrived.read()?[1], lost })
    }
}

/// A socket whose long datagrams the kernel cuts.
fn socket(topology: &Topology) -> Result<UdpSocket> {
    let socket = topology.source.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    socket.connect((SINK, PORT))?;
    for (level, option, value) in
        [(libc::SOL_UDP, libc::UDP_SEGMENT, PAYLOAD as libc::c_int), (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20)]
    {
        // SAFETY: the option's value is an int of ours.
        let done = unsafe {
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), size)
        };
        if done < 0 {
            return Err(std::io::Error::last_os_error()).context("UDP_SEGMENT (kernel 4.18 or later)");
        }
    }
    Ok(socket)
}

/// What the sender did.
pub struct Sent {
    pub packets: u64,
    /// Wall clock, ns.
    pub begun: u64,
    pub ended: u64,
    /// Longest time between two bursts, ns: what the sender itself was held up.
    pub pause: u64,
    /// First number of each burst, and when it was sent.
    log: Vec<(u64, u64)>,
}

impl Sent {
    /// When packet `number` was sent: wall clock, ns.
    pub fn when(&self, number: u64) -> u64 {
        let after = self.log.partition_point(|(first, _)| *first <= number);
        self.log.get(after.wrapping_sub(1)).map_or(self.begun, |(_, at)| *at)
    }

    /// Packets of a burst, on average.
    pub fn burst(&self) -> f64 {
        self.packets as f64 / self.log.len().max(1) as f64
    }

    /// Million packets per second.
    pub fn rate(&self) -> f64 {
        self.packets as f64 * 1e3 / (self.ended - self.begun).max(1) as f64
    }
}

/// A sender at work.
pub struct Sending {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Sent>>>,
}

impl Sending {
    /// # Errors
    /// What the sender met.
    pub fn finish(mut self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        joined.and_then(Result::ok).context("the sender panicked")?
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
