//! Tunnels and proxies.

pub mod gtp;
pub mod ike;
pub mod inner;
pub mod l2tp;
pub mod openvpn;
pub mod pptp;
pub mod proxy_protocol;
pub mod socks;
pub mod teredo;
pub mod vxlan;
pub mod wireguard;

use super::{Recogniser, Starts};

/// First bytes of OpenVPN's control messages, key number 0.
const OPENVPN: &[u8] = &[0x20, 0x28, 0x38, 0x40, 0x50];

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::udp("wireguard", Starts::Within(1, 4), wireguard::look),
    Recogniser {
        name: "openvpn",
        // A length comes first.
        tcp: Some((Starts::Within(0, 8), openvpn::look_tcp)),
        udp: Some((Starts::With(OPENVPN), openvpn::look_udp)),
    },
    Recogniser { name: "ike", tcp: Some((Starts::With(b"I"), ike::look_tcp)), udp: Some((Starts::Any, ike::look_udp)) },
    Recogniser::udp("l2tp", Starts::Any, l2tp::look),
    Recogniser::tcp("pptp", Starts::With(&[0]), pptp::look),
    Recogniser::udp("vxlan", Starts::With(&[8]), vxlan::look_vxlan),
    Recogniser::udp("geneve", Starts::Within(0, 0x3f), vxlan::look_geneve),
    Recogniser::udp("gtp", Starts::Within(0x30, 0x5f), gtp::look),
    Recogniser::udp("teredo", Starts::With(&TEREDO), teredo::look),
    Recogniser::tcp("socks", Starts::Within(4, 5), socks::look),
    Recogniser::tcp("proxy_protocol", Starts::With(b"P\r"), proxy_protocol::look),
    Recogniser::udp("esp", Starts::Any, ike::look_esp),
];

/// Authentication or origin, or an IPv6 packet.
const TEREDO: [u8; 17] = {
    let mut bytes = [0; 17];
    let mut i = 0;
    while i < 16 {
        bytes[i] = 0x60 + i as u8;
        i += 1;
    }
    bytes
};
