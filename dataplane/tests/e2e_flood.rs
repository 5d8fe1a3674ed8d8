//! Floods and bad packets against a WireGuard tunnel that carries traffic: it goes on, memory stays bounded, and every packet is
//! counted under a name.
#![allow(clippy::unwrap_used)]

mod common;
mod failclosed;
mod flood;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    net::UdpSocket,
    time::{Duration, Instant},
};

use common::{At, PATIENCE};
use failclosed::{Kind, Load, Trial, alone, assert_no_canary, watch};
use flood::{EDGE_B, Floods, INITIATION, PORT, Random, SINK, Stranger, Target};
use softdpu::rig::stats::{ratios, summary};
use softdpu_testbed::{
    account::machine_busy,
    capture::Capture,
    peers::probe::Iperf,
    process::{self, eventually},
    topology::EDGE_A_APPS,
};

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// What edge-a counts: drops of its workers and messages on the control side.
fn counts(trial: &mut Trial) -> BTreeMap<String, u64> {
    let status = trial.world.edge(At::A).status().unwrap();
    let mut counts = trial.world.figures(At::A).drops_by_reason;
    for (name, count) in status["wireguard_messages"].as_object().unwrap() {
        counts.insert(format!("message {name}"), count.as_u64().unwrap());
    }
    counts
}

fn since(before: &BTreeMap<String, u64>, after: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = after.into_iter().map(|(name, count)| {
        let was = before.get(&name).copied().unwrap_or(0);
        (name, count - was)
    });
    more.filter(|(_, count)| *count > 0).collect()
}

/// The policy with an address to listen at, so that fragments are steered too.
#[allow(clippy::needless_pass_by_value)] // as `Trial::running` asks
fn with_local(at: At, policy: String) -> String {
    let local = if at == At::A { "192.0.2.1" } else { "192.0.2.2" };
    policy.replace("type = \"wireguard\"\n", &format!("type = \"wireguard\"\nlocal = \"{local}\"\n"))
}

/// The same, and what goes to [`SINK`] is dropped in the driver: a flood that costs no more than its making.
fn with_sink(at: At, policy: String) -> String {
    let sink = format!("\n[[steer]]\nname = \"sink\"\nprotocol = \"udp\"\nports = [{SINK}]\naction = \"drop\"\n");
    with_local(at, policy).replacen("\n[[tunnel]]", &format!("{sink}\n[[tunnel]]"), 1)
}

/// Bogus handshakes, 100,000 a second. `what_a_flood_costs` says what they cost.
#[test]
fn a_flood_of_handshakes() {
    let _alone = alone();
    let Some(mut trial) = Trial::running("flood", Kind::WireGuard, with_sink) else { return };
    let floods = Floods::new(&Stranger::new(&trial), &trial.world.topology.wire);
    let iperf = Iperf::start(&trial.world.topology, &trial.world.folder).unwrap();
    let tcp = |trial: &Trial| iperf.tcp(&trial.world.topology, false, false, Duration::from_secs(2)).unwrap().gbit_s;
    let quiet = tcp(&trial);
    let pid = trial.world.edge(At::A).id();
    let (memory, before) = (resident(pid), counts(&mut trial));
    let started = Instant::now();
    let ((flooded, most), sent) = floods.during(Target::Edge, || {
        let flooded = tcp(&trial);
        // The tunnel also renews its keys under it.
        let name = trial.names[0].clone();
        let renewed = eventually(Duration::from_secs(25), || {
            trial.world.edge(At::A).verb(&["rekey", &name]).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            since(&before, counts(&mut trial)).contains_key("message response").then_some(())
        });
        assert!(renewed.is_some(), "no new session under the flood: {:?}", since(&before, counts(&mut trial)));
        (flooded, resident(pid))
    });
    let took = started.elapsed();
    // The last of them are still on their way.
    std::thread::sleep(Duration::from_secs(1));
    let counted = since(&before, counts(&mut trial));
    eprintln!(
        "  {sent} bogus handshakes, {:.0} a second; TCP {quiet:.2} Gbit/s without, {flooded:.2} with them; {} KiB more\n  {counted:?}",
        sent as f64 / took.as_secs_f64(),
        most.saturating_sub(memory) >> 10,
    );
    let of = |name: &str| counted.get(name).copied().unwrap_or(0);
    // Each is with the control side, or was one too many for it; those that the ring had no room for are the kernel's.
    let worker = of("handshake") + of("handshake_flood");
    let seen = worker + of("rx_ring_full") + of("rx_no_frame");
    assert!(worker > 1000 && seen >= sent * 95 / 100, "{seen} of {sent}: {counted:?}");
    // Port 4500, which other frames of the flood come from, makes no ESP of what is for a WireGuard tunnel.
    assert_eq!(of("for_this_host") + of("no_sa"), 0, "{counted:?}");
    assert!(of("message bad_mac") > 0, "{counted:?}");
    assert!(of("message cookie_sent") + of("message busy") > 0, "under load a cookie is asked for: {counted:?}");
    assert!(most.saturating_sub(memory) < 64 << 20, "{memory} bytes became {most}");
    trial.world.topology.reachable("10.2.0.2", PATIENCE).unwrap();
    trial.world.assert_sound();
}

/// What a flood of 100,000 bogus handshakes a second leaves a tunnel, beside what the same flood leaves it where the driver drops
/// it, and beside none. `SOFTDPU_FLOOD_ROUNDS` rounds (7), each of the three for 3 s, in turns. Then the flood alone, and whose
/// processor time it takes.
#[test]
#[ignore = "measures, for a machine at rest and a release build"]
fn what_a_flood_costs() {
    let _alone = alone();
    let Some(mut trial) = Trial::running("cost", Kind::WireGuard, with_sink) else { return };
    let floods = Floods::new(&Stranger::new(&trial), &trial.world.topology.wire);
    let iperf = Iperf::start(&trial.world.topology, &trial.world.folder).unwrap();
    let tcp = || iperf.tcp(&trial.world.topology, false, false, Duration::from_secs(3)).unwrap().gbit_s;
    let rounds = std::env::var("SOFTDPU_FLOOD_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    let mut found: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        for turn in 0..3 {
            let which = (turn + round) % 3;
            found[which].push(match which {
                0 => tcp(),
                1 => floods.during(Target::Nowhere, tcp).0,
                _ => floods.during(Target::Edge, tcp).0,
            });
        }
        let [quiet, nowhere, flood] = found.each_ref().map(|all| all[round]);
        eprintln!(
            "  round {round}: {quiet:.2} Gbit/s, {nowhere:.2} with a flood that the driver drops, {flood:.2} with a flood"
        );
    }
    let say = |what: &str, a: &[f64], b: &[f64]| {
        let Some(s) = summary(&ratios(a, b)) else { return };
        let (median, q1, q3, min, max) = (s.median, s.q1, s.q3, s.min, s.max);
        eprintln!("  {what}: median {median:.3}, quartiles {q1:.3} and {q3:.3}, all from {min:.3} to {max:.3}");
    };
    say("dropped in the driver / quiet", &found[1], &found[0]);
    say("flood / quiet", &found[2], &found[0]);
    say("flood / dropped in the driver", &found[2], &found[1]);
    eprintln!("  load {}", fs::read_to_string("/proc/loadavg").unwrap().trim());
    let pid = trial.world.edge(At::A).id();
    for target in [Target::Nowhere, Target::Edge] {
        let (ours, sent) = floods.during(target, || {
            let before = (machine_busy().unwrap(), busy(pid), busy(std::process::id()));
            std::thread::sleep(Duration::from_secs(3));
            let mut ours = since(&before.1, busy(pid));
            ours.extend(since(&before.2, busy(std::process::id())));
            ours.insert("machine".into(), (machine_busy().unwrap() - before.0).as_nanos() as u64);
            ours
        });
        let each: Vec<String> = ours.iter().map(|(name, ns)| format!("{name} {:.1}", *ns as f64 / 3e6)).collect();
        eprintln!(
            "  {target:?} alone, {sent} in all, process {pid}; ms of processor time a second: {}",
            each.join(", ")
        );
    }
}

/// Processor time of a process by the names of its threads, ns.
fn busy(pid: u32) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let read = |what: &str| fs::read_to_string(task.as_ref().unwrap().path().join(what));
        let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else { continue };
        *all.entry(name.trim().to_owned()).or_default() +=
            stat.split_whitespace().next().unwrap().parse::<u64>().unwrap();
    }
    all
}

/// One kind of bad packet: all of them are counted under one of these names, and the tunnel goes on.
fn refused(trial: &mut Trial, stranger: &Stranger, what: &str, frames: &[Vec<u8>], names: &[&str]) {
    let before = counts(trial);
    // No more at once than a ring takes.
    let mut sent = 0;
    for some in frames.chunks(128) {
        sent += stranger.send(some);
        std::thread::sleep(Duration::from_millis(20));
    }
    let sum = |trial: &mut Trial| {
        let counted = since(&before, counts(trial));
        (names.iter().map(|name| counted.get(*name).copied().unwrap_or(0)).sum::<u64>(), counted)
    };
    let all = eventually(PATIENCE, || (sum(trial).0 >= sent).then_some(()));
    let counted = sum(trial);
    eprintln!("  {what}: {sent} sent, {:?}", counted.1);
    assert!(all.is_some() && sent == frames.len() as u64, "{what}: {sent} of {} sent, {counted:?}", frames.len());
}

#[test]
fn bad_packets_have_names() {
    let _alone = alone();
    let Some(mut trial) = Trial::running("bad", Kind::WireGuard, with_local) else { return };
    let stranger = Stranger::new(&trial);
    let seen = watch(&trial.world);
    // Real transport messages to edge-a, to spoil. What raw sockets see must be whole, checksum included.
    let filter = "src host 192.0.2.2 and udp dst port 51820 and udp[8:4] = 0x04000000 and udp[4:2] > 60";
    let capture = Capture::start(&trial.world.topology.wire, "wire", filter, 2048, 0, &trial.world.folder).unwrap();
    let load = Load::start(&trial.world.topology);
    load.flows("before");
    let real: Vec<Vec<u8>> = capture.stop().unwrap().frames.into_iter().map(|frame| frame.bytes).take(500).collect();
    assert!(real.len() > 50);
    let payload = |frame: &Vec<u8>| frame[42..].to_vec();
    let again = |payload: Vec<u8>| stranger.frame(EDGE_B, PORT, &payload);
    let mut random = Random(77);
    let pid = trial.world.edge(At::A).id();
    let memory = resident(pid);

    refused(&mut trial, &stranger, "replayed", &real, &["replay"]);
    let flipped: Vec<Vec<u8>> = real
        .iter()
        .map(|frame| {
            let mut bytes = payload(frame);
            // A counter far ahead, so that it is not refused as a replay.
            bytes[12] = 1;
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            again(bytes)
        })
        .collect();
    refused(&mut trial, &stranger, "tampered with", &flipped, &["bad_icv"]);
    let unknown: Vec<Vec<u8>> = (0..200)
        .map(|_| {
            let mut bytes = random.bytes(200);
            bytes[..4].copy_from_slice(&[4, 0, 0, 0]);
            again(bytes)
        })
        .collect();
    refused(&mut trial, &stranger, "of an unknown session", &unknown, &["no_sa"]);
    let short = |kind: u8, lengths: std::ops::Range<usize>, random: &mut Random| -> Vec<Vec<u8>> {
        let one = |length: usize| {
            let mut bytes = random.bytes(length);
            let head = [kind, 0, 0, 0];
            let n = length.min(4);
            bytes[..n].copy_from_slice(&head[..n]);
            again(bytes)
        };
        lengths.map(one).collect()
    };
    let cut: Vec<Vec<u8>> = (8..32).map(|length| again(payload(&real[0])[..length].to_vec())).collect();
    refused(&mut trial, &stranger, "transport cut off", &cut, &["esp_short", "not_wireguard", "no_sa"]);
    let cut = short(1, 0..INITIATION, &mut random);
    let names = ["not_wireguard", "handshake"];
    refused(&mut trial, &stranger, "initiations cut off", &cut, &names);
    let long = short(1, INITIATION + 1..1400, &mut random);
    refused(&mut trial, &stranger, "initiations that are too long", &long, &["not_wireguard"]);
    for kind in [0, 5, 255] {
        let odd = short(kind, 100..200, &mut random);
        refused(&mut trial, &stranger, "of no known type", &odd, &["not_wireguard"]);
    }
    let keyless: Vec<Vec<u8>> = (0..100).map(|_| again(stranger.bogus(&mut random, false))).collect();
    refused(&mut trial, &stranger, "handshakes without the key", &keyless, &["message bad_mac"]);
    let noise: Vec<Vec<u8>> = (0..100).map(|_| again(stranger.bogus(&mut random, true))).collect();
    // Without load somebody looks at them; with it they are asked for a cookie.
    let names = ["message unauthentic", "message cookie_sent"];
    refused(&mut trial, &stranger, "handshakes with the key, of nobody", &noise, &names);
    fragments(&mut trial, &stranger, &mut random);
    nested(&mut trial, &payload(&real[0]));

    load.flows("after all of it");
    drop(load);
    let grown = resident(pid).saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes more");
    trial.losses(&[At::A, At::B]);
    trial.world.assert_sound();
    assert_no_canary(&seen.stop().unwrap(), 1000);
}

/// First fragments whose rest never comes: bounded, and counted when they make room or their time is over.
fn fragments(trial: &mut Trial, stranger: &Stranger, random: &mut Random) {
    let before = counts(trial);
    let frames: Vec<Vec<u8>> = (0..3000u16)
        .map(|id| {
            let mut bytes = random.bytes(256);
            bytes[..4].copy_from_slice(&[4, 0, 0, 0]);
            let mut frame = stranger.frame([198, 51, (id >> 8) as u8, id as u8], PORT, &bytes);
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            // More fragments follow.
            frame[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
            frame[24..26].fill(0);
            let sum = softdpu::wire::checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
            frame
        })
        .collect();
    let mut sent = 0;
    for some in frames.chunks(64) {
        sent += stranger.send(some);
        std::thread::sleep(Duration::from_millis(10));
    }
    let named = |trial: &mut Trial| {
        let counted = since(&before, counts(trial));
        let of = |name: &str| counted.get(name).copied().unwrap_or(0);
        (of("reassembly_full") + of("reassembly_timeout"), counted)
    };
    // All but those that may wait.
    let most = eventually(PATIENCE, || (named(trial).0 + 64 >= sent).then_some(()));
    assert!(most.is_some(), "{sent} sent, {:?}", named(trial));
    let rest = eventually(Duration::from_secs(40), || {
        std::thread::sleep(Duration::from_millis(500));
        (named(trial).0 >= sent).then_some(())
    });
    eprintln!("  fragments forever: {sent} sent, {:?}", named(trial).1);
    assert!(rest.is_some(), "{sent} sent, {:?}", named(trial));
}

/// A packet of the tunnel that comes through the tunnel. Its inner address is edge-a's own, on the protected side.
fn nested(trial: &mut Trial, message: &[u8]) {
    let before = counts(trial);
    let topology = &trial.world.topology;
    let socket = topology.server.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    for _ in 0..50 {
        socket.send_to(message, (EDGE_A_APPS[0], PORT)).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let all = eventually(PATIENCE, || {
        let counted = since(&before, counts(trial));
        (counted.get("for_this_host").copied().unwrap_or(0) >= 50).then_some(())
    });
    eprintln!("  in itself: 50 sent, {:?}", since(&before, counts(trial)));
    assert!(all.is_some(), "{:?}", since(&before, counts(trial)));
    assert!(process::eventually(PATIENCE, || trial.world.edge(At::A).alive().then_some(())).is_some());
}
