//! The programs that the demo and the tests talk to.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Item, Need, apt, say};
use crate::run;

/// Where a plugin of strongSwan is.
macro_rules! plugin {
    ($name:literal) => {
        concat!("/usr/lib/ipsec/plugins/libstrongswan-", $name, ".so")
    };
}

/// Program (or a file, where the path is absolute), Debian package, need, why.
const PROGRAMS: [(&str, &str, Need, &str); 34] = [
    ("ip", "iproute2", Need::Run, "makes namespaces and links"),
    ("ethtool", "ethtool", Need::Run, "sets offloads of links"),
    ("bpftool", "bpftool", Need::Run, "finds XDP programs left behind"),
    ("ping", "iputils-ping", Need::Run, "first sign of life"),
    ("ps", "procps", Need::Run, "finds processes left behind"),
    ("nginx", "nginx-light", Need::Run, "HTTP and HTTPS server"),
    ("openssl", "openssl", Need::Run, "makes the server's certificate"),
    ("curl", "curl", Need::Run, "HTTP and HTTPS client"),
    ("dnsmasq", "dnsmasq-base", Need::Run, "DNS server"),
    ("dig", "bind9-dnsutils", Need::Run, "DNS client"),
    ("iperf3", "iperf3", Need::Run, "throughput over TCP and UDP"),
    ("rsync", "rsync", Need::Run, "backups of the worked example"),
    ("tcpdump", "tcpdump", Need::Run, "captures the wire"),
    ("tshark", "tshark", Need::Test, "decrypts our ESP as a stranger"),
    ("/usr/lib/python3/dist-packages/scapy", "python3-scapy", Need::Test, "builds and opens ESP as a stranger"),
    ("/usr/bin/python3", "python3-minimal", Need::Test, "runs Scapy"),
    ("nfcapd", "nfdump", Need::Test, "collects our flow records as a stranger"),
    ("ndpiReader", "libndpi-bin", Need::Test, "classifies captures beside us in the bench"),
    ("valgrind", "valgrind", Need::Test, "counts instructions in the bench"),
    ("nft", "nftables", Need::Test, "filters in tests, translates addresses beside us in the bench"),
    ("haproxy", "haproxy", Need::Test, "passes connections on beside us in the bench"),
    ("wrk", "wrk", Need::Test, "HTTPS client of the bench"),
    ("g++", "g++", Need::Test, "builds libFuzzer"),
    ("wg", "wireguard-tools", Need::Peers, "configures WireGuard peers, and ours"),
    ("wireguard-go", "wireguard-go", Need::Peers, "WireGuard peer of another make"),
    ("/usr/lib/ipsec/charon", "strongswan-charon", Need::Peers, "IPsec peer of another make: its IKE daemon"),
    ("swanctl", "strongswan-swanctl", Need::Peers, "configures it"),
    (plugin!("kernel-libipsec"), "libcharon-extra-plugins", Need::Peers, "its ESP in user space"),
    (plugin!("openssl"), "libstrongswan-standard-plugins", Need::Peers, "its fast ciphers"),
    (plugin!("chapoly"), "libstrongswan-extra-plugins", Need::Peers, "its ChaCha20-Poly1305 and Curve25519"),
    ("qemu-system-x86_64", "qemu-system-x86", Need::Vm, "the virtual machine"),
    ("busybox", "busybox-static", Need::Vm, "the VM's shell"),
    ("kmod", "kmod", Need::Vm, "loads the VM's modules"),
    ("xz", "xz-utils", Need::Vm, "unpacks the VM's modules"),
];

/// Looks for each.
pub fn look() -> Vec<Item> {
    let find = |program: &str| {
        let path = if program.starts_with('/') { Some(program.into()) } else { run::which(program) };
        path.filter(|path| Path::new(path).exists()).map(|path| path.display().to_string())
    };
    PROGRAMS
        .iter()
        .map(|(program, package, need, why)| Item {
            what: (*package).to_owned(),
            why,
            need: *need,
            found: find(program),
            how: format!("apt-get install --no-install-recommends {package}"),
        })
        .collect()
}

/// Installs what is missing up to `need`, where that can be done.
///
/// # Errors
/// When apt fails.
pub fn install(need: Need) -> Result<()> {
    let items = look();
    let wanted: Vec<&str> = items
        .iter()
        .filter(|item| need.includes(item.need) && item.found.is_none())
        .map(|item| item.what.as_str())
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if !apt::usable() {
        say(&format!("as root: apt-get install --no-install-recommends {}", wanted.join(" ")));
        return Ok(());
    }
    apt::update();
    apt::install(&wanted, "programs that the demo and the tests talk to")
}

/// Makes sure of one program of the list, whatever else is missing.
///
/// # Errors
/// When it is missing and cannot be installed; the message says what to do.
pub fn ensure(program: &str) -> Result<()> {
    let Some((_, package, _, why)) = PROGRAMS.iter().find(|(name, ..)| *name == program) else { return Ok(()) };
    if run::which(program).is_some() {
        return Ok(());
    }
    ensure!(apt::usable(), "{program} is missing ({why}); as root: apt-get install --no-install-recommends {package}");
    apt::update();
    apt::install(&[package], why)
}
