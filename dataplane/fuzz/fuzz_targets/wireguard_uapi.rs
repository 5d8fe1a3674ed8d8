//! WireGuard's configuration protocol: whatever lines come, there is a request or an error; what is understood can be
//! applied, and what the device shows then is understood again.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use softdpu::tunnel::wireguard::uapi::{Parser, Request, show};
use softdpu::tunnel::wireguard::{Device, Limits, Now};

fuzz_target!(|text: &[u8]| {
    let now = Now { mono: 1, wall: Duration::from_secs(1) };
    let limits = Limits { peers: 16, allowed_ips: 64, ..Limits::default() };
    let mut device = Device::new(limits, now).expect("random numbers");
    let mut parser = Parser::default();
    for line in text.split(|b| *b == b'\n') {
        match parser.line(line) {
            Ok(Some(Request::Set(set))) => {
                let fits = device.check(&set).is_ok();
                assert_eq!(device.set(&set, now, &mut Vec::new()).is_ok(), fits);
            }
            Ok(_) => {}
            Err(_) => parser = Parser::default(),
        }
    }
    assert!(device.peer_count() <= 16);
    let table = device.allowed();
    let state = device.get();
    for (peer, slot) in state.peers.iter().zip(device.peers().map(|view| view.slot).collect::<Vec<_>>()) {
        for prefix in &peer.allowed_ips {
            let found = table.look_up(prefix.addr()).expect("the prefix holds its address");
            assert!(
                found == slot
                    || state.peers.iter().flat_map(|p| &p.allowed_ips).any(|p| p != prefix && prefix.covers(p))
            );
        }
    }
    let mut parser = Parser::default();
    assert_eq!(parser.line(b"set=1"), Ok(None));
    for line in show(&state).lines().filter(|l| !["last_", "tx_", "rx_", "errno"].iter().any(|p| l.starts_with(p))) {
        assert!(parser.line(line.as_bytes()).is_ok(), "what is shown is understood");
    }
});
