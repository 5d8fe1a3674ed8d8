//! BGP: marker, length and type of a message (RFC 4271 §4.1, RFC 2918), also in mid-life.

use crate::l7::{Class, Look, Notes, Verdict};

const MARKER: [u8; 16] = [0xff; 16];
const HEADER: usize = 19;
const OPEN: u8 = 1;
const ROUTE_REFRESH: u8 = 5;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    match look.begins(&MARKER) {
        Some(true) => {}
        Some(false) => return Verdict::No,
        None => return Verdict::More,
    }
    let (Some(len), Some(kind)) = (look.u16(16), look.data.get(18)) else { return Verdict::More };
    // OPEN has 29 bytes and more, UPDATE 23, NOTIFICATION 21, KEEPALIVE 19, ROUTE-REFRESH 23.
    let least = match kind {
        &OPEN => 29,
        2 | &ROUTE_REFRESH => 23,
        3 => 21,
        4 => HEADER,
        _ => return Verdict::No,
    };
    if usize::from(len) < least || *kind == 4 && usize::from(len) != HEADER {
        return Verdict::No;
    }
    match (kind, look.data.get(HEADER)) {
        (&OPEN, None) => Verdict::More,
        (&OPEN, Some(version)) if *version != 4 => Verdict::No,
        _ => Verdict::payload(Class::Bgp),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hex, is_tcp, tcp};
    use super::*;
    use crate::flow::Direction::FromInitiator;

    #[test]
    fn messages() {
        let with = |rest: &str| [&MARKER[..], &hex(rest)].concat();
        is_tcp(look, &with("001d 01 04"), 9, Class::Bgp);
        is_tcp(look, &with("0013 04"), 179, Class::Bgp);
        is_tcp(look, &with("0017 02"), 179, Class::Bgp);
        for no in ["0014 04", "0013 01", "0013 06", "001d 01 03", "0012 02"] {
            assert_eq!(tcp(look, &with(no), FromInitiator, 179), Verdict::No, "{no}");
        }
    }
}
