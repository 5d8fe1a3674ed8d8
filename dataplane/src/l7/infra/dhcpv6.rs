//! DHCPv6: options that fill the message (RFC 8415 §8, §9, §21.1) on ports 546 and 547, and the client's name (RFC 4704).

use super::read::{fills, u16_at};
use crate::l7::{Class, Look, Notes, Verdict};

const CLIENT: u16 = 546;
const SERVER: u16 = 547;
const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;
/// DISCONNECT (RFC 7653) and the like: types beyond this are not assigned.
const LAST_TYPE: u8 = 36;
const FQDN: u16 = 39;
const MOST_OPTIONS: usize = 128;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let options = match d[0] {
        RELAY_FORWARD | RELAY_REPLY => 34,
        1..=LAST_TYPE => 4,
        _ => return Verdict::No,
    };
    if !look.has_port(CLIENT) && !look.has_port(SERVER) {
        return Verdict::No;
    }
    let Some(options) = d.get(options..).filter(|o| !o.is_empty()) else { return Verdict::No };
    if !fills(options, 4, MOST_OPTIONS, |o| Some(4 + usize::from(u16_at(o, 2)?))) {
        return Verdict::No;
    }
    let mut rest = options;
    while let Some(len) = u16_at(rest, 2).map(usize::from) {
        // Flags, then labels.
        if u16_at(rest, 0) == Some(FQDN) && d[0] != RELAY_FORWARD && len > 1 {
            name(&rest[5..4 + len], notes);
            break;
        }
        rest = &rest[4 + len..];
    }
    Verdict::payload(Class::Dhcpv6)
}

fn name(mut labels: &[u8], notes: &mut Notes) {
    let mut first = true;
    while let Some((len, rest)) = labels.split_first().filter(|(len, _)| **len > 0) {
        let Some((label, after)) = rest.split_at_checked(usize::from(*len)) else { return notes.host.clear() };
        if !first {
            notes.host.push(b".");
        }
        first = false;
        notes.host.push(label);
        labels = after;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hex, host, is_udp, udp};
    use super::*;

    #[test]
    fn options_add_up() {
        let d = hex("01 123456 0001000a 00030001525400123456 0027 0008 00 03616263 0178 00 0008 0002 0000");
        is_udp(look, &d, SERVER, Class::Dhcpv6);
        assert_eq!(host(look, &d, SERVER).as_deref(), Some("abc.x"));
        assert_eq!(udp(look, &d, 99), None);
        assert_eq!(udp(look, &d[..d.len() - 1], SERVER), None);
        assert_eq!(udp(look, &[99, 1, 2, 3, 0, 1, 0, 0], SERVER), None);
        assert_eq!(udp(look, &[1, 1, 2, 3], SERVER), None);
        // A label longer than the option.
        let d = hex("01 123456 0027 0003 00 0561");
        assert_eq!((udp(look, &d, SERVER), host(look, &d, SERVER)), (Some(Class::Dhcpv6), None));
    }
}
