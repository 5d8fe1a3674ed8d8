//! `softdpu classify` against what a mature classifier says of 140 real captures.
//!
//! The captures are not part of the repository: they are taken from `SOFTDPU_CAPTURES`, or from `shared/captures` beside
//! the checkout. Where there are none, the test says so and passes.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use softdpu::cli::classify::{FlowRow, classify_file};

struct Label {
    file: String,
    l4: String,
    ends: [String; 2],
    protocol: String,
    host: String,
    sure: bool,
}

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("SOFTDPU_CAPTURES").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    named.or(Some(beside)).filter(|p| p.join("labels.csv").is_file())
}

/// The labels shorten one group of zeros in an IPv6 address; RFC 5952 §4.2.2 does not.
fn end(label: &str) -> String {
    label.parse::<std::net::SocketAddr>().map_or_else(|_| label.to_owned(), |end| end.to_string())
}

fn labels(folder: &Path) -> Vec<Label> {
    let text = std::fs::read_to_string(folder.join("labels.csv")).unwrap();
    let row = |line: &str| {
        let f: Vec<&str> = line.trim_end().split(',').collect();
        Label {
            file: f[0].to_owned(),
            l4: f[1].to_owned(),
            ends: [end(f[2]), end(f[3])],
            protocol: f[4].to_lowercase(),
            // A damaged name may hold commas.
            host: f[5..f.len() - 1].join(",").to_lowercase(),
            sure: f[f.len() - 1] == "DPI",
        }
    };
    text.lines().skip(1).filter(|l| !l.trim().is_empty()).map(row).collect()
}

/// Captures whose bytes were damaged on purpose, packet by packet. The labels read one copy of a damaged name, the
/// recognisers another (the first, where the labels have the answered one): these names are counted apart.
const DAMAGED: &str = "fuzz-";

/// Labels that are judged wrong, and why.
const WRONG: [(&str, &str, &str); 3] = [
    ("dns_ambiguous_names.pcap", "_.teams.microsoft.com", "the query says *.teams.microsoft.com"),
    (
        "bad-dns-traffic.pcap",
        "958700a621c3620001636f6e736f6c65202873697276696d65732900.skullseclabs.org",
        "the flow's second query; its first has another name",
    ),
    (
        "bad-dns-traffic.pcap",
        "c75900fdf525320021636f6d6d616e64202873697276696d65732900.skullseclabs.org",
        "the flow's second query; its first has another name",
    ),
];

/// Protocols that labels have wrong: capture, protocol of the label, ours, and why.
const WRONG_PROTOCOL: &[(&str, &str, &str, &str)] = &[
    ("nfsv2.pcap", "nfs", "sunrpc", "calls of the port mapper, which only ask where NFS is"),
    ("sip_hello.pcapng", "sip", "unknown", "datagrams of the five letters \"hello\", on SIP's port"),
    ("kerberos_fuzz.pcapng", "kerberos", "no such flow", "one packet of noise, its TCP header 8 bytes long"),
    ("jabber.pcap", "jabber", "unknown", "on port 5223, messages of a binary format and no XML: not XMPP"),
    ("cloudflare-warp.pcap", "jabber", "unknown", "likewise"),
    (
        "coap_mqtt.pcap",
        "dropbox",
        "coap",
        "CoAP: requests with paths, answers with their tokens; only the port is Dropbox's",
    ),
];

/// Labels that name a service where we name the protocol that it speaks, and the protocol.
const SERVICES: &[(&str, &str)] = &[
    // Begins with XMPP's stream header.
    ("truphone", "xmpp"),
    // A TLS handshake.
    ("applepush", "tls"),
    // WireGuard's messages, to the byte.
    ("tailscale", "wireguard"),
    // An HTTP request with a Host field.
    ("maplestory", "http"),
];

/// Protocols in scope: as the labels call them, and as they are called here. The labels' word is sometimes the wider one.
const IN_SCOPE: &[(&str, &[&str])] = &[
    ("ajp", &["ajp"]),
    ("amqp", &["amqp"]),
    // The same protocol under a vendor's name.
    ("avastsecuredns", &["dnscrypt"]),
    ("bgp", &["bgp"]),
    ("cassandra", &["cassandra"]),
    ("coap", &["coap"]),
    ("dcerpc", &["dcerpc"]),
    ("dhcp", &["dhcp"]),
    ("dhcpv6", &["dhcpv6"]),
    ("dns", &["dns"]),
    ("dnscrypt", &["dnscrypt"]),
    ("dtls", &["dtls"]),
    ("ftp_control", &["ftp"]),
    ("git", &["git"]),
    ("gtp", &["gtp_c", "gtp_u"]),
    ("http", &["http", "websocket", "elasticsearch"]),
    ("http_connect", &["http_connect"]),
    ("http_proxy", &["http_proxy"]),
    ("icmp", &["icmp"]),
    ("icmpv6", &["icmpv6"]),
    ("ipsec", &["ike", "ipsec"]),
    ("irc", &["irc"]),
    ("jabber", &["xmpp"]),
    ("kerberos", &["kerberos"]),
    ("mdns", &["mdns"]),
    ("memcached", &["memcached"]),
    ("modbus", &["modbus"]),
    ("mqtt", &["mqtt"]),
    ("mysql", &["mysql"]),
    ("netbios", &["netbios"]),
    ("netflow", &["netflow", "ipfix"]),
    ("nfs", &["nfs"]),
    ("ntp", &["ntp"]),
    ("openvpn", &["openvpn"]),
    ("pops", &["pop3"]),
    ("postgresql", &["postgresql"]),
    ("quic", &["quic"]),
    ("radius", &["radius"]),
    ("rdp", &["rdp"]),
    ("rsync", &["rsync"]),
    ("rtmp", &["rtmp"]),
    ("rtp", &["rtp"]),
    ("rtsp", &["rtsp"]),
    ("sip", &["sip"]),
    ("snmp", &["snmp"]),
    ("socks", &["socks"]),
    ("someip", &["someip"]),
    ("srtp", &["rtp"]),
    ("ssdp", &["ssdp"]),
    ("ssh", &["ssh"]),
    ("stomp", &["stomp"]),
    ("stun", &["stun"]),
    ("syslog", &["syslog"]),
    ("telnet", &["telnet"]),
    ("tls", &["tls", "dot", "doh"]),
    ("usenet", &["nntp"]),
    ("vnc", &["vnc"]),
    ("vrrp", &["vrrp"]),
    ("wireguard", &["wireguard"]),
];

/// Whether the label is one of those judged wrong, and we say what is right.
fn wrong(l: &Label, got: &str) -> bool {
    WRONG_PROTOCOL.iter().any(|(file, label, ours, _)| *file == l.file && *label == l.protocol && *ours == got)
}

#[test]
fn agrees_with_the_labels() {
    let Some(folder) = folder() else {
        println!("skipped: no captures (set SOFTDPU_CAPTURES to a folder with labels.csv)");
        return;
    };
    let mut flows: HashMap<(String, String, [String; 2]), FlowRow> = HashMap::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "pcap" || e == "pcapng" || e == "cap")) {
        let (rows, summary, result) = classify_file(path);
        if let Err(e) = result {
            println!("{}: {e:#}", path.display());
        }
        let outside = rows.iter().filter(|r| r.within.is_empty());
        assert_eq!(summary.packets - summary.skipped, outside.map(|r| r.packets).sum::<u64>(), "{path:?}");
        for row in rows {
            let mut ends = [row.a.clone(), row.b.clone()];
            ends.sort();
            let key = (row.file.clone(), row.l4.clone(), ends);
            // The labels do not tell connections apart that use the same ports one after the other.
            let known = flows.entry(key).or_insert_with(|| row.clone());
            if known.protocol == "unknown" {
                known.protocol = row.protocol;
            }
            if known.host.is_empty() {
                known.host = row.host;
            }
        }
    }

    let (mut protocols, mut right, mut hosts, mut right_hosts) = (0, 0, 0, 0);
    let (mut damaged, mut damaged_right) = (0, 0);
    let (mut damaged_hosts, mut damaged_hosts_right) = (0, 0);
    let (mut others, mut claimed, mut initiators) = (0, 0, 0);
    let mut misses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut miss = |why: &str, l: &Label, got: String| {
        let line = format!("{} {} {} {} {} {} -> {got}", l.file, l.l4, l.ends[0], l.ends[1], l.protocol, l.host);
        misses.entry(why.to_owned()).or_default().push(line);
    };
    for l in labels(&folder).iter().filter(|l| l.sure) {
        let mut ends = l.ends.clone();
        ends.sort();
        let flow = flows.get(&(l.file.clone(), l.l4.clone(), ends));
        let got = flow.map_or("no such flow", |f| f.protocol.as_str());
        let Some((_, ours)) = IN_SCOPE.iter().find(|(label, _)| *label == l.protocol) else {
            others += 1;
            let service = SERVICES.iter().any(|(label, speaks)| *label == l.protocol && *speaks == got);
            if !matches!(got, "unknown" | "no such flow") && !service && !wrong(l, got) {
                claimed += 1;
                miss("claimed", l, got.to_owned());
            }
            continue;
        };
        let got_it = ours.contains(&got) || wrong(l, got);
        let of_damaged = l.file.starts_with(DAMAGED);
        damaged += usize::from(of_damaged);
        damaged_right += usize::from(of_damaged && got_it);
        protocols += 1;
        initiators += usize::from(flow.is_some_and(|f| f.a == l.ends[0]));
        if got_it {
            right += 1;
        } else {
            miss("protocol", l, got.to_owned());
        }
        if !l.host.is_empty() && of_damaged {
            let host = flow.map_or("", |f| f.host.as_str());
            damaged_hosts += 1;
            damaged_hosts_right += usize::from(host == l.host);
            if host != l.host {
                miss("damaged host", l, format!("{host:?}"));
            }
        } else if !l.host.is_empty() {
            hosts += 1;
            let host = flow.map_or("", |f| f.host.as_str());
            if WRONG.iter().any(|(f, name, _)| *f == l.file && *name == l.host) || host == l.host {
                right_hosts += 1;
            } else {
                miss("host", l, format!("{host:?}"));
            }
        }
    }
    for (why, lines) in &misses {
        for line in lines {
            println!("{why}: {line}");
        }
    }
    println!("protocols {right}/{protocols}, hosts {right_hosts}/{hosts}, initiators {initiators}/{protocols}");
    println!(
        "of damaged captures: protocols {damaged_right}/{damaged}, hosts besides {damaged_hosts_right}/{damaged_hosts}"
    );
    println!("others claimed {claimed}/{others}");
    for (file, label, ours, why) in WRONG_PROTOCOL {
        println!("label judged wrong: {file} {label}, ours {ours}: {why}");
    }
    for (file, name, why) in WRONG {
        println!("label judged wrong: {file} {name}: {why}");
    }
    assert!(protocols > 450 && hosts > 200 && others > 150, "the labels are there");
    assert!(right * 100 >= protocols * 97, "protocols {right}/{protocols}");
    assert!(right_hosts * 100 >= hosts * 98, "hosts {right_hosts}/{hosts}");
    assert!(claimed * 100 <= others, "others claimed {claimed}/{others}");
}
