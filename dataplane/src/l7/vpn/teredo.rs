//! Teredo: an IPv6 packet in UDP, behind authentication and origin where they are (RFC 4380 §5.1.1), to or from an address
//! with Teredo's prefix (§4).

use super::inner;
use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 3544;
const PREFIX: [u8; 4] = [0x20, 1, 0, 0];
const ORIGIN: usize = 8;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let mut d = look.data;
    if let [0, 1, id, auth, rest @ ..] = d {
        // Client identifier, authentication value, nonce, confirmation.
        let Some(after) = rest.get(usize::from(*id) + usize::from(*auth) + 9..) else { return Verdict::No };
        d = after;
    }
    if d.starts_with(&[0, 0]) {
        d = d.get(ORIGIN..).unwrap_or(&[]);
    }
    let (true, Some(source), Some(target)) = (d.first().is_some_and(|b| b >> 4 == 6), d.get(8..24), d.get(24..40))
    else {
        return Verdict::No;
    };
    let known = [source, target].iter().any(|a| a.starts_with(&PREFIX));
    if inner::ip(d) && (known || look.has_port(PORT)) { Verdict::payload(Class::Teredo) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{hex, is_udp, udp};

    #[test]
    fn packets_inside() {
        let mut v6 = vec![0; 48];
        v6[0] = 0x60;
        v6[5] = 8;
        v6[8..12].copy_from_slice(&PREFIX);
        is_udp(look, &v6, 9, Class::Teredo);
        let with = [&hex("0001 0000 0102030405060708 00 0000 1234 01020304")[..], &v6].concat();
        is_udp(look, &with, PORT, Class::Teredo);
        v6[9] = 2;
        assert_eq!((udp(look, &v6, 9), udp(look, &v6, PORT)), (None, Some(Class::Teredo)));
        v6.push(0);
        assert_eq!(udp(look, &v6, PORT), None);
    }
}
