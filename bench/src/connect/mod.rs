//! New TCP connections: opened, one small request and its answer, closed; as many as go with some at a time, and one at a time for
//! how long one takes.

mod client;
mod message;
mod server;
mod socket;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::path::contenders::{self as path, Contender, Flow, TCP};
use crate::path::turns::{self, At, Rig, Turn};
use crate::report::{Section, Target};
use crate::stop;
use client::Seen;
use server::{PORT, Server};

/// In the order of their turns.
pub const CONTENDERS: [Contender; 9] = [
    path::DIRECT_VETH,
    path::KERNEL,
    path::KERNEL_WHOLE,
    path::NAT,
    path::IPVS,
    path::HAPROXY,
    path::WORKER,
    path::CLASSIFY,
    path::OFFLOAD,
];

/// Client ports are the kernel's choice.
const FLOWS: [Flow; 1] = [Flow { protocol: TCP, client_port: 0, server_port: PORT }];
/// Connections at a time.
const AT_ONCE: usize = 64;
/// A connection is at least SYN, ACK, request (or both in one) and FIN to the server.
const LEAST_PACKETS: u64 = 3;
/// How long a contender may take until it lets connections by.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Options {
    pub rig: Rig,
    pub warm_up: Duration,
    pub turn: Duration,
}

/// Runs all: how many, and how long one takes.
///
/// # Errors
/// As [`turns::run`].
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let mut sections = vec![
        Section::new("connect", "new TCP connections, each with one request and its answer", "connections/s"),
        Section::new("connect-latency", "one new TCP connection with a request and its answer, p99", "µs"),
    ];
    turns::run(
        &options.rig,
        &CONTENDERS,
        &FLOWS,
        ['n', 'p'],
        "a connection, from its opening to the whole answer",
        &mut sections,
        |at| turn(at, options),
    )?;
    for s in &mut sections {
        for (over, under) in [
            ("worker", "kernel"),
            ("classify", "worker"),
            ("xdp", "kernel-whole"),
            ("nftables", "kernel"),
            ("worker", "nftables"),
            ("worker", "haproxy"),
            ("worker", "direct"),
        ] {
            s.ratio(over, under);
        }
    }
    let notes = [
        format!(
            "{AT_ONCE} connections at a time, {:.1} s a turn; client and server share core {}, the thing under test has core {}. The \
             server closes first. A connection counts where the client had the answer to its own request and the server's end.",
            options.turn.as_secs_f64(),
            options.rig.client_core,
            options.rig.dut_core
        ),
        "direct: what client and server can do at all; it is the limit of every row. p50 and p99 are with all of them under way: mostly \
         waiting for a turn."
            .into(),
        "kernel, nftables and the driver's part of softdpu work in softirq on the core of client and server, workers and haproxy on the \
         tested core: CPU µs are of both, client and server included."
            .into(),
        "xdp: SYN, FIN and flows of a few packets are the worker's; by the driver: packets that no worker saw.".into(),
    ];
    sections[0].notes.splice(0..0, notes);
    sections[1].notes.insert(0, "One connection at a time; the next begins when one has ended.".into());
    Ok((sections, Vec::new()))
}

fn turn(at: &At<'_>, options: &Options) -> Result<Vec<Turn>> {
    let t = &at.hosts.topology;
    let core = at.rig.client_core;
    let server = Server::start(&t.sink, core)?;
    let mut salt = 0;
    let mut connect = |at_once, time| {
        salt += 1;
        client::connect(&t.source, at.server, at_once, time, salt, core)
    };
    // An instance answers on its socket before its ports are attached.
    let patience = Instant::now() + PATIENCE;
    let mut time = options.warm_up;
    loop {
        let warm = connect(AT_ONCE, time)?;
        // On a slow machine none may have come to its end within a short time.
        time = (2 * time).min(Duration::from_secs(1));
        if warm.done > 0 && warm.failures() == 0 {
            break;
        }
        ensure!(
            Instant::now() < patience && !stop::asked(),
            "{} connections after {} s, {:?}",
            warm.done,
            PATIENCE.as_secs(),
            warm.failed
        );
    }
    let mut measured = |at_once, time| -> Result<(Seen, turns::Meanwhile)> {
        // What was given up by the load before is still on its way.
        stop::sleep(Duration::from_millis(20));
        let before = server.answered();
        let (seen, meanwhile) = at.watch(|| connect(at_once, time))?;
        let answered = server.answered() - before;
        ensure!(seen.done > 0, "no connection: {:?}", seen.failed);
        ensure!(answered >= seen.done, "the server answered {answered} requests, the client had {} answers", seen.done);
        let least = LEAST_PACKETS * seen.done;
        let packets = meanwhile.packets;
        ensure!(packets >= least, "{packets} packets came to the server, {} connections need {least}", seen.done);
        Ok((seen, meanwhile))
    };
    let (many, while_many) = measured(AT_ONCE, options.turn)?;
    let (one, while_one) = measured(1, options.turn / 2)?;
    let us = |seen: &Seen, q: f64| seen.latencies.percentile(q) as f64 / 1000.0;
    let rate = |seen: &Seen| seen.done as f64 / seen.seconds;
    let more = |seen: &Seen, meanwhile: &turns::Meanwhile| {
        vec![
            ("p50 µs", us(seen, 50.0)),
            ("p99 µs", us(seen, 99.0)),
            ("failed", seen.failures() as f64),
            ("CPU µs each", meanwhile.cpu.busy() * 1e6 / seen.done as f64),
        ]
    };
    Ok(vec![
        Turn { value: rate(&many), more: more(&many, &while_many), latencies: None, meanwhile: while_many },
        Turn {
            value: us(&one, 99.0),
            more: more(&one, &while_one),
            latencies: Some(one.latencies),
            meanwhile: while_one,
        },
    ])
}
