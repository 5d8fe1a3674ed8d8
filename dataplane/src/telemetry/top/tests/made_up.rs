//! An instance made up for the tests: an edge with two ports, three intents and a WireGuard tunnel.

use std::sync::Arc;
use std::time::Duration;

use super::super::Options;
use super::super::app::App;
use super::super::sample::{Flows, Sample};
use crate::control::{
    DropCount, FlowInfo, PeerStatus, PortStatus, Status, TierStatus, TunnelStatus, WorkerStatus, XdpVerdict,
};
use crate::plan::contract::{Contract, Outcome, Verdict};
use crate::telemetry::snapshot::{
    ClassTraffic, DropTraffic, Frames, PortTraffic, QueueTraffic, RuleTraffic, Snapshot, Traffic, TunnelTraffic,
    WorkerLoop,
};

/// After `n` seconds.
pub fn sample(n: u64) -> Sample {
    let mut sample = Sample {
        taken: n as f64,
        status: status(n),
        counters: counters(n),
        contract: Arc::new(contract()),
        flows: Some(flows(n)),
    };
    sample.status.uptime_s = 200.0 + n as f64;
    sample
}

pub fn options() -> Options {
    Options { interval: Duration::from_secs(1), tab: None, filter: String::new(), flows: 2000, colour: true }
}

/// After `looks` looks.
pub fn app(looks: u64) -> App {
    let mut app = App::new(&options());
    (0..looks).for_each(|n| app.take(sample(n)));
    app
}

fn traffic(packets: u64, size: u64) -> Traffic {
    Traffic { packets, bytes: packets * size }
}

/// Something that goes up and down, summed.
fn wave(n: u64) -> u64 {
    (0..n).map(|at| [10, 35, 60, 85, 100, 85, 60, 35][(at % 8) as usize]).sum::<u64>() * 10_000
}

fn counters(n: u64) -> Snapshot {
    let queue = |queue: u32, packets: u64| QueueTraffic {
        queue,
        worker: queue as usize,
        rx: traffic(packets, 700),
        tx: traffic(packets, 100),
        ..Default::default()
    };
    let port = |name: &str, rx: u64, tx: u64| PortTraffic {
        name: name.into(),
        rx: traffic(rx, 700),
        tx: traffic(tx, 100),
        rx_ring_full: n * 3,
        queues: vec![queue(0, rx / 2), queue(1, rx - rx / 2)],
        ..PortTraffic::default()
    };
    let rule = |name: &str, packets: u64, sealed: u64, dropped: u64| RuleTraffic {
        name: name.into(),
        packets,
        bytes: packets * 500,
        sealed: traffic(sealed, 500),
        dropped,
        ..RuleTraffic::default()
    };
    let worker = |at: usize| WorkerLoop {
        worker: at,
        batches: n * 20_000,
        packets: n * 400_000,
        idle: n * 100,
        polls: n * 50,
        busy_ns: n * (200_000_000 + 740_000_000 * at as u64),
        flows: 1200,
        frames: Frames { total: 8192, free: 6000, ..Frames::default() },
        ..WorkerLoop::default()
    };
    Snapshot {
        ports: vec![port("apps", wave(n), wave(n) / 2), port("uplink", wave(n) / 2, wave(n))],
        rules: vec![
            rule("payments", n * 1000, n * 1000, 0),
            rule("backups", n * 9000, 0, n * 9000),
            rule("video", n * 40, 0, 0),
        ],
        tunnels: vec![TunnelTraffic {
            name: "to-b".into(),
            sealed: traffic(n * 1000, 500),
            opened: traffic(n * 900, 500),
            ..TunnelTraffic::default()
        }],
        applications: vec![ClassTraffic { name: "web-shop".into(), flows: 7, packets: n * 70, bytes: n * 7000 }],
        drops: vec![DropTraffic { reason: "policy_drop".into(), packets: n * 9000 }],
        workers: vec![worker(0), worker(1)],
        ..Snapshot::default()
    }
}

fn status(n: u64) -> Status {
    let port = |name: &str| PortStatus {
        name: name.into(),
        kind: "xdp".into(),
        interface: Some(format!("eth-{name}")),
        mode: Some("native".into()),
        copy: Some("zero-copy".into()),
        queues: 2,
        ..PortStatus::default()
    };
    let tier = |tier: &str, packets: u64, flows| TierStatus { tier: tier.into(), packets, bytes: packets * 400, flows };
    let drop = |reason: &str, node: &str, count: u64, help: &str| DropCount {
        reason: reason.into(),
        node: node.into(),
        count,
        help: help.into(),
    };
    Status {
        name: "edge-a".into(),
        version: "0.1.0".into(),
        pid: 4711,
        ports: vec![port("apps"), port("uplink")],
        workers: [0, 1]
            .map(|worker| WorkerStatus {
                worker,
                core: Some(worker + 2),
                state: "running".into(),
                ..Default::default()
            })
            .into(),
        tunnels: vec![TunnelStatus {
            name: "to-b".into(),
            kind: "wireguard".into(),
            local: "192.0.2.1:51820".into(),
            cipher: "chacha20-poly1305".into(),
            peers: vec![PeerStatus {
                name: "edge-b".into(),
                public_key: "kEyKeYkEy".into(),
                endpoint: Some("192.0.2.2:51820".into()),
                // A handshake after the second look.
                last_handshake_s: Some(if n < 2 { 119.0 + n as f64 } else { n as f64 - 1.5 }),
                sent_bytes: n * 560_000,
                received_bytes: n * 500_000,
                ..PeerStatus::default()
            }],
            ..TunnelStatus::default()
        }],
        tiers: vec![
            tier("nic", 0, Some(0)),
            tier("xdp", n * 900_000, Some(310)),
            tier("worker", n * 100_000, Some(2090)),
            tier("kernel", n * 12, None),
        ],
        xdp: vec![
            XdpVerdict { verdict: "worker".into(), packets: n * 100_000, bytes: n * 40_000_000 },
            XdpVerdict { verdict: "flow_forward".into(), packets: n * 900_000, bytes: n * 360_000_000 },
        ],
        drops: vec![
            drop("ttl", "icmp", 3, "The hop limit ran out: a loop, or traceroute."),
            drop("policy_drop", "policy", n * 9000, "A rule with `action = \"drop\"`, or an intent that is refused."),
            drop("never", "policy", 0, "Nothing was counted."),
        ],
        ..Status::default()
    }
}

fn contract() -> Contract {
    let intent = |name: &str, encrypt: &str, verdict, tunnel: Option<&str>| Outcome {
        name: name.into(),
        owner: format!("{name} team").into(),
        encrypt: encrypt.into(),
        verdict,
        tier: (verdict != Verdict::Refused).then(|| "worker".to_owned()),
        tunnel: tunnel.map(str::to_owned),
        rules: vec![name.into()],
        ..Outcome::default()
    };
    Contract {
        name: "edge-a".into(),
        intents: vec![
            intent("payments", "required", Verdict::Met, Some("to-b")),
            intent("backups", "required", Verdict::Refused, None),
            intent("video", "never", Verdict::Degraded, None),
        ],
        ..Contract::default()
    }
}

fn flows(n: u64) -> Flows {
    let flow = |id: u64, host: &str, tier: &str| FlowInfo {
        id: format!("0:{id}"),
        l4: "tcp".into(),
        a: format!("10.1.0.2:{}", 40_000 + id),
        b: "10.2.0.2:443".into(),
        class: "tls".into(),
        host: Some(host.into()),
        tier: tier.into(),
        packets_ab: n * id * 100,
        bytes_ab: n * id * 50_000,
        rule: Some("payments".into()),
        ..FlowInfo::default()
    };
    let list =
        vec![flow(1, "small.example", "worker"), flow(9, "large.example", "xdp"), flow(4, "evil\x1b[2J", "worker")];
    Flows { list, more: true, taken: n as f64 }
}
