//! Made-up traffic for those who have no capture at hand: some thousand users' flows by the kinds that a site's uplink has, with
//! lengths of a heavy tail, in the order in which they would be seen. The same seed makes the same bytes.
//!
//! The kinds and their shares are assumptions, not anybody's measurement. A ledger of one's own traffic needs a capture of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use softdpu::cases::frame::{ACK, FIN, PSH, SYN, tls_hello};
use softdpu::cases::talk::Talk;

use crate::stats::random::Random;

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// About so many: the last flows are ended.
    pub packets: u64,
    pub seed: u64,
}

const MS: u64 = 1_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Of TCP over Ethernet.
const SEGMENT: usize = 1448;
/// 2026-01-01.
const EPOCH: u64 = 1_767_225_600;

/// What payloads look like: whether they can be compressed depends on it.
#[derive(Clone, Copy, Debug)]
pub enum Text {
    /// As encrypted or compressed as anything.
    Noise,
    /// Records in JSON.
    Json,
    /// Lines of a log.
    Log,
}

/// A kind of flows.
struct Kind {
    /// Of 1,000 flows.
    share: u32,
    protocol: u8,
    port: u16,
    /// How the client begins.
    opening: fn(u32) -> Vec<u8>,
    text: Text,
    /// Bytes of a request and of an answer's packet.
    sizes: (usize, usize),
    /// Packets of an answer.
    answer: u32,
    /// Fewest exchanges of a flow. More have a Pareto distribution with `tail`: the lower, the longer the longest.
    exchanges: u32,
    tail: f64,
    /// Mean pause between exchanges.
    pause: u64,
}

const KINDS: [Kind; 9] = [
    // Names that are asked for.
    Kind { opening: dns_query, ..kind(400, UDP, 53, Text::Json, (40, 120), 1, 1, 9.0, MS) },
    // Pages: a few answers each.
    Kind { opening: tls, ..kind(330, TCP, 443, Text::Noise, (400, SEGMENT), 6, 1, 1.3, 80 * MS) },
    // Pages of old.
    Kind { opening: http, ..kind(60, TCP, 80, Text::Json, (300, SEGMENT), 5, 1, 1.4, 100 * MS) },
    // Downloads and films.
    Kind { opening: tls, ..kind(15, TCP, 443, Text::Noise, (300, SEGMENT), 40, 20, 1.1, 10 * MS) },
    // Copies between sites.
    Kind { opening: ssh, ..kind(5, TCP, 22, Text::Noise, (60, SEGMENT), 60, 40, 1.2, 2 * MS) },
    // People at a shell: silent for seconds.
    Kind { opening: ssh, ..kind(25, TCP, 22, Text::Noise, (52, 120), 1, 20, 1.5, 2_500 * MS) },
    // Calls: 50 packets a second both ways.
    Kind { opening: rtp, ..kind(25, UDP, 16384, Text::Noise, (172, 172), 1, 300, 1.6, 20 * MS) },
    // Databases in clear.
    Kind { opening: redis, ..kind(40, TCP, 6379, Text::Json, (90, 700), 1, 30, 1.2, 5 * MS) },
    // Logs, one way.
    Kind { opening: syslog, ..kind(100, UDP, 514, Text::Log, (350, 0), 0, 3, 1.3, 400 * MS) },
];

#[allow(clippy::too_many_arguments)] // a row of the table above
const fn kind(
    share: u32,
    protocol: u8,
    port: u16,
    text: Text,
    sizes: (usize, usize),
    answer: u32,
    exchanges: u32,
    tail: f64,
    pause: u64,
) -> Kind {
    Kind { share, protocol, port, opening: tls, text, sizes, answer, exchanges, tail, pause }
}

fn tls(n: u32) -> Vec<u8> {
    tls_hello(&format!("host{}.example.net", n % 997))
}

fn http(n: u32) -> Vec<u8> {
    let request = format!("GET /page/{n} HTTP/1.1\r\nHost: www{}.example.org\r\nAccept: */*\r\n\r\n", n % 101);
    request.into_bytes()
}

fn ssh(_: u32) -> Vec<u8> {
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()
}

fn redis(n: u32) -> Vec<u8> {
    let key = format!("user:{n:08}");
    format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).into_bytes()
}

fn syslog(n: u32) -> Vec<u8> {
    format!("<134>1 2026-01-01T00:00:00Z host{} app {n} - - begun", n % 50).into_bytes()
}

/// RFC 3550: version 2, payload type 0.
fn rtp(n: u32) -> Vec<u8> {
    rtp_packet(n, 0)
}

fn rtp_packet(source: u32, number: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend((number as u16).to_be_bytes());
    packet.extend((160 * number).to_be_bytes());
    packet.extend(source.to_be_bytes());
    packet
}

/// RFC 1035 §4.1, type A.
fn dns_query(n: u32) -> Vec<u8> {
    let mut message = (n as u16).to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [format!("host{}", n % 997), "example".into(), "net".into()] {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The answer to `query`: one address.
fn dns_answer(mut query: Vec<u8>) -> Vec<u8> {
    (query[2], query[3], query[7]) = (0x81, 0x80, 1);
    query.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    query
}

/// One flow, as far as it has come.
struct Made {
    kind: &'static Kind,
    number: u32,
    talk: Talk,
    /// Exchanges that were, and that are left.
    said: u32,
    left: u32,
    /// What comes next, and after which pause: from the responder, flags, payload.
    queue: std::collections::VecDeque<(u64, bool, u8, Vec<u8>)>,
    ended: bool,
}

impl Made {
    fn new(number: u32, random: &mut Random) -> Self {
        let kind = pick(random.below(1000) as u32);
        let client = Ipv4Addr::from(0x0a01_0001 + random.below(4000) as u32);
        let server = Ipv4Addr::from(0xc633_6401 + random.below(250) as u32);
        let from = SocketAddr::new(IpAddr::V4(client), 1024 + (number % 60_000) as u16);
        let to = SocketAddr::new(IpAddr::V4(server), kind.port);
        // Of Pareto's distribution, and no longer than a day of work.
        let length = f64::from(kind.exchanges) * (1.0 - random.unit()).powf(-1.0 / kind.tail);
        let mut made = Self {
            kind,
            number,
            talk: Talk::new(from, to, kind.protocol, Vec::new(), 0),
            said: 0,
            left: length.min(20_000.0) as u32,
            queue: [].into(),
            ended: false,
        };
        made.begin(random);
        made
    }

    fn push(&mut self, pause: u64, back: bool, flags: u8, payload: Vec<u8>) {
        self.queue.push_back((pause, back, flags, payload));
    }

    fn begin(&mut self, random: &mut Random) {
        let rtt = 5 * MS + random.below(20 * MS as usize) as u64;
        let opening = (self.kind.opening)(self.number);
        if self.kind.protocol == TCP {
            self.push(0, false, SYN, Vec::new());
            self.push(rtt, true, SYN | ACK, Vec::new());
            self.push(MS / 10, false, ACK, Vec::new());
        }
        let answer = match self.kind.port {
            53 => Some(dns_answer(opening.clone())),
            22 => Some(opening.clone()),
            16384 => Some(rtp_packet(!self.number, 0)),
            _ => None,
        };
        self.push(MS / 10, false, PSH | ACK, opening);
        if let Some(answer) = answer {
            self.push(rtt, true, PSH | ACK, answer);
        }
    }

    /// A request and its answer, or the end.
    fn exchange(&mut self, random: &mut Random) {
        if self.left == 0 || self.kind.port == 53 {
            if self.kind.protocol == TCP && !self.ended {
                self.push(MS, false, FIN | ACK, Vec::new());
                self.push(MS, true, FIN | ACK, Vec::new());
                self.push(MS / 10, false, ACK, Vec::new());
            }
            self.ended = true;
            return;
        }
        self.left -= 1;
        let Kind { sizes: (request, answer), text, protocol, .. } = *self.kind;
        let pause = (self.kind.pause as f64 * -(1.0 - random.unit()).ln()) as u64;
        let mut say = |made: &mut Self, pause, back, size| {
            let mut bytes = match (made.kind.port, back) {
                (16384, false) => rtp_packet(made.number, made.said + 1),
                (16384, true) => rtp_packet(!made.number, made.said + 1),
                _ => Vec::new(),
            };
            fill(&mut bytes, text, size, random);
            made.push(pause, back, PSH | ACK, bytes);
        };
        say(self, pause, false, request);
        for n in 0..self.kind.answer {
            say(self, if n == 0 { MS } else { MS / 100 }, true, answer);
            if protocol == TCP && n % 2 == 1 {
                self.push(MS / 100, false, ACK, Vec::new());
            }
        }
        self.said += 1;
    }

    /// When the next packet comes after the last one.
    fn pause(&mut self, random: &mut Random) -> Option<u64> {
        if self.queue.is_empty() {
            self.exchange(random);
        }
        self.queue.front().map(|(pause, ..)| *pause)
    }

    fn frame(&mut self) -> Option<Vec<u8>> {
        let (_, back, flags, payload) = self.queue.pop_front()?;
        Some(self.talk.say(back, flags, 64, &payload).frame())
    }
}

fn pick(mut at: u32) -> &'static Kind {
    static ALL: [Kind; 9] = KINDS;
    for kind in &ALL {
        if at < kind.share {
            return kind;
        }
        at -= kind.share;
    }
    &ALL[0]
}

/// Fills up to `size` bytes.
pub fn fill(bytes: &mut Vec<u8>, text: Text, size: usize, random: &mut Random) {
    while bytes.len() < size {
        let n = random.next_u64();
        match text {
            Text::Noise => bytes.extend(n.to_le_bytes()),
            Text::Json => bytes.extend(
                format!(
                    "{{\"id\":{},\"name\":\"item {}\",\"price\":{}.99,\"in_stock\":true}},",
                    n >> 40,
                    n % 500,
                    n % 97
                )
                .bytes(),
            ),
            Text::Log => bytes.extend(
                format!(
                    "level=info msg=\"request served\" status=200 took={}us path=/api/v1/items/{} ",
                    n % 9000,
                    n >> 44
                )
                .bytes(),
            ),
        }
    }
    bytes.truncate(size);
}

/// Writes a capture (pcap, nanoseconds, Ethernet). Returns how many packets it has.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, options: Options) -> Result<u64> {
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut to = BufWriter::new(file);
    make(&mut to, options)
        .and_then(|packets| to.flush().map(|()| packets))
        .with_context(|| format!("writing {}", path.display()))
}

fn make(to: &mut impl Write, Options { packets, seed }: Options) -> io::Result<u64> {
    // libpcap's file header: magic number of nanoseconds, version 2.4, whole packets of Ethernet.
    to.write_all(&0xa1b2_3c4d_u32.to_le_bytes())?;
    to.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    to.write_all(&65535u32.to_le_bytes())?;
    to.write_all(&1u32.to_le_bytes())?;
    let mut random = Random::new(seed);
    let mut flows: Vec<Made> = Vec::new();
    let mut next = BinaryHeap::new();
    let (mut written, mut newcomer) = (0, 0u64);
    while written < packets {
        // 200 new flows a second.
        while next.peek().is_none_or(|Reverse((at, _))| *at >= newcomer) {
            let mut made = Made::new(flows.len() as u32, &mut random);
            next.extend(made.pause(&mut random).map(|pause| Reverse((newcomer + pause, flows.len()))));
            flows.push(made);
            newcomer += (5.0 * MS as f64 * -(1.0 - random.unit()).ln()) as u64;
        }
        let Some(Reverse((at, n))) = next.pop() else { break };
        let Some(frame) = flows[n].frame() else { continue };
        for word in [EPOCH + at / 1_000_000_000, at % 1_000_000_000, frame.len() as u64, frame.len() as u64] {
            to.write_all(&(word as u32).to_le_bytes())?;
        }
        to.write_all(&frame)?;
        written += 1;
        next.extend(flows[n].pause(&mut random).map(|pause| Reverse((at + pause, n))));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_kinds_are_a_whole() {
        assert_eq!(KINDS.iter().map(|k| k.share).sum::<u32>(), 1000);
    }

    #[test]
    fn the_same_seed_makes_the_same_capture_and_it_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, seed| {
            let path = folder.path().join(name);
            assert_eq!(write(&path, Options { packets: 3000, seed }).unwrap(), 3000);
            path
        };
        let (a, b, c) = (file("a.pcap", 1), file("b.pcap", 1), file("c.pcap", 2));
        let read = |path| std::fs::read(path).unwrap();
        assert!(read(&a) == read(&b) && read(&a) != read(&c));
        let traffic = crate::gain::traffic::Traffic::read(&[a]).unwrap();
        let of = |name: &str| traffic.classes.iter().find(|c| c.name == name).map_or(0, |c| c.flows.len());
        let named: Vec<&str> = traffic.classes.iter().map(|c| c.name.as_str()).collect();
        for class in ["dns/udp", "tls/tcp", "http/tcp", "ssh/tcp", "rtp/udp", "redis/tcp", "syslog/udp"] {
            assert!(of(class) > 0, "{class}: {named:?}");
        }
        assert_eq!((traffic.sources[0].packets, traffic.sources[0].left_out.len()), (3000, 0));
        // What nobody recognises are flows that have only begun.
        assert!(of("unknown/tcp") + of("unknown/udp") < 40, "{named:?}");
    }
}
