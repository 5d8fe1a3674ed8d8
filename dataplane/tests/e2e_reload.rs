//! Another policy while packets flow: none is lost, none goes by half of one, and what does not do is not taken up.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::stream::{Questions, Stream};
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

fn json(world: &mut World, words: &[&str]) -> Value {
    serde_json::from_str(&world.edge(At::A).verb(words).unwrap()).unwrap()
}

fn reload(world: &mut World) -> Value {
    json(world, &["reload", "--json"])
}

/// The contract in force.
fn in_force(world: &World) -> Value {
    let mut socket = UnixStream::connect(&world.files(At::A).socket).unwrap();
    socket.write_all(b"GET /v1/plan HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
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
    let stream = Stream::start(&world.topology, 7000, Duration::from_micros(200));
    for round in 1..=100 {
        text.with(&world, "", &rules(200, round));
        let report = reload(&mut world);
        assert_eq!((&report["applied"], &report["plan"]), (&true.into(), &(round + 1).into()), "{report}");
        assert_eq!(report["changes"].as_array().unwrap().len(), 200, "{report}");
    }
    let sent = none_lost(&mut world, stream);
    assert!(sent > 1000, "{sent} sent");
    assert_nothing_in_clear(&clear.stop().unwrap());
    // The rule that every plan had has counted them all.
    let status = world.edge(At::A).status().unwrap();
    let counted: u64 = status["rules"].as_array().unwrap().iter().map(|r| r["packets"].as_u64().unwrap()).sum();
    assert!(counted >= u64::from(sent), "{counted} of {sent}");
    assert_eq!(json(&mut world, &["history", "--json"])[0]["plan"], 101);
    world.assert_sound();
}

/// Asserts that all of a stream arrived, and says what became of what did not. Answers how many there were.
fn none_lost(world: &mut World, stream: Stream) -> u32 {
    let seen = stream.end(&world.topology);
    let drops = [At::A, At::B].map(|at| world.figures(at).unexplained());
    println!("{} sent, longest pause {:?}", seen.sent, seen.pause);
    assert!(seen.lost == 0, "{seen:?}; dropped {drops:?}");
    seen.sent
}

/// A large host: its applications' intents change too, from one plan to the next.
#[test]
fn ten_thousand_rules_and_a_thousand_intents_change_and_not_a_packet_is_lost() {
    let Some(mut world) = World::running("e2e-reload-many", |_| {}) else { return };
    let (text, folder) = (Text::of(&world), world.folder.file("intents"));
    std::fs::create_dir(&folder).unwrap();
    let head = format!("intents = \"{}\"\n", folder.display());
    let intents = |round: usize| {
        for n in 0..1000 {
            let (from, to) = (n % 200, n / 200);
            let text = format!(
                "name = \"app{n}\"\nowner = \"team {n}\"\nencrypt = \"required\"\npriority = {round}\n[[flow]]\n\
                 from = [\"10.1.0.0/24\"]\nto = [\"10.2.0.{from}/32\"]\nprotocol = \"tcp\"\nports = [{}]\n",
                1000 + to * 10 + round
            );
            std::fs::write(folder.join(format!("app{n}.intent.toml")), text).unwrap();
        }
    };
    let alone = Questions::start(&world.topology, 7001);
    std::thread::sleep(Duration::from_secs(2));
    let alone = alone.end();
    let clear = world.watch_for_clear();
    let stream = Stream::start(&world.topology, 7000, Duration::from_micros(100));
    let questions = Questions::start(&world.topology, 7001);
    let mut figures = Vec::new();
    for round in 1..=4 {
        intents(round);
        text.with(&world, &head, &rules(10_000, round));
        let report = reload(&mut world);
        assert_eq!((&report["applied"], &report["plan"]), (&true.into(), &(round + 1).into()));
        assert!(report["changes"].as_array().unwrap().len() >= 10_000);
        figures.push([&report["compile_ms"], &report["switch_ms"]].map(|ms| ms.as_f64().unwrap().round()));
    }
    let with = questions.end();
    // Figures of this build and machine, not of what is asked for: the bench has those.
    println!("compiled and switched in ms: {figures:?}; RTT (count, p50, p99) without {alone:?}, with {with:?}");
    none_lost(&mut world, stream);
    assert_nothing_in_clear(&clear.stop().unwrap());
    // Back to the first of them, intents and all; then what is in the folder.
    let contract = |world: &mut World| in_force(world)["intents"][0]["priority"].clone();
    assert_eq!(json(&mut world, &["rollback", "2", "--json"])["applied"], true);
    assert_eq!(contract(&mut world), 1, "the intents of that plan");
    assert_eq!(reload(&mut world)["applied"], true);
    assert_eq!(contract(&mut world), 4, "the intents of the folder");
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

/// `run --watch`: intents that come, change and go are taken up without being asked for.
#[test]
fn watched_intents_come_and_go() {
    let Some(mut world) = World::idle("e2e-reload-watch", |_| {}) else { return };
    let (text, folder) = (Text::of(&world), world.folder.file("intents"));
    std::fs::create_dir(&folder).unwrap();
    text.with(&world, &format!("intents = \"{}\"\n", folder.display()), "");
    world.start_with(At::A, &["--watch"]);
    let names = |world: &World| {
        let contract = in_force(world);
        contract["intents"].as_array().unwrap().iter().map(|i| i["owner"].as_str().unwrap().to_owned()).collect()
    };
    let until = |world: &World, want: &[&str]| {
        let seen = eventually(PATIENCE, || {
            let names: Vec<String> = names(world);
            (names == want).then_some(())
        });
        assert!(seen.is_some(), "{want:?}, not {:?}", names(world));
    };
    let intent = |name: &str, owner: &str| {
        let flow = "[[flow]]\nto = [\"10.2.0.9/32\"]\nprotocol = \"tcp\"\nports = [80]\n";
        let text = format!("name = \"{name}\"\nowner = \"{owner}\"\n{flow}");
        std::fs::write(folder.join(format!("{name}.intent.toml")), text).unwrap();
    };
    until(&world, &[]);
    intent("shop", "one");
    until(&world, &["one"]);
    intent("bank", "two");
    until(&world, &["two", "one"]);
    intent("bank", "who");
    until(&world, &["who", "one"]);
    // What is broken changes nothing.
    std::fs::write(folder.join("odd.intent.toml"), "nonsense").unwrap();
    std::thread::sleep(Duration::from_secs(3));
    until(&world, &["who", "one"]);
    std::fs::remove_file(folder.join("odd.intent.toml")).unwrap();
    std::fs::remove_file(folder.join("shop.intent.toml")).unwrap();
    until(&world, &["who"]);
    assert_eq!(json(&mut world, &["history", "--json"])[0]["by"], "watch");
}
