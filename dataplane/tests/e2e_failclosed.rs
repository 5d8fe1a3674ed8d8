//! Nothing that a rule encrypts is ever on the wire in clear, whatever happens to the edges and their keys. All the time a load
//! goes both ways that is full of canaries, both edges' kernels would forward it (ip_forward is on), and a capture has all of
//! the wire.
#![allow(clippy::unwrap_used)]

mod common;
mod failclosed;

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{At, World};
use failclosed::{
    Kind, Load, Trial, alone, assert_no_canary, canaries, escaped,
    hub::{Hub, LEFT, LEFT_NET, RIGHT_NET},
    under_load, watch, watch_link,
};
use softdpu_testbed::{
    bpf,
    process::eventually,
    topology::{CLIENT, CLIENT_NET, SERVER, SERVER_NET},
};

const KINDS: [Kind; 2] = [Kind::Esp, Kind::WireGuard];

fn as_is(_: At, policy: String) -> String {
    policy
}

/// Without its rules.
#[allow(clippy::needless_pass_by_value)] // as `Trial::running` asks
fn unprotected(_: At, policy: String) -> String {
    policy.split("\n[[rule]]").next().unwrap().to_owned()
}

fn nanoseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

#[test]
fn without_a_rule_the_canary_is_on_the_wire() {
    let _alone = alone();
    let Some(trial) = Trial::running("open", Kind::Esp, unprotected) else { return };
    let seen = watch(&trial.world);
    let load = Load::start(&trial.world.topology);
    load.flows("in clear");
    assert!(load.arriving() > 0);
    drop(load);
    assert!(escaped(&seen.stop().unwrap()).len() > 100, "the test would not see an escape");
}

/// Before the first start the kernel forwards, in clear. From the moment the programs are attached nothing more may pass so,
/// sockets or not.
#[test]
fn first_start_under_load() {
    let _alone = alone();
    for kind in KINDS {
        let Some(mut trial) = Trial::idle("start", kind, as_is) else { return };
        let seen = watch(&trial.world);
        let load = Load::start(&trial.world.topology);
        load.flows("by the kernel");
        let attached = |world: &World, at: At| bpf::xdp_attached(world.host(at), "apps").unwrap();
        let mut guarded = 0;
        for at in [At::A, At::B] {
            let started = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let host = trial.world.host(at);
                let name = host.name().to_owned();
                // Looked at from outside, as the start goes on.
                let watcher = scope.spawn({
                    let started = &started;
                    move || {
                        let ip = || {
                            let mut command = std::process::Command::new("ip");
                            command.args(["-n", &name, "-d", "link", "show", "dev", "apps"]);
                            let said = command.output().unwrap();
                            String::from_utf8_lossy(&said.stdout).contains("prog/xdp")
                        };
                        while !ip() && !started.load(Ordering::Relaxed) {}
                        nanoseconds()
                    }
                });
                trial.world.start(at);
                started.store(true, Ordering::Relaxed);
                guarded = watcher.join().unwrap();
            });
            assert!(attached(&trial.world, at));
        }
        load.flows("by the tunnel");
        drop(load);
        trial.losses(&[At::A, At::B]);
        let mut seen = seen.stop().unwrap();
        assert!(escaped(&seen).len() > 10, "the kernel did not forward before");
        seen.frames.retain(|frame| frame.time > guarded);
        assert_no_canary(&seen, 20);
    }
}

#[test]
fn killed_and_started_again() {
    let _alone = alone();
    for kind in KINDS {
        let Some(mut trial) = Trial::running("kill", kind, as_is) else { return };
        under_load(&mut trial, false, |trial, load| {
            for at in [At::A, At::B, At::A, At::B] {
                trial.world.take(at).kill();
                pause(300);
                assert_eq!(load.arriving(), 0, "{kind:?}: what passes while {at:?} is dead?");
                trial.world.start(at);
                load.flows("started again");
            }
        });
    }
}

#[allow(clippy::needless_pass_by_value)] // as `Trial::running` asks
fn short_rings(_: At, policy: String) -> String {
    policy.replace("\nqueues = 1\n", "\nqueues = 1\nring = 64\n")
}

/// A worker that stands still for a second: its rings run full.
#[test]
fn a_worker_that_stands_still() {
    let _alone = alone();
    for kind in KINDS {
        let Some(mut trial) = Trial::running("still", kind, short_rings) else { return };
        under_load(&mut trial, true, |trial, load| {
            for at in [At::A, At::B] {
                let pid = trial.world.edge(at).id() as i32;
                // SAFETY: kill takes numbers; the process is our own child and lives.
                assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
                pause(1000);
                // SAFETY: as above.
                assert_eq!(unsafe { libc::kill(pid, libc::SIGCONT) }, 0);
                load.flows("goes on");
            }
        });
    }
}

#[test]
fn twenty_rekeyings() {
    let _alone = alone();
    let Some(mut trial) = Trial::running("rekey", Kind::WireGuard, as_is) else { return };
    under_load(&mut trial, true, |trial, load| {
        for round in 0..20 {
            let at = if round % 2 == 0 { At::A } else { At::B };
            let name = trial.names[at as usize].clone();
            trial.world.edge(at).verb(&["rekey", &name]).unwrap();
            pause(120);
        }
        load.flows("rekeyed");
    });
}

/// The peer is gone, and then so is every session with it.
#[test]
fn the_peer_is_lost() {
    let _alone = alone();
    for kind in KINDS {
        let Some(mut trial) = Trial::running("peer", kind, as_is) else { return };
        under_load(&mut trial, false, |trial, load| {
            trial.world.take(At::B).kill();
            pause(500);
            if kind == Kind::WireGuard {
                let name = trial.names[0].clone();
                trial.world.edge(At::A).verb(&["rekey", &name]).unwrap();
            }
            pause(500);
            // A new start has no session, and cannot get one.
            trial.world.take(At::A).kill();
            trial.world.start(At::A);
            pause(2500);
            assert_eq!(load.arriving(), 0);
            let lost = trial.losses(&[At::A]);
            if kind == Kind::WireGuard {
                assert!(lost.get("no_session").is_some_and(|count| *count > 0), "{lost:?}");
                assert_eq!(
                    lost.get("neighbour_queue_full"),
                    None,
                    "it is not a neighbour that they wait for: {lost:?}"
                );
            }
            trial.world.start(At::B);
            load.flows("the peer is back");
        });
    }
}

/// Each limit of the lifetime in turn. The flows end, under a name, until both ends are started anew.
#[test]
fn associations_expire() {
    let _alone = alone();
    for limit in ["packets = 2000", "bytes = 500000", "time = \"6s\""] {
        let with_limit = |at: At, policy: String| match at {
            At::A => policy.replace("\nin = {", &format!("\nlifetime = {{ {limit} }}\nin = {{")),
            At::B => policy,
        };
        let Some(mut trial) = Trial::running("expire", Kind::Esp, with_limit) else { return };
        let mut told = false;
        let lost = under_load(&mut trial, true, |trial, load| {
            let notes =
                |trial: &mut Trial| trial.world.edge(At::A).status().unwrap()["tunnels"][0]["notes"].to_string();
            let ended = eventually(Duration::from_secs(20), || {
                let notes = notes(trial);
                told |= notes.contains("nine tenths");
                (notes.contains("out: the keys' lifetime is over") && notes.contains("in: the keys' lifetime is over"))
                    .then_some(())
            });
            assert!(ended.is_some(), "{limit}: {}", notes(trial));
            pause(200);
            assert_eq!(load.arriving(), 0, "{limit}");
            pause(600);
        });
        let said = trial.world.edge(At::A).said();
        assert!(said.contains("the keys' lifetime is over"), "{limit}: {said}");
        assert!(told || said.contains("nine tenths"), "{limit}: {said}");
        // A packet limit is an end of the sequence numbers, too.
        let names = ["sa_expired", "sequence_exhausted"];
        assert!(lost.get(names[0]).is_some_and(|count| *count > 0), "{limit}: {lost:?}");
        assert!(lost.keys().all(|name| names.contains(&name.as_str())), "{limit}: {lost:?}");
    }
}

/// Far more flows than the table holds: they are judged one packet at a time, and encrypted all the same.
#[test]
fn the_flow_table_is_full() {
    let _alone = alone();
    for kind in KINDS {
        let small = |_: At, policy: String| format!("{policy}\n[flows]\ncapacity = 64\n");
        let Some(mut trial) = Trial::running("flows", kind, small) else { return };
        under_load(&mut trial, true, |trial, load| {
            let topology = &trial.world.topology;
            let spray = |from: &softdpu_testbed::netns::NetNs, to: &str| {
                let socket = from.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
                for port in 10_000..14_000u16 {
                    let _ = socket.send_to(&canaries(64), (to, port));
                    if port % 16 == 0 {
                        pause(3);
                    }
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| spray(&topology.client, SERVER[0]));
                scope.spawn(|| spray(&topology.server, CLIENT[0]));
            });
            load.flows("with a full table");
        });
        for at in [At::A, At::B] {
            let status = trial.world.edge(at).status().unwrap();
            assert!(status["workers"][0]["flows"].as_u64().unwrap() <= 64);
            assert!(trial.world.figures(at).packets_encrypted > 4000);
        }
    }
}

/// What `wg` takes away and gives back while traffic flows.
#[test]
fn wireguard_is_reconfigured() {
    let _alone = alone();
    let Some(mut trial) = Trial::running("wgset", Kind::WireGuard, as_is) else { return };
    let keys = trial.keys.clone().unwrap();
    let (mine, theirs) = (keys[0].public.clone(), keys[1].public.clone());
    let (ours, far) = (CLIENT_NET.join(","), SERVER_NET.join(","));
    let lost = under_load(&mut trial, true, |trial, load| {
        for _ in 0..3 {
            trial.wg(At::A, &["peer", &theirs, "remove"]);
            pause(100);
            assert_eq!(load.arriving(), 0, "without the peer");
            trial.wg(At::A, &["peer", &theirs, "allowed-ips", &far, "endpoint", "192.0.2.2:51820"]);
            load.flows("the peer is back");
        }
        for _ in 0..3 {
            trial.wg(At::A, &["peer", &theirs, "allowed-ips", "10.9.0.0/24"]);
            pause(100);
            assert_eq!(load.arriving(), 0, "without allowed IPs");
            trial.wg(At::A, &["peer", &theirs, "allowed-ips", &far]);
            load.flows("allowed again");
        }
        let (public, file) = trial.fresh_key();
        trial.wg(At::A, &["private-key", &file]);
        pause(100);
        assert_eq!(load.arriving(), 0, "the other side does not know this key");
        trial.wg(At::B, &["peer", &mine, "remove"]);
        trial.wg(At::B, &["peer", &public, "allowed-ips", &ours, "endpoint", "192.0.2.1:51820"]);
        load.flows("with the new key");
    });
    assert!(lost.get("no_selector").is_some_and(|count| *count > 0), "{lost:?}");
}

/// Flows that are steered and encrypted by port only. Errors about them quote them.
fn by_port(first: &'static str) -> impl Fn(At, String) -> String {
    move |at, policy| {
        let ports = if at == At::A { "ports" } else { "source_ports" };
        let udp = format!("protocol = \"udp\"\n{ports} = [\"7000-7999\"]\n");
        let (head, rules) = policy.split_once("\n[[rule]]").unwrap();
        let outward = rules.split("\n[[rule]]").next().unwrap();
        let head = head.replace(
            "on_loss = \"drop\"\n\n[[steer]]\nname = \"from-peer\"",
            &format!("{udp}on_loss = \"drop\"\n\n[[steer]]\nname = \"from-peer\""),
        );
        let head = head.replacen("\n[[steer]]", &format!("\n{first}\n[[steer]]"), 1);
        format!("{head}\n[[rule]]{outward}{udp}")
    }
}

/// Datagrams both ways to ports where nobody listens. Returns whether client and server were told so.
fn knock(world: &World) -> [bool; 2] {
    let (client, server) = (&world.topology.client, &world.topology.server);
    let refused = |socket: &UdpSocket| {
        (0..40).any(|_| {
            pause(50);
            let said = |result: std::io::Result<usize>| {
                result.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            };
            said(socket.send(&canaries(200)))
        })
    };
    let one = client.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    one.connect((SERVER[0], 7001)).unwrap();
    let two = server.within(|| Ok(UdpSocket::bind((SERVER[0], 7002))?)).unwrap();
    two.connect((CLIENT[0], 9999)).unwrap();
    [refused(&one), refused(&two)]
}

#[test]
fn icmp_errors_about_flows_that_are_encrypted_by_port() {
    let _alone = alone();
    let Some(mut trial) = Trial::idle("icmp", Kind::Esp, by_port("")) else { return };
    trial.world.start(At::A);
    trial.world.start(At::B);
    let seen = watch(&trial.world);
    assert_eq!(knock(&trial.world), [true, true], "errors come through: {:?}", trial.losses(&[At::A, At::B]));
    assert_no_canary(&seen.stop().unwrap(), 4);
    let status = trial.world.edge(At::A).status().unwrap();
    assert!(status["steer"].to_string().contains("from-apps:icmp"), "{}", status["steer"]);
    trial.losses(&[At::A, At::B]);
    // The operator may insist, is warned, and then it shows.
    let pass = "[[steer]]\nname = \"ping\"\nprotocol = \"icmp\"\naction = \"pass\"\n";
    let Some(mut trial) = Trial::idle("icmpp", Kind::Esp, by_port(pass)) else { return };
    trial.world.start(At::A);
    trial.world.start(At::B);
    let seen = watch(&trial.world);
    assert_eq!(knock(&trial.world), [true, true]);
    assert!(!escaped(&seen.stop().unwrap()).is_empty(), "the test would not see an escape");
}

/// Two peers of a hub reach each other through it, wherever its kernel would route their nets, and neither the wire nor the LAN
/// sees any of it: the rule names no nets, so all that comes out of the tunnel may by it.
#[test]
fn a_hub_between_two_wireguard_peers() {
    let _alone = alone();
    let Some(mut hub) = Hub::running("fc-hub") else { return };
    hub.route("route replace NET via VIA dev apps");
    let (wire, lan) = (watch(&hub.world), watch_link(&hub.world, &hub.world.topology.client, "eth0"));
    let load = hub.load();
    load.flows("the nets are routed to the LAN");
    hub.route("route del NET");
    load.flows("there is no route");
    hub.world.topology.edge_a.ip("route add default via 10.1.0.2 dev apps").unwrap();
    hub.world.topology.edge_a.ip("-6 route add default via fd01::2 dev apps").unwrap();
    load.flows("by default to the LAN");
    hub.route("route add NET dev uplink");
    load.flows("the nets are routed to the wire");
    let wg = |words: &[&str]| {
        let mut command = std::process::Command::new("wg");
        command.arg("set").arg(&hub.name).arg("peer").arg(&hub.keys[1]).args(words);
        softdpu_testbed::process::run(&mut command, common::PATIENCE).unwrap().ok().unwrap();
    };
    // No peer's: by the port that it came by it must not leave in clear.
    wg(&["allowed-ips", "10.9.0.0/24"]);
    pause(100);
    assert_eq!(load.arriving(), 0, "neither allowed to send nor to receive");
    wg(&["allowed-ips", &RIGHT_NET.join(",")]);
    load.flows("allowed again");
    hub.route("route replace NET via VIA dev apps");
    for _ in 0..5 {
        hub.world.edge(At::A).verb(&["rekey", &hub.name]).unwrap();
        pause(200);
    }
    load.flows("rekeyed");
    let drops = hub.world.figures(At::A).drops_by_reason;
    assert!(drops.get("same_port").is_some_and(|count| *count > 0), "{drops:?}");
    hub.world.take(At::A).kill();
    pause(300);
    assert_eq!(load.arriving(), 0, "what passes while the hub is dead?");
    hub.world.start(At::A);
    load.flows("started again");
    hub.world.topology.reachable(LEFT[0], common::PATIENCE).unwrap();
    drop(load);
    assert_no_canary(&wire.stop().unwrap(), 1000);
    assert_no_canary(&lan.stop().unwrap(), 2);
    let status = hub.world.edge(At::A).status().unwrap();
    assert_eq!(status["escaped_bytes"], 0);
    let drops = hub.world.figures(At::A).drops_by_reason;
    assert_eq!(drops.get("same_port"), None, "{drops:?}");

    // A longer prefix is the operator's word that part of the net is here: then it shows.
    let lan = watch_link(&hub.world, &hub.world.topology.client, "eth0");
    let load = hub.load();
    load.flows("as before");
    for net in [LEFT_NET[0], RIGHT_NET[0]].map(|net| net.replace("/24", "/25")) {
        hub.world.topology.edge_a.ip(&format!("route add {net} via 10.1.0.2 dev apps")).unwrap();
    }
    pause(500);
    drop(load);
    assert!(escaped(&lan.stop().unwrap()).len() > 10, "the test would not see an escape");
}
