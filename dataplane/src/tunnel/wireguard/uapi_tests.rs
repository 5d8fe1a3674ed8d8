#![allow(clippy::unwrap_used)]

use super::uapi::*;
use crate::crypto::secret::Secret;
use crate::wire::prefix::Prefix;
use proptest::prelude::*;
use std::time::Duration;

/// The first request in `text`.
fn parse(text: &str) -> Result<Request, Errno> {
    let mut parser = Parser::default();
    for line in text.split('\n') {
        if let Some(request) = parser.line(line.as_bytes())? {
            return Ok(request);
        }
    }
    panic!("no end in {text:?}");
}

fn set(text: &str) -> Result<SetDevice, Errno> {
    match parse(&format!("set=1\n{text}\n\n"))? {
        Request::Set(set) => Ok(*set),
        Request::Get => panic!("a set"),
    }
}

const KEY: &str = "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a";

#[test]
fn all_keys() {
    let psk = "11".repeat(32);
    let request = set(&format!(
        "private_key={KEY}\nlisten_port=51820\nfwmark=0x10\nreplace_peers=true\npublic_key={KEY}\nremove=true\n\
         public_key={}\nprotocol_version=1\nupdate_only=true\npreshared_key={psk}\nendpoint=[2001:db8::1]:9\n\
         persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.0.0.7/8\nallowed_ip=-fd00::/64\n\
         allowed_ip=+192.0.2.1",
        KEY.to_uppercase()
    ))
    .unwrap();
    assert!(request.private_key.as_ref().unwrap().expose().starts_with(&[0xe8, 0x4b]));
    assert_eq!((request.listen_port, request.fwmark, request.replace_peers), (Some(51820), Some(16), true));
    let [gone, peer] = &request.peers[..] else { panic!("two peers") };
    assert!(gone.remove && gone.public_key == peer.public_key && !peer.remove);
    assert!(peer.update_only && peer.replace_allowed_ips);
    assert_eq!(peer.preshared_key.as_ref().unwrap().expose(), &[0x11; 32]);
    assert_eq!(peer.endpoint, Some("[2001:db8::1]:9".parse().unwrap()));
    assert_eq!(peer.persistent_keepalive, Some(25));
    let allowed =
        |text: &str, len, remove| AllowedIp { prefix: Prefix::new(text.parse().unwrap(), len).unwrap(), remove };
    assert_eq!(
        peer.allowed_ips,
        [allowed("10.0.0.0", 8, false), allowed("fd00::", 64, true), allowed("192.0.2.1", 32, false)]
    );
    assert!(!format!("{request:?}").contains("17, 17"), "no secret in Debug");
}

#[test]
fn what_is_refused() {
    let peer = format!("public_key={KEY}\n");
    for wrong in [
        "private_key=00".to_owned(),
        format!("private_key={}", "g".repeat(64)),
        format!("private_key={}", "é".repeat(32)),
        "listen_port=65536".into(),
        "listen_port=+1".into(),
        "listen_port=".into(),
        "fwmark=0x".into(),
        "fwmark=0x+1".into(),
        "fwmark=4294967296".into(),
        "replace_peers=yes".into(),
        "preshared_key=".to_owned() + KEY,
        "nonsense=1".into(),
        format!("{peer}listen_port=1"),
        format!("{peer}protocol_version=2"),
        format!("{peer}endpoint=1.2.3.4"),
        format!("{peer}endpoint=1.2.3.4:0"),
        format!("{peer}endpoint=0.0.0.0:1"),
        format!("{peer}endpoint=host:1"),
        format!("{peer}endpoint=[fe80::1%no-such-if0]:1"),
        format!("{peer}endpoint=[fe80::1%lo:1"),
        format!("{peer}persistent_keepalive_interval=65536"),
        format!("{peer}persistent_keepalive_interval=off"),
        format!("{peer}allowed_ip=10.0.0.0/33"),
        format!("{peer}allowed_ip=10.0.0.0/"),
        format!("{peer}allowed_ip=--10.0.0.0/8"),
        format!("{peer}allowed_ip="),
    ] {
        assert_eq!(set(&wrong).unwrap_err(), Errno::Invalid, "{wrong}");
    }
    for wrong in ["get=2\n\n", "hello\n\n", "\n", "get=1\nx=1\n\n", "set=1\nx\n\n"] {
        assert_eq!(parse(wrong).unwrap_err(), Errno::Protocol, "{wrong}");
    }
    assert_eq!(set(&"x".repeat(MAX_LINE + 1)).unwrap_err(), Errno::TooLarge);
    assert_eq!(Parser::default().line(&[0xff, b'=']).unwrap_err(), Errno::Protocol);
}

#[test]
fn endpoints_have_one_form() {
    let endpoint = |text: &str| set(&format!("public_key={KEY}\nendpoint={text}")).unwrap().peers[0].endpoint.unwrap();
    assert_eq!(endpoint("[::ffff:1.2.3.4]:5").to_string(), "1.2.3.4:5");
    assert_eq!(endpoint("[fe80::1%lo]:5"), endpoint("[fe80::1%1]:5"));
    assert_eq!(endpoint("[fe80::1%1]:5").to_string(), "[fe80::1%1]:5");
}

#[test]
fn errors_are_numbers_as_others_send_them() {
    assert_eq!(Errno::answer(Ok(())), "errno=0\n\n");
    assert_eq!(Errno::answer(Err(Errno::Invalid)), "errno=-22\n\n");
}

#[test]
fn what_is_shown() {
    let mut state = State { listen_port: 7, ..State::default() };
    assert_eq!(*show(&state), "listen_port=7\nerrno=0\n\n");
    state.private_key = Some(Secret::new(&[1; 32]));
    state.fwmark = 3;
    state.peers.push(PeerState {
        public_key: [2; 32],
        preshared_key: None,
        endpoint: Some("192.0.2.1:5".parse().unwrap()),
        last_handshake: Duration::new(5, 6),
        tx_bytes: 8,
        rx_bytes: 9,
        persistent_keepalive: 25,
        allowed_ips: vec![Prefix::new("10.0.0.0".parse().unwrap(), 8).unwrap()],
    });
    let want = format!(
        "private_key={}\nlisten_port=7\nfwmark=3\npublic_key={}\npreshared_key={}\nprotocol_version=1\n\
         endpoint=192.0.2.1:5\nlast_handshake_time_sec=5\nlast_handshake_time_nsec=6\ntx_bytes=8\nrx_bytes=9\n\
         persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nerrno=0\n\n",
        "01".repeat(32),
        "02".repeat(32),
        "00".repeat(32)
    );
    assert_eq!(*show(&state), want);
    assert!(!format!("{state:?}").contains("1, 1"));
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        Just("get"),
        Just("set"),
        Just("private_key"),
        Just("listen_port"),
        Just("fwmark"),
        Just("replace_peers"),
        Just("public_key"),
        Just("remove"),
        Just("update_only"),
        Just("preshared_key"),
        Just("endpoint"),
        Just("persistent_keepalive_interval"),
        Just("replace_allowed_ips"),
        Just("allowed_ip"),
        Just("protocol_version"),
    ];
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("true".to_owned()),
        Just(KEY.to_owned()),
        "[0-9a-f.:/\\[\\]%-]{0,20}",
        ".{0,10}"
    ];
    prop_oneof![
        8 => (key, value).prop_map(|(key, value)| format!("{key}={value}").into_bytes()),
        1 => Just(Vec::new()),
        1 => proptest::collection::vec(any::<u8>(), 0..600),
    ]
}

proptest! {
    #[test]
    fn no_line_is_a_panic(lines in proptest::collection::vec(line(), 0..40)) {
        let mut parser = Parser::default();
        for line in lines {
            if parser.line(&line).is_err() {
                parser = Parser::default();
            }
        }
    }

    /// What is shown can be set again, but for what only the device knows.
    #[test]
    fn shown_and_set_again(port in 1_u16.., fwmark in 1_u32.., address: [u8; 16], len in 0_u8..=128, key: [u8; 32], psk: [u8; 32]) {
        let prefix = Prefix::new(std::net::Ipv6Addr::from(address).into(), len).unwrap();
        let peer = PeerState {
            public_key: key, preshared_key: Some(Secret::new(&psk)), endpoint: Some(([192, 0, 2, 1], port).into()),
            last_handshake: Duration::ZERO, tx_bytes: 0, rx_bytes: 0, persistent_keepalive: port, allowed_ips: vec![prefix],
        };
        let state = State { private_key: Some(Secret::new(&key)), listen_port: port, fwmark, peers: vec![peer] };
        let text = show(&state);
        let back: Vec<_> = text
            .lines()
            .filter(|l| !["last_", "tx_", "rx_", "errno"].iter().any(|p| l.starts_with(p)) && !l.is_empty())
            .collect();
        let got = set(&back.join("\n")).unwrap();
        prop_assert_eq!(got.private_key, state.private_key);
        prop_assert_eq!((got.listen_port, got.fwmark), (Some(port), Some(fwmark)));
        let peer = &got.peers[0];
        prop_assert_eq!(peer.public_key, key);
        prop_assert_eq!(peer.preshared_key.as_ref().unwrap().expose(), &psk);
        prop_assert_eq!(peer.endpoint, state.peers[0].endpoint);
        prop_assert_eq!(peer.allowed_ips[0], AllowedIp { prefix, remove: false });
    }
}
