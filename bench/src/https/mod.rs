//! HTTPS: wrk's requests to an nginx, over connections that stay, for a small object and a large one.

mod server;
mod wrk;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::path::contenders::{self as path, Contender, Flow, TCP};
use crate::path::turns::{self, At, Rig, Turn};
use crate::path::{find, not_installed};
use crate::report::{Section, Target};
use crate::stop;
use server::{Files, Nginx, PORT};
use wrk::Load;

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

const FLOWS: [Flow; 1] = [Flow { protocol: TCP, client_port: 0, server_port: PORT }];
/// Section, object, its bytes, title.
const OBJECTS: [(&str, &str, usize, &str); 2] = [
    ("https-1k", "1k", 1 << 10, "HTTPS requests for 1 KiB, by wrk"),
    ("https-100k", "100k", 100 << 10, "HTTPS requests for 100 KiB, by wrk"),
];
const CONNECTIONS: usize = 16;
/// How long a contender may take until it lets requests by.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Options {
    pub rig: Rig,
    pub warm_up: Duration,
    pub turn: Duration,
}

/// Runs all. Without wrk or nginx nothing is measured, and the sections say so.
///
/// # Errors
/// As [`turns::run`].
pub fn run(options: &Options) -> Result<(Vec<Section>, Vec<Target>)> {
    let mut sections = OBJECTS.map(|(name, .., title)| Section::new(name, title, "requests/s"));
    let needed = [("wrk", wrk::PACKAGE), ("nginx", server::PACKAGE), ("openssl", "openssl")];
    if let Some((program, package)) = needed.iter().find(|(program, _)| find(program).is_none()) {
        turns::none(&mut sections, &CONTENDERS, &not_installed(program, package));
        return Ok((sections.into(), Vec::new()));
    }
    let files = Files::new(&OBJECTS.map(|(_, name, size, _)| (name, size)))?;
    turns::run(&options.rig, &CONTENDERS, &FLOWS, ['q', 'r'], "a request", &mut sections, |at| {
        turn(at, &files, options)
    })?;
    for s in &mut sections {
        for (over, under) in [
            ("worker", "kernel"),
            ("classify", "worker"),
            ("xdp", "kernel-whole"),
            ("nftables", "kernel"),
            ("worker", "haproxy"),
            ("worker", "direct"),
        ] {
            s.ratio(over, under);
        }
        let notes = [
            format!(
                "TLS 1.3, {CONNECTIONS} connections that stay, {:.1} s a turn; wrk and nginx share core {}, the thing under test has core {}.",
                options.turn.as_secs_f64(),
                options.rig.client_core,
                options.rig.dut_core
            ),
            "Before each turn every body was compared with the server's file; in the turn the bytes of all answers must be those of so many \
             answers, and must have come over the server's interface. errors: connections, reads, writes and timeouts as wrk counts them."
                .into(),
            "direct: what wrk and nginx can do at all; it is the limit of every row. CPU is of the whole machine, wrk and nginx included. \
             wrk waits for each answer before it asks again, so its percentiles are with all connections busy."
                .into(),
        ];
        s.notes.splice(0..0, notes);
    }
    Ok((sections.into(), Vec::new()))
}

/// Waits until a connection can be made: an instance answers on its socket before its ports are attached.
fn reachable(at: &At<'_>) -> Result<()> {
    let patience = Instant::now() + PATIENCE;
    let to = (at.server, PORT).into();
    let connect = || Ok(TcpStream::connect_timeout(&to, Duration::from_millis(100))?);
    while let Err(e) = at.hosts.topology.source.run(connect) {
        if Instant::now() > patience || stop::asked() {
            return Err(e.context("no connection to the server"));
        }
    }
    Ok(())
}

fn turn(at: &At<'_>, files: &Files, options: &Options) -> Result<Vec<Turn>> {
    let t = &at.hosts.topology;
    let core = at.rig.client_core;
    let _nginx = Nginx::start(&t.sink, files, core)?;
    reachable(at)?;
    let mut turns = Vec::new();
    for (_, object, size, _) in OBJECTS {
        let file = files.object(object);
        let load = |time, compare| {
            let load = Load { server: at.server, object, connections: CONNECTIONS, time, compare, core };
            wrk::run(&t.source, files.folder(), &load)
        };
        let warm = load(options.warm_up, Some(&file))?;
        warm.check(size as u64, CONNECTIONS as u64)?;
        ensure!(warm.compared >= warm.requests, "{} of {} bodies were compared", warm.compared, warm.requests);
        let (seen, meanwhile) = at.watch(|| load(options.turn, None))?;
        seen.check(size as u64, CONNECTIONS as u64)?;
        let bytes = seen.requests * size as u64;
        ensure!(meanwhile.bytes_out >= bytes, "{} bytes left the server, {bytes} were read", meanwhile.bytes_out);
        let gb = bytes as f64 / 1e9;
        turns.push(Turn {
            value: seen.requests as f64 / seen.seconds(),
            more: vec![
                ("p50 µs", seen.p50_us as f64),
                ("p99 µs", seen.p99_us as f64),
                ("errors", seen.errors() as f64),
                ("Gbit/s", 8.0 * gb / seen.seconds()),
                ("CPU µs each", meanwhile.cpu.busy() * 1e6 / seen.requests as f64),
                ("CPU s/GB", meanwhile.cpu.busy() / gb),
            ],
            latencies: None,
            meanwhile,
        });
    }
    Ok(turns)
}
