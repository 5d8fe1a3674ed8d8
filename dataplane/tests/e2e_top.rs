//! `softdpu top` on an edge with traffic: one page of text, a real terminal, an instance that goes and comes back.
//! `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu --test e2e_top` writes what is seen into docs/top.md.
//!
//! ```text
//!   client ── apps [edge-a] uplink ═══ ESP ═══ uplink [edge-b] apps ── server
//!             three intents
//! ```
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{At, PATIENCE, World, binary, traffic};
use softdpu_testbed::process;
use softdpu_testbed::screen::Screen;
use softdpu_testbed::topology::{SERVER, Topology};

const SIGTERM: i32 = 15;

/// Encrypted as asked; encrypted though it would rather not; and one that asks for a tunnel that is not there.
const INTENTS: [(&str, &str); 3] = [
    (
        "payments",
        "owner = \"payments team\"\nencrypt = \"required\"\npeers = [\"peer\"]\nlatency_p99 = \"5ms\"\n[[flow]]\nfrom = [\"10.1.0.0/24\"]\nto = [\"10.2.0.0/24\"]\nprotocol = \"tcp\"\n",
    ),
    (
        "video",
        "owner = \"media team\"\nencrypt = \"never\"\n[[flow]]\nfrom = [\"10.1.0.0/24\"]\nto = [\"10.2.0.0/24\"]\nprotocol = \"udp\"\n",
    ),
    (
        "ledger",
        "owner = \"finance team\"\nencrypt = \"required\"\npeers = [\"elsewhere\"]\n[[flow]]\nfrom = [\"10.1.0.0/24\"]\nto = [\"10.3.0.0/24\"]\n",
    ),
];

/// Two edges; the first with intents.
fn world(tag: &str) -> Option<World> {
    let mut world = World::idle(tag, |_| {})?;
    let policy = &world.files(At::A).policy;
    let folder = world.folder.file("intents");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in INTENTS {
        std::fs::write(folder.join(format!("{name}.intent.toml")), format!("name = \"{name}\"\n{text}")).unwrap();
    }
    let text = std::fs::read_to_string(policy).unwrap();
    std::fs::write(policy, format!("intents = \"{}\"\n{text}", folder.display())).unwrap();
    world.start(At::A);
    world.start(At::B);
    world.topology.reachable(SERVER[0], PATIENCE).unwrap();
    Some(world)
}

/// Traffic of both kinds while `job` runs.
fn under_traffic<T>(topology: &Topology, job: impl FnOnce() -> T) -> T {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let data = traffic::bytes(7, 1 << 20, true);
            while !done.load(Ordering::Relaxed) {
                traffic::tcp(topology, false, &data);
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                traffic::udp(topology, false, (0..20).map(|n| 400 + 40 * n));
            }
        });
        // However the job ends, the traffic does too.
        let _done = Done(&done);
        job()
    })
}

/// Puts `text` between the marks of `name` in docs/top.md, when docs are to be written.
fn show(name: &str, text: &str) {
    if std::env::var_os("SOFTDPU_WRITE_DOCS").is_none() {
        return;
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/top.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mark = format!("<!-- capture: {name} -->\n");
    let (before, rest) = page.split_once(&mark).expect("the mark is there");
    let (_, after) = rest.split_once("<!-- end -->").expect("and its end");
    let text: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    std::fs::write(
        path,
        format!("{before}{mark}```text\n{}```\n<!-- end -->{after}", text.trim_end().to_owned() + "\n"),
    )
    .unwrap();
}

#[test]
fn one_page_says_what_goes_on() {
    let Some(mut world) = world("e2e-top-once") else { return };
    let socket = world.files(At::A).socket.clone();
    let page = under_traffic(&world.topology, || {
        let mut top = std::process::Command::new(binary());
        top.args(["top", "--once", "--interval", "1s", "--socket"]).arg(&socket);
        process::run(&mut top, PATIENCE).unwrap().ok().unwrap()
    });
    show("once", &page);
    let line = |start: &str| {
        page.lines()
            .find(|line| line.split_whitespace().next() == Some(start))
            .unwrap_or_else(|| panic!("no {start} in\n{page}"))
            .to_owned()
    };
    for title in ["Ports", "Workers", "Tiers", "XDP verdicts", "Intents", "Tunnels", "Drops", "Flows"] {
        assert!(page.lines().any(|line| line == title), "no {title} in\n{page}");
    }
    // Met and encrypted; encrypted though it would rather not be; refused.
    assert!(line("payments").contains("met") && line("payments").contains("100 %"), "{page}");
    assert!(line("video").contains("degraded") && line("video").contains("100 %"), "{page}");
    assert!(line("ledger").contains("refused"), "{page}");
    assert!(line("peer").contains("esp") && line("peer").contains("0 B"), "{page}");
    assert!(line("0").contains("running"), "{page}");
    for port in ["apps", "uplink"] {
        assert!(line(port).contains("pps") && !line(port).contains(" - "), "rates are known: {page}");
    }
    // Nothing left in clear, by the metrics of the same intents.
    let mut curl = std::process::Command::new("curl");
    curl.args(["-s", "--unix-socket"]).arg(&socket).arg("http://softdpu/metrics");
    let metrics = process::run(&mut curl, PATIENCE).unwrap().ok().unwrap();
    let value = |name: &str| -> f64 {
        let sample = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        sample.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().unwrap()
    };
    let all = value("softdpu_intent_packets_total{intent=\"payments\"}");
    let encrypted = value("softdpu_intent_encrypted_packets_total{intent=\"payments\",direction=\"out\"}")
        + value("softdpu_intent_encrypted_packets_total{intent=\"payments\",direction=\"in\"}");
    let dropped = value("softdpu_intent_dropped_packets_total{intent=\"payments\"}");
    assert!(all > 100.0 && encrypted >= all - dropped, "{all} packets, {encrypted} encrypted, {dropped} dropped");
    assert_eq!(value("softdpu_intent_verdict{intent=\"ledger\",verdict=\"refused\"}"), 1.0);
    assert_eq!(value("softdpu_intent_latency_wish_seconds{intent=\"payments\"}"), 0.005);
    assert!(value("softdpu_worker_busy_seconds_total{worker=\"0\"}") > 0.0);
    assert!(value("softdpu_tier_packets_total{tier=\"worker\"}") > 100.0);
    let queue = value("softdpu_port_queue_rx_packets_total{port=\"apps\",queue=\"0\",worker=\"0\"}");
    assert!(queue > 0.0 && queue <= value("softdpu_port_rx_packets_total{port=\"apps\"}"), "one queue, one port");
    world.assert_sound();
}

#[test]
fn on_a_terminal_it_shows_waits_and_gives_back() {
    let Some(mut world) = world("e2e-top-tty") else { return };
    let (socket, folder) = (world.files(At::A).socket.clone(), world.folder.file("tty"));
    std::fs::create_dir(&folder).unwrap();
    let (binary, path) = (binary().display().to_string(), socket.display().to_string());
    let words = [binary.as_str(), "top", "--interval", "500ms", "--tab", "apps", "--socket", &path];
    let mut screen = Screen::start(&words, (110, 26), &folder).unwrap();
    under_traffic(&world.topology, || {
        screen.until(PATIENCE, |text| text.contains("payments") && text.contains("100 %")).unwrap();
        assert_eq!(screen.taken_over(), (true, true));
        // Time for some history.
        std::thread::sleep(Duration::from_secs(10));
        show("apps", &screen.text());
        screen.press("1").unwrap();
        let ports = screen.until(PATIENCE, |text| text.contains("uplink") && text.contains("Mbit/s")).unwrap();
        show("ports", &ports);
        screen.press("7").unwrap();
        screen.until(PATIENCE, |text| text.contains("10.2.0.2:")).unwrap();
        screen.press("?").unwrap();
        screen.until(PATIENCE, |text| text.contains("hold still")).unwrap();
        screen.press("x4/pay").unwrap();
        screen.until(PATIENCE, |text| text.contains("/pay_") && !text.contains("video")).unwrap();
        screen.press("\r").unwrap();
    });
    // It goes: that is said, and waited for.
    world.take(At::A).stop().unwrap();
    screen.until(PATIENCE, |text| text.contains("does not answer") && text.contains("payments")).unwrap();
    world.start(At::A);
    screen.until(PATIENCE, |text| !text.contains("does not answer") && text.contains("payments")).unwrap();
    screen.press("q").unwrap();
    assert!(screen.wait(PATIENCE).unwrap().success());
    assert_eq!(screen.taken_over(), (false, false), "the terminal is as it was");

    // The same after a signal, and with nobody there.
    let words = [binary.as_str(), "top", "--socket", "/nonexistent/x.sock"];
    let mut screen = Screen::start(&words, (80, 24), &folder).unwrap();
    screen.until(PATIENCE, |text| text.contains("does not answer")).unwrap();
    screen.signal(SIGTERM).unwrap();
    assert!(screen.wait(PATIENCE).unwrap().success());
    assert_eq!(screen.taken_over(), (false, false));

    // And when the terminal goes away.
    let screen = Screen::start(&words, (80, 24), &folder).unwrap();
    screen.until(PATIENCE, |text| text.contains("does not answer")).unwrap();
    assert!(screen.hang_up(PATIENCE).unwrap(), "it still runs");
}
