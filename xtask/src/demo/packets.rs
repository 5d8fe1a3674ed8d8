//! A capture made from nothing, for machines without privileges: an HTTP download, the start of a TLS session and a DNS
//! question, as client and server would send them.

use std::net::Ipv4Addr;

use softdpu_testbed::topology::{CLIENT, SERVER};

use super::{
    apps::{SECURE, SHOP},
    corpus::Numbers,
};

/// Payload per segment: what fits MTU 1500 with the tunnel's headers.
const SEGMENT: usize = 1300;

/// Who sends a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// Frames in the order they are sent, each with its sender.
pub type Conversation = Vec<(From, Vec<u8>)>;

/// HTTP, TLS and DNS, one after the other. `text` is what HTTP downloads; what TLS carries is noise.
pub fn conversation(text: &[u8]) -> Conversation {
    let mut frames = Vec::new();
    let request = format!("GET /catalogue.html HTTP/1.1\r\nHost: {SHOP}\r\nUser-Agent: demo\r\nAccept: */*\r\n\r\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", text.len());
    let response = [head.as_bytes(), text].concat();
    Tcp::new(40_001, 80).exchange(&[(From::Client, request.as_bytes()), (From::Server, &response)], &mut frames);
    let mut numbers = Numbers::new(0x715);
    let mut noise = |length: usize| -> Vec<u8> { (0..length).map(|_| numbers.next() as u8).collect() };
    let (hello, sealed) = (client_hello(SECURE, &noise(32)), record(23, &noise(8000)));
    // TLS 1.2 with no session and no extension, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256.
    let server_hello = record(22, &[&[2, 0, 0, 38, 3, 3][..], &noise(32), &[0, 0xc0, 0x2f, 0]].concat());
    let session = [
        (From::Client, hello),
        (From::Server, server_hello),
        (From::Client, record(23, &noise(600))),
        (From::Server, sealed),
    ];
    let session: Vec<(From, &[u8])> = session.iter().map(|(from, bytes)| (*from, bytes.as_slice())).collect();
    Tcp::new(40_002, 443).exchange(&session, &mut frames);
    let (question, answer) = dns(SHOP);
    frames.push((From::Client, frame(From::Client, 17, &udp(40_003, 53, &question))));
    frames.push((From::Server, frame(From::Server, 17, &udp(53, 40_003, &answer))));
    frames
}

/// One connection's state.
struct Tcp {
    ports: (u16, u16),
    /// Next sequence numbers of client and server.
    next: [u32; 2],
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

impl Tcp {
    fn new(client: u16, server: u16) -> Self {
        Self { ports: (client, server), next: [1000, 900_000] }
    }

    fn exchange(mut self, messages: &[(From, &[u8])], out: &mut Conversation) {
        self.send(From::Client, SYN, &[], out);
        self.send(From::Server, SYN | ACK, &[], out);
        self.send(From::Client, ACK, &[], out);
        for (from, bytes) in messages {
            for (at, segment) in bytes.chunks(SEGMENT).enumerate() {
                self.send(*from, PSH | ACK, segment, out);
                if at % 2 == 1 {
                    self.send(if *from == From::Client { From::Server } else { From::Client }, ACK, &[], out);
                }
            }
        }
        self.send(From::Client, FIN | ACK, &[], out);
        self.send(From::Server, FIN | ACK, &[], out);
        self.send(From::Client, ACK, &[], out);
    }

    fn send(&mut self, from: From, flags: u8, payload: &[u8], out: &mut Conversation) {
        let (mine, other) = (from as usize, 1 - from as usize);
        let (source, destination) = if from == From::Client { self.ports } else { (self.ports.1, self.ports.0) };
        let acknowledged = if flags & ACK == 0 { 0 } else { self.next[other] };
        let mut segment = Vec::with_capacity(20 + payload.len());
        segment.extend(source.to_be_bytes());
        segment.extend(destination.to_be_bytes());
        segment.extend(self.next[mine].to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(payload);
        self.next[mine] = self.next[mine].wrapping_add(payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0));
        out.push((from, frame(from, 6, &segment)));
    }
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let words = [source, destination, 8 + payload.len() as u16, 0].map(u16::to_be_bytes);
    [&words.concat(), payload].concat()
}

/// An Ethernet frame to the sender's edge, with all checksums right.
fn frame(from: From, protocol: u8, body: &[u8]) -> Vec<u8> {
    let [client, server] = [CLIENT[0], SERVER[0]].map(|text| text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    let (source, destination) = if from == From::Client { (client, server) } else { (server, client) };
    let length = (20 + body.len() as u16).to_be_bytes();
    let mut header = [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[12..16].copy_from_slice(&source);
    header[16..20].copy_from_slice(&destination);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut body = body.to_vec();
    let pseudo = [0, protocol, (body.len() >> 8) as u8, body.len() as u8];
    let sum = checksum(&[&source, &destination, &pseudo, &body]);
    let at = if protocol == 6 { 16 } else { 6 };
    // UDP sends 0 as all ones: 0 would mean no checksum (RFC 768).
    let sum = if protocol == 17 && sum == 0 { 0xffff } else { sum };
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &header, &body].concat()
}

/// The internet checksum (RFC 1071) of parts that, but for the last, have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|two| u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A TLS 1.2 and 1.3 ClientHello with a server name and ALPN `http/1.1` (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301).
fn client_hello(host: &str, random: &[u8]) -> Vec<u8> {
    let name = sized(&[&[0][..], &sized(host.as_bytes())].concat());
    let alpn = sized(&[&[8][..], b"http/1.1"].concat());
    let extensions = [&[0, 0][..], &sized(&name), &[0, 16], &sized(&alpn), &[0, 43], &sized(&[2, 3, 4])].concat();
    let suites = sized(&[0x13, 0x01, 0x13, 0x02, 0xc0, 0x2f]);
    let body = [&[3, 3][..], random, &[0], &suites, &[1, 0], &sized(&extensions)].concat();
    let length = (body.len() as u32).to_be_bytes();
    record(22, &[&[1][..], &length[1..], &body].concat())
}

/// A question for the address of `host` and its answer (RFC 1035 §4).
fn dns(host: &str) -> (Vec<u8>, Vec<u8>) {
    let labels: Vec<u8> =
        host.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat()).collect();
    let question = [&labels[..], &[0, 0, 1, 0, 1]].concat();
    let ask = [&[0x2a, 0x17, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &question].concat();
    let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 2, 0, 2];
    let answer = [&[0x2a, 0x17, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0][..], &question, &record].concat();
    (ask, answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use softdpu_testbed::{cleanup::RunDir, pcap, process};

    #[test]
    fn a_stranger_reads_names_and_finds_no_bad_checksum() {
        let Some(tshark) = crate::run::which("tshark") else {
            eprintln!("SKIPPED: needs tshark");
            return;
        };
        let folder = RunDir::new("unit").unwrap();
        let file = folder.file("made.pcap");
        let frames = conversation(&b"<tr><td>a lamp</td></tr>\n".repeat(800));
        pcap::write(&file, frames.iter().map(|(_, frame)| frame.as_slice())).unwrap();
        let fields = |filter: &str, field: &str| -> String {
            let mut command = std::process::Command::new(&tshark);
            command.args([
                "-o",
                "ip.check_checksum:TRUE",
                "-o",
                "tcp.check_checksum:TRUE",
                "-o",
                "udp.check_checksum:TRUE",
            ]);
            command.arg("-r").arg(&file).args(["-Y", filter, "-T", "fields", "-e", field]);
            process::run(&mut command, std::time::Duration::from_secs(60)).unwrap().ok().unwrap().trim().to_owned()
        };
        let bad = "ip.checksum.status == 0 or tcp.checksum.status == 0 or udp.checksum.status == 0 or _ws.malformed or \
                   tcp.analysis.lost_segment or tcp.analysis.retransmission";
        assert_eq!(fields(bad, "frame.number"), "");
        assert_eq!(fields("http.request", "http.host"), SHOP);
        assert_eq!(fields("tls.handshake.type == 1", "tls.handshake.extensions_server_name"), SECURE);
        assert_eq!(fields("dns.flags.response == 1", "dns.a"), SERVER[0]);
        assert_eq!(fields("http.response", "http.content_type"), "text/html");
    }
}
