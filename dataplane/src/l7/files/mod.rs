//! Files, directories and remote procedures.

pub mod bittorrent;
pub mod dcerpc;
pub mod ftp;
pub mod git;
pub mod kerberos;
pub mod ldap;
pub mod rsync;
pub mod smb;
pub mod sunrpc;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("smb", Starts::With(&[0, 0x81]), smb::look),
    Recogniser {
        name: "dcerpc",
        tcp: Some((Starts::With(b"\x05n"), dcerpc::look)),
        udp: Some((Starts::With(&[4]), dcerpc::look_udp)),
    },
    Recogniser {
        name: "kerberos",
        tcp: Some((Starts::With(&[0]), kerberos::look)),
        udp: Some((Starts::Within(0x6a, 0x7e), kerberos::look_udp)),
    },
    Recogniser {
        name: "ldap",
        tcp: Some((Starts::With(&[0x30]), ldap::look)),
        udp: Some((Starts::With(&[0x30]), ldap::look_udp)),
    },
    Recogniser {
        name: "sunrpc",
        tcp: Some((Starts::With(&[0x80]), sunrpc::look)),
        udp: Some((Starts::Any, sunrpc::look_udp)),
    },
    Recogniser {
        name: "bittorrent",
        tcp: Some((Starts::With(&[19]), bittorrent::look)),
        udp: Some((Starts::With(b"d\0B\x01\x11\x21\x31\x41"), bittorrent::look_udp)),
    },
    Recogniser::tcp("git", Starts::With(b"0"), git::look),
    Recogniser::tcp("rsync", Starts::With(b"@"), rsync::look),
    Recogniser::tcp("ftp", Starts::With(b"2345UPSFATCELMuapsf"), ftp::look),
    Recogniser::tcp("ftp_data", Starts::With(b"-dlt"), ftp::look_data),
];
