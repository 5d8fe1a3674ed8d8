//! Two edges in memory, and packets for them.
#![allow(dead_code, clippy::unwrap_used)]

use softdpu::config::{self, Policy};
use softdpu::worker::harness::Harness;
use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub const APPS: usize = 0;
pub const UPLINK: usize = 1;

/// A pair of key files, as both edges use them.
pub struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    pub fn new() -> Self {
        let keys = Self { dir: tempfile::tempdir().unwrap() };
        for (name, byte) in [("ab.key", 0x11), ("ba.key", 0x22)] {
            write_key(&keys.dir.path().join(name), byte, 36);
        }
        keys
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Edge `a` (its applications in 10.1.0.0/24) or `b` (10.2.0.0/24), with a tunnel between them. `extra`: more TOML.
    pub fn policy(&self, edge: char, services: &str, extra: &str) -> Policy {
        let text = self.text(edge, services, extra);
        config::parse(&text, "test.toml").unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
    }

    fn text(&self, edge: char, services: &str, extra: &str) -> String {
        let (peer, me, other, out, inward) = match edge {
            'a' => ('b', 1, 2, "ab", "ba"),
            _ => ('a', 2, 1, "ba", "ab"),
        };
        let (out_spi, in_spi) = if edge == 'a' { (0x1001, 0x2001) } else { (0x2001, 0x1001) };
        let dir = self.dir.path().display();
        let mut text = String::new();
        write!(
            text,
            r#"
name = "edge-{edge}"
[workers]
frames = 1024
[[port]]
name = "apps"
kind = "loopback"
loop_to = "apps"
[[port]]
name = "uplink"
kind = "loopback"
loop_to = "uplink"
[[tunnel]]
name = "to-{peer}"
local = "192.0.2.{me}"
remote = "192.0.2.{other}"
[tunnel.out]
spi = {out_spi}
key_file = "{dir}/{out}.key"
[tunnel.in]
spi = {in_spi}
key_file = "{dir}/{inward}.key"
[[rule]]
name = "protect"
from = ["10.{me}.0.0/24"]
to = ["10.{other}.0.0/24"]
encrypt = "to-{peer}"
{services}
{extra}
"#
        )
        .unwrap();
        text
    }

    pub fn edges(&self, services: &str) -> (Harness, Harness) {
        let edge = |name| Harness::new(self.policy(name, services, "")).unwrap();
        (edge('a'), edge('b'))
    }
}

pub fn write_key(path: &Path, byte: u8, len: usize) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(&vec![byte; len]).unwrap();
}

/// A policy of two in-memory ports and nothing else, or `extra`.
pub fn plain(extra: &str) -> Policy {
    let text = format!(
        "name = \"plain\"\n[workers]\nframes = 1024\n[[port]]\nname = \"apps\"\nkind = \"loopback\"\nloop_to = \"apps\"\n[[port]]\nname = \"uplink\"\nkind = \"loopback\"\nloop_to = \"uplink\"\n{extra}"
    );
    config::parse(&text, "plain.toml").unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// An Ethernet frame with an IPv4 UDP packet and right checksums.
pub fn udp4(src: [u8; 4], dst: [u8; 4], ports: (u16, u16), ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x0800);
    let total = 28 + payload.len();
    let at = frame.len();
    frame.resize(at + total, 0);
    softdpu::wire::ip::write_v4(&mut frame[at..], src, dst, 17, ttl, total as u16);
    let udp = &mut frame[at + 20..];
    udp[..2].copy_from_slice(&ports.0.to_be_bytes());
    udp[2..4].copy_from_slice(&ports.1.to_be_bytes());
    udp[4..6].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    udp[8..].copy_from_slice(payload);
    let mut pseudo = Vec::new();
    pseudo.extend(src);
    pseudo.extend(dst);
    pseudo.extend([0, 17]);
    pseudo.extend(((8 + payload.len()) as u16).to_be_bytes());
    pseudo.extend_from_slice(udp);
    let sum = softdpu::wire::checksum::of(&pseudo);
    udp[6..8].copy_from_slice(&sum);
    frame
}

/// An Ethernet frame with an IPv6 UDP packet; no checksum (it is not looked at on the way).
pub fn udp6(src: [u8; 16], dst: [u8; 16], hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(0x86dd);
    let at = frame.len();
    frame.resize(at + 48 + payload.len(), 0);
    softdpu::wire::ip::write_v6(&mut frame[at..], &src, &dst, 17, hops, (8 + payload.len()) as u16);
    let udp = &mut frame[at + 40..];
    udp[..4].copy_from_slice(&[0x9c, 0x40, 0, 53]);
    udp[4..6].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    udp[6..8].copy_from_slice(&[0x12, 0x34]);
    udp[8..].copy_from_slice(payload);
    frame
}

fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xee];
    frame.extend(ethertype.to_be_bytes());
    frame
}
