//! ESP as tshark reads it: a capture that we made, its preferences set to our keys. It checks the ICV, decrypts and
//! dissects what is inside.
//!
//! tshark 4.0 knows AES-GCM with 32-bit sequence numbers only; ChaCha20-Poly1305 and extended numbers are checked
//! against Scapy (`esp_scapy.rs`).
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use softdpu::crypto::esp::{Inner, NEXT_IPV4};
use softdpu::crypto::outbound::Start;
use softdpu::crypto::outer::{Encapsulation, Endpoints};
use softdpu::crypto::{Cipher, KeyMaterial, OutboundConfig, OutboundOptions, OutboundSa};

const V4: Endpoints = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
const V6: Endpoints = Endpoints::V6 {
    local: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    remote: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
};
const UDP: Encapsulation = Encapsulation::Udp { source: 4500, destination: 4500 };

fn key(cipher: Cipher) -> Vec<u8> {
    (0..cipher.material_len() as u8).map(|i| i ^ 0xc3).collect()
}

/// A UDP packet from 10.1.0.1:12345 to 10.2.0.2:40000 with `payload` bytes.
fn inner(payload: usize) -> Vec<u8> {
    let (udp, total) = ((payload + 8) as u16, (payload + 28) as u16);
    let mut p = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2];
    p.extend([0x30, 0x39, 0x9c, 0x40, (udp >> 8) as u8, udp as u8, 0, 0]);
    p.extend(vec![0x2e; payload]);
    p
}

/// Sealed by us, as an Ethernet frame.
fn sealed(spi: u32, cipher: Cipher, endpoints: Endpoints, encapsulation: Encapsulation, payload: usize) -> Vec<u8> {
    let material = KeyMaterial::new(cipher, &key(cipher)).unwrap();
    let start = Start::At { seq: 1, iv_offset: u64::from(spi) << 32 };
    let config = OutboundConfig {
        spi,
        material: &material,
        endpoints,
        encapsulation,
        extended: false,
        start,
        options: OutboundOptions::default(),
    };
    let packet = inner(payload);
    let mut buf = [&[0; 128][..], &packet, &[0; 64]].concat();
    let inner = Inner { place: 128..128 + packet.len(), next_header: NEXT_IPV4, tos: 0 };
    let place = OutboundSa::new(&config).unwrap().sealer(1).seal_slice(&mut buf, &inner).unwrap();
    buf[place].to_vec()
}

/// SPI, ICV good, next header, padding, inner source port, UDP lengths (the last is the inner one) of each packet.
fn tshark(frames: &[Vec<u8>], keys: &[(&str, u32, Cipher)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("esp.pcap");
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
    for frame in frames {
        writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, frame)).unwrap();
    }
    drop(writer);
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&path).args(["-o", "esp.enable_encryption_decode:TRUE"]);
    command.args(["-o", "esp.enable_authentication_check:TRUE"]);
    for (version, spi, cipher) in keys {
        let key: String = key(*cipher).iter().map(|b| format!("{b:02x}")).collect();
        let algorithm = "AES-GCM with 16 octet ICV [RFC4106]";
        let row = format!(r#"uat:esp_sa:"{version}","*","*","0x{spi:08x}","{algorithm}","0x{key}","NULL","""#);
        command.args(["-o", &row]);
    }
    command.args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=l"]);
    for field in ["esp.spi", "esp.icv_good", "esp.protocol", "esp.pad_len", "udp.srcport", "udp.length"] {
        command.args(["-e", field]);
    }
    // Where it was made to run as another user than it is, it must still find a home.
    let output = command.env("HOME", dir.path()).output().expect("no tshark on this machine; run: cargo xtask setup");
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn tshark_decrypts_ours() {
    let (mut frames, mut keys, mut want) = (Vec::new(), Vec::new(), Vec::new());
    for cipher in [Cipher::Aes128Gcm, Cipher::Aes256Gcm] {
        for (version, endpoints) in [("IPv4", V4), ("IPv6", V6)] {
            for encapsulation in [Encapsulation::None, UDP] {
                let spi = 0x1000 + frames.len() as u32;
                let payload = 50 + 151 * frames.len();
                frames.push(sealed(spi, cipher, endpoints, encapsulation, payload));
                keys.push((version, spi, cipher));
                let pad = (4 - (payload + 28 + 2) % 4) % 4;
                want.push(format!("0x{spi:08x}|1|0x04|{pad}|12345|{}", payload + 8));
            }
        }
    }
    // tshark writes booleans as 1 or True, by version.
    let got: Vec<String> = tshark(&frames, &keys).iter().map(|l| l.replace("|True|", "|1|")).collect();
    assert_eq!(got, want);
}

/// That it checks at all.
#[test]
fn tshark_refuses_a_damaged_one() {
    let mut frame = sealed(0x1000, Cipher::Aes128Gcm, V4, Encapsulation::None, 100);
    let last = frame.len() - 1;
    frame[last] ^= 1;
    let got = tshark(&[frame], &[("IPv4", 0x1000, Cipher::Aes128Gcm)]);
    assert!(got[0].starts_with("0x00001000|0|") || got[0].starts_with("0x00001000|False|"), "{got:?}");
}
