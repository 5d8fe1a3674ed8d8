//! RDP: the connection request and its confirmation (MS-RDPBCGR §2.2.1.1, §2.2.1.2), the TLS that follows them, and the
//! opening of its UDP transport (MS-RDPEUDP §2.2.2.1).

use crate::l7::text::{before, graphic};
use crate::l7::{Class, Found, Look, Notes, Verdict, upgrade};

const PORT: u16 = 3389;
/// RFC 1006 §6: version 3, reserved, length.
const TPKT: usize = 4;
/// ISO 8073 §13.3, §13.4: length, code, two references, class.
const COTP: usize = 7;
const REQUEST: u8 = 0xe0;
const CONFIRM: u8 = 0xd0;
const NEGOTIATION: usize = 8;
const NEG_REQ: u8 = 1;
const NEG_RSP: u8 = 2;
const NEG_FAILURE: u8 = 3;
/// TLS, CredSSP, RDSTLS, early user authorisation, AAD.
const PROTOCOLS: u32 = 0x1f;
const MAX_REQUEST: u16 = 512;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let code = d.get(5).copied();
    if d.get(1).is_some_and(|b| *b != 0) || code.is_some_and(|c| !matches!(c, REQUEST | CONFIRM)) {
        return Verdict::No;
    }
    let (Some(len), Some(code)) = (look.u16(2), code) else { return Verdict::More };
    let rest = usize::from(len).wrapping_sub(TPKT + COTP);
    // The indicator counts what stands behind it in the whole packet.
    if !(11..=MAX_REQUEST).contains(&len) || usize::from(d[4]) != usize::from(len) - 5 {
        return Verdict::No;
    }
    let Some(body) = d.get(TPKT + COTP..usize::from(len)) else { return Verdict::More };
    // Class 0, and a request goes to nobody's reference.
    if d[10] != 0 || code == REQUEST && d[6..8] != [0, 0] {
        return Verdict::No;
    }
    let found = Found::payload(Class::Rdp);
    match (code, rest) {
        // Of the oldest clients and servers nothing more came.
        (_, 0) if look.has_port(PORT) => Verdict::Class(found),
        (CONFIRM, NEGOTIATION) => {
            let told = matches!(body[0], NEG_RSP | NEG_FAILURE)
                && body[2..4] == [8, 0]
                && body[5..8] == [0; 3]
                && body[4] <= 16;
            if told { Verdict::Other(found) } else { Verdict::No }
        }
        (REQUEST, 1..) if asks(body) => {
            let at = usize::from(len);
            if d.get(at).is_some_and(|b| *b != 22) {
                Verdict::Done(found)
            } else {
                upgrade::tls(look, at, found, notes)
            }
        }
        _ => Verdict::No,
    }
}

/// Perhaps a cookie or a token for load balancing in a line, perhaps a request to negotiate, at least one of them.
fn asks(body: &[u8]) -> bool {
    let line = before(body, b'\n');
    let text = line.strip_suffix(b"\r").filter(|_| line.len() < body.len());
    let cookie = text.is_some_and(|t| t.starts_with(b"Cookie: ") && graphic(&t[8..]) || t.starts_with(b"tsv://"));
    let rest = if cookie { &body[line.len() + 1..] } else { body };
    match rest {
        [] => cookie,
        [NEG_REQ, flags, 8, 0, a, b, c, d, ..] => {
            flags & !0x0b == 0 && u32::from_le_bytes([*a, *b, *c, *d]) & !PROTOCOLS == 0
        }
        _ => false,
    }
}

/// A SYN datagram: nothing acknowledged yet, sizes of datagrams up and down, padded to the largest of them.
pub fn look_udp(look: &Look, _: &mut Notes) -> Verdict {
    const SYN: u16 = 1;
    const ACK: u16 = 4;
    const SIZES: std::ops::RangeInclusive<u16> = 1132..=1232;
    let (Some(u32::MAX), Some(flags)) = (look.u32(0), look.u16(6)) else { return Verdict::No };
    let (Some(up), Some(down)) = (look.u16(12), look.u16(14)) else { return Verdict::No };
    let size = u16::try_from(look.data.len()).is_ok_and(|len| SIZES.contains(&len));
    let told = flags & SYN != 0 && flags & ACK == 0 && SIZES.contains(&up) && SIZES.contains(&down) && size;
    if told { Verdict::payload(Class::Rdp) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::Fact;
    use crate::l7::told::{client, datagram, hello, hex, no_datagram, no_stream, server};

    #[test]
    fn request_confirmation_and_tls() {
        let request = hex("030000130ee00000000000010008000b000000");
        client(1, &request, Class::Rdp);
        server(1, &hex("030000130ed00000123400021f080008000000"), Class::Rdp);
        let told = client(3389, &[&request[..], &hello("rdp.example")].concat(), Class::Rdp);
        assert_eq!((told.host.as_str(), told.facts.get(Fact::Upgrade)), ("rdp.example", Some("tls")));
        let mut cookie = hex("0300002c 27 e0 0000 0000 00");
        cookie.extend(b"Cookie: mstshash=user\r\n\x01\0\x08\0\x03\0\0\0");
        cookie[3] = cookie.len() as u8;
        cookie[4] = cookie.len() as u8 - 5;
        client(1, &cookie, Class::Rdp);
        client(3389, &hex("0300000b06e00000000000"), Class::Rdp);
        // S7: the same packet with other parameters.
        no_stream(3389, &hex("0300001611e00000000100c1020100c2020102c0010a"));
        no_stream(1, &hex("0300000b06e00000000000"));
    }

    #[test]
    fn udp() {
        let mut syn = hex("ffffffff 0040 1001 12345678 04d0 04d0");
        syn.resize(1232, 0);
        datagram(FromInitiator, 3389, &[], &syn, Class::Rdp);
        syn[7] = 0;
        no_datagram(3389, &[], &syn);
    }
}
