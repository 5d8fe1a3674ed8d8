//! Request and response beside the stream. Requests go when they are due, answered or not (no coordinated omission), and the
//! kernel stamps the answers, so that nobody's waking up is in the time.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::real_time;
use super::stream::ECHO;
use crate::net::cores;
use crate::net::topology::{SINK, Topology};
use crate::stats::latency::Latencies;

/// Between two requests, ns: no multiple of the stream's interval, so that requests meet bursts everywhere.
const INTERVAL: u64 = 1_037_003;
/// Most requests of a turn.
const MOST: usize = 1 << 16;

/// What a turn's requests met.
#[derive(Default)]
pub struct Answers {
    /// From sending to the answer's arrival.
    pub rtt: Latencies,
    /// From when it was due.
    pub due: Latencies,
    pub sent: u64,
    pub lost: u64,
}

pub struct Probe {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<u64>>>,
    receiver: Option<JoinHandle<Result<Answers>>>,
}

struct Times {
    begun: u64,
    sent: Vec<AtomicU64>,
}

impl Probe {
    /// # Errors
    /// No socket or thread.
    pub fn start(topology: &Topology, core: usize) -> Result<Self> {
        let socket = topology.source.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.connect((SINK, ECHO))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an int of ours.
        let done = unsafe {
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            let value = std::ptr::from_ref(&on).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, value, size)
        };
        if done < 0 {
            return Err(std::io::Error::last_os_error()).context("SO_TIMESTAMPNS");
        }
        let times =
            Times { begun: real_time::now() + 20_000_000, sent: (0..MOST).map(|_| AtomicU64::new(0)).collect() };
        let (times, stop) = (Arc::new(times), Arc::new(AtomicBool::new(false)));
        let (sends, receives) = (socket.try_clone()?, socket);
        let (told, of) = (stop.clone(), times.clone());
        let sender = thread::Builder::new().name("requests".into()).spawn(move || {
            cores::pin(0, core)?;
            real_time::prefer(2);
            let mut n = 0u64;
            while !told.load(Ordering::Relaxed) && n < MOST as u64 {
                real_time::sleep_until(of.begun + n * INTERVAL);
                let mut packet = [0u8; 18];
                packet[..8].copy_from_slice(&n.to_be_bytes());
                of.sent[n as usize].store(real_time::now(), Ordering::Relaxed);
                sends.send(&packet).ok();
                n += 1;
            }
            Ok(n)
        })?;
        let told = stop.clone();
        let receiver = thread::Builder::new().name("answers".into()).spawn(move || {
            cores::pin(0, core)?;
            cores::prefer(0);
            let mut answers = Answers::default();
            loop {
                match receive(&receives) {
                    Some((n, at)) => {
                        let Some(sent) = times.sent.get(n as usize).map(|t| t.load(Ordering::Relaxed)) else {
                            continue;
                        };
                        answers.rtt.record(at.saturating_sub(sent));
                        answers.due.record(at.saturating_sub(times.begun + n * INTERVAL));
                    }
                    None if told.load(Ordering::Relaxed) => return Ok(answers),
                    None => {}
                }
            }
        })?;
        Ok(Self { stop, sender: Some(sender), receiver: Some(receiver) })
    }

    /// # Errors
    /// What the threads met.
    pub fn finish(mut self) -> Result<Answers> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().and_then(|t| t.join().ok()).context("the requests' thread panicked")??;
        let answers = self.receiver.take().and_then(|t| t.join().ok()).context("the answers' thread panicked")??;
        Ok(Answers { sent, lost: sent.saturating_sub(answers.rtt.len()), ..answers })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.take().map(JoinHandle::join);
        self.receiver.take().map(JoinHandle::join);
    }
}

/// The number of an answer and when it came, wall clock in ns. `None`: none came for a while.
fn receive(socket: &UdpSocket) -> Option<(u64, u64)> {
    #[repr(align(8))]
    struct Control([u8; 64]);
    let (mut data, mut control) = ([0u8; 64], Control([0; 64]));
    let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: all that the message points to outlives the call, with its lengths.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) };
    if got < 8 {
        return None;
    }
    let n = u64::from_be_bytes(data[..8].try_into().ok()?);
    // SAFETY: the kernel has filled the control buffer, which is aligned for its headers; the macros stay within its length, and
    // the time is read as bytes lie.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_TIMESTAMPNS {
            return None;
        }
        let t: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
        Some((n, t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64))
    }
}
