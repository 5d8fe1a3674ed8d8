//! Filters as tcpdump compiles them, run by us: each says of each packet what tcpdump itself says, over Ethernet and over bare IP.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use softdpu::watch::filter::Program;

const EXPRESSIONS: &[&str] = &[
    "tcp",
    "udp port 53",
    "icmp or icmp6",
    "ip6",
    "host 10.0.0.1",
    "src host 10.0.0.2 and not tcp",
    "net 10.0.0.0/30",
    "ip6 host fd00::1",
    "portrange 50-60",
    "src port 80 or dst port 443",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
    "ip[8] < 5 or ip6[7] = 1",
    "ip[6:2] & 0x1fff != 0",
    "greater 200",
    "less 60",
    "udp[4:2] > 30",
    "ip proto 50 or ip6 proto 50",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "len - 14 * 2 > 100 || ip[1] / 3 % 5 == 2",
    "ip[0] << 2 ^ 3 | 8 == 0x11f",
    "not (ip or ip6)",
    "ether host 02:00:00:00:00:01",
    "ether[6] & 1 = 0 and ip",
    "vlan 5 and tcp",
];

/// The same bytes each time, packets most of them.
fn packets() -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let mut all = Vec::new();
    for _ in 0..3000 {
        let mut packet = vec![2, 0, 0, 0, 0, next(3) as u8, 2, 0, 0, 0, 0, next(3) as u8];
        if next(8) == 0 {
            packet.extend([0x81, 0, 0, next(8) as u8]);
        }
        let proto = [6, 17, 1, 58, 50, 89][next(6)];
        let payload = next(250);
        if next(3) == 0 {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, (payload + 20) as u8, proto, next(4) as u8]);
            for _ in 0..2 {
                packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, next(4) as u8]);
            }
        } else {
            let options = if next(5) == 0 { 4 * next(4) } else { 0 };
            let total = 20 + options + 20 + payload;
            packet.extend([8, 0, 0x45 + options as u8 / 4, next(256) as u8, (total >> 8) as u8, total as u8, 0, 0]);
            packet.extend([if next(6) == 0 { next(64) as u8 } else { 0 }, 0, next(10) as u8, proto, 0, 0]);
            packet.extend([10, 0, 0, next(6) as u8, 10, 0, 0, next(6) as u8]);
            packet.resize(packet.len() + options, 1);
        }
        let ports = [53, 80, 443, 55, 40000];
        packet.extend((ports[next(5)] as u16).to_be_bytes());
        packet.extend((ports[next(5)] as u16).to_be_bytes());
        packet.extend((next(60) as u32).to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, 1 << next(6), 0, 0, 0, 0, 0, 0]);
        packet.extend((0..payload).map(|n| n as u8));
        match next(10) {
            // Torn, or not what it seems.
            0 => packet.truncate(1 + next(packet.len())),
            1 => {
                let at = next(packet.len());
                packet[at] = next(256) as u8;
            }
            _ => {}
        }
        all.push(packet);
    }
    all
}

/// Numbers of the packets that tcpdump lets through; `None`: it refuses the filter for this kind of link.
fn tcpdump(file: &Path, expression: &str) -> Option<BTreeSet<u64>> {
    let output = Command::new("tcpdump").arg("-r").arg(file).args(["-w", "-", "--", expression]).output().unwrap();
    if !output.status.success() {
        return None;
    }
    let mut reader = PcapReader::new(&output.stdout[..]).unwrap();
    let mut found = BTreeSet::new();
    while let Some(packet) = reader.next_packet() {
        found.insert(packet.unwrap().timestamp.as_secs());
    }
    Some(found)
}

fn compiled(link: &str, expression: &str) -> Option<Program> {
    let output = Command::new("tcpdump").args(["-ddd", "-y", link, "--", expression]).output().unwrap();
    output.status.success().then(|| Program::from_tcpdump(std::str::from_utf8(&output.stdout).unwrap()).unwrap())
}

#[test]
fn every_filter_says_of_every_packet_what_tcpdump_says() {
    if Command::new("tcpdump").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: no tcpdump");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (link, datalink, skip) in [("EN10MB", DataLink::ETHERNET, 0), ("RAW", DataLink::RAW, 14)] {
        let path = folder.path().join(link);
        let header = PcapHeader { datalink, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
        let packets: Vec<Vec<u8>> = packets().into_iter().map(|p| p.get(skip..).unwrap_or_default().to_vec()).collect();
        for (at, packet) in packets.iter().enumerate() {
            let time = Duration::from_secs(at as u64);
            writer.write_packet(&PcapPacket::new(time, packet.len() as u32, packet)).unwrap();
        }
        drop(writer);
        for expression in EXPRESSIONS {
            let theirs = tcpdump(&path, expression);
            let Some(program) = compiled(link, expression) else {
                assert!(theirs.is_none(), "{link}: {expression}");
                continue;
            };
            let matches = |packet: &Vec<u8>| program.run(packet, packet.len() as u32) > 0;
            let ours = packets.iter().enumerate().filter(|(_, packet)| matches(packet)).map(|(at, _)| at as u64);
            assert_eq!(Some(ours.collect()), theirs, "{link}: {expression}");
            compared += 1;
        }
    }
    assert!(compared >= 2 * EXPRESSIONS.len() - 6, "{compared}");
}
