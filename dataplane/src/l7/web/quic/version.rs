//! Versions of QUIC by their numbers: salts, labels and packet types.

use crate::l7::Notes;

/// RFC 9001 §5.2; drafts 33 and 34 have it too.
const SALT_1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f,
    0x0a,
];
/// RFC 9369 §3.3.1.
const SALT_2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e,
    0xd9,
];
/// draft-ietf-quic-tls-29 §5.2, up to 32.
const SALT_29: [u8; 20] = [
    0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0, 0x43, 0x90, 0xa8,
    0x99,
];
/// draft-ietf-quic-tls-23 §5.2, up to 28.
const SALT_23: [u8; 20] = [
    0xc3, 0xee, 0xf7, 0x12, 0xc7, 0x2e, 0xbb, 0x5a, 0x11, 0xa7, 0xd2, 0x43, 0x2b, 0xb4, 0x63, 0x65, 0xbe, 0xf9, 0xf5,
    0x02,
];
/// draft-ietf-quic-tls-22 §5.2.
const SALT_22: [u8; 20] = [
    0x7f, 0xbc, 0xdb, 0x0e, 0x7c, 0x66, 0xbb, 0xe9, 0x19, 0x3a, 0x96, 0xcd, 0x21, 0x51, 0x9e, 0xbd, 0x7a, 0x02, 0x64,
    0x4a,
];
/// Google's Q050, T050 and T051, as Chromium published them.
const SALT_Q050: [u8; 20] = [
    0x50, 0x45, 0x74, 0xef, 0xd0, 0x66, 0xfe, 0x2f, 0x9d, 0x94, 0x5c, 0xfc, 0xdb, 0xd3, 0xa7, 0xf0, 0xd3, 0xb5, 0x6b,
    0x45,
];
const SALT_T050: [u8; 20] = [
    0x7f, 0xf5, 0x79, 0xe5, 0xac, 0xd0, 0x72, 0x91, 0x55, 0x80, 0x30, 0x4c, 0x43, 0xa2, 0x36, 0x7c, 0x60, 0x48, 0x83,
    0x10,
];
const SALT_T051: [u8; 20] = [
    0x7a, 0x4e, 0xde, 0xf4, 0xe7, 0xcc, 0xee, 0x5f, 0xa4, 0x50, 0x6c, 0x19, 0x12, 0x4f, 0xc8, 0xcc, 0xda, 0x6e, 0x03,
    0x3d,
];

const V1: u32 = 1;
const V2: u32 = 0x6b33_43cf;
const DRAFT: u32 = 0xff00_0000;
/// mvfst's own numbers for drafts 22 and 27, and for its experiments on 27.
const MVFST_22: u32 = 0xface_b001;
const MVFST_27: u32 = 0xface_b002;
const MVFST_EXPERIMENT: u32 = 0xface_b00e;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
}

/// How a version protects its Initial packets.
pub struct Version {
    pub salt: &'static [u8; 20],
    /// Version 2 has labels and packet types of its own (RFC 9369 §3.2, §3.3.2).
    pub second: bool,
}

impl Version {
    pub fn of(number: u32) -> Option<Self> {
        let salt = match number {
            V1 => &SALT_1,
            V2 => &SALT_2,
            MVFST_22 => &SALT_22,
            MVFST_27 | MVFST_EXPERIMENT => &SALT_23,
            n => match n.to_be_bytes() {
                [0xff, 0, 0, 33 | 34] => &SALT_1,
                [0xff, 0, 0, 29..=32] => &SALT_29,
                [0xff, 0, 0, 23..=28] => &SALT_23,
                [0xff, 0, 0, 22] => &SALT_22,
                [b'Q', b'0', b'5', b'0'] => &SALT_Q050,
                [b'T', b'0', b'5', b'0'] => &SALT_T050,
                [b'T', b'0', b'5', b'1'] => &SALT_T051,
                _ => return None,
            },
        };
        Some(Self { salt, second: number == V2 })
    }

    /// Kind of the packet with this first byte.
    pub fn kind(&self, first: u8) -> Kind {
        match (first >> 4 & 3).wrapping_sub(u8::from(self.second)) & 3 {
            0 => Kind::Initial,
            1 => Kind::ZeroRtt,
            2 => Kind::Handshake,
            _ => Kind::Retry,
        }
    }
}

/// Puts a known version down by its name.
pub fn put(number: u32, notes: &mut Notes) {
    let bytes = number.to_be_bytes();
    let draft = (number ^ DRAFT) as u8;
    match number {
        V1 => super::put_text(b"v1", notes),
        V2 => super::put_text(b"v2", notes),
        MVFST_22 | MVFST_27 | MVFST_EXPERIMENT => super::put_text(b"mvfst", notes),
        n if n & 0xffff_ff00 == DRAFT => {
            let text = [b'd', b'r', b'a', b'f', b't', b'-', b'0' + draft / 10 % 10, b'0' + draft % 10];
            super::put_text(&text, notes);
        }
        _ => super::put_text(&bytes, notes),
    }
}
