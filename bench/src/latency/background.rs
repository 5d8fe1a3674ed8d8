//! Other traffic over the same path meanwhile: UDP of 64 bytes at a fixed rate, and the most that goes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::pace::Rate;
use super::socket;
use crate::net::cores;
use crate::net::namespace::Namespace;
use crate::path::Hosts;
use crate::stop;

/// Where it comes from and goes to.
pub const SOURCE_PORT: u16 = 20_002;
pub const PORT: u16 = 20_009;
/// 60 bytes with headers.
const DATAGRAM: [u8; 18] = [0x5d; 18];
/// Between two bursts.
const TICK: Duration = Duration::from_micros(200);

/// A sender at work, in a thread of its own.
pub struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Background {
    /// Sends from `client` so many packets a second; `None`: as many as go.
    ///
    /// # Errors
    /// Where the socket cannot be had.
    pub fn start(client: &Namespace, server: Ipv4Addr, rate: Option<f64>, core: usize) -> Result<Self> {
        let socket = client.run(|| {
            let socket = socket::udp(SOURCE_PORT)?;
            socket.connect(SocketAddrV4::new(server, PORT))?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stop_here = stop.clone();
        let thread = std::thread::Builder::new().name("background".into()).spawn(move || {
            cores::pin(0, core).context("pinning the load's sender")?;
            cores::prefer(0);
            socket::exact_timers();
            let (start, mut pace) = (Instant::now(), Rate::new(rate));
            while !stop_here.load(Ordering::Relaxed) && !stop::asked() {
                let due = pace.due(start.elapsed().as_nanos() as u64);
                // What the kernel does not take counts as offered: it is not offered again.
                socket::send_many(&socket, &DATAGRAM, due);
                pace.sent(due);
                if rate.is_some() {
                    std::thread::sleep(TICK);
                }
            }
            Ok(pace.all())
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops. Returns how many packets were offered.
    ///
    /// # Errors
    /// What the thread met.
    pub fn finish(mut self) -> Result<u64> {
        self.join()
    }

    fn join(&mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            Some(Err(_)) => anyhow::bail!("the load's sender panicked"),
            None => Ok(0),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.join().ok();
    }
}

/// The most packets per second that this sender gets to the server, within `time`.
///
/// # Errors
/// Where it cannot send or count.
pub fn most(hosts: &Hosts, server: Ipv4Addr, direct: bool, core: usize, time: Duration) -> Result<f64> {
    let load = Background::start(&hosts.topology.source, server, None, core)?;
    stop::sleep(time / 4);
    let (before, start) = (hosts.arrived(direct)?, Instant::now());
    stop::sleep(time);
    let after = hosts.arrived(direct)?;
    let rate = (after - before) as f64 / start.elapsed().as_secs_f64();
    load.finish()?;
    Ok(rate)
}
