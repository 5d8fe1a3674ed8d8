//! `softdpu trace` and `softdpu capture` of real traffic through two edges, and tshark over what was captured.
#![allow(clippy::unwrap_used)]

mod common;

use common::plain::Plain;
use common::{At, PATIENCE, World, binary};
use serde_json::Value;
use softdpu::io::steer::existing_program;
use softdpu_testbed::netns::NetNs;
use softdpu_testbed::process::{self, Process, eventually};
use softdpu_testbed::topology::SERVER;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PAGE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>";

/// A page is asked for and given, on port 80.
fn http(world: &World) {
    let at = format!("{}:80", SERVER[0]);
    let listener = world.topology.server.within(|| Ok(TcpListener::bind(&at)?)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            stream.write_all(PAGE).unwrap();
        });
        let mut stream = world.topology.client.within(|| Ok(TcpStream::connect(&at)?)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /catalogue.html HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
        let mut page = Vec::new();
        stream.read_to_end(&mut page).unwrap();
        assert_eq!(page, PAGE);
    });
}

fn verb(world: &World, at: At, words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(words).arg("--socket").arg(&world.files(at).socket);
    command
}

/// A capture that has begun: what is to be in every file is in it.
fn capture(world: &World, at: At, file: &Path, filter: &[&str]) -> Process {
    let mut command = verb(world, at, &["capture", "-w", file.to_str().unwrap()]);
    command.args(filter);
    let capture = Process::start(&mut command, &world.folder.path().join("capture.log")).unwrap();
    let begun = || std::fs::metadata(file).is_ok_and(|file| file.len() > 0).then_some(());
    eventually(PATIENCE, begun).unwrap_or_else(|| panic!("no capture: {}", capture.said()));
    capture
}

fn end(mut capture: Process) -> String {
    capture.signal(libc::SIGINT);
    let status = capture.wait(PATIENCE).unwrap();
    assert!(status.success(), "{status}: {}", capture.said());
    capture.said()
}

/// What tshark says of each packet: interface, protocols, URI, code, comment, packet's number.
fn tshark(file: &Path) -> Option<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|"]);
    for field in ["frame.interface_name", "frame.protocols", "http.request.uri", "http.response.code", "frame.comment"]
    {
        command.args(["-e", field]);
    }
    let said = command.output().ok()?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let row = |line: &str| line.split('|').map(str::to_owned).collect();
    Some(String::from_utf8(said.stdout).unwrap().lines().map(row).collect())
}

#[test]
fn tshark_reads_the_capture_with_comments_and_the_clear_text_of_the_tunnel() {
    let Some(world) = World::running("e2e-watch", |_| {}) else { return };
    let files: Vec<PathBuf> = ["a.pcapng", "b.pcapng"].iter().map(|name| world.folder.path().join(name)).collect();
    let captures = [At::A, At::B].map(|at| capture(&world, at, &files[at as usize], &["tcp", "port", "80"]));
    http(&world);
    std::thread::sleep(std::time::Duration::from_millis(300));
    for said in captures.map(end) {
        assert!(said.contains(" packets written, 0 lost"), "{said}");
    }
    for (at, file) in [At::A, At::B].into_iter().zip(&files) {
        let Some(rows) = tshark(file) else { return eprintln!("SKIPPED: no tshark") };
        let of = |name: &str| rows.iter().filter(|row| row[0] == name).collect::<Vec<_>>();
        assert!(rows.len() >= 20, "{at:?}: {rows:?}");
        for row in &rows {
            assert!(row[4].contains("rule=") && row[4].contains("verdict=sent port="), "{row:?}");
            assert!(row[4].contains("tunnel_in=") != row[4].contains("tunnel_out="), "{row:?}");
            let sealed = matches!(row[0].as_str(), "uplink/rx" | "uplink/tx");
            assert_eq!(row[1].contains("esp"), sealed, "{at:?}: on the wire all is ESP: {row:?}");
        }
        let (asked, answered) = match at {
            At::A => ("uplink/seal", "uplink/open"),
            At::B => ("uplink/open", "uplink/seal"),
        };
        assert!(of(asked).iter().any(|row| row[4].contains("class=http")), "{at:?}");
        assert!(of(asked).iter().all(|row| row[1].starts_with("raw:ip:tcp")), "{at:?}");
        // tshark shows a request it has seen before (at rx, at tx) as a retransmission: it is asked of the clear points alone.
        let clear = |name: &str, field: usize| {
            let mut only = Command::new("tshark");
            only.arg("-r").arg(file).args(["-o", "tcp.analyze_sequence_numbers:FALSE"]);
            only.args(["-Y", &format!("frame.interface_name == \"{name}\" && http"), "-T", "fields"]);
            only.args(["-e", ["http.request.uri", "http.response.code"][field]]);
            String::from_utf8(only.output().unwrap().stdout).unwrap()
        };
        assert!(clear(asked, 0).contains("/catalogue.html"), "{at:?}");
        assert!(clear(answered, 1).contains("200"), "{at:?}");
        if let Ok(said) = Command::new("capinfos").arg(file).output() {
            let text = String::from_utf8(said.stdout).unwrap();
            assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
            assert!(text.contains("Number of interfaces in file: 8"), "{text}");
            assert!(text.contains("nanoseconds (9)"), "{text}");
        }
    }
}

#[test]
fn a_trace_shows_a_packet_s_way_and_one_watch_ends_when_its_client_does() {
    let Some(world) = World::running("e2e-trace", |_| {}) else { return };
    let file = world.folder.path().join("killed.pcapng");
    let mut killed = capture(&world, At::A, &file, &[]);
    let refused = process::run(&mut verb(&world, At::A, &["trace"]), PATIENCE).unwrap();
    assert!(refused.ok().unwrap_err().to_string().contains("running already"));
    killed.kill();
    // SIGKILL: nobody says that it is over, and it is.
    let log = world.folder.path().join("trace.log");
    let trace = || {
        let mut command = verb(&world, At::A, &["trace", "--json", "--seconds", "20"]);
        command.arg("icmp");
        let mut trace = Process::start(&mut command, &log).unwrap();
        let ended = eventually(PATIENCE, || {
            world.ping(&["-c", "1", "-W", "1", SERVER[0]]);
            trace.ended()
        });
        ended.filter(|status| status.success()).map(|_| trace.said())
    };
    let said = eventually(PATIENCE, trace).expect("a trace");
    let line = said.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{said}"));
    let way: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&way["end"], &way["xdp"]["verdict"]), (&"sent".into(), &"worker".into()), "{way:#}");
    assert_eq!(way["xdp"]["recomputed"], false, "in its own words");
    assert!(way["xdp"]["rule"].is_string());
    let nodes: Vec<&str> = way["steps"].as_array().unwrap().iter().map(|step| step["node"].as_str().unwrap()).collect();
    assert_eq!((nodes[0], nodes[1], nodes[nodes.len() - 1]), ("rx", "parse", "emit"));
    assert!(said.contains("\"TTL ") && said.contains("class icmp") && said.contains("next hop "), "{said}");
}

/// A trace of one packet that a filter wants, which `send` makes come again and again.
fn trace_of(world: &Plain, filter: &str, mut send: impl FnMut()) -> Value {
    let mut command = Command::new(binary());
    command.args(["trace", "--json", "-n", "1", "--seconds", "20", "--socket"]).arg(&world.edge.files().socket);
    command.args(filter.split(' '));
    let mut trace = Process::start(&mut command, &world.folder.path().join("trace.log")).unwrap();
    let ended = eventually(PATIENCE, || {
        send();
        trace.ended()
    });
    let said = trace.said();
    assert!(ended.is_some_and(|status| status.success()), "{filter}: {said}");
    let line = said.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{filter}: {said}"));
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_trace_shows_what_never_comes_to_a_worker() {
    let rules = "[offload]\nwait_for_class = false\n[[steer]]\nname = \"not-this\"\nprotocol = \"udp\"\nports = [\"9\"]\naction = \"drop\"\n";
    let Some(world) = Plain::new("e2e-trace-xdp", rules) else { return };
    let sender = world.client.within(|| Ok(UdpSocket::bind("10.1.0.2:0")?)).unwrap();
    let to = |port: u16| drop(sender.send_to(b"one of many datagrams", ("10.2.0.2", port)));

    let dropped = trace_of(&world, "udp dst port 9", || to(9));
    assert_eq!((&dropped["end"], &dropped["reason"]), (&"dropped".into(), &"rule_drop".into()), "{dropped:#}");
    assert_eq!((&dropped["xdp"]["rule"], &dropped["xdp"]["recomputed"]), (&"not-this".into(), &false.into()));
    assert!(dropped["worker"].is_null() && dropped["steps"].as_array().unwrap().is_empty(), "{dropped:#}");

    let passed = trace_of(&world, "icmp and dst host 10.1.0.1", || {
        let mut ping = world.client.command("ping");
        process::run(ping.args(["-c", "1", "-W", "1", "10.1.0.1"]), PATIENCE).ok();
    });
    assert_eq!((&passed["end"], &passed["xdp"]["verdict"]), (&"kernel".into(), &"no_rule".into()), "{passed:#}");

    let handled = trace_of(&world, "udp dst port 7001", || to(7001));
    assert_eq!((&handled["end"], &handled["xdp"]["verdict"]), (&"sent".into(), &"worker".into()), "{handled:#}");
    assert_eq!((&handled["xdp"]["recomputed"], &handled["worker"]), (&false.into(), &0.into()), "{handled:#}");

    // A flow goes down once both sides have spoken.
    let server = world.server.within(|| Ok(UdpSocket::bind("10.2.0.2:7000")?)).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let to_and_back = || {
        to(7000);
        if let Ok((_, client)) = server.recv_from(&mut [0; 64]) {
            server.send_to(b"answer", client).ok();
        }
    };
    let down = || world.flow(7000).is_some_and(|flow| flow["tier"] == "xdp");
    let offloaded = eventually(PATIENCE, || {
        to_and_back();
        down().then_some(())
    });
    assert!(offloaded.is_some(), "{:?}", world.flow(7000));
    let forwarded = trace_of(&world, "udp dst port 7000", to_and_back);
    let xdp = &forwarded["xdp"];
    assert_eq!((&forwarded["end"], &xdp["verdict"]), (&"forwarded".into(), &"flow_forward".into()), "{forwarded:#}");
    assert_eq!(
        (&xdp["out"], &xdp["flow_table"]),
        (&"uplink".into(), &"has the flow (forward)".into()),
        "{forwarded:#}"
    );
    let edits = xdp["edits"].as_array().unwrap();
    let ttl = edits.iter().find(|edit| edit["at"] == 22).unwrap_or_else(|| panic!("{edits:?}"));
    assert!(ttl["before"].as_str().unwrap().starts_with("40") && ttl["after"].as_str().unwrap().starts_with("3f"));
    assert!(edits.iter().any(|edit| edit["at"].as_u64().unwrap() < 12), "addresses: {edits:?}");
    // The trace is over: packets go by the program that records nothing, in the table as before.
    assert!(down(), "{:?}", world.flow(7000));
    let program = |interface: &str| name_of_program(&world.dut, interface).unwrap_or_default();
    assert_eq!(program("apps"), "softdpu_steer");
    let becomes = |name: &str| eventually(PATIENCE, || (program("uplink") == name).then_some(()));

    // However a trace ends: its client is gone, its time is over though its client reads nothing, another began right behind it.
    let begin = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["trace", "--json", "-n", "0", "--socket"]).arg(&world.edge.files().socket).args(words);
        let trace = Process::start(&mut command, &world.folder.path().join("ends.log")).unwrap();
        assert_eq!(becomes("softdpu_watch"), Some(()), "{}", trace.said());
        trace
    };
    begin(&[]).kill();
    assert_eq!(becomes("softdpu_steer"), Some(()), "its client is gone");
    let mut asleep = begin(&["--seconds", "3"]);
    asleep.signal(libc::SIGSTOP);
    let flood = || {
        (0..1000).for_each(|_| to(9));
        (program("uplink") == "softdpu_steer").then_some(())
    };
    assert_eq!(eventually(PATIENCE, flood), Some(()), "its time is over, and nobody reads");
    asleep.kill();
    // SIGINT: the trace stops, and the next begins at once.
    let mut first = begin(&[]);
    first.signal(libc::SIGINT);
    first.wait(PATIENCE).unwrap();
    let next = trace_of(&world, "udp dst port 9", || to(9));
    assert_eq!(next["xdp"]["recomputed"], false, "{next:#}");

    // The instance ends while it watches.
    let _trace = begin(&[]);
    let Plain { edge, dut, client: _client, server: _server, folder: _folder } = world;
    edge.stop().unwrap();
    assert_eq!(name_of_program(&dut, "apps"), None);
}

/// The XDP program on an interface of a namespace.
fn name_of_program(host: &NetNs, interface: &str) -> Option<String> {
    let links =
        process::run(host.command("ip").args(["-json", "link", "show", interface]), PATIENCE).unwrap().ok().unwrap();
    let links: Value = serde_json::from_str(&links).unwrap();
    let index = links[0]["ifindex"].as_u64().unwrap() as u32;
    host.within(|| Ok(existing_program(index)?)).unwrap().map(|program| program.name)
}
