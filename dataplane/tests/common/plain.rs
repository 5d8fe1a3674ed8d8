//! Two hosts and an edge between them that forwards in clear: what may go down into the driver.
//!
//! The hosts finish their checksums (`tx off`), as the driver does not, and take XDP frames (`gro on`).

use std::collections::HashSet;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::Value;
use softdpu_testbed::{
    cleanup::{self, RunDir},
    edge::Edge,
    netns::NetNs,
    policy::{EdgeFiles, Side},
    process::{self, eventually},
};

use super::{PATIENCE, binary};

pub struct Plain {
    pub edge: Edge,
    pub client: NetNs,
    pub server: NetNs,
    pub dut: NetNs,
    pub folder: RunDir,
}

impl Plain {
    /// Hosts and a running edge. `more` comes before the policy's own tables and rules; `FOLDER` in it is the run's folder.
    /// `None`, said aloud, without root.
    pub fn new(tag: &str, more: &str) -> Option<Self> {
        Self::with(tag, more, |_, _| {})
    }

    /// The same, with further links at the edge, made by `links` before softdpu starts; it is told how namespaces begin here.
    pub fn with(tag: &str, more: &str, links: impl FnOnce(&str, &NetNs)) -> Option<Self> {
        if !softdpu_testbed::is_root() {
            eprintln!("SKIPPED: {tag} needs root for network namespaces");
            return None;
        }
        cleanup::sweep();
        let base = cleanup::unique(tag);
        let host = |name: &str| NetNs::new(&format!("{base}-{name}")).unwrap();
        let (client, server, dut) = (host("client"), host("server"), host("edge"));
        for (port, peer, net) in [("apps", &client, 1), ("uplink", &server, 2)] {
            dut.ip(&format!(
                "link add {port} numtxqueues 1 numrxqueues 1 type veth peer name eth0 numtxqueues 1 numrxqueues 1 netns {}",
                peer.name()
            ))
            .unwrap();
            dut.ip(&format!("addr add 10.{net}.0.1/24 dev {port}")).unwrap();
            dut.ip(&format!("link set {port} up")).unwrap();
            peer.ip(&format!("addr add 10.{net}.0.2/24 dev eth0")).unwrap();
            peer.ip("link set eth0 up").unwrap();
            peer.ip(&format!("route add default via 10.{net}.0.1")).unwrap();
            let mut ethtool = peer.command("ethtool");
            ethtool.args(["-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "on"]);
            process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
            // What the host sends, counted as IP packets and bytes.
            for (protocol, word) in
                [("tcp", "dport 80"), ("tcp", "sport 80"), ("udp", "dport 7000"), ("udp", "sport 7000")]
            {
                let table = format!(
                    "add table ip t; add chain ip t out {{ type filter hook output priority 0; }}; \
                     add rule ip t out {protocol} {word} counter"
                );
                let mut nft = peer.command("nft");
                process::run(nft.arg(table), PATIENCE).unwrap().ok().unwrap();
            }
        }
        links(&base, &dut);
        let folder = RunDir::new(tag).unwrap();
        let file = |end: &str| folder.file(format!("edge.{end}"));
        let more = more.replace("FOLDER", &folder.path().display().to_string());
        dut.ip("link set lo up").unwrap();
        let files = EdgeFiles { side: Side::A, policy: file("toml"), socket: file("sock"), log: file("log") };
        let text = format!(
            r#"name = "offload"
{more}
[control]
socket = "{}"
[[port]]
name = "apps"
interface = "apps"
checksum = "trust"
[[port]]
name = "uplink"
interface = "uplink"
checksum = "trust"
[[steer]]
name = "tcp"
protocol = "tcp"
[[steer]]
name = "udp"
protocol = "udp"
[[rule]]
name = "kept"
ports = ["7001"]
protocol = "udp"
offload = "never"
[[rule]]
name = "all"
"#,
            files.socket.display()
        );
        std::fs::write(&files.policy, text).unwrap();
        let edge = Edge::start(binary(), &dut, &files).unwrap();
        // So that the edge knows both; the kernel itself forwards nothing here.
        for (host, gateway) in [(&client, "10.1.0.1"), (&server, "10.2.0.1")] {
            let mut ping = host.command("ping");
            ping.args(["-c", "1", "-W", "1", gateway]);
            let answered = eventually(PATIENCE, || process::run(&mut ping, PATIENCE).ok()?.ok().ok());
            assert!(answered.is_some(), "{}", edge.said());
        }
        Some(Self { edge, client, server, dut, folder })
    }

    /// Packets and bytes that a host has sent of what its counters are about.
    pub fn sent(ns: &NetNs) -> (u64, u64) {
        let mut nft = ns.command("nft");
        let text = process::run(nft.args(["list", "chain", "ip", "t", "out"]), PATIENCE).unwrap().ok().unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let after = |word: &str| -> u64 {
            words.windows(2).filter(|w| w[0] == word).map(|w| w[1].parse::<u64>().unwrap_or(0)).sum()
        };
        (after("packets"), after("bytes"))
    }

    /// The flow with this port at its responder.
    pub fn flow(&self, port: u16) -> Option<Value> {
        let flows = self.edge.flows().unwrap();
        let end = format!(":{port}");
        flows.as_array().unwrap().iter().find(|flow| flow["b"].as_str().unwrap().ends_with(&end)).cloned()
    }

    pub fn verdict(&self, name: &str) -> u64 {
        let status = self.edge.status().unwrap();
        let xdp = status["xdp"].as_array().unwrap().clone();
        xdp.iter().find(|v| v["verdict"] == name).map_or(0, |v| v["packets"].as_u64().unwrap())
    }
}

pub fn number(flow: &Value, key: &str) -> u64 {
    flow[key].as_u64().unwrap()
}

/// Segments that a connection's end sent again.
pub fn repeated(socket: &TcpStream) -> u32 {
    // SAFETY: all bit patterns are valid for a struct of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `info`, which has as many.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    info.tcpi_total_retrans
}

/// Numbered datagrams all the while; whatever happens meanwhile, each arrives, and in the end each is counted once.
pub fn numbered(world: &Plain, port: u16, count: u32, mut meanwhile: impl FnMut(u32)) -> HashSet<u32> {
    let receiver = world.server.within(|| Ok(UdpSocket::bind(("10.2.0.2", port))?)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let sender = world.client.within(|| Ok(UdpSocket::bind("10.1.0.2:6000")?)).unwrap();
    sender.connect(("10.2.0.2", port)).unwrap();
    let receive = std::thread::spawn(move || {
        let mut got = HashSet::new();
        let mut buffer = [0; 64];
        while let Ok((_, from)) = receiver.recv_from(&mut buffer) {
            got.insert(u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]));
            if got.len() % 64 == 1 {
                receiver.send_to(b"heard", from).unwrap();
            }
        }
        got
    });
    for n in 0..count {
        sender.send(&n.to_be_bytes()).unwrap();
        std::thread::sleep(Duration::from_micros(300));
        meanwhile(n);
    }
    receive.join().unwrap()
}
