//! Remote access to hosts.

pub mod rdp;
pub mod ssh;
pub mod telnet;
pub mod vnc;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("ssh", Starts::With(b"S"), ssh::look),
    Recogniser::tcp("telnet", Starts::With(&[0xff]), telnet::look),
    Recogniser {
        name: "rdp",
        tcp: Some((Starts::With(&[3]), rdp::look)),
        udp: Some((Starts::With(&[0xff]), rdp::look_udp)),
    },
    Recogniser::tcp("vnc", Starts::With(b"R"), vnc::look),
];
