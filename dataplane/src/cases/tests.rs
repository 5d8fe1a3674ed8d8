//! Cases as files: what holds, what fails and how it is said, and what is wrong with a file.
#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;

const POLICY: &str = r#"
name = "edge"
[workers]
frames = 512
[[port]]
name = "apps"
interface = "eth1"
[[port]]
name = "uplink"
interface = "eth0"
[[steer]]
name = "all"
[[tunnel]]
name = "to-b"
local = "192.0.2.1"
remote = "192.0.2.2"
out = { spi = 0x1001, key_file = "/nowhere/out.key" }
in = { spi = 0x1002, key_file = "/nowhere/in.key" }
[[tunnel]]
name = "wg"
type = "wireguard"
[[rule]]
name = "sealed"
to = ["10.2.0.0/24"]
encrypt = "to-b"
compress = "lz4"
[[rule]]
name = "guarded"
to = ["10.4.0.0/24"]
encrypt = "wg"
[[rule]]
name = "slow"
to = ["10.5.0.0/24"]
offload = "never"
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(cases: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("policy.toml"), POLICY).unwrap();
        fs::write(folder.path().join("a.case.toml"), format!("policy = \"policy.toml\"\n{cases}")).unwrap();
        Self(folder)
    }

    fn suite(&self) -> Result<Suite, String> {
        let folder = self.0.path().to_owned();
        let said = |wrong: Vec<Unusable>| report::unusable(&wrong, false);
        Suite::read(&[folder], None).map_err(said)
    }

    fn run(&self) -> Vec<Outcome> {
        self.suite().unwrap_or_else(|said| panic!("{said}")).run(|_, _| true, |_| {}).unwrap()
    }
}

fn all_ok(cases: &str) {
    for outcome in Folder::new(cases).run() {
        assert!(outcome.ok, "{}: {:?}\nseen: {}", outcome.name, outcome.failures, outcome.seen);
    }
}

#[test]
fn a_tunnel_seals_what_its_other_end_opens() {
    all_ok(
        r#"
[[case]]
name = "esp"
connection = { port = "apps", from = "10.1.0.1", to = "10.2.0.2:80", http_host = "shop.example" }
expect = { verdict = "forwarded", port = "uplink", tunnel = "to-b", encrypted = true, rule = "sealed", class = "http", host = "shop.example", offload = "protected", tier = "worker", steer = "all" }
counter = [{ name = 'softdpu_rule_packets_total{rule="sealed"}', least = 100 }]
[[case]]
name = "wireguard"
connection = { port = "apps", from = "10.1.0.1", to = "10.4.0.2:9000", protocol = "udp" }
expect = { tunnel = "wg", encrypted = true, rule = "guarded", packets = 1 }
[[case]]
name = "from the other end"
packet = [{ port = "uplink", sealed = "to-b", from = "10.2.0.2:5000", to = "10.1.0.1:53", payload = "x", expect = { verdict = "forwarded", port = "apps", tunnel = "none", ttl = 63, steer = "tunnel:to-b" } }]
[[case]]
name = "bytes of the inner packet"
packet = [{ port = "apps", from = "10.1.0.1:1", to = "10.2.0.2:2", payload = "hi", expect = { inner = "4500001e ????4000 3f11???? 0a010001 0a020002 00010002 000a???? 6869", length = 30 } }]
"#,
    );
}

#[test]
fn flows_settle_where_nothing_keeps_them() {
    all_ok(
        r#"
[[case]]
name = "free"
connection = { port = "apps", from = "10.1.0.1", to = "10.9.0.2:9000" }
expect = { tier = "xdp", offload = "none", rule = "none", encrypted = false }
[[case]]
name = "kept"
connection = { port = "apps", from = "[2001:db8::1]:7", to = "[2001:db8::2]:9000", protocol = "udp" }
expect = { tier = "xdp" }
[[case]]
name = "by policy"
connection = { port = "apps", from = "10.1.0.1", to = "10.5.0.2:9000", protocol = "udp" }
expect = { tier = "worker", offload = "policy_never", rule = "slow" }
[[case]]
name = "too young"
packet = [{ port = "apps", from = "10.1.0.1", to = "10.9.0.2:9000", protocol = "tcp" }]
expect = { tier = "worker", offload = "not_proven" }
"#,
    );
}

#[test]
fn senders_that_leave_checksums_keep_flows_at_the_worker() {
    let case =
        "[[case]]\nname = \"veth\"\nconnection = { port = \"apps\", from = \"10.1.0.1\", to = \"10.9.0.2:9\" }\n";
    all_ok(&format!("veth = [\"apps\"]\n{case}expect = {{ tier = \"worker\", offload = \"checksums\" }}"));
}

#[test]
fn routes_neighbours_and_links_of_the_file_are_the_worlds() {
    all_ok(
        r#"
invent = false
link = [{ port = "apps", addresses = ["10.1.0.254"], mtu = 1400 }]
route = [{ to = "10.9.0.0/24", port = "uplink", via = "192.0.2.9" }, { to = "10.1.0.0/24", port = "apps" }]
neighbour = [{ port = "uplink", address = "192.0.2.9", mac = "02:00:00:00:99:99" }]
[[case]]
name = "by the router"
packet = [{ port = "apps", from = "10.1.0.1", to = "10.9.0.2:9", expect = { bytes = "02 00 00 00 99 99 02 00 00 00 00 02 08 00 45 00 00 1c ?? ?? 40 00 3f 11 ?? ?? 0a 01 00 01 0a 09 00 02 9c 40 00 09 00 08 ?? ??" } }]
[[case]]
name = "nowhere to go"
packet = [{ port = "apps", from = "10.1.0.1", to = "10.8.0.2:9", expect = { reason = "no_route" } }]
"#,
    );
}

#[test]
fn a_failure_names_its_line_and_what_was_seen() {
    let folder = Folder::new(
        "[[case]]\nname = \"wrong\"\n[[case.packet]]\nport = \"apps\"\nfrom = \"10.1.0.1\"\nto = \"10.2.0.2:9\"\n[case.packet.expect]\nverdict = \"forwarded\"\nencrypted = false\nbytes = \"00 ??\"\n[[case.counter]]\nname = \"softdpu_nothing\"\nis = 1\n",
    );
    let outcomes = folder.run();
    let said: Vec<_> =
        outcomes[0].failures.iter().map(|f| (f.line, f.column, f.expected.as_str(), f.seen.as_str())).collect();
    assert_eq!(said[0], (10, 13, "false", "true"));
    assert_eq!((said[1].0, said[1].1, said[1].2), (11, 9, "00 ?? from byte 0"));
    assert_eq!(said[2], (13, 8, "1", "no such counter"));
    let mut text = Vec::new();
    report::case(&outcomes[0], false, false, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with("FAIL") && text.contains("a.case.toml:10:13: encrypted: expected false, seen true"),
        "{text}"
    );
    let xml = report::junit(&outcomes);
    assert!(
        xml.contains("tests=\"1\" failures=\"1\"") && xml.contains("encrypted: expected false, seen true"),
        "{xml}"
    );
    let mut json = Vec::new();
    report::json(&outcomes, &mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((json["failed"].as_u64(), json["cases"][0]["failures"][0]["line"].as_u64()), (Some(1), Some(10)));
}

#[test]
fn what_is_wrong_with_a_file_is_said_like_of_a_policy() {
    let packet = "[[case]]\nname = \"x\"\n[[case.packet]]\nport = \"apps\"\nfrom = \"10.1.0.1\"\nto = \"10.2.0.2:9\"\n";
    let expect = format!("{packet}[case.packet.expect]\n");
    for (cases, column, says, help) in [
        ("", ":", "has no case", "at least one [[case]]"),
        ("[[case]]\nname = \"x\"\n", ":3:", "has no packet", "[case.connection]"),
        (packet, ":3:8", "expects nothing", "[case.expect]"),
        (&format!("{expect}rulle = \"sealed\"\n"), ":9:1", "has no key `rulle`", "did you mean `rule`?"),
        (&format!("{expect}rule = \"seeled\"\n"), ":9:8", "there is no rule `seeled`", "did you mean `sealed`?"),
        (&format!("{expect}reason = \"bad_icw\"\n"), ":9:10", "no drop reason `bad_icw`", "did you mean `bad_icv`?"),
        (&format!("{expect}tunnel = \"x\"\n"), ":9:10", "there is no tunnel `x`", "there is to-b, wg"),
        (&format!("{expect}bytes = \"0g\"\n"), ":9:9", "not in hex digits", "two digits for each byte"),
        (&format!("{expect}verdict = \"lost\"\n"), ":9:11", "cannot be \"lost\"", "\"forwarded\""),
        (&format!("{expect}capture = \"no.pcap\"\n"), ":9:11", "no.pcap", "pcap or pcapng"),
        (&format!("{packet}answer = 1\n"), ":8:10", "true or false", "help"),
        (&packet.replace("10.1.0.1", "10.1.0.1.1"), ":6:8", "neither an address", "10.1.0.10:40000"),
        (&packet.replace("10.1.0.1", "2001:db8::1"), ":7:6", "different families", "two IPv4"),
        (&packet.replace("\"apps\"", "\"aps\""), ":5:8", "no port `aps`", "did you mean `apps`?"),
        (&packet.replace("port = \"apps\"\n", ""), ":5:8", "without a port", "it comes in by"),
        (&format!("{packet}hex = \"00\"\n"), ":6:8", "given twice", "give one of"),
        (&format!("{packet}flags = \"sin\"\n"), ":8:9", "no flag `sin`", "fin, syn, rst, psh, ack"),
        (&format!("{packet}length = 21\n"), ":8:10", "less than the packet's headers", "at least 28"),
        (&format!("{expect}verdict = \"waits\"\n{expect}verdict = \"waits\"\n"), ":11:8", "two cases", "first here"),
        ("neighbour = [{ port = \"apps\", address = \"10.1.0.1\", mac = \"2:3\" }]\n", ":2:", "not a MAC", "six bytes"),
        ("[[case]\n", ":2:", "", "help"),
    ] {
        let said = Folder::new(cases).suite().err().unwrap_or_else(|| panic!("taken: {cases}"));
        assert!(said.contains("a.case.toml:") || says == "has no case", "{said}");
        let fits = said.contains(column) && said.contains(says) && said.contains(help);
        assert!(fits, "{cases}\nwants {column} `{says}` `{help}`, says\n{said}");
    }
}

#[test]
fn a_capture_goes_in_and_is_compared() {
    let folder = Folder::new(
        "[[case]]\nname = \"capture\"\nexpect = { capture = \"out.pcap\", ignore = [\"ttl\", \"id\"], packets = 1 }\n[[case.packet]]\nport = \"apps\"\ncapture = \"in.pcap\"\n",
    );
    let described = |port| frame::Described {
        from: "10.1.0.1:5".parse().unwrap(),
        to: std::net::SocketAddr::new("10.2.0.2".parse().unwrap(), port),
        protocol: 17,
        flags: 0,
        sequence: [0; 2],
        answer: false,
        vlan: Vec::new(),
        dscp: 0,
        ttl: 64,
        payload: vec![7; 40],
    };
    for name in ["in.pcap", "out.pcap"] {
        let mut writer = crate::io::pcap::CaptureWriter::create(&folder.0.path().join(name)).unwrap();
        for port in [9, 10] {
            writer.write(0, &described(port).frame()).unwrap();
        }
        writer.finish().unwrap();
    }
    let outcomes = folder.run();
    assert!(outcomes[0].ok, "{outcomes:?}");
}

#[test]
fn the_examples_are_as_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/tests");
    let suite = Suite::read(&[folder], None).unwrap_or_else(|wrong| panic!("{}", report::unusable(&wrong, false)));
    let outcomes = suite.run(|_, _| true, |_| {}).unwrap();
    assert!(outcomes.len() >= 12);
    for outcome in outcomes {
        assert!(outcome.ok, "{}: {:?}\nseen: {}", outcome.name, outcome.failures, outcome.seen);
    }
}
