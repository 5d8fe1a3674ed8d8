//! ESP against Scapy's IPsec: it decrypts what we sealed, we open what it encrypted. All ciphers, IPv4 and IPv6
//! outside, with and without UDP, with 32-bit and extended sequence numbers, tunnel and transport mode.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};
use softdpu::crypto::esp::{Inner, LINK_LEN, Mode, NEXT_IPV4, NEXT_IPV6};
use softdpu::crypto::inbound::Sequence;
use softdpu::crypto::outbound::Start;
use softdpu::crypto::outer::{Encapsulation, Endpoints};
use softdpu::crypto::{
    Cipher, InboundConfig, InboundOptions, InboundSa, KeyMaterial, OutboundConfig, OutboundOptions, OutboundSa,
};
use softdpu_ebpf_common::walk::walk_ip;

const SPI: u32 = 0xdead_beef;
const SEQ: u32 = 41;

/// Debian's own interpreter, since Scapy is a package of it; then whatever is on PATH.
fn scapy(jobs: &[Value]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/esp_scapy.py");
    static PYTHON: LazyLock<&str> = LazyLock::new(|| {
        let has_scapy = |python: &&str| {
            Command::new(python).args(["-c", "import scapy.layers.ipsec"]).output().is_ok_and(|o| o.status.success())
        };
        ["/usr/bin/python3", "python3"]
            .into_iter()
            .find(has_scapy)
            .expect("no python3 with Scapy on this machine; run: cargo xtask setup")
    });
    let mut child = Command::new(*PYTHON).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(jobs).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    cipher: Cipher,
    v6: bool,
    udp: bool,
    /// High half of the extended sequence number.
    high: Option<u32>,
    inner_v6: bool,
    len: usize,
    mode: Mode,
}

impl Case {
    fn all() -> Vec<Case> {
        let mut all = Vec::new();
        for cipher in Cipher::ALL {
            for bits in 0..4 {
                for high in [None, Some(0), Some(0x0102_0304)] {
                    let (v6, udp) = (bits & 1 != 0, bits & 2 != 0);
                    let len = 60 + all.len() * 18; // every padding, up to about 1,400 bytes
                    let inner_v6 = all.len() / 2 % 2 == 1;
                    all.push(Case { cipher, v6, udp, high, inner_v6, len, mode: Mode::Tunnel });
                    all.push(Case { cipher, v6, udp, high, inner_v6: v6, len: len + 2, mode: Mode::Transport });
                }
            }
        }
        all
    }

    fn key(&self) -> Vec<u8> {
        (0..self.cipher.material_len() as u8).map(|i| i.wrapping_mul(17) ^ 0x5a).collect()
    }

    fn material(&self) -> KeyMaterial {
        KeyMaterial::new(self.cipher, &self.key()).unwrap()
    }

    fn ends(&self) -> (&'static str, &'static str) {
        if self.v6 { ("2001:db8::1", "2001:db8::2") } else { ("192.0.2.1", "192.0.2.2") }
    }

    fn endpoints(&self) -> Endpoints {
        match (self.ends().0.parse().unwrap(), self.ends().1.parse().unwrap()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Endpoints::V4 { local, remote },
            (IpAddr::V6(local), IpAddr::V6(remote)) => Endpoints::V6 { local, remote },
            _ => unreachable!(),
        }
    }

    fn seq(&self) -> u64 {
        u64::from(self.high.unwrap_or(0)) << 32 | u64::from(SEQ)
    }

    /// A UDP packet. Scapy rebuilds what it encrypts from its own view of it, so everything in it is consistent.
    fn inner(&self) -> Vec<u8> {
        let body: Vec<u8> = (0..self.len).map(|i| (i * 31) as u8).collect();
        let udp_len = (8 + body.len()) as u16;
        let mut p = if self.inner_v6 {
            let mut p = vec![0x60, 0, 0, 0, (udp_len >> 8) as u8, udp_len as u8, 17, 64];
            p.extend([0xfd; 32]);
            p
        } else {
            let total = udp_len + 20;
            let mut p =
                vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2];
            let sum: u32 = p.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            p[10..12].copy_from_slice(&sum.to_be_bytes());
            p
        };
        p.extend([0x30, 0x39, 0x00, 0x63, (udp_len >> 8) as u8, udp_len as u8, 0x12, 0x34]);
        p.extend(body);
        p
    }

    /// Sealed by us, from the outer IP header on.
    fn sealed(&self) -> Vec<u8> {
        let material = self.material();
        let sa = OutboundSa::new(&OutboundConfig {
            spi: SPI,
            material: &material,
            endpoints: self.endpoints(),
            encapsulation: if self.udp {
                Encapsulation::Udp { source: 4500, destination: 4500 }
            } else {
                Encapsulation::None
            },
            extended: self.high.is_some(),
            start: Start::At { seq: self.seq(), iv_offset: 0x77 },
            options: OutboundOptions { mode: self.mode, ..OutboundOptions::default() },
        })
        .unwrap();
        let inner = self.inner();
        let mut buf = vec![0; 128 + inner.len() + 64];
        buf[128..128 + inner.len()].copy_from_slice(&inner);
        let next_header = if self.inner_v6 { NEXT_IPV6 } else { NEXT_IPV4 };
        let place = 128..128 + inner.len();
        let sealed = sa.sealer(1).seal_slice(&mut buf, &Inner { place, next_header, tos: 0 }).unwrap();
        buf[sealed.start + LINK_LEN..sealed.end].to_vec()
    }

    fn job(&self, op: &str, packet: &[u8]) -> Value {
        let (local, remote) = self.ends();
        json!({
            "op": op,
            "cipher": if self.cipher == Cipher::ChaCha20Poly1305 { "CHACHA20-POLY1305" } else { "AES-GCM" },
            "key": to_hex(&self.key()),
            "spi": SPI,
            "seq": SEQ,
            "esn": self.high,
            "local": local,
            "remote": remote,
            "udp": self.udp,
            "transport": self.mode == Mode::Transport,
            "iv": to_hex(&self.seq().to_be_bytes()),
            "packet": to_hex(packet),
        })
    }

    fn open(&self, packet: &[u8], sequence: Sequence) -> Vec<u8> {
        let config = InboundConfig {
            spi: SPI,
            material: &self.material(),
            sequence,
            window: 64,
            options: InboundOptions { mode: self.mode, ..InboundOptions::default() },
        };
        let mut buf = packet.to_vec();
        let headers = walk_ip(&buf[..], 0).unwrap();
        let opened = InboundSa::new(&config).unwrap().opener().open_packet(&mut buf, &headers);
        let opened = opened.unwrap_or_else(|e| panic!("{self:?} as {sequence:?}: {}", e.reason()));
        assert_eq!((opened.seq, opened.next_header), (self.seq(), if self.inner_v6 { NEXT_IPV6 } else { NEXT_IPV4 }));
        buf[opened.place].to_vec()
    }
}

fn packet_of(answer: &Value) -> Option<Vec<u8>> {
    answer["packet"].as_str().map(from_hex)
}

#[test]
fn scapy_decrypts_ours() {
    let cases = Case::all();
    let jobs: Vec<Value> = cases.iter().map(|c| c.job("decrypt", &c.sealed())).collect();
    for (case, answer) in cases.iter().zip(scapy(&jobs)) {
        let (mut got, want) = (packet_of(&answer), case.inner());
        if let Some(got) = got.as_mut().filter(|_| case.v6 && case.udp && case.mode == Mode::Transport) {
            // Scapy takes ESP out of the UDP datagram here, but leaves the UDP header, and counts it in.
            got.drain(40..48);
            got[4..6].copy_from_slice(&want[4..6]);
        }
        assert_eq!(got, Some(want), "{case:?}: {answer}");
    }
}

#[test]
fn we_open_what_scapy_encrypted() {
    let cases = Case::all();
    let jobs: Vec<Value> = cases.iter().map(|c| c.job("encrypt", &c.inner())).collect();
    for (case, answer) in cases.iter().zip(scapy(&jobs)) {
        let packet = packet_of(&answer).unwrap_or_else(|| panic!("{case:?}: {answer}"));
        let ways: &[Sequence] = match case.high {
            None => &[Sequence::Short],
            Some(0) => &[Sequence::Extended, Sequence::InIv],
            // Only the IV tells a new window of such a high half.
            Some(_) => &[Sequence::InIv],
        };
        for way in ways {
            assert_eq!(case.open(&packet, *way), case.inner(), "{case:?}");
        }
    }
}

/// That the stranger looks at all: a damaged packet, another key, another high half.
#[test]
fn scapy_refuses_what_is_wrong() {
    let cases = Case::all();
    let case = cases.iter().find(|c| c.high == Some(0x0102_0304)).unwrap();
    let good = case.sealed();
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let mut other_key = case.job("decrypt", &good);
    other_key["key"] = json!(to_hex(&vec![9; case.cipher.material_len()]));
    let mut other_half = case.job("decrypt", &good);
    other_half["esn"] = json!(0x0102_0305);
    for answer in scapy(&[case.job("decrypt", &damaged), other_key, other_half]) {
        assert!(answer["error"].as_str().unwrap_or("none").contains("IPSecIntegrityError"), "{answer}");
    }
}
