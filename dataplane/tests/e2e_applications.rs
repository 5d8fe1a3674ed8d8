//! The operator's applications over real TLS: named by server name, counted, ruled, told of. And one that may have so many
//! connections.
//!
//! ```text
//!   client            edge [softdpu, in clear]          server
//!   eth0 ────────── apps                uplink ────────── eth0
//!   10.1.0.2        10.1.0.1          10.2.0.1          10.2.0.2
//! ```
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::{PATIENCE, binary};
use serde_json::Value;
use softdpu_testbed::{
    cleanup::{self, RunDir},
    edge::Edge,
    netns::NetNs,
    policy::{EdgeFiles, Side},
    process::{self, Process, eventually},
};

const PORTS: &str = r#"
[[port]]
name = "apps"
interface = "apps"
[[port]]
name = "uplink"
interface = "uplink"
[[steer]]
name = "tcp"
protocol = "tcp"
"#;

const APPLICATIONS: &str = r#"
[[application]]
name = "payments"
hosts_file = "payments.hosts"
class = ["tls"]
port = [443]
[[application]]
name = "games"
host = ["*.games.example"]
[[application]]
name = "site"
prefix = ["10.2.0.0/24"]
[[rule]]
name = "no-games"
application = ["games"]
action = "drop"
[[rule]]
name = "paid"
application = ["payments"]
[[rule]]
name = "rest"
"#;

struct Hosts {
    edge: Edge,
    client: NetNs,
    server: NetNs,
    _dut: NetNs,
    folder: RunDir,
}

impl Hosts {
    /// `text`: what the policy has besides ports and steering; in front of them what stands before its first table.
    fn new(tag: &str, text: impl FnOnce(&RunDir) -> [String; 2]) -> Option<Self> {
        if !softdpu_testbed::is_root() {
            eprintln!("SKIPPED: {tag} needs root for network namespaces");
            return None;
        }
        cleanup::sweep();
        let base = cleanup::unique(tag);
        let host = |name: &str| NetNs::new(&format!("{base}-{name}")).unwrap();
        let (client, server, dut) = (host("client"), host("server"), host("edge"));
        for (port, peer, net) in [("apps", &client, 1), ("uplink", &server, 2)] {
            let queues = "numtxqueues 1 numrxqueues 1";
            dut.ip(&format!("link add {port} {queues} type veth peer name eth0 {queues} netns {}", peer.name()))
                .unwrap();
            dut.ip(&format!("addr add 10.{net}.0.1/24 dev {port}")).unwrap();
            dut.ip(&format!("link set {port} up")).unwrap();
            peer.ip(&format!("addr add 10.{net}.0.2/24 dev eth0")).unwrap();
            peer.ip("link set eth0 up").unwrap();
            peer.ip(&format!("route add default via 10.{net}.0.1")).unwrap();
        }
        let folder = RunDir::new(tag).unwrap();
        let file = |end: &str| folder.file(format!("edge.{end}"));
        let files = EdgeFiles { side: Side::A, policy: file("toml"), socket: file("sock"), log: file("log") };
        let [top, rest] = text(&folder);
        let control = format!("[control]\nsocket = \"{}\"\n", files.socket.display());
        std::fs::write(&files.policy, format!("name = \"apps\"\n{top}{control}{PORTS}{rest}")).unwrap();
        let edge = Edge::start(binary(), &dut, &files).unwrap();
        for (host, gateway) in [(&client, "10.1.0.1"), (&server, "10.2.0.1")] {
            let mut ping = host.command("ping");
            process::run(ping.args(["-c", "1", "-W", "1", gateway]), PATIENCE).unwrap();
        }
        Some(Self { edge, client, server, _dut: dut, folder })
    }

    /// A TLS server on port 443.
    fn serve(&self) -> Process {
        let (key, certificate) = (self.folder.file("tls.key"), self.folder.file("tls.crt"));
        let mut make = std::process::Command::new("openssl");
        make.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        make.args(["-subj", "/CN=test", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
        process::run(&mut make, PATIENCE).unwrap().ok().unwrap();
        let mut server = self.server.command("openssl");
        server.args(["s_server", "-quiet", "-www", "-accept", "443", "-key"]).arg(&key).arg("-cert").arg(&certificate);
        Process::start(&mut server, &self.folder.file("server.log")).unwrap()
    }

    /// One handshake for `name`; whether it came about.
    fn ask(&self, name: &str, limit: Duration) -> bool {
        let mut client = self.client.command("openssl");
        client.args(["s_client", "-connect", "10.2.0.2:443", "-servername", name]);
        // With nothing to send it ends once the handshake is done.
        process::run(&mut client, limit).is_ok_and(|said| said.out.contains("Cipher is TLS"))
    }

    fn flow(&self, host: &str) -> Option<Value> {
        let flows = self.edge.flows().unwrap();
        flows.as_array()?.iter().find(|flow| flow["host"] == host).cloned()
    }
}

#[test]
fn tls_flows_are_named_counted_and_ruled() {
    let text = |folder: &RunDir| {
        let hosts = "# who is paid\n*.pay.example # all of it\nbank.example\n";
        std::fs::write(folder.file("payments.hosts"), hosts).unwrap();
        [String::new(), APPLICATIONS.to_owned()]
    };
    let Some(hosts) = Hosts::new("e2e-app", text) else { return };
    let _server = hosts.serve();
    assert!(eventually(PATIENCE, || hosts.ask("free.example", PATIENCE).then_some(())).is_some());
    assert!(hosts.ask("eu.pay.example", PATIENCE));
    assert!(!hosts.ask("www.games.example", Duration::from_secs(2)), "its hello is dropped");

    for (host, application, rule) in [
        ("eu.pay.example", "payments", "paid"),
        ("free.example", "site", "rest"),
        ("www.games.example", "games", "no-games"),
    ] {
        let flow = hosts.flow(host).unwrap_or_else(|| panic!("no flow of {host}"));
        assert_eq!((&flow["application"], &flow["rule"]), (&application.into(), &rule.into()), "{flow}");
        assert_ne!(flow["tier"], "xdp", "rules over applications keep flows with their worker: {flow}");
    }
    let status = eventually(PATIENCE, || {
        let status = hosts.edge.status().unwrap();
        (status["applications"].as_array()?.len() == 3).then_some(status)
    });
    let status = status.expect("all three have had flows");
    let of =
        |name: &str| status["applications"].as_array().unwrap().iter().find(|a| a["name"] == name).unwrap().clone();
    assert_eq!(of("payments")["flows"], 1);
    assert!(of("payments")["packets"].as_u64().unwrap() > 3, "{}", of("payments"));

    let only = hosts.edge.verb(&["flows", "--app", "payments"]).unwrap();
    assert!(only.contains("eu.pay.example") && !only.contains("free.example"), "{only}");
    let a = hosts.flow("eu.pay.example").unwrap()["a"].as_str().unwrap().to_owned();
    let explained = hosts.edge.verb(&["explain", &a]).unwrap();
    assert!(explained.contains("application payments") && explained.contains("rule paid"), "{explained}");
    let page = hosts.edge.verb(&["status"]).unwrap();
    assert!(page.contains("Applications") && page.contains("payments"), "{page}");
}

#[test]
fn an_application_has_as_many_connections_as_its_limit() {
    let text = |folder: &RunDir| {
        let intents = folder.file("intents");
        std::fs::create_dir(&intents).unwrap();
        let intent = "name = \"shop\"\nowner = \"them\"\nencrypt = \"never\"\n[[flow]]\nto = [\"10.2.0.2/32\"]\n\
            protocol = \"tcp\"\nports = [7000]\n";
        std::fs::write(intents.join("shop.intent.toml"), intent).unwrap();
        let limit = "[[limit]]\nname = \"shop\"\nconnections = 2\n";
        [format!("intents = \"{}\"\n", intents.display()), limit.to_owned()]
    };
    let Some(hosts) = Hosts::new("e2e-limit", text) else { return };
    let server = hosts.server.within(|| Ok(TcpListener::bind("10.2.0.2:7000")?)).unwrap();
    let to = "10.2.0.2:7000".parse().unwrap();
    let connect = |limit| hosts.client.within(|| Ok(TcpStream::connect_timeout(&to, limit)?)).ok();
    let limit = || hosts.edge.status().unwrap()["limits"][0].clone();

    let mut open: Vec<_> = (0..2).map(|_| (connect(PATIENCE).unwrap(), server.accept().unwrap())).collect();
    assert!(connect(Duration::from_millis(1500)).is_none(), "a third one");
    let seen = limit();
    assert_eq!((&seen["application"], &seen["connections"], &seen["most"]), (&"shop".into(), &2.into(), &2.into()));
    // The SYN, and the one sent again after a second.
    assert_eq!(seen["refused"], 2);
    let status = hosts.edge.status().unwrap();
    let drops = status["drops"].as_array().unwrap().clone();
    assert!(drops.iter().any(|drop| drop["reason"] == "connection_limit" && drop["count"] == 2), "{drops:?}");
    let said = hosts.edge.verb(&["explain", "shop"]).unwrap();
    assert!(said.contains("2 connections of the 2"), "{said}");

    // By both ends: one that is closed by one end only is still a connection.
    drop(open.pop());
    let third = eventually(PATIENCE, || connect(Duration::from_millis(500)));
    assert!(third.is_some(), "there is room for it: {}", limit());
    assert_eq!(limit()["connections"], 2);
}
