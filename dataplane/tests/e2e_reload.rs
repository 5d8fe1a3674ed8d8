//! Another policy while packets flow: none is lost, none goes by half of one, and what does not do is not taken up.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::time::Duration;

use common::{At, PATIENCE, World, assert_nothing_in_clear};
use serde_json::Value;
use softdpu_testbed::process::eventually;
use softdpu_testbed::topology::SERVER;

/// The policy of edge A as it was written, with other rules before its own.
struct Text {
    own: String,
}

impl Text {
    fn of(world: &World) -> Self {
        Self { own: std::fs::read_to_string(&world.files(At::A).policy).unwrap() }
    }

    /// `before` goes in front of the first rule, `[apply]` behind the name.
    fn with(&self, world: &World, apply: &str, before: &str) {
        let at = self.own.find("[[rule]]").unwrap();
        let head = self.own.find('[').unwrap();
        let (top, middle, end) = (&self.own[..head], &self.own[head..at], &self.own[at..]);
        std::fs::write(&world.files(At::A).policy, format!("{top}{apply}\n{middle}{before}{end}")).unwrap();
    }
}

fn rules(count: usize, round: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let (a, b) = (n / 250, n % 250);
        writeln!(
            text,
            "[[rule]]\nname = \"r{n}\"\nfrom = [\"10.1.0.2/32\"]\nto = [\"203.{a}.{b}.{}/32\"]\nprotocol = \"tcp\"\naction = \"drop\"",
            round % 250
        )
        .unwrap();
    }
    text
}

/// Runs of missing numbers: first and last.
fn gaps(lost: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for n in lost {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => runs.push((*n, *n)),
        }
    }
    runs.truncate(30);
    runs
}

fn json(world: &mut World, words: &[&str]) -> Value {
    serde_json::from_str(&world.edge(At::A).verb(words).unwrap()).unwrap()
}

fn reload(world: &mut World) -> Value {
    json(world, &["reload", "--json"])
}

/// A reload that is refused: what is said about it.
fn refused(world: &mut World) -> String {
    format!("{:#}", world.edge(At::A).verb(&["reload"]).unwrap_err())
}

#[test]
fn a_hundred_policies_and_not_a_packet_lost() {
    let Some(mut world) = World::running("e2e-reload", |_| {}) else { return };
    let text = Text::of(&world);
    let clear = world.watch_for_clear();
    let receiver = world.topology.server.within(|| Ok(UdpSocket::bind((SERVER[0], 7000))?)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let sender = world.topology.client.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    sender.connect((SERVER[0], 7000)).unwrap();
    let receive = std::thread::spawn(move || {
        let (mut got, mut buffer) = (HashSet::new(), [0; 64]);
        while receiver.recv_from(&mut buffer).is_ok() {
            got.insert(u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]));
        }
        got
    });
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = done.clone();
    let send = std::thread::spawn(move || {
        let mut n = 0_u32;
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            sender.send(&n.to_be_bytes()).unwrap();
            n += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
        n
    });
    for round in 1..=100 {
        text.with(&world, "", &rules(200, round));
        let report = reload(&mut world);
        assert_eq!((&report["applied"], &report["plan"]), (&true.into(), &(round + 1).into()), "{report}");
        assert_eq!(report["changes"].as_array().unwrap().len(), 200, "{report}");
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let (sent, got) = (send.join().unwrap(), receive.join().unwrap());
    assert!(sent > 1000, "{sent} sent");
    let lost: Vec<u32> = (0..sent).filter(|n| !got.contains(n)).collect();
    let drops = [At::A, At::B].map(|at| world.figures(at).unexplained());
    assert!(lost.is_empty(), "{} of {sent} lost: {:?}; dropped {drops:?}", lost.len(), gaps(&lost));
    assert_nothing_in_clear(&clear.stop().unwrap());
    // The rule that every plan had has counted them all.
    let status = world.edge(At::A).status().unwrap();
    let counted: u64 = status["rules"].as_array().unwrap().iter().map(|r| r["packets"].as_u64().unwrap()).sum();
    assert!(counted >= u64::from(sent), "{counted} of {sent}");
    assert_eq!(json(&mut world, &["history", "--json"])[0]["plan"], 101);
    world.assert_sound();
}

#[test]
fn a_rule_holds_from_its_reload_on_and_is_taken_back() {
    let Some(mut world) = World::running("e2e-reload-rule", |_| {}) else { return };
    let text = Text::of(&world);
    let answers = |world: &World| world.ping(&["-c", "1", "-W", "1", SERVER[0]]).status.success();
    assert!(answers(&world));
    text.with(&world, "", "[[rule]]\nname = \"no-ping\"\nprotocol = \"icmp\"\naction = \"drop\"\n");
    let dry = json(&mut world, &["reload", "--dry-run", "--json"]);
    assert_eq!((&dry["applied"], &dry["changes"][0]["name"]), (&false.into(), &"no-ping".into()), "{dry}");
    assert!(answers(&world), "a dry run changes nothing");
    assert_eq!(reload(&mut world)["applied"], true);
    assert!(!answers(&world));
    let back = json(&mut world, &["rollback", "1", "--json"]);
    assert_eq!((&back["applied"], &back["plan"]), (&true.into(), &3.into()), "{back}");
    assert!(answers(&world));
    let table = world.edge(At::A).verb(&["history"]).unwrap();
    assert!(table.contains("rollback to 1") && table.contains("replaced"), "{table}");
    let unknown = format!("{:#}", world.edge(At::A).verb(&["rollback", "77"]).unwrap_err());
    assert!(unknown.contains("no plan 77"), "{unknown}");

    // By signal.
    // SAFETY: the process is this test's own child.
    unsafe { libc::kill(world.edge(At::A).id() as i32, libc::SIGHUP) };
    let taken = eventually(PATIENCE, || (!answers(&world)).then_some(()));
    assert!(taken.is_some(), "{}", world.edge(At::A).said());
    assert_eq!(json(&mut world, &["history", "--json"])[0]["by"], "SIGHUP");
}

#[test]
fn what_does_not_do_changes_nothing() {
    let Some(mut world) = World::running("e2e-reload-bad", |_| {}) else { return };
    let text = Text::of(&world);
    text.with(&world, "", "[[rule]]\nname = \"broken\"\nencrypt = \"nowhere\"\n");
    let said = refused(&mut world);
    assert!(said.contains("nowhere") && said.contains("nothing was changed"), "{said}");
    text.with(&world, "[flows]\ncapacity = 128\n", "");
    let said = refused(&mut world);
    assert!(said.contains("only a restart") && said.contains("[flows] capacity"), "{said}");
    std::fs::remove_file(&world.files(At::A).policy).unwrap();
    assert!(refused(&mut world).contains("cannot read"));
    assert_eq!(json(&mut world, &["history", "--json"]).as_array().unwrap().len(), 1);
    world.topology.reachable(SERVER[0], PATIENCE).unwrap();
}

#[test]
fn a_failed_health_check_puts_the_old_policy_back() {
    let Some(mut world) = World::running("e2e-reload-health", |_| {}) else { return };
    let text = Text::of(&world);
    let flag = world.folder.file("ok");
    let apply = |check: &str| format!("[apply]\nhealth = [\"test\", \"-e\", \"{check}\"]\nwithin = \"1s\"\n");
    let drop = "[[rule]]\nname = \"no-ping\"\nprotocol = \"icmp\"\naction = \"drop\"\n";
    text.with(&world, &apply(&flag.display().to_string()), drop);
    let said = format!("{:#}", world.edge(At::A).verb(&["reload", "--json"]).unwrap_err());
    assert!(said.contains("health check `test` failed"), "{said}");
    assert!(world.ping(&["-c", "1", "-W", "1", SERVER[0]]).status.success(), "the rule is gone again");
    let history = json(&mut world, &["history", "--json"]);
    let outcomes: Vec<&str> =
        history.as_array().unwrap().iter().map(|plan| plan["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["running", "rolled-back", "replaced"], "{history}");
    std::fs::write(&flag, "").unwrap();
    assert_eq!(reload(&mut world)["applied"], true);
    assert!(!world.ping(&["-c", "1", "-W", "1", SERVER[0]]).status.success());
}
