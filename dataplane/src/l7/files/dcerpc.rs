//! DCE-RPC: connection-oriented PDUs of version 5 and datagrams of version 4 (C706 §12.5, §12.6), and the line that begins
//! the former over HTTP (MS-RPCH §2.1.2).

use crate::l7::{Class, Look, Notes, Verdict};

const VERSION_5: u8 = 5;
const HEADER: usize = 16;
const BIND: u8 = 11;
const BIND_ACK: u8 = 12;
const ALTER: u8 = 14;
const ALTER_RESP: u8 = 15;
const LAST_KIND: u8 = 20;
const MAX_FRAGMENT: u16 = 0x4000;
const HTTP: &[u8] = b"ncacn_http/1.";
const DATAGRAM_HEADER: usize = 80;
const LAST_DATAGRAM_KIND: u8 = 10;

/// Integers big- or little-endian, text ASCII or EBCDIC; floats in four formats.
fn representation(integers: u8, floats: u8) -> bool {
    integers & !0x11 == 0 && floats <= 3
}

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] == HTTP[0] {
        return match look.begins(HTTP) {
            Some(true) => Verdict::payload(Class::Dcerpc),
            Some(false) => Verdict::No,
            None => Verdict::More,
        };
    }
    // Minor version, kind, representation.
    let fits = d.get(1).is_none_or(|b| *b <= 1)
        && d.get(2).is_none_or(|kind| *kind <= LAST_KIND)
        && (d.len() < 6 || representation(d[4], d[5]))
        && d.iter().skip(6).take(2).all(|b| *b == 0);
    if d[0] != VERSION_5 || !fits {
        return Verdict::No;
    }
    let Some(header) = d.first_chunk::<HEADER>() else { return Verdict::More };
    let little = header[4] & 0x10 != 0;
    let word = |at: usize| {
        let b = [d[at], d[at + 1]];
        if little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) }
    };
    let (len, auth) = (word(8), word(10));
    if !(HEADER as u16..=MAX_FRAGMENT).contains(&len) || auth > len - HEADER as u16 {
        return Verdict::No;
    }
    // Sizes of fragments; then how many contexts.
    let sizes = |at: usize| (1024..=MAX_FRAGMENT).contains(&word(at)) && (1024..=MAX_FRAGMENT).contains(&word(at + 2));
    let told = match header[2] {
        BIND | BIND_ACK | ALTER | ALTER_RESP if d.len() < 28 => return Verdict::More,
        BIND | ALTER => len >= 72 && sizes(16) && (1..=64).contains(&d[24]) && d[25..28] == [0; 3],
        BIND_ACK | ALTER_RESP => len >= 32 && sizes(16),
        // First and last fragments of a request or response, and others, end where the segment does.
        _ => header[3] & 0x03 != 0 && (d.len() == usize::from(len) || d.get(usize::from(len)) == Some(&VERSION_5)),
    };
    if told { Verdict::payload(Class::Dcerpc) } else { Verdict::No }
}

/// 80 bytes of header, and as much behind it as it says.
pub fn look_udp(look: &Look, _: &mut Notes) -> Verdict {
    let Some(h) = look.data.first_chunk::<DATAGRAM_HEADER>() else { return Verdict::No };
    let little = h[4] & 0x10 != 0;
    let word = |at: usize| {
        if little { u16::from_le_bytes([h[at], h[at + 1]]) } else { u16::from_be_bytes([h[at], h[at + 1]]) }
    };
    let kind = h[1] & 0x1f;
    let fits =
        kind <= LAST_DATAGRAM_KIND && representation(h[4], h[5]) && h[6] == 0 && h[2] & 0x80 == 0 && h[3] & !0x02 == 0;
    // Interface's version, authentication, and no object without an interface.
    let named = h[24..40] != [0; 16] && h[40..56] != [0; 16];
    let adds_up = DATAGRAM_HEADER + usize::from(word(74)) <= look.data.len();
    let exact = DATAGRAM_HEADER + usize::from(word(74)) == look.data.len() || h[78] != 0;
    if fits && named && adds_up && exact { Verdict::payload(Class::Dcerpc) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::{FromInitiator, FromResponder};
    use crate::l7::told::{client, datagram, hex, no_datagram, no_stream, server};

    #[test]
    fn connection() {
        let mut bind = hex("05000b03100000004800000001000000 d016d016 00000000 01000000 00000100");
        bind.resize(72, 1);
        client(135, &bind, Class::Dcerpc);
        bind[6] = 1;
        no_stream(135, &bind);
        server(1, &hex("05000203100000001c0000000100000004000000000000000a000000"), Class::Dcerpc);
        server(593, b"ncacn_http/1.0", Class::Dcerpc);
        no_stream(135, &hex("05010000"));
    }

    #[test]
    fn datagrams() {
        let mut call = hex("0400200010000000 0000a0de976cd11182710064010d002a");
        call.extend(hex("0200a0de976cd1118271 00a02442df7d 80c8fb43000010108000000ef0489e05"));
        call.extend(hex("00000000 01000000 00000000 0400 ffff ffff 3400 0000 00 00"));
        assert_eq!(call.len(), 80);
        call.resize(80 + 0x34, 0);
        datagram(FromInitiator, 34964, &[], &call, Class::Dcerpc);
        datagram(FromResponder, 1, &[], &call, Class::Dcerpc);
        call.push(0);
        no_datagram(34964, &[], &call);
    }
}
