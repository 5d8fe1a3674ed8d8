//! Bulk TCP: iperf3 with 1, 8 and 64 connections through plain forwarding.

mod iperf;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::path::contenders::{self as path, Contender, Flow, TCP};
use crate::path::turns::{self, At, Rig, Turn};
use crate::path::{find, not_installed};
use crate::report::{Section, Target};
use iperf::{PORT, Server};

/// In the order of their turns.
pub const CONTENDERS: [Contender; 9] = [
    path::DIRECT_VETH,
    path::KERNEL,
    path::KERNEL_WHOLE,
    path::KERNEL_SINGLE,
    path::NAT,
    path::IPVS,
    path::HAPROXY,
    path::WORKER,
    path::OFFLOAD,
];

const FLOWS: [Flow; 1] = [Flow { protocol: TCP, client_port: 0, server_port: PORT }];
const STREAMS: [(&str, usize, &str); 3] = [
    ("bulk-1", 1, "bulk TCP, 1 connection"),
    ("bulk-8", 8, "bulk TCP, 8 connections"),
    ("bulk-64", 64, "bulk TCP, 64 connections"),
];

#[derive(Clone, Debug)]
pub struct Options {
    pub rig: Rig,
    /// Both in whole seconds: iperf3's unit. Without a warm-up the first seconds count.
    pub warm_up: Duration,
    pub turn: Duration,
}

/// Runs all. Without iperf3 nothing is measured, and the sections say so.
///
/// # Errors
/// As [`turns::run`].
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let mut sections = STREAMS.map(|(name, _, title)| Section::new(name, title, "Gbit/s"));
    if find("iperf3").is_none() {
        turns::none(&mut sections, &CONTENDERS, &not_installed("iperf3", iperf::PACKAGE));
        return Ok((sections.into(), Vec::new()));
    }
    turns::run(&options.rig, &CONTENDERS, &FLOWS, ['t', 'u'], "", &mut sections, |at| turn(at, options))?;
    for s in &mut sections {
        for (over, under) in [
            ("worker", "kernel"),
            ("worker", "kernel-single"),
            ("xdp", "kernel-single"),
            ("xdp", "kernel-whole"),
            ("nftables", "kernel"),
            ("worker", "haproxy"),
            ("worker", "direct"),
        ] {
            s.ratio(over, under);
        }
        let notes = [
            format!(
                "IPv4, MTU 1500, {} s a turn after {} s of warm-up; iperf3's client and server share core {}, the thing under test has \
                 core {}.",
                options.turn.as_secs(),
                options.warm_up.as_secs(),
                options.rig.client_core,
                options.rig.dut_core
            ),
            "direct, kernel, nftables and haproxy move segments of up to 64 KiB (TSO): a veth has no wire that would make it cut them. Beside \
             XDP it has no TSO, so softdpu moves 1,500 bytes at a time. kernel-whole: hosts send such packets, and the kernel's GRO puts \
             them together on the way; kernel-single: it does not, and forwards packet by packet as softdpu does."
                .into(),
            "CPU s/GB: processor time of the whole machine per gigabyte delivered, iperf3 included. What the receiver counted must have come \
             over the server's interface. least/most: of the connections' bytes, 1 is fair. B a packet: as the server's interface counts them, link headers included."
                .into(),
        ];
        s.notes.splice(0..0, notes);
    }
    Ok((sections.into(), Vec::new()))
}

fn turn(at: &At<'_>, options: &Options) -> Result<Vec<Turn>> {
    let t = &at.hosts.topology;
    let core = at.rig.client_core;
    let _server = Server::start(&t.sink, core)?;
    let send = |streams, time| iperf::send(&t.source, at.server, streams, time, core);
    let mut turns = Vec::new();
    for (_, streams, _) in STREAMS {
        if !options.warm_up.is_zero() {
            send(streams, options.warm_up)?;
        }
        let (seen, meanwhile) = at.watch(|| send(streams, options.turn))?;
        let carried = meanwhile.bytes_in;
        ensure!(carried as f64 >= seen.bytes, "{carried} bytes came to the server, it counted {}", seen.bytes);
        ensure!(seen.bytes <= seen.bytes_sent, "the server has more than was sent");
        turns.push(Turn {
            value: seen.gbit_s,
            more: vec![
                ("CPU s/GB", meanwhile.cpu.busy() / (seen.bytes / 1e9)),
                ("retransmits", seen.retransmits as f64),
                ("least/most", seen.fairness),
                ("B a packet", carried as f64 / meanwhile.packets.max(1) as f64),
            ],
            latencies: None,
            meanwhile,
        });
    }
    Ok(turns)
}
