//! NetBIOS datagrams (RFC 1002 §4.4) and session set-up (§4.3). The name service is DNS's format: see `web/dns.rs`.

use crate::l7::{Class, Found, Look, Notes, Verdict};

/// A first-level name: length, 32 letters, and the end of the scope (RFC 1001 §14.1).
const NAME: usize = 34;
const REQUEST: u8 = 0x81;
const POSITIVE: u8 = 0x82;
const NEGATIVE: u8 = 0x83;
const RETARGET: u8 = 0x84;
const KEEP_ALIVE: u8 = 0x85;
const PORT: u16 = 139;

pub fn look_datagram(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let good = match d[0] {
        // Direct unique, direct group, broadcast: source and destination. Error. Query and its answers: destination.
        0x10..=0x12 => {
            let both = name(d, 14, notes).is_some() && d.get(14 + NAME..).is_some_and(is_name);
            if !both && look.ports == (138, 138) && d.len() > 14 && d[1] & 0xf0 == 0 {
                // A later datagram may say better who speaks.
                return Verdict::Class(Found::payload(Class::Netbios));
            }
            both
        }
        0x13 => look.ports == (138, 138) && d.len() == 11 && matches!(d[10], 0x82..=0x84),
        0x14..=0x16 => d.get(10..).is_some_and(is_name),
        _ => false,
    };
    if good { Verdict::payload(Class::Netbios) } else { Verdict::No }
}

pub fn look_session(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let (fixed, size): (&[u8], usize) = match d[0] {
        REQUEST => (&[REQUEST, 0, 0, 2 * NAME as u8, 32], 4 + 2 * NAME),
        POSITIVE => (&[POSITIVE, 0, 0, 0], 4),
        KEEP_ALIVE => (&[KEEP_ALIVE, 0, 0, 0], 4),
        NEGATIVE => (&[NEGATIVE, 0, 0, 1], 5),
        RETARGET => (&[RETARGET, 0, 0, 6], 10),
        _ => return Verdict::No,
    };
    match look.begins(fixed) {
        Some(false) => return Verdict::No,
        None => return Verdict::More,
        Some(true) if d.len() < size => return Verdict::More,
        Some(true) => {}
    }
    let good = match d[0] {
        REQUEST => is_name(&d[4..]) && is_name(&d[4 + NAME..]),
        // Four or five bytes are little to be certain of away from the port.
        NEGATIVE => look.has_port(PORT) && matches!(d[4], 0x80..=0x83 | 0x8f),
        _ => look.has_port(PORT),
    };
    if good { Verdict::payload(Class::Netbios) } else { Verdict::No }
}

fn is_name(d: &[u8]) -> bool {
    d.first() == Some(&32) && d.get(1..33).is_some_and(|n| n.iter().all(|b| (b'A'..=b'P').contains(b)))
}

/// The name at `at`, spelt back: who speaks.
fn name(d: &[u8], at: usize, notes: &mut Notes) -> Option<()> {
    let coded = d.get(at..).filter(|n| is_name(n))?.get(1..33)?;
    // The sixteenth byte is the kind of name, no letter of it.
    for pair in coded.chunks_exact(2).take(15) {
        let b = (pair[0] - b'A') << 4 | (pair[1] - b'A');
        if b == b' ' || b == 0 {
            break;
        }
        notes.host.push(&[b]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{host, is_tcp, is_udp, tcp, udp};
    use super::*;
    use crate::flow::Direction::FromInitiator;

    const FOO: &[u8] = b" EGEPEPCACACACACACACACACACACACAAA\0";

    #[test]
    fn datagrams() {
        let d = [&[0x11, 2, 1, 2, 10, 0, 0, 1, 0, 138, 0, 70, 0, 0][..], FOO, FOO, b"\xffSMB"].concat();
        is_udp(look_datagram, &d[..14 + 67], 9, Class::Netbios);
        assert_eq!(host(look_datagram, &d, 138).as_deref(), Some("foo"));
        is_udp(look_datagram, &[&[0x14, 0, 1, 2, 10, 0, 0, 1, 0, 138][..], &FOO[..33]].concat(), 138, Class::Netbios);
        let mut bad = d;
        bad[20] = b'a';
        assert_eq!(udp(look_datagram, &bad, 9), None);
    }

    #[test]
    fn sessions() {
        is_tcp(look_session, &[&[0x81, 0, 0, 68][..], FOO, FOO].concat(), 9, Class::Netbios);
        is_tcp(look_session, &[0x82, 0, 0, 0], PORT, Class::Netbios);
        assert_eq!(tcp(look_session, &[0x82, 0, 0, 0], FromInitiator, 9), Verdict::No);
        assert_eq!(tcp(look_session, &[0x83, 0, 0, 1, 9], FromInitiator, PORT), Verdict::No);
        assert_eq!(tcp(look_session, &[0x81, 0, 0, 69], FromInitiator, PORT), Verdict::No);
    }
}
