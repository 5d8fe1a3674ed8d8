//! The web and names: TLS, HTTP, QUIC, DNS and what is built on them.

pub mod dns;
pub mod http;
pub mod tls;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("tls", Starts::Any, tls::look),
    Recogniser::tcp("http", Starts::Within(b'A', b'Z'), http::look),
    Recogniser { name: "dns", tcp: Some((Starts::Any, dns::look_tcp)), udp: Some((Starts::Any, dns::look_udp)) },
];
