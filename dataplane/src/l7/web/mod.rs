//! The web and names: TLS, HTTP, QUIC, DNS and what is built on them.

pub mod dns;
pub mod dnscrypt;
pub mod dtls;
pub mod http;
pub mod http2;
pub mod pieces;
pub mod quic;
pub mod resolvers;
pub mod tls;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("tls", Starts::Any, tls::look),
    Recogniser::tcp("http2", Starts::With(b"P"), http2::look),
    Recogniser::tcp("http", Starts::Within(b'A', b'Z'), http::look),
    Recogniser::udp("quic", Starts::Within(0x80, 0xff), quic::look),
    Recogniser::udp("gquic", Starts::With(&[0x09, 0x0d, 0x19, 0x1d, 0x29, 0x2d, 0x39, 0x3d]), quic::google::short),
    Recogniser::udp("dtls", Starts::Within(20, 26), dtls::look),
    Recogniser::udp("dnscrypt", Starts::With(b"r"), dnscrypt::look),
    Recogniser { name: "dns", tcp: Some((Starts::Any, dns::look_tcp)), udp: Some((Starts::Any, dns::look_udp)) },
];
