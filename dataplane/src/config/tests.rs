//! Broken policies and what is said about them, and properties that hold for every text.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

/// A policy without fault, 3 lines a part. Broken ones differ from it in one place.
const GOOD: &str = r#"name = "edge-a"
[workers]
cores = [0]
[[port]]
name = "apps"
interface = "veth0"
[[port]]
name = "uplink"
interface = "veth1"
[[steer]]
name = "out"
from = ["10.1.0.0/24"]
[[steer]]
name = "esp"
protocol = "esp"
[[tunnel]]
name = "to-b"
local = "192.0.2.1"
remote = "192.0.2.2"
[tunnel.out]
spi = 0x1001
key_file = "/k/out.key"
[tunnel.in]
spi = 0x1002
key_file = "/k/in.key"
[[rule]]
name = "protect"
from = ["10.1.0.0/24"]
encrypt = "to-b"
compress = "lz4"
"#;

#[test]
fn a_good_policy_has_no_problems_and_is_typed() {
    let policy = parse(GOOD, "good.toml").unwrap();
    assert!(policy.warnings.is_empty(), "{:?}", policy.warnings);
    assert_eq!(policy.control.socket.to_str(), Some("/run/softdpu/edge-a.sock"));
    assert_eq!(policy.control.socket_mode, 0o660);
    assert_eq!(policy.workers.cores, Cores::List(vec![0]));
    assert_eq!(policy.esp_tunnels().next().unwrap().1.out.spi, 0x1001);
    assert_eq!(policy.rules[0].encrypt, Some(0));
    assert_eq!(policy.rules[0].compress, Compress::Lz4);
    assert_eq!(policy.steer[0].on_loss, OnLoss::Drop, "a rule encrypts these flows");
    let PortKind::Xdp(port) = &policy.ports[1].kind else { panic!("not xdp") };
    assert_eq!((port.interface.as_str(), port.queues, port.ring), ("veth1", None, 2048));
}

/// `(what to replace, by what, line, column, code, part of the cause, part of the remedy)`: one error each, and only it.
#[rustfmt::skip]
const BROKEN: &[(&str, &str, usize, usize, Code, &str, &str)] = &[
    ("name = \"edge-a\"", "nmae = \"edge-a\"", 1, 1, Code::UnknownKey, "no key `nmae`", "did you mean `name`?"),
    ("[[port]]\nname = \"uplink\"", "[[ports]]\nname = \"uplink\"", 7, 3, Code::UnknownKey, "`ports`", "did you mean `port`?"),
    ("interface = \"veth0\"", "interface = \"veth0\"\nzero-copy = \"auto\"", 7, 1, Code::UnknownKey, "`zero-copy`", "`zero_copy`"),
    ("cores = [0]", "xyzzy = 1", 3, 1, Code::UnknownKey, "`xyzzy`", "batch, cores, count"),
    ("cores = [0]", "cores = 0", 3, 9, Code::WrongType, "a list, not a whole number", "cores = [0]"),
    ("cores = [0]", "count = \"2\"", 3, 9, Code::WrongType, "a whole number, not a string", "without quotes: count = 2"),
    ("cores = [0]", "cores = [0, 0]", 3, 13, Code::Conflict, "core 0 is named twice", "each core once"),
    ("cores = [0]", "cores = []", 3, 9, Code::ImpossibleValue, "names no core", "cores = [0]"),
    ("cores = [0]", "cores = [5000]", 3, 10, Code::ImpossibleValue, "cannot be 5000", "from 0 to 1023"),
    ("cores = [0]", "cores = [0]\ncount = 1", 4, 9, Code::Conflict, "both say how many", "keep `cores`"),
    ("cores = [0]", "batch = 257", 3, 9, Code::ImpossibleValue, "cannot be 257", "from 1 to 256"),
    ("cores = [0]", "idle = \"adaptiv\"", 3, 8, Code::UnknownWord, "cannot be \"adaptiv\"", "did you mean \"adaptive\"?"),
    ("cores = [0]", "[flows.timeouts]\nudp = \"60\"", 4, 7, Code::ImpossibleValue, "`60` is not a time span", "\"300s\""),
    ("cores = [0]", "[flows.timeouts]\nudp = 60", 4, 7, Code::WrongType, "a string, not a whole number", "udp = \"60\""),
    ("cores = [0]", "[flows]\ncapacity = -1", 4, 12, Code::ImpossibleValue, "cannot be -1", "from 64"),
    ("cores = [0]", "[control]\nmetrics = \"0.0.0.0:9464\"", 4, 11, Code::ImpossibleValue, "open to the network", "127.0.0.1:9464"),
    ("cores = [0]", "[control]\nsocket_mode = \"0666\"", 4, 15, Code::ImpossibleValue, "lets every user", "0660"),
    ("cores = [0]", "[control]\nsocket_mode = \"0888\"", 4, 15, Code::ImpossibleValue, "not a file mode", "octal"),
    ("interface = \"veth0\"", "mode = \"auto\"", 5, 8, Code::MissingKey, "has no `interface`", "ip link"),
    ("interface = \"veth0\"", "interface = \"an-interface-name\"", 6, 13, Code::ImpossibleValue, "cannot be an interface name", "1 to 15 bytes"),
    ("interface = \"veth1\"", "interface = \"veth0\"", 9, 13, Code::Conflict, "two ports own interface veth0", "use one port"),
    ("interface = \"veth0\"", "interface = \"veth0\"\nring = 1000", 7, 8, Code::ImpossibleValue, "not a power of two", "512 or 1024"),
    ("interface = \"veth0\"", "interface = \"veth0\"\nread = \"a.pcap\"", 7, 8, Code::Conflict, "`read` says nothing", "kind = \"pcap\""),
    ("interface = \"veth0\"", "interface = \"veth0\"\nmtu = 1500", 7, 7, Code::Conflict, "`mtu` says nothing", "ip link set"),
    ("interface = \"veth0\"", "kind = \"loopback\"\nloop_to = \"uplnk\"", 7, 11, Code::UnknownName, "no port is called `uplnk`", "there is apps"),
    ("interface = \"veth0\"", "kind = \"loopback\"\nloop_to = \"uplink\"", 7, 11, Code::Conflict, "not of kind loopback", "loops to a loopback"),
    ("name = \"uplink\"", "name = \"apps\"", 8, 8, Code::DuplicateName, "two ports are called `apps`", "name of its own"),
    ("name = \"uplink\"", "name = \"up link\"", 8, 8, Code::ImpossibleValue, "cannot be a name", "letters, digits"),
    ("name = \"uplink\"", "queues = 1", 7, 1, Code::MissingKey, "[port] has no `name`", "add `name`"),
    ("name = \"esp\"", "name = \"esp\"\nport = \"aps\"", 15, 8, Code::UnknownName, "no port is called `aps`", "did you mean \"apps\"?"),
    ("name = \"esp\"", "name = \"esp\"\naction = \"work\"", 15, 10, Code::UnknownWord, "cannot be \"work\"", "\"worker\""),
    ("from = [\"10.1.0.0/24\"]\n[[steer]]", "from = [\"10.1.0.5/24\"]\n[[steer]]", 12, 9, Code::ImpossibleValue, "bits set behind the prefix", "\"10.1.0.0/24\""),
    ("from = [\"10.1.0.0/24\"]\n[[steer]]", "from = [\"10.1.0.0/33\"]\n[[steer]]", 12, 9, Code::ImpossibleValue, "impossible prefix length", "0 to 32"),
    ("from = [\"10.1.0.0/24\"]\n[[steer]]", "from = \"10.1.0.0/24\"\n[[steer]]", 12, 8, Code::WrongType, "a list, not a string", "from = [\"10.1.0.0/24\"]"),
    ("from = [\"10.1.0.0/24\"]\n[[steer]]", "ports = [70000]\n[[steer]]", 12, 10, Code::ImpossibleValue, "70000 is not a port number", "0 to 65535"),
    ("from = [\"10.1.0.0/24\"]\n[[steer]]", "ports = [\"90-80\"]\n[[steer]]", 12, 10, Code::ImpossibleValue, "is empty", "80-90"),
    ("protocol = \"esp\"", "protocol = \"tpc\"", 15, 12, Code::ImpossibleValue, "`tpc` is not a protocol", "did you mean \"tcp\"?"),
    ("protocol = \"esp\"", "protocol = 300", 15, 12, Code::ImpossibleValue, "300 is not an IP protocol number", "0 to 255"),
    ("protocol = \"esp\"", "protocol = \"esp\"\nports = [443]", 16, 10, Code::Conflict, "have no ports", "protocol = \"tcp\""),
    ("protocol = \"esp\"", "from = [\"10.1.0.0/24\"]\nto = [\"2001:db8::/32\"]", 16, 7, Code::Conflict, "different address families", "both IPv4"),
    ("remote = \"192.0.2.2\"", "remote = \"2001:db8::2\"", 19, 10, Code::Conflict, "different families", "both must be IPv4"),
    ("remote = \"192.0.2.2\"", "remote = \"192.0.2.1\"", 19, 10, Code::Conflict, "leads to itself", "peer's outer address"),
    ("remote = \"192.0.2.2\"", "remote = \"192.0.2.2/32\"", 19, 10, Code::ImpossibleValue, "is not an address", "\"192.0.2.2\""),
    ("remote = \"192.0.2.2\"", "remote = \"192.0.2.2\"\nreplay_window = 1000", 20, 17, Code::ImpossibleValue, "not a power of two", "512 or 1024"),
    ("remote = \"192.0.2.2\"", "remote = \"192.0.2.2\"\nreplay_window = 8192", 20, 17, Code::ImpossibleValue, "cannot be 8192", "from 64 to 4096"),
    ("remote = \"192.0.2.2\"", "remote = \"192.0.2.2\"\nmtu = 100", 20, 7, Code::ImpossibleValue, "cannot be 100", "from 576"),
    ("remote = \"192.0.2.2\"", "remote = \"192.0.2.2\"\ncipher = \"aes256gcm\"", 20, 10, Code::UnknownWord, "aes256gcm", "did you mean \"aes-256-gcm\"?"),
    ("spi = 0x1001", "spi = 7", 21, 7, Code::ImpossibleValue, "cannot be 7", "from 256 to 4294967295"),
    ("spi = 0x1001", "spi = 0x1_0000_0000", 21, 7, Code::ImpossibleValue, "cannot be", "from 256 to 4294967295"),
    ("key_file = \"/k/in.key\"", "key_file = \"/k/./out.key\"", 25, 12, Code::KeyReuse, "serves two security associations", "key of its own"),
    ("key_file = \"/k/in.key\"", "", 23, 1, Code::MissingKey, "has no `key_file`", "mode 0600"),
    ("encrypt = \"to-b\"", "encrypt = \"to-a\"", 29, 11, Code::UnknownName, "no tunnel is called `to-a`", "did you mean \"to-b\"?"),
    ("encrypt = \"to-b\"\n", "", 29, 12, Code::Conflict, "compresses without a tunnel", "add `encrypt`"),
    ("encrypt = \"to-b\"", "encrypt = \"to-b\"\naction = \"drop\"", 29, 11, Code::Conflict, "drops its flows and encrypts", "keep `encrypt`"),
    ("encrypt = \"to-b\"", "encrypt = \"to-b\"\nclass = [\"htpp\"]", 30, 10, Code::UnknownWord, "`htpp`", "did you mean \"http\"?"),
    ("encrypt = \"to-b\"", "encrypt = \"to-b\"\nhost = [\"www.*.org\"]", 30, 9, Code::ImpossibleValue, "not the whole first label", "*.example.com"),
    ("encrypt = \"to-b\"", "encrypt = \"to-b\"\nhost = [\"https://a.org/\"]", 30, 9, Code::ImpossibleValue, "more than a host name", "name alone"),
    ("encrypt = \"to-b\"", "encrypt = \"to-b\"\napplication = [\"pay\"]\n[[application]]\nname = \"paid\"\nport = [443]\n[[rule]]\nname = \"x\"\nto = [\"10.9.0.0/24\"]\nencrypt = \"to-b\"", 30, 16, Code::UnknownName, "no application is called `pay`", "there is paid"),
    ("[[rule]]", "[[application]]\nname = \"pay\"\n[[rule]]", 27, 8, Code::MissingKey, "does not say which flows", "add host"),
    ("[[rule]]", "[[application]]\nname = \"pay\"\nhost = [\"a..b\"]\n[[rule]]", 28, 9, Code::ImpossibleValue, "not a host name or pattern", "api-*.example.com"),
    ("[[rule]]", "[[application]]\nname = \"pay\"\nalpn = [\"h4\"]\n[[rule]]", 28, 9, Code::UnknownWord, "`h4`", "did you mean \"h"),
    ("[[rule]]", "[[application]]\nname = \"pay\"\nja4 = [\"771,4865\"]\n[[rule]]", 28, 8, Code::ImpossibleValue, "not a JA4", "t13d1516h2_"),
    ("[[rule]]", "[[application]]\nname = \"pay\"\nprotocol = \"icmp\"\nport = [1]\n[[rule]]", 29, 9, Code::Conflict, "have no ports", "protocol = \"tcp\""),
    ("[[rule]]", "[[application]]\nname = \"pay\"\nport = [1]\n[[application]]\nname = \"pay\"\nport = [2]\n[[rule]]", 30, 8, Code::DuplicateName, "two applications", "name of its own"),
    ("name = \"edge-a\"", "name = \"edge-a", 1, 15, Code::Syntax, "invalid basic string", "ends with the quote"),
    ("name = \"edge-a\"", "name = edge-a", 1, 8, Code::Syntax, "quoted", "strings in quotes"),
    ("cores = [0]", "cores = [0]\ncores = [1]", 4, 1, Code::Syntax, "duplicate key", "once per table"),
];

#[test]
fn every_broken_policy_is_explained() {
    for (what, by, line, column, code, cause, remedy) in BROKEN {
        assert!(GOOD.contains(what), "{what:?} is not in GOOD");
        let text = GOOD.replacen(what, by, 1);
        let errors = parse(&text, "edge.toml").expect_err(by);
        let all: Vec<Located> = errors.errors().map(|p| errors.source.locate(p)).collect();
        let [one] = all.as_slice() else { panic!("{by:?}: not one error but {all:#?}") };
        assert_eq!((one.line, one.column, one.code), (*line, *column, *code), "{by:?}: {one:?}");
        assert!(one.message.contains(cause), "{by:?}: message {:?}", one.message);
        assert!(one.help.contains(remedy), "{by:?}: help {:?}", one.help);
        let shown = errors.render(false);
        assert!(shown.contains(&format!("edge.toml:{line}:{column}")), "{shown}");
        assert!(shown.contains("help: "), "{shown}");
    }
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = GOOD
        .replace("name = \"edge-a\"", "nmae = \"edge-a\"")
        .replace("protocol = \"esp\"", "protocol = \"tpc\"")
        .replace("spi = 0x1002", "spi = 1")
        .replace("interface = \"veth1\"", "interface = \"veth0\"")
        .replace("encrypt = \"to-b\"", "encrypt = \"to-c\"");
    let errors = parse(&text, "edge.toml").unwrap_err();
    let codes: Vec<Code> = errors.errors().map(|p| p.code).collect();
    let want = [Code::UnknownKey, Code::Conflict, Code::ImpossibleValue, Code::ImpossibleValue, Code::UnknownName];
    assert_eq!(codes, want, "{}", errors.render(false));
}

#[test]
fn a_broken_part_is_not_reported_again_where_it_is_used() {
    let errors = parse(&GOOD.replace("spi = 0x1002", "spi = 1"), "edge.toml").unwrap_err();
    assert_eq!(errors.errors().count(), 1, "{}", errors.render(false));
}

fn warnings(text: &str) -> Vec<(usize, Code, String)> {
    let policy = parse(text, "edge.toml").unwrap_or_else(|e| panic!("{}", e.render(false)));
    policy.warnings.iter().map(|w| (policy.source.position(w.span.start).0, w.code, w.message.clone())).collect()
}

#[test]
fn a_hidden_rule_is_a_warning() {
    let text =
        format!("{GOOD}[[rule]]\nname = \"web\"\nfrom = [\"10.1.0.128/25\"]\nprotocol = \"tcp\"\nports = [80]\n");
    let found = warnings(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].0, found[0].1), (32, Code::Shadowed));
    assert!(found[0].2.contains("`protect` before it"), "{found:?}");
    // Narrower first is what an operator means.
    let (head, rules) = GOOD.split_once("[[rule]]").unwrap();
    let swapped = format!("{head}[[rule]]\nname = \"web\"\nfrom = [\"10.1.0.128/25\"]\nports = [80]\n[[rule]]{rules}");
    assert_eq!(warnings(&swapped), []);
}

#[test]
fn a_hidden_steering_rule_is_a_warning_unless_it_is_for_another_port() {
    let more = |port: &str| {
        GOOD.replace("[[tunnel]]", &format!("[[steer]]\nname = \"x\"\n{port}from = [\"10.1.0.7\"]\n[[tunnel]]"))
    };
    assert_eq!(warnings(&more(""))[0].1, Code::Shadowed);
    let first_on_port = more("").replace("name = \"out\"", "name = \"out\"\nport = \"apps\"");
    assert_eq!(warnings(&first_on_port), []);
}

#[test]
fn the_stricter_on_loss_wins() {
    let text = GOOD.replace("name = \"out\"", "name = \"out\"\non_loss = \"pass\"");
    let found = warnings(&text);
    assert_eq!((found[0].0, found[0].1), (12, Code::StricterWins));
    assert_eq!(parse(&text, "x").unwrap().steer[0].on_loss, OnLoss::Drop);
}

#[test]
fn answers_of_encrypted_flows_fail_closed_too() {
    let text = GOOD.replace("name = \"out\"\nfrom", "name = \"out\"\non_loss = \"pass\"\nto");
    assert_eq!(parse(&text, "x").unwrap().steer[0].on_loss, OnLoss::Drop);
    let clear = GOOD.replace("encrypt = \"to-b\"\ncompress = \"lz4\"\n", "");
    assert_eq!(parse(&clear, "x").unwrap().steer[0].on_loss, OnLoss::Pass);
}

#[test]
fn what_nothing_steers_is_a_warning() {
    let text = GOOD
        .replace("from = [\"10.1.0.0/24\"]\n[[steer]]", "from = [\"10.9.0.0/24\"]\nto = [\"10.8.0.0/24\"]\n[[steer]]");
    let found = warnings(&text);
    assert_eq!(found[0].1, Code::NoEffect);
    assert!(found[0].2.contains("in clear"));
}

#[test]
fn a_tunnel_needs_no_steering_rule_of_its_own() {
    let text = GOOD.replace("protocol = \"esp\"", "from = [\"198.51.100.0/24\"]");
    assert_eq!(warnings(&text), []);
}

#[test]
fn more_rules_than_there_is_room_for_are_refused() {
    let many = |section: &str, n: usize| {
        (0..n)
            .map(|i| format!("[[{section}]]\nname = \"r{i}\"\nfrom = [\"10.0.{}.{}\"]\n", i >> 8, i & 255))
            .collect::<String>()
    };
    let base = "[[port]]\nname = \"p\"\ninterface = \"lo\"\n";
    assert!(parse(&format!("{base}{}", many("steer", 1024)), "x").is_ok());
    let errors = parse(&format!("{base}{}", many("steer", 1025)), "x").unwrap_err();
    assert!(errors.problems.iter().any(|p| p.message.contains("`r1024` is one too many")));
}

#[test]
fn an_empty_policy_says_what_it_needs() {
    let errors = parse("", "empty.toml").unwrap_err();
    assert_eq!(errors.problems.len(), 1);
    assert!(errors.problems[0].message.contains("no [[port]]"));
}

#[test]
fn key_files_must_exist_and_be_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edge.toml");
    let write = |name: &str, text: &[u8], mode: u32| {
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("edge.toml", GOOD.replace("/k/", "").as_bytes(), 0o644);
    write("out.key", &[b'7'; 36], 0o640);
    let errors = load(&path).unwrap_err();
    let found: Vec<_> = errors.errors().map(|p| (errors.source.position(p.span.start).0, p.code)).collect();
    assert_eq!(found, [(22, Code::KeyFile), (25, Code::KeyFile)], "{}", errors.render(false));
    assert!(errors.problems[0].help.starts_with("chmod 600"));
    assert!(!errors.render(false).contains("7777"), "key material in a message");
    write("out.key", &[b'7'; 36], 0o600);
    write("in.key", &[b'8'; 36], 0o400);
    let policy = load(&path).unwrap();
    assert_eq!(policy.esp_tunnels().next().unwrap().1.out.key_file, dir.path().join("out.key"));
}

#[test]
fn an_absent_file_is_named() {
    let errors = load(Path::new("/nonexistent/edge.toml")).unwrap_err();
    assert_eq!(errors.problems[0].code, Code::Unreadable);
    assert!(errors.render(false).contains("/nonexistent/edge.toml"));
}

#[test]
fn hosts_match_below_their_domain() {
    let p = |t: &str| t.parse::<HostPattern>().unwrap();
    assert!(p("*.Example.com").matches("www.example.com"));
    assert!(p("*.example.com").matches("a.b.example.com"));
    assert!(!p("*.example.com").matches("example.com"));
    assert!(!p("*.example.com").matches("badexample.com"));
    assert!(p("*").matches("x") && !p("*").matches(""));
    assert!(p("*.com").covers(&p("*.example.com")) && !p("*.example.com").covers(&p("*.com")));
    assert!(p("*.com").covers(&p("a.com")) && !p("a.com").covers(&p("*.a.com")));
}

/// Every key of the schema, as the path to it.
fn keys(node: &serde_json::Value, place: &str, out: &mut Vec<String>) {
    if let Some(properties) = node.get("properties").and_then(|p| p.as_object()) {
        assert_eq!(node.get("additionalProperties"), Some(&serde_json::Value::Bool(false)), "{place}");
        for (key, sub) in properties {
            let path = format!("{place}.{key}");
            assert!(sub.get("description").is_some(), "{path} has no description");
            keys(sub, &path, out);
            out.push(path);
        }
    }
    if let Some(items) = node.get("items") {
        keys(items, place, out);
    }
}

#[test]
fn the_schema_lists_every_key_and_the_full_example_uses_them_all() {
    let schema = json_schema();
    let mut all = Vec::new();
    keys(&schema, "", &mut all);
    assert!(all.len() > 60, "{all:?}");
    assert!(!schema.to_string().contains("\"null\""), "TOML has no null");
    let example = include_str!("../../../configs/policies/full.toml");
    for path in &all {
        let key = path.rsplit('.').next().unwrap();
        let used = example.lines().any(|l| {
            let l = l.trim_start_matches(['#', ' ']);
            l.starts_with(&format!("{key} =")) || l.contains(&format!("{key}]"))
        });
        assert!(used, "configs/policies/full.toml does not show {path}");
    }
}

#[test]
fn the_examples_are_valid() {
    for (name, text) in [
        ("full.toml", include_str!("../../../configs/policies/full.toml")),
        ("edge-a.toml", include_str!("../../../configs/policies/edge-a.toml")),
        ("edge-b.toml", include_str!("../../../configs/policies/edge-b.toml")),
        ("replay.toml", include_str!("../../../configs/policies/replay.toml")),
        ("host.toml", include_str!("../../../configs/policies/host.toml")),
    ] {
        let policy = parse(text, name).unwrap_or_else(|e| panic!("{}", e.render(false)));
        assert!(policy.warnings.is_empty(), "{}", policy.source.render(&policy.warnings, false));
    }
}

/// A tap with what else a policy needs to encrypt what goes by it.
fn with_tap(port: &str, more: &str) -> String {
    format!(
        "name = \"t\"\n[[port]]\nname = \"host\"\nkind = \"tap\"\n{port}\n[[port]]\nname = \"uplink\"\ninterface = \"eth0\"\n\
         [[tunnel]]\nname = \"wg0\"\ntype = \"wireguard\"\n[[rule]]\nname = \"r\"\nfrom = [\"10.1.0.0/24\"]\nto = [\"10.2.0.0/16\"]\nencrypt = \"wg0\"\n{more}"
    )
}

#[test]
fn a_tap_is_named_after_its_port_and_its_loss_undoes_no_encryption() {
    let text = with_tap("routes = [\"10.2.3.0/24\"]\naddresses = [\"10.1.0.1/24\", \"fd01::1\"]", "");
    let policy = parse(&text, "x.toml").unwrap();
    let PortKind::Tap(tap) = &policy.ports[0].kind else { panic!("not a tap") };
    assert_eq!((tap.interface.as_str(), tap.mtu, tap.on_loss), ("host", 1500, OnLoss::Drop));
    assert_eq!(tap.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.1/24", "fd01::1/128"]);
    assert!(policy.warnings.is_empty());
    let text = with_tap("routes = [\"10.2.3.0/24\"]\non_loss = \"pass\"", "");
    let policy = parse(&text, "x.toml").unwrap();
    let PortKind::Tap(tap) = &policy.ports[0].kind else { panic!("not a tap") };
    assert_eq!((tap.on_loss, policy.warnings.len()), (OnLoss::Drop, 1));
    let policy = parse(&with_tap("routes = [\"10.3.0.0/24\"]", ""), "x.toml").unwrap();
    let PortKind::Tap(tap) = &policy.ports[0].kind else { panic!("not a tap") };
    assert_eq!(tap.on_loss, OnLoss::Pass, "nothing of it is encrypted");
}

#[test]
fn what_a_tap_cannot_have_is_said() {
    for (port, more, says) in [
        ("checksum = \"finish\"", "", "`checksum` says nothing for a port of kind tap"),
        ("queues = 2", "", "`queues` says nothing for a port of kind tap"),
        ("", "[[port]]\nname = \"other\"\nkind = \"tap\"", "two ports of kind tap"),
        ("", "[[steer]]\nname = \"s\"\nport = \"host\"", "is of port `host`, which is a tap"),
        ("addresses = [\"10.1.0.1/33\"]", "", "impossible prefix length"),
        ("", "[[port]]\nname = \"p\"\nkind = \"pcap\"\nroutes = [\"10.0.0.0/8\"]", "`routes` says nothing"),
    ] {
        let errors = parse(&with_tap(port, more), "x.toml").unwrap_err();
        assert!(errors.errors().any(|e| e.message.contains(says)), "{}", errors.render(false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the text, an answer comes back, and its problems can be shown.
    #[test]
    fn any_text_is_answered(text in "(?s).{0,300}") {
        if let Err(errors) = parse(&text, "x.toml") {
            prop_assert!(errors.errors().next().is_some());
            errors.render(false);
        }
    }

    /// The same for near misses: a good policy with a piece cut out and another put in.
    #[test]
    fn any_mutation_is_answered(at in 0usize..GOOD.len(), cut in 0usize..40, put in "[\\[\\]a-z0-9=\"\\n./ü{},#-]{0,12}") {
        let end = (at + cut).min(GOOD.len());
        let text = format!("{}{put}{}", &GOOD[..at], &GOOD[end..]);
        match parse(&text, "x.toml") {
            Ok(policy) => prop_assert!(policy.warnings.iter().all(|w| w.warning)),
            Err(errors) => {
                prop_assert!(errors.errors().next().is_some());
                for p in errors.errors() {
                    prop_assert!(!p.help.is_empty() && !p.message.is_empty());
                    prop_assert!(p.span.end <= text.len());
                }
                errors.render(false);
            }
        }
    }
}

#[test]
fn applications_that_others_hide_are_warnings() {
    let with = |apps: &str| GOOD.replace("[[rule]]", &format!("{apps}\n[[rule]]"));
    let app = |name: &str, terms: &str| format!("[[application]]\nname = \"{name}\"\n{terms}\n");
    let said = |apps: &[String]| warnings(&with(&apps.concat()));
    let found = said(&[app("a", "host = [\"x.example\", \"*.example\"]"), app("b", "host = [\"*.example\"]")]);
    assert_eq!((found.len(), found[0].0, found[0].1), (1, 30, Code::Shadowed), "{found:?}");
    assert!(found[0].2.contains("`b` has no flows: `a` before it"), "{found:?}");
    let found = said(&[app("a", "host = [\"x.example\"]"), app("b", "host = [\"y.example\", \"x.example\"]")]);
    assert!(
        found[0].2.contains("1 host of application `b`") && found[0].2.contains("`x.example` is of `a`"),
        "{found:?}"
    );
    let found = said(&[app("a", "port = [\"1-1000\"]"), app("b", "port = [443]")]);
    assert!(found[0].2.contains("no flows"), "{found:?}");
    // More kinds of terms win, and a longer pattern does.
    assert_eq!(said(&[app("a", "host = [\"*.example\"]"), app("b", "host = [\"*.example\"]\nport = [443]")]), []);
    assert_eq!(said(&[app("a", "host = [\"*.example\"]"), app("b", "host = [\"x.example\"]")]), []);
    assert_eq!(said(&[app("a", "port = [443]"), app("b", "port = [\"1-1000\"]")]), []);
}

#[test]
fn a_file_of_hosts_is_read_with_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.toml");
    let policy = "[[port]]\nname = \"p\"\nkind = \"pcap\"\n[[application]]\nname = \"pay\"\nhost = [\"a.example\"]\nhosts_file = \"pay.hosts\"\n";
    std::fs::write(&path, policy).unwrap();
    let errors = load(&path).unwrap_err();
    let problem = errors.source.locate(&errors.problems[0]);
    assert!(problem.line == 7 && problem.message.contains("cannot read hosts file"), "{problem:?}");
    std::fs::write(folder.path().join("pay.hosts"), "# list\n*.pay.example\nB.example # one\n").unwrap();
    let policy = load(&path).unwrap();
    let hosts: Vec<&str> = policy.applications[0].hosts.iter().map(|h| h.as_str()).collect();
    assert_eq!(hosts, ["a.example", "*.pay.example", "b.example"]);
    std::fs::write(folder.path().join("pay.hosts"), "http://x/\n").unwrap();
    let errors = load(&path).unwrap_err();
    let problem = errors.source.locate(&errors.problems[0]);
    assert!(problem.message.contains("pay.hosts:1: `http://x/` is more than a host name"), "{problem:?}");
    std::fs::write(folder.path().join("pay.hosts"), "# nothing\n").unwrap();
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("host = [\"a.example\"]\n", "")).unwrap();
    assert!(load(&path).unwrap_err().problems[0].message.contains("no host in it"));
}
