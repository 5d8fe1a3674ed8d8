//! Captures by tcpdump: a stranger says what passed.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use crate::{
    cleanup::RunDir,
    netns::NetNs,
    pcap::{self, Captured},
    process::Process,
};

/// Everything the wire may not carry when a tunnel protects all traffic: all but ESP (bare, or in UDP 4500) and what
/// the edges' kernels say for themselves on their own link (ARP, neighbour discovery, multicast listener reports).
pub const NOT_ESP: &str = "not arp and not ip proto 50 and not ip6 proto 50 and not udp port 4500 \
     and not (ip6 and (ip6[6] == 58 or (ip6[6] == 0 and ip6[40] == 58)) and ip6[8] == 0xfe and ip6[9] == 0x80) \
     and not (icmp6 and ip6[40] >= 133 and ip6[40] <= 137)";

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// What a capture saw.
#[derive(Debug, Clone)]
pub struct Seen {
    pub frames: Vec<Captured>,
    /// Frames that matched but were lost for lack of room: what was not seen.
    pub lost: u64,
    pub file: PathBuf,
}

impl Capture {
    /// Starts capturing on `link`; returns once frames are being taken. At most `limit` frames are kept (0: no limit),
    /// `snap` bytes of each.
    ///
    /// # Errors
    /// When tcpdump is missing, refuses the filter, or does not come up.
    pub fn start(ns: &NetNs, link: &str, filter: &str, snap: u32, limit: u32, folder: &RunDir) -> Result<Self> {
        let name = crate::cleanup::unique("capture");
        let (file, log) = (folder.file(format!("{name}.pcap")), folder.file(format!("{name}.log")));
        let mut command = ns.command("tcpdump");
        // -Z root: it would otherwise become a user who cannot write into our folder.
        command.args(["-Z", "root", "-n", "-U", "--immediate-mode", "-B", "65536", "-i", link]);
        command.arg("-s").arg(snap.to_string()).arg("-w").arg(&file);
        if limit > 0 {
            command.arg("-c").arg(limit.to_string());
        }
        command.arg(filter);
        let mut process = Process::start(&mut command, &log)?;
        process.until(Duration::from_secs(10), |process| process.said().contains("listening on"))?;
        Ok(Self { process, file })
    }

    /// Ends the capture and reads it.
    ///
    /// # Errors
    /// When tcpdump does not end or leaves no readable file.
    pub fn stop(mut self) -> Result<Seen> {
        // What is on its way through the bridge now should still be seen.
        std::thread::sleep(Duration::from_millis(100));
        self.process.signal(libc::SIGINT);
        self.process.wait(Duration::from_secs(10))?;
        let lost = lost(&self.process.said()).context("tcpdump did not say what it lost")?;
        Ok(Seen { frames: pcap::read(&self.file)?, lost, file: self.file.clone() })
    }
}

fn lost(said: &str) -> Option<u64> {
    said.lines().find(|line| line.contains("dropped by kernel"))?.split_whitespace().next()?.parse().ok()
}

/// A frame in a few words, for messages: addresses and protocol.
pub fn describe(frame: &Captured) -> String {
    let bytes = &frame.bytes;
    let kind = bytes.get(12..14).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    let hex = |bytes: &[u8]| {
        bytes.chunks(2).map(|two| two.iter().map(|b| format!("{b:02x}")).collect()).collect::<Vec<String>>()
    };
    match (kind, bytes.len()) {
        (0x0800, 34..) => {
            let dotted = |at: usize| bytes[at..at + 4].iter().map(u8::to_string).collect::<Vec<_>>().join(".");
            format!("IPv4 {} > {} protocol {}, {} bytes", dotted(26), dotted(30), bytes[23], frame.length)
        }
        (0x86dd, 54..) => {
            let (from, to) = (hex(&bytes[22..38]).join(":"), hex(&bytes[38..54]).join(":"));
            format!("IPv6 {from} > {to} next header {}, {} bytes", bytes[20], frame.length)
        }
        _ => format!("ethertype {kind:#06x}, {} bytes", frame.length),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        process::run,
        topology::{Options, SERVER, Topology},
    };

    #[test]
    fn the_wire_shows_what_the_kernel_forwards_in_clear() {
        if !crate::is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let topology = Topology::new(&Options::new("unit-capture")).unwrap();
        let folder = RunDir::new("unit-capture").unwrap();
        topology.reachable(SERVER[0], Duration::from_secs(5)).unwrap();
        topology.reachable(SERVER[1], Duration::from_secs(5)).unwrap();
        let capture = Capture::start(&topology.wire, "wire", "", 0, 0, &folder).unwrap();
        let clear = Capture::start(&topology.wire, "wire", NOT_ESP, 64, 0, &folder).unwrap();
        for server in SERVER {
            let mut ping = topology.client.command("ping");
            run(ping.args(["-c", "3", "-i", "0.01", server]), Duration::from_secs(5)).unwrap().ok().unwrap();
        }
        let (seen, clear) = (capture.stop().unwrap(), clear.stop().unwrap());
        assert!(seen.frames.len() >= 12, "{} frames", seen.frames.len());
        // Echo requests and replies of both families must count as clear, neighbour discovery must not.
        let texts: Vec<String> = clear.frames.iter().map(describe).collect();
        assert_eq!(texts.len(), 12, "{texts:#?}");
        assert!(texts.iter().any(|text| text.contains("10.1.0.2 > 10.2.0.2 protocol 1")), "{texts:?}");
        assert!(texts.iter().any(|text| text.contains("next header 58")), "{texts:?}");
        assert_eq!(clear.lost, 0);
    }
}
