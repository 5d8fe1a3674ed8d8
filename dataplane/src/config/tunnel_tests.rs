//! Policies with tunnels of every type, whole and broken.
#![allow(clippy::unwrap_used)]

use super::policy::{IpsecMode, SequenceMode, TunnelKind};
use super::problem::{Code, Located};
use super::{Policy, parse};

const KEY_A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
const KEY_B: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=";

fn wireguard() -> String {
    format!(
        r#"[[port]]
name = "uplink"
interface = "veth0"
[[tunnel]]
name = "wg0"
type = "wireguard"
listen_port = 51821
private_key_file = "wg0.key"
[[tunnel.peer]]
name = "b"
public_key = "{KEY_A}"
preshared_key_file = "b.psk"
endpoint = "192.0.2.2:51820"
allowed_ips = ["10.2.0.0/24", "fd02::/64"]
persistent_keepalive = 25
[[tunnel.peer]]
public_key = "{KEY_B}"
allowed_ips = ["10.3.0.0/24"]
[[rule]]
name = "protect"
to = ["10.2.0.0/15"]
encrypt = "wg0"
"#
    )
}

fn esp(keys: &str) -> String {
    format!(
        "[[port]]\nname = \"uplink\"\ninterface = \"veth0\"\n[[tunnel]]\nname = \"t\"\n{keys}\n[tunnel.out]\nspi = 256\nkey_file = \"o\"\n\
         [tunnel.in]\nspi = 257\nkey_file = \"i\"\n[[rule]]\nname = \"r\"\nencrypt = \"t\"\n"
    )
}

fn good(text: &str) -> Policy {
    parse(text, "edge.toml").unwrap_or_else(|errors| panic!("{}\n{text}", errors.render(false)))
}

fn one_error(text: &str) -> Located {
    let errors = parse(text, "edge.toml").expect_err(text);
    let all: Vec<Located> = errors.errors().map(|p| errors.source.locate(p)).collect();
    let [one] = <[Located; 1]>::try_from(all).unwrap_or_else(|all| panic!("not one error but {all:#?}"));
    one
}

#[test]
fn a_wireguard_tunnel_with_peers() {
    let policy = good(&wireguard());
    let TunnelKind::WireGuard(wg) = &policy.tunnels[0].kind else { panic!("{:?}", policy.tunnels[0]) };
    assert_eq!((wg.listen_port, wg.local, wg.peers.len()), (51_821, None, 2));
    assert!(wg.private_key_file.as_ref().unwrap().ends_with("wg0.key"));
    assert_eq!(wg.peers[0].name.as_deref(), Some("b"));
    assert_eq!((wg.peers[0].public_key[31], wg.peers[1].public_key[31]), (1, 2));
    assert_eq!(wg.peers[0].endpoint, Some("192.0.2.2:51820".parse().unwrap()));
    assert_eq!((wg.peers[0].allowed_ips.len(), wg.peers[0].persistent_keepalive), (2, Some(25)));
    assert!(policy.tunnels[0].mss_clamp && !policy.tunnels[0].fragment_outer);
}

#[test]
fn the_port_of_esp_in_udp_is_no_wireguard_tunnels() {
    let error = one_error(&wireguard().replace("51821", "4500"));
    assert_eq!(error.code, Code::Conflict, "{error:?}");
    assert!(error.message.contains("cannot listen on UDP port 4500"), "{error:?}");
}

#[test]
fn a_wireguard_tunnel_may_be_left_to_wg() {
    let policy = good("[[port]]\nname = \"u\"\ninterface = \"e\"\n[[tunnel]]\nname = \"wg0\"\ntype = \"wireguard\"\n");
    let TunnelKind::WireGuard(wg) = &policy.tunnels[0].kind else { panic!() };
    assert_eq!((wg.listen_port, wg.peers.len(), wg.private_key_file.is_none()), (51_820, 0, true));
}

#[test]
fn an_esp_tunnel_for_strangers() {
    let ends = "local = \"192.0.2.1\"\nremote = \"192.0.2.2\"";
    let policy = good(&esp(&format!("{ends}\nsequence = \"extended\"\nmode = \"transport\"\nmss_clamp = false")));
    let (_, tunnel) = policy.esp_tunnels().next().unwrap();
    assert_eq!((tunnel.sequence, tunnel.mode), (SequenceMode::Extended, IpsecMode::Transport));
    assert!(!policy.tunnels[0].mss_clamp);
    let policy = good(&esp(ends));
    let (_, tunnel) = policy.esp_tunnels().next().unwrap();
    assert_eq!((tunnel.sequence, tunnel.mode), (SequenceMode::Iv, IpsecMode::Tunnel));
}

#[test]
fn keepalives_may_be_left_out() {
    let with = |keepalive: &str| {
        let ends = "local = \"192.0.2.1\"\nremote = \"192.0.2.2\"\nencapsulation = \"udp\"";
        let policy = good(&esp(&format!("{ends}\n{keepalive}")));
        let TunnelKind::Esp(esp) = &policy.tunnels[0].kind else { panic!("{:?}", policy.tunnels[0]) };
        esp.keepalive.as_millis()
    };
    let known = ["", "keepalive = \"0s\"", "keepalive = \"1500ms\""].map(with);
    assert_eq!(known, [20_000, 0, 1500]);
}

#[test]
fn an_xfrm_tunnel_needs_nothing() {
    let policy = good(
        "[[port]]\nname = \"u\"\ninterface = \"e\"\n[[tunnel]]\nname = \"ike\"\ntype = \"xfrm\"\nfallback = \"kernel\"\n",
    );
    assert!(matches!(policy.tunnels[0].kind, TunnelKind::Xfrm(_)));
}

#[test]
fn what_is_wrong_is_explained() {
    let key = |wanted: &str, by: &str| wireguard().replacen(wanted, by, 1);
    let ends = "local = \"192.0.2.1\"\nremote = \"192.0.2.2\"";
    for (text, code, cause, remedy) in [
        (key(KEY_A, "short"), Code::ImpossibleValue, "not a WireGuard public key", "wg pubkey"),
        (key("192.0.2.2:51820", "192.0.2.2"), Code::ImpossibleValue, "is not an address and port", "192.0.2.2:51820"),
        (key("192.0.2.2:51820", "192.0.2.2:0"), Code::ImpossibleValue, "port 0", "51820"),
        (key("192.0.2.2:51820", "224.0.0.1:1"), Code::ImpossibleValue, "not the address of one host", "unicast"),
        (key(KEY_B, KEY_A), Code::DuplicateName, "the same public key", "one place"),
        (key("10.3.0.0/24", "10.2.0.0/24"), Code::Conflict, "is allowed for two peers", "one of them"),
        (
            key("listen_port = 51821", "remote = \"192.0.2.2\""),
            Code::Conflict,
            "`remote` says nothing",
            "type = \"esp\"",
        ),
        (
            key("listen_port = 51821", "fallback = \"drop\""),
            Code::Conflict,
            "`fallback` says nothing",
            "type = \"xfrm\"",
        ),
        (
            format!("{}[[tunnel]]\nname = \"wg1\"\ntype = \"wireguard\"\nlisten_port = 51821\n", wireguard()),
            Code::Conflict,
            "two tunnels listen on UDP port 51821",
            "of its own",
        ),
        (
            key("encrypt = \"wg0\"", "encrypt = \"wg0\"\ncompress = \"lz4\""),
            Code::Conflict,
            "whose peer may be no softdpu",
            "leave `compress` out",
        ),
        (esp(""), Code::MissingKey, "has no `local`", "this end's outer address"),
        (
            esp(&format!("{ends}\nlisten_port = 4500")),
            Code::Conflict,
            "`listen_port` says nothing",
            "type = \"wireguard\"",
        ),
        (
            esp(&format!("{ends}\nencapsulation = \"udp\"\nkeepalive = \"0ms\"")),
            Code::ImpossibleValue,
            "`0ms` is out of range",
            "from \"1ms\"",
        ),
        (esp(&format!("{ends}\nsequence = \"esn\"")), Code::UnknownWord, "cannot be \"esn\"", "extended"),
    ] {
        let errors = parse(&text, "edge.toml").expect_err(&text);
        let first = errors.errors().next().map(|p| errors.source.locate(p)).unwrap();
        assert_eq!(first.code, code, "{first:?}");
        assert!(first.message.contains(cause) && first.help.contains(remedy), "{first:?}");
    }
    let twice = "[[port]]\nname = \"u\"\ninterface = \"e\"\n[[tunnel]]\nname = \"a\"\ntype = \"xfrm\"\n[[tunnel]]\nname = \"b\"\ntype = \"xfrm\"\n";
    assert!(one_error(twice).message.contains("two tunnels of type xfrm"));
}

#[test]
fn a_private_key_in_the_place_of_a_public_one_is_not_repeated() {
    let secret = "c2VjcmV0c2VjcmV0c2VjcmV0";
    assert!(!one_error(&wireguard().replacen(KEY_A, secret, 1)).message.contains(secret));
}

#[test]
fn the_lifetime_of_a_tunnels_keys() {
    let ends = "local = \"192.0.2.1\"\nremote = \"192.0.2.2\"";
    let policy = good(&esp(&format!("{ends}\nlifetime = {{ packets = 4000000000, bytes = 7, time = \"24h\" }}")));
    let lifetime = policy.esp_tunnels().next().unwrap().1.lifetime;
    assert_eq!((lifetime.packets, lifetime.bytes), (Some(4_000_000_000), Some(7)));
    assert_eq!(lifetime.time, Some(std::time::Duration::from_secs(86_400)));
    let error = one_error(&esp(&format!("{ends}\nlifetime = {{ packets = 0 }}")));
    assert_eq!(error.code, Code::ImpossibleValue, "{error:?}");
    let error = one_error(&wireguard().replace("listen_port", "lifetime.time = \"1h\"\nlisten_port"));
    assert_eq!(error.code, Code::Conflict, "{error:?}");
    assert!(error.message.contains("`lifetime` says nothing"), "{error:?}");
}

/// Steering rules by name, and warnings, of an ESP policy with these steering rules.
fn steered(steer: &str) -> (Vec<String>, Vec<String>) {
    let text = esp("local = \"192.0.2.1\"\nremote = \"192.0.2.2\"").replace(
        "[[rule]]\nname = \"r\"",
        &format!("{steer}\n[[rule]]\nname = \"r\"\nto = [\"10.2.0.0/24\", \"fd02::/64\"]\nprotocol = \"tcp\""),
    );
    let policy = good(&text);
    let names = policy.steer.iter().map(|steer| steer.name.clone()).collect();
    (names, policy.warnings.iter().map(|warning| warning.message.clone()).collect())
}

#[test]
fn what_is_steered_by_port_takes_icmp_errors_along_where_it_is_encrypted() {
    let by_port = "[[steer]]\nname = \"s\"\nports = [443]\nto = [\"10.2.0.0/24\", \"fd02::/64\"]";
    assert_eq!(steered(by_port), (vec!["s".into(), "s:icmp".into(), "s:icmpv6".into()], vec![]));
    let whole = "[[steer]]\nname = \"s\"\nto = [\"10.2.0.0/24\", \"fd02::/64\"]";
    assert_eq!(steered(whole), (vec!["s".into()], vec![]), "ICMP is steered already");
    let other = "[[steer]]\nname = \"s\"\nfrom = [\"10.4.0.0/24\"]\nports = [443]\nto = [\"10.3.0.0/24\"]\n[[steer]]\nname = \"t\"\nto = [\"10.2.0.0/24\"]";
    assert_eq!(steered(other).0, ["s", "t"], "nothing encrypts these flows");
    let passed = format!("[[steer]]\nname = \"p\"\nprotocol = \"icmp\"\naction = \"pass\"\n{by_port}");
    let (names, warnings) = steered(&passed);
    assert_eq!(names, ["p", "s", "s:icmpv6"]);
    assert!(warnings.iter().any(|warning| warning.contains("passes ICMP errors")), "{warnings:?}");
}

#[test]
fn icmp_that_cannot_be_told_from_the_hosts_own_is_warned_about() {
    for to in ["", "to = [\"0.0.0.0/0\"]"] {
        let (names, warnings) = steered(&format!("[[steer]]\nname = \"s\"\nports = [443]\n{to}"));
        assert_eq!(names, ["s"]);
        assert!(warnings.iter().any(|warning| warning.contains("forwards what they quote in clear")), "{warnings:?}");
    }
}
