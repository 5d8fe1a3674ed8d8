//! A stream of numbered datagrams from client to server, and what became of each; and the time that questions take meanwhile.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use softdpu_testbed::netns::NetNs;
use softdpu_testbed::topology::{SERVER, Topology};

/// After the last was sent: what has not come by then is lost.
const QUIET: Duration = Duration::from_secs(2);
/// Room at the receiver, bytes: whether the test's own thread gets a core is not what is tested.
static ROOM: libc::c_int = 256 << 20;

/// While it runs.
pub struct Stream {
    ended: Arc<AtomicBool>,
    send: JoinHandle<u32>,
    receive: JoinHandle<(Vec<bool>, Duration)>,
}

/// What became of it.
#[derive(Debug)]
pub struct Received {
    pub sent: u32,
    /// Runs of missing numbers: first and last.
    pub gaps: Vec<(u32, u32)>,
    pub lost: usize,
    /// Longest time between two arrivals.
    pub pause: Duration,
    /// The server's own count of datagrams that it had no room for.
    pub no_room: u64,
}

/// A socket that loses nothing of its own.
fn roomy(socket: &UdpSocket) {
    let fd = socket.as_raw_fd();
    // SAFETY: the pointer is to a c_int, whose length is said.
    let done = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const ROOM).cast(),
            size_of_val(&ROOM) as u32,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Datagrams that this host's sockets had no room for.
fn no_room(host: &NetNs) -> u64 {
    let text = host.within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?)).unwrap();
    let mut udp = text.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(|line| line.split(' '));
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let by_name: BTreeMap<&str, &str> = names.zip(values).collect();
    by_name["RcvbufErrors"].parse().unwrap()
}

impl Stream {
    /// One datagram per `every`, to `port` of the server.
    pub fn start(topology: &Topology, port: u16, every: Duration) -> Self {
        let receiver = topology.server.within(|| Ok(UdpSocket::bind((SERVER[0], port))?)).unwrap();
        roomy(&receiver);
        receiver.set_read_timeout(Some(QUIET)).unwrap();
        let sender = topology.client.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
        sender.connect((SERVER[0], port)).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = (ended.clone(), ended.clone());
        let receive = std::thread::spawn(move || {
            let (mut got, mut buffer) = (Vec::new(), [0; 64]);
            let (mut last, mut pause) = (None::<Instant>, Duration::ZERO);
            loop {
                match receiver.recv_from(&mut buffer) {
                    Ok(_) => {
                        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
                        if got.len() <= number {
                            got.resize(number + 1, false);
                        }
                        got[number] = true;
                        let now = Instant::now();
                        pause = pause.max(last.map_or(Duration::ZERO, |last| now - last));
                        last = Some(now);
                    }
                    // A sender that gets no core is not the end.
                    Err(_) if stopped.load(Ordering::Relaxed) => return (got, pause),
                    Err(_) => {}
                }
            }
        });
        let send = std::thread::spawn(move || {
            let mut n = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                sender.send(&n.to_be_bytes()).unwrap();
                n += 1;
                std::thread::sleep(every);
            }
            n
        });
        Self { ended, send, receive }
    }

    /// Ends it, and waits for what is under way.
    pub fn end(self, topology: &Topology) -> Received {
        self.ended.store(true, Ordering::Relaxed);
        let sent = self.send.join().unwrap();
        let (got, pause) = self.receive.join().unwrap();
        let lost: Vec<u32> = (0..sent).filter(|n| !got.get(*n as usize).copied().unwrap_or(false)).collect();
        let mut gaps: Vec<(u32, u32)> = Vec::new();
        for n in &lost {
            match gaps.last_mut() {
                Some((_, last)) if *last + 1 == *n => *last = *n,
                _ => gaps.push((*n, *n)),
            }
        }
        gaps.truncate(30);
        Received { sent, gaps, lost: lost.len(), pause, no_room: no_room(&topology.server) }
    }
}

/// Questions to the server, one after the other, until it is dropped.
pub struct Questions {
    ended: Arc<AtomicBool>,
    ask: Option<JoinHandle<Vec<Duration>>>,
    answer: Option<JoinHandle<()>>,
}

impl Questions {
    /// About one in two milliseconds, to `port` of the server.
    pub fn start(topology: &Topology, port: u16) -> Self {
        let server = topology.server.within(|| Ok(UdpSocket::bind((SERVER[0], port))?)).unwrap();
        let client = topology.client.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
        client.connect((SERVER[0], port)).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        let ended = Arc::new(AtomicBool::new(false));
        let (asks, answers) = (ended.clone(), ended.clone());
        let answer = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !answers.load(Ordering::Relaxed) {
                if let Ok((len, from)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..len], from);
                }
            }
        });
        let ask = std::thread::spawn(move || {
            let (mut times, mut buffer) = (Vec::new(), [0; 64]);
            while !asks.load(Ordering::Relaxed) {
                let begun = Instant::now();
                if client.send(b"what time is it?").is_ok() && client.recv(&mut buffer).is_ok() {
                    times.push(begun.elapsed());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            times
        });
        Self { ended, ask: Some(ask), answer: Some(answer) }
    }

    /// How many there were, and what half and 99 of 100 of them took at most.
    pub fn end(mut self) -> (usize, Duration, Duration) {
        self.ended.store(true, Ordering::Relaxed);
        let mut times = self.ask.take().unwrap().join().unwrap();
        self.answer.take().unwrap().join().unwrap();
        times.sort();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        (times.len(), at(50), at(99))
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
