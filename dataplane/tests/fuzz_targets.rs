//! Every recogniser and every reassembler is reached by a fuzz target of its own family. A new one that is not fails here, and
//! so does a protocol asked for that has no class.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use softdpu::l7::{self, Recogniser};

/// The families, by the folders of `src/l7/`.
const FAMILIES: &[(&str, &[Recogniser])] = &[
    ("web", l7::web::RECOGNISERS),
    ("remote", l7::remote::RECOGNISERS),
    ("mail", l7::mail::RECOGNISERS),
    ("files", l7::files::RECOGNISERS),
    ("data", l7::data::RECOGNISERS),
    ("queue", l7::queue::RECOGNISERS),
    ("infra", l7::infra::RECOGNISERS),
    ("voice", l7::voice::RECOGNISERS),
    ("vpn", l7::vpn::RECOGNISERS),
    ("industry", l7::industry::RECOGNISERS),
    ("measure", l7::measure::RECOGNISERS),
];

/// Reassemblers, and the targets that reach them.
const REASSEMBLERS: &[(&str, &str)] = &[("l7_stream", "fuzz::stream"), ("reassembly", "wire::reassembly")];

/// Target files by name, and the manifest.
fn targets() -> (BTreeMap<String, String>, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap())
    };
    let files = std::fs::read_dir(folder.join("fuzz_targets")).unwrap().map(read).collect();
    (files, std::fs::read_to_string(folder.join("Cargo.toml")).unwrap())
}

fn same(a: &[Recogniser], b: &[Recogniser]) -> bool {
    a.iter().map(|r| r.name).eq(b.iter().map(|r| r.name))
}

#[test]
fn every_recogniser_has_a_target() {
    let (targets, _) = targets();
    for family in l7::FAMILIES {
        let (folder, _) = FAMILIES.iter().find(|(_, f)| same(f, family)).expect("a family that this test knows");
        let call = format!("l7::{folder}::RECOGNISERS");
        let of: Vec<&str> = targets.iter().filter(|(_, text)| text.contains(&call)).map(|(name, _)| &**name).collect();
        assert!(!of.is_empty(), "no target calls {call}");
        for recogniser in *family {
            let transports = match (recogniser.tcp.is_some(), recogniser.udp.is_some()) {
                (true, true) => "TCP and UDP",
                (true, false) => "TCP",
                _ => "UDP",
            };
            println!("{} ({transports}): {}", recogniser.name, of.join(", "));
        }
    }
    assert_eq!(l7::FAMILIES.len(), FAMILIES.len());
}

/// A file with a `look` that no table has would be asked by nobody, neither packets nor fuzzers.
#[test]
fn every_file_with_a_recogniser_is_in_its_family_s_table() {
    let l7 = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/l7");
    for (folder, _) in FAMILIES {
        let table = std::fs::read_to_string(l7.join(folder).join("mod.rs")).unwrap();
        for entry in std::fs::read_dir(l7.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "rs") || path.ends_with("mod.rs") {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let looks = text.lines().any(|l| l.starts_with("pub fn look"));
            assert!(!looks || table.contains(&format!("{name}::look")), "{folder}/{name}.rs is in no table");
        }
    }
}

#[test]
fn every_reassembler_has_a_target_and_every_target_is_built() {
    let (targets, manifest) = targets();
    for (target, calls) in REASSEMBLERS {
        assert!(targets.get(*target).is_some_and(|text| text.contains(calls)), "{target} does not call {calls}");
    }
    for target in targets.keys() {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target} is not in Cargo.toml");
    }
}

/// What softdpu is asked to recognise, by its class names: none may disappear unseen.
const ASKED_FOR: &str = "tls dtls quic http http_proxy http_connect http2 grpc websocket dns mdns llmnr netbios dot doh doq \
    ssdp ntp dhcp dhcpv6 snmp syslog radius tftp ssh telnet ftp ftp_data smtp imap pop3 ldap kerberos smb nfs sunrpc dcerpc \
    rdp vnc sip rtp rtcp rtsp rtmp stun wireguard openvpn ike ipsec l2tp pptp gre vxlan geneve gtp_u gtp_c teredo bgp ospf \
    vrrp icmp icmpv6 igmp sctp mysql postgresql tds oracle mongodb redis memcached cassandra elasticsearch kafka amqp mqtt \
    nats stomp coap zookeeper etcd nvme_tcp iscsi ceph modbus dnp3 iec104 opcua bacnet ethernet_ip s7 someip bittorrent \
    socks proxy_protocol git rsync xmpp irc netflow ipfix sflow zabbix";

#[test]
fn every_protocol_asked_for_has_a_class() {
    let missing: Vec<&str> = ASKED_FOR.split_whitespace().filter(|name| !l7::Class::NAMES.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
