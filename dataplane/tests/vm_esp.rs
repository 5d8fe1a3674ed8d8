//! ESP with the kernel's own: softdpu on edge-a, `ip xfrm` on edge-b (in transport mode on the server), keys by hand.
#![allow(clippy::unwrap_used)]

mod common;
mod vm;

use std::{net::UdpSocket, os::fd::AsRawFd, time::Duration};

use common::traffic;
use softdpu_testbed::{
    cleanup::RunDir,
    edge::Edge,
    interop::{Check, Row},
    netns::NetNs,
    peers::keys::{Child, ChildSa},
    policy::{EdgeFiles, Side},
    process,
    status::Figures,
    topology::{self, CLIENT, CLIENT_NET, EDGE_A, EDGE_B, SERVER, SERVER_NET, Topology},
};

/// As the policy names it, as the kernel does, bytes of key and salt.
const CIPHERS: [(&str, &str, usize); 3] = [
    ("aes-128-gcm", "rfc4106(gcm(aes))", 20),
    ("aes-256-gcm", "rfc4106(gcm(aes))", 36),
    ("chacha20-poly1305", "rfc7539esp(chacha20,poly1305)", 36),
];

#[derive(Debug, Clone, Copy)]
struct Case {
    cipher: (&'static str, &'static str, usize),
    v6: bool,
    esn: bool,
    udp: bool,
    transport: bool,
}

impl Case {
    fn tunnel(cipher: (&'static str, &'static str, usize), v6: bool) -> Self {
        Self { cipher, v6, esn: false, udp: false, transport: false }
    }

    fn row(&self, initiator: bool) -> Row {
        let modes = [(self.transport, "transport"), (self.esn, "ESN"), (self.udp, "UDP")];
        let mode: Vec<&str> = modes.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
        let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let version = version.split('+').next().unwrap().trim().to_owned();
        let row = Row::new("esp", "Linux XFRM", Some(version)).initiator(initiator).outer_v6(self.v6);
        row.cipher(self.cipher.0, &mode.join(", "))
    }

    /// Outer addresses: ours, the kernel's.
    fn ends(&self) -> (&'static str, &'static str) {
        let family = usize::from(self.v6);
        if self.transport { (CLIENT[family], SERVER[family]) } else { (EDGE_A[family], EDGE_B[family]) }
    }

    /// The host whose kernel is the peer.
    fn peer<'a>(&self, topology: &'a Topology) -> &'a NetNs {
        if self.transport { &topology.server } else { &topology.edge_b }
    }
}

/// The kernel's side of a tunnel; gone when dropped.
struct Kernel<'a> {
    host: &'a NetNs,
    /// Takes ESP out of UDP.
    _encap: Option<UdpSocket>,
}

impl<'a> Kernel<'a> {
    fn new(host: &'a NetNs, case: &Case, child: &Child) -> Self {
        let (ours, theirs) = case.ends();
        let encap = case.udp.then(|| encapsulating(host, theirs));
        let this = Self { host, _encap: encap };
        let mode = if case.transport { "transport" } else { "tunnel" };
        let flags = match (case.transport, case.esn) {
            (false, true) => "flag af-unspec esn replay-window 128",
            (false, false) => "flag af-unspec replay-window 32",
            (true, true) => "flag esn replay-window 128",
            (true, false) => "replay-window 32",
        };
        let udp = if case.udp { "encap espinudp 4500 4500 0.0.0.0" } else { "" };
        for (src, dst, sa) in [(ours, theirs, &child.outbound), (theirs, ours, &child.inbound)] {
            let key: String = sa.key.iter().map(|byte| format!("{byte:02x}")).collect();
            let (name, spi) = (case.cipher.1, sa.spi);
            host.ip(&format!(
                "xfrm state add src {src} dst {dst} proto esp spi {spi:#x} reqid 1 mode {mode} {flags} aead {name} 0x{key} 128 {udp}"
            ))
            .unwrap();
        }
        let family = usize::from(case.v6);
        let pairs: Vec<(&str, &str)> = if case.transport {
            vec![(CLIENT[family], SERVER[family])]
        } else {
            CLIENT_NET.into_iter().zip(SERVER_NET).collect()
        };
        for (client, server) in pairs {
            for direction in ["in", "fwd", "out"] {
                let out = direction == "out";
                let (from, to) = if out { (server, client) } else { (client, server) };
                let (src, dst) = if out { (theirs, ours) } else { (ours, theirs) };
                host.ip(&format!(
                    "xfrm policy add src {from} dst {to} dir {direction} tmpl src {src} dst {dst} proto esp reqid 1 mode {mode}"
                ))
                .unwrap();
            }
        }
        this
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        let _ = self.host.ip("xfrm policy flush");
        let _ = self.host.ip("xfrm state flush");
    }
}

/// A socket that hands ESP in UDP to the kernel, as a key daemon's does (udp(7), RFC 3948).
fn encapsulating(host: &NetNs, address: &str) -> UdpSocket {
    const UDP_ENCAP: libc::c_int = 100;
    const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
    let socket = host.within(|| Ok(UdpSocket::bind((address, 4500))?)).unwrap();
    let kind = UDP_ENCAP_ESPINUDP;
    // SAFETY: the value outlives the call and its size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_ENCAP,
            (&raw const kind).cast(),
            size_of_val(&kind) as u32,
        )
    };
    assert_eq!(set, 0, "UDP_ENCAP: {}", std::io::Error::last_os_error());
    socket
}

/// softdpu's policy: the four networks through one tunnel.
fn policy(folder: &RunDir, case: &Case, child: &Child) -> EdgeFiles {
    let file = |end: &str| folder.file(format!("edge-a.{end}"));
    let (out, inward) = (file("out.key"), file("in.key"));
    child.outbound.write(&out).unwrap();
    child.inbound.write(&inward).unwrap();
    let files = EdgeFiles { side: Side::A, policy: file("toml"), socket: file("sock"), log: file("log") };
    let (ours, theirs) = case.ends();
    let (from, to) = if case.transport {
        (format!("\"{ours}\""), format!("\"{theirs}\""))
    } else {
        (
            format!("\"{}\", \"{}\"", CLIENT_NET[0], CLIENT_NET[1]),
            format!("\"{}\", \"{}\"", SERVER_NET[0], SERVER_NET[1]),
        )
    };
    let udp = if case.udp { "udp" } else { "none" };
    let sequence = if case.esn { "extended" } else { "short" };
    let mode = if case.transport { "transport" } else { "tunnel" };
    let text = format!(
        r#"name = "edge-a"

[control]
socket = "{}"

[[port]]
name = "apps"
interface = "apps"

[[port]]
name = "uplink"
interface = "uplink"

[[steer]]
name = "from-apps"
port = "apps"
to = [{to}]
on_loss = "drop"

[[tunnel]]
name = "peer"
local = "{ours}"
remote = "{theirs}"
encapsulation = "{udp}"
cipher = "{}"
sequence = "{sequence}"
mode = "{mode}"
out = {{ spi = {}, key_file = "{}" }}
in = {{ spi = {}, key_file = "{}" }}

[[rule]]
name = "outward"
from = [{from}]
to = [{to}]
encrypt = "peer"

[[rule]]
name = "inward"
from = [{to}]
to = [{from}]
encrypt = "peer"
"#,
        files.socket.display(),
        case.cipher.0,
        child.outbound.spi,
        out.display(),
        child.inbound.spi,
        inward.display(),
    );
    std::fs::write(&files.policy, text).unwrap();
    files
}

/// Hosts of the VM with the kernel forwarding; `None`, said aloud, elsewhere.
fn hosts(tag: &str) -> Option<Topology> {
    vm::here().then(|| Topology::new(&topology::Options::new(tag)).unwrap())
}

/// Both ends of a case up, `job` run, and both ends sound afterwards.
fn with(topology: &Topology, case: Case, job: impl FnOnce(&mut Edge)) {
    static SPI: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0x1001);
    let spi = SPI.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    let folder = RunDir::new("vm-esp").unwrap();
    let key = |spi| ChildSa::random(spi, case.cipher.2).unwrap();
    let child = Child { outbound: key(spi), inbound: key(spi + 1) };
    let peer = case.peer(topology);
    let before = vm::xfrm_errors(peer);
    let _kernel = Kernel::new(peer, &case, &child);
    let mut edge = Edge::start(common::binary(), &topology.edge_a, &policy(&folder, &case, &child)).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&mut edge)));
    let figures = Figures::read(&edge.status().unwrap());
    if let Err(panic) = result {
        eprintln!("{case:?}\nsoftdpu: {figures:?}\nkernel: {:?}", vm::xfrm_errors(peer));
        eprintln!("{}", peer.ip("-s xfrm state").unwrap());
        std::panic::resume_unwind(panic);
    }
    assert!(edge.alive(), "{case:?}: {}", edge.said());
    assert!(figures.packets_encrypted > 0 && figures.packets_decrypted > 0, "{case:?}: {figures:?}");
    assert!(figures.unexplained().is_empty(), "{case:?}: {:?}", figures.unexplained());
    assert_eq!(figures.escaped_bytes, 0, "{case:?}");
    assert_eq!(vm::xfrm_errors(peer), before, "{case:?}: the kernel refused something");
    let balanced = process::eventually(vm::PATIENCE, || Figures::read(&edge.status().ok()?).balanced().then_some(()));
    assert!(balanced.is_some(), "{case:?}: frames are missing");
    assert!(edge.stop().unwrap().success());
}

/// Everything of every kind, opened by the client and then by the server.
fn both_roles(topology: &Topology, case: Case) {
    with(topology, case, |_| {
        for initiator in [true, false] {
            let check = Check::new(case.row(initiator));
            let (client, server) = (&topology.client, &topology.server);
            for v6 in [false, true].into_iter().filter(|v6| !case.transport || *v6 == case.v6) {
                let family = usize::from(v6);
                let (from, to, address) =
                    if initiator { (client, server, SERVER[family]) } else { (server, client, CLIENT[family]) };
                vm::ping(from, address);
                vm::tcp(from, to, address, &traffic::bytes(7, 150_000, false));
                vm::udp(from, to, address, &[0, 1, 100, 777, 1300]);
            }
            check.passed();
        }
    });
}

fn every_way(cipher: (&'static str, &'static str, usize)) {
    let Some(topology) = hosts("vm-esp") else { return };
    // All of them with one cipher; the other two have each on and off.
    let all = [(false, false), (true, true), (true, false), (false, true)];
    let ways = if cipher.0 == "aes-256-gcm" { &all[..] } else { &all[..2] };
    for v6 in [false, true] {
        for &(esn, udp) in ways {
            both_roles(&topology, Case { esn, udp, ..Case::tunnel(cipher, v6) });
        }
    }
}

#[test]
fn aes_128_gcm() {
    every_way(CIPHERS[0]);
}

#[test]
fn aes_256_gcm() {
    every_way(CIPHERS[1]);
}

#[test]
fn chacha20_poly1305() {
    every_way(CIPHERS[2]);
}

#[test]
fn transport_mode() {
    let Some(topology) = hosts("vm-esptra") else { return };
    for (cipher, v6, esn) in [(0, false, false), (1, false, true), (1, true, false), (2, true, true), (2, false, false)]
    {
        both_roles(&topology, Case { esn, transport: true, ..Case::tunnel(CIPHERS[cipher], v6) });
    }
}

#[test]
fn under_load() {
    let Some(topology) = hosts("vm-espload") else { return };
    with(&topology, Case { esn: true, ..Case::tunnel(CIPHERS[1], false) }, |edge| {
        vm::ping(&topology.client, SERVER[0]);
        let run = |arguments: &[&str]| vm::iperf(&topology.client, &topology.server, SERVER[0], 3, arguments);
        let (there, back) = (run(&[]), run(&["-R"]));
        let udp = run(&["-u", "-b", "4M", "-l", "1200"]);
        let [there, back] = [there, back].map(|report| vm::rate(&report) / 1e6);
        eprintln!("iperf3 TCP {there:.1} Mbit/s there, {back:.1} back; UDP lost {}", udp["end"]["sum"]["lost_packets"]);
        assert!(there > 1.0 && back > 1.0);
        assert_eq!(udp["end"]["sum"]["lost_packets"], 0, "of 4 Mbit/s nothing may be lost");
        assert!(edge.alive());
    });
}

/// Every ESP packet that the kernel sent, sent again: none gets through.
#[test]
fn what_was_captured_is_refused_the_second_time() {
    let Some(topology) = hosts("vm-espreplay") else { return };
    for esn in [false, true] {
        with_replay(&topology, Case { esn, ..Case::tunnel(CIPHERS[0], false) });
    }
}

fn with_replay(topology: &Topology, case: Case) {
    use softdpu_testbed::capture::Capture;
    let folder = RunDir::new("vm-replay").unwrap();
    let key = |spi| ChildSa::random(spi, case.cipher.2).unwrap();
    let child = Child { outbound: key(0x7001), inbound: key(0x7002) };
    let peer = case.peer(topology);
    let _kernel = Kernel::new(peer, &case, &child);
    let edge = Edge::start(common::binary(), &topology.edge_a, &policy(&folder, &case, &child)).unwrap();
    vm::ping(&topology.client, SERVER[0]);
    let filter = format!("ip proto 50 and src {}", EDGE_B[0]);
    let capture = Capture::start(&topology.wire, "wire", &filter, 0, 1000, &folder).unwrap();
    vm::tcp(&topology.client, &topology.server, SERVER[0], &traffic::bytes(3, 60_000, false));
    let seen = capture.stop().unwrap().frames;
    assert!(seen.len() > 20, "{} frames", seen.len());
    let count = || Figures::read(&edge.status().unwrap());
    let before = count();
    let raw = topology.wire.within(|| Ok(socket_on("to-a")?)).unwrap();
    for frame in &seen {
        // SAFETY: the frame outlives the call.
        let sent = unsafe { libc::send(raw.as_raw_fd(), frame.bytes.as_ptr().cast(), frame.bytes.len(), 0) };
        assert_eq!(sent as usize, frame.bytes.len(), "{}", std::io::Error::last_os_error());
    }
    let refused = |figures: &Figures| -> u64 {
        let reasons = figures.drops_by_reason.iter();
        reasons.filter(|(reason, _)| reason.contains("replay")).map(|(_, count)| count).sum()
    };
    let all = process::eventually(Duration::from_secs(10), || {
        let now = count();
        (refused(&now) - refused(&before) >= seen.len() as u64).then_some(now)
    });
    let now = all.unwrap_or_else(|| panic!("{case:?}: {} sent again, now {:?}", seen.len(), count()));
    assert_eq!(refused(&now) - refused(&before), seen.len() as u64, "{case:?}");
    assert_eq!(now.packets_decrypted, before.packets_decrypted, "{case:?}");
    assert!(edge.stop().unwrap().success());
}

/// A packet socket that sends whole frames out of a link of this thread's namespace.
fn socket_on(link: &str) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system call; the result is checked and then owned.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    let name = std::ffi::CString::new(link).map_err(std::io::Error::other)?;
    // SAFETY: numbers only; zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    // SAFETY: a terminated string that lives over the call.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    // SAFETY: a whole address that lives over the call.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    if bound == 0 { Ok(socket) } else { Err(std::io::Error::last_os_error()) }
}
