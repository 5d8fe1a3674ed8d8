//! The plug is pulled: what passes while an edge is gone, how it comes back, and what it leaves behind.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{At, World, assert_nothing_in_clear};
use softdpu_testbed::{
    bpf,
    netns::LinkCounter,
    process::{Process, eventually},
    topology::SERVER,
};

/// What the issue allows for traffic to flow again after a start.
const BACK: Duration = Duration::from_secs(2);

fn iperf(world: &World, seconds: u32) -> (Process, Process) {
    let mut server = world.topology.server.command("iperf3");
    let mut server =
        Process::start(server.args(["-s", "-1", "--forceflush"]), &world.folder.file("server.log")).unwrap();
    server.until(common::PATIENCE, |server| server.said().contains("listening")).unwrap();
    let mut client = world.topology.client.command("iperf3");
    client.args(["-c", SERVER[0], "--forceflush", "-i", "0.2", "-t", &seconds.to_string()]);
    let mut client = Process::start(&mut client, &world.folder.file("client.log")).unwrap();
    client.until(common::PATIENCE, |client| client.said().contains("bits/sec")).unwrap();
    (server, client)
}

fn pull_the_plug(at: At) {
    let Some(mut world) = World::running("e2e-kill", |setup| setup.policy.on_loss = "drop") else { return };
    let clear = world.watch_for_clear();
    let (_server, mut client) = iperf(&world, 20);
    std::thread::sleep(Duration::from_millis(700));
    let uplink = |world: &World| world.topology.wire.link_counter("to-a", LinkCounter::RxPackets).unwrap();
    let sent_before = uplink(&world);
    assert!(sent_before > 100, "iperf3 is running: {sent_before} packets so far");
    world.take(at).kill();
    assert!(client.ended().is_none(), "iperf3 still tries:\n{}", client.said());
    // The kernel would forward (ip_forward is on): only the program left in the driver holds the packets back.
    std::thread::sleep(Duration::from_millis(1500));
    let said = world.ping(&["-c", "2", "-i", "0.1", "-W", "0.5", SERVER[0]]);
    assert!(!said.status.success(), "nothing may pass: {}", said.out);

    let start = Instant::now();
    world.start(at);
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    let took = start.elapsed();
    assert!(took <= BACK, "{at:?} is back after {took:?}");
    // The same connection goes on: more bytes, without a new handshake.
    let said = client.said().len();
    let goes_on = eventually(Duration::from_secs(8), || {
        let more = client.said()[said..].to_owned();
        more.lines().any(|line| line.contains("bits/sec") && !line.contains(" 0.00 bits/sec")).then_some(())
    });
    assert!(goes_on.is_some(), "iperf3 stands still:\n{}", client.said());
    assert_nothing_in_clear(&clear.stop().unwrap());
    world.assert_sound();
}

#[test]
fn killing_the_sending_edge_leaks_nothing_and_it_is_back_in_two_seconds() {
    pull_the_plug(At::A);
}

#[test]
fn killing_the_receiving_edge_leaks_nothing_and_it_is_back_in_two_seconds() {
    pull_the_plug(At::B);
}

#[test]
fn sigterm_leaves_nothing_behind() {
    let Some(mut world) = World::running("e2e-term", |_| {}) else { return };
    for at in [At::A, At::B] {
        assert!(!world.no_xdp(at), "attached while it runs");
        let held = bpf::held_by(world.edge(at).id());
        assert!(held.iter().any(|object| matches!(object, bpf::Object::Map(_))), "it holds maps: {held:?}");
        let status = world.take(at).stop().unwrap();
        assert!(status.success(), "{at:?}: {status}");
        assert!(world.no_xdp(at), "{at:?}: a program is still attached");
        assert!(!world.files(at).socket.exists(), "{at:?}: the control socket is still there");
        // The kernel frees programs and maps a little after their last user.
        let gone = eventually(Duration::from_secs(5), || bpf::still_there(&held).unwrap().is_empty().then_some(()));
        assert!(gone.is_some(), "{at:?}: {:?}", bpf::still_there(&held));
    }
}

#[test]
fn the_next_start_after_a_kill_replaces_what_was_left() {
    let Some(mut world) = World::running("e2e-next", |_| {}) else { return };
    let held = bpf::held_by(world.edge(At::A).id());
    world.take(At::A).kill();
    // Starts again over the socket file and the program of the dead one, and a clean end then leaves nothing of either.
    world.start(At::A);
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    world.take(At::A).stop().unwrap();
    assert!(world.no_xdp(At::A));
    let gone = eventually(Duration::from_secs(5), || bpf::still_there(&held).unwrap().is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", bpf::still_there(&held));
}

#[test]
fn a_second_instance_on_the_same_ports_is_refused_and_the_first_goes_on() {
    let Some(mut world) = World::running("e2e-second", |_| {}) else { return };
    let mut command = world.topology.edge_a.exec(common::binary());
    command.arg("run").arg("-c").arg(&world.files(At::A).policy);
    let second = softdpu_testbed::process::run(&mut command, common::PATIENCE).expect("it ends by itself");
    assert!(!second.status.success(), "{second:?}");
    assert!(!second.err.is_empty(), "it says why");
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    assert!(world.edge(At::A).alive());
}

/// Edge A's policy with a change, in a file beside it; runs it and says how it ended.
fn run_changed(world: &World, from: &str, to: &str) -> softdpu_testbed::process::Said {
    let policy = &world.files(At::A).policy;
    let text = std::fs::read_to_string(policy).unwrap();
    assert!(text.contains(from), "{text}");
    let changed = policy.with_file_name("changed.toml");
    std::fs::write(&changed, text.replace(from, to)).unwrap();
    let mut command = world.topology.edge_a.exec(common::binary());
    command.arg("run").arg("-c").arg(&changed);
    softdpu_testbed::process::run(&mut command, common::PATIENCE).expect("it ends by itself")
}

#[test]
fn an_instance_of_another_name_does_not_take_an_interface_over() {
    let Some(mut world) = World::running("e2e-other", |_| {}) else { return };
    let socket = world.files(At::A).socket.display().to_string();
    let other = run_changed(&world, &socket, &format!("{socket}.other"));
    assert!(!other.status.success() && other.err.contains("belongs to a running softdpu"), "{other:?}");
    assert!(!world.no_xdp(At::A), "the first one's program is still there");
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
    world.assert_sound();
}

#[test]
fn a_start_that_fails_leaves_the_protection_it_found() {
    let Some(mut world) = World::running("e2e-failed", |setup| setup.policy.on_loss = "drop") else { return };
    let clear = world.watch_for_clear();
    world.take(At::A).kill();
    // No veth can do zero-copy: the start fails after the program was replaced.
    let failed = run_changed(&world, "name = \"uplink\"\n", "name = \"uplink\"\nzero_copy = \"require\"\n");
    assert!(!failed.status.success(), "{failed:?}");
    assert!(!world.no_xdp(At::A), "the program stays: {failed:?}");
    let said = world.ping(&["-c", "2", "-i", "0.1", "-W", "0.5", SERVER[0]]);
    assert!(!said.status.success(), "nothing may pass: {}", said.out);
    assert_nothing_in_clear(&clear.stop().unwrap());
    world.start(At::A);
    world.topology.reachable(SERVER[0], common::PATIENCE).unwrap();
}

#[test]
fn an_edge_without_traffic_sleeps() {
    let Some(mut world) = World::running("e2e-idle", |_| {}) else { return };
    let pid = world.edge(At::A).id();
    std::thread::sleep(Duration::from_millis(500));
    let busy = || softdpu_testbed::account::process_busy(pid).unwrap();
    let before = busy();
    std::thread::sleep(Duration::from_secs(1));
    // A spinning worker uses all of it; the demo checks the 1 % on a quiet machine.
    let used = busy() - before;
    assert!(used < Duration::from_millis(100), "{used:?} in a second without traffic");
}
