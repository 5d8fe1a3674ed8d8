//! NetFlow v1, v5, v7 (Cisco, "NetFlow Services and Applications", appendix B), v9 (RFC 3954 §5) and IPFIX (RFC 7011
//! §3.1, §3.3): the count of records or the lengths of the sets add up to the message.

use super::read::{fills, u16_at};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const V9: usize = 20;
const IPFIX: usize = 16;
const MOST_SETS: usize = 512;
/// 1990 and later, in seconds.
const SINCE: u32 = 0x2600_0000;

pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let (Some(version), Some(count)) = (look.u16(0), look.u16(2)) else { return Verdict::No };
    let (version_text, class): (&[u8], _) = match version {
        1 if records(look, usize::from(count), 24, 16, 52) => (b"1", Class::Netflow),
        5 if records(look, usize::from(count), 30, 24, 48) => (b"5", Class::Netflow),
        7 if records(look, usize::from(count), 28, 24, 52) => (b"7", Class::Netflow),
        9 if count > 0 && since(look, 8) && d.get(V9..).is_some_and(|sets| are_sets(sets, &[0, 1])) => {
            (b"9", Class::Netflow)
        }
        10 if usize::from(count) == d.len()
            && since(look, 4)
            && d.get(IPFIX..).is_some_and(|sets| are_sets(sets, &[2, 3])) =>
        {
            (b"10", Class::Ipfix)
        }
        _ => return Verdict::No,
    };
    notes.facts.put(Fact::Version, version_text);
    Verdict::payload(class)
}

/// IPFIX over TCP (RFC 7011 §10.4): the same messages one after the other.
pub fn look_tcp(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    match look.begins(&[0, 10]) {
        Some(false) => return Verdict::No,
        None => return Verdict::More,
        Some(true) => {}
    }
    let (Some(len), Some(seconds)) = (look.u16(2), look.u32(4)) else { return Verdict::More };
    if usize::from(len) < IPFIX + 4 || seconds < SINCE {
        return Verdict::No;
    }
    match d.get(IPFIX..usize::from(len)) {
        Some(sets) if are_sets(sets, &[2, 3]) => Verdict::payload(Class::Ipfix),
        Some(_) => Verdict::No,
        None => Verdict::More,
    }
}

/// `count` records of `size` bytes behind a head that has seconds at 8 and less than a second of nanoseconds at 12.
fn records(look: &Look, count: usize, most: usize, head: usize, size: usize) -> bool {
    let nanos = look.u32(12).is_some_and(|n| n < 1_000_000_000);
    (1..=most).contains(&count) && look.data.len() == head + count * size && since(look, 8) && nanos
}

fn since(look: &Look, at: usize) -> bool {
    look.u32(at).is_some_and(|seconds| seconds >= SINCE)
}

/// Template sets, or data sets, whose identifiers begin at 256.
fn are_sets(d: &[u8], templates: &[u16]) -> bool {
    let set = |s: &[u8]| {
        let id = u16_at(s, 0)?;
        (id >= 256 || templates.contains(&id)).then_some(usize::from(u16_at(s, 2)?))
    };
    !d.is_empty() && fills(d, 4, MOST_SETS, set)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hex, is_tcp, is_udp, udp};
    use super::*;

    #[test]
    fn counted_records() {
        for (version, head, size) in [(1u8, 16, 52), (5, 24, 48), (7, 24, 52)] {
            let mut d = vec![0; head + 2 * size];
            d[1] = version;
            d[3] = 2;
            d[8] = 0x5f;
            is_udp(look_udp, &d, 2055, Class::Netflow);
            d.push(0);
            assert_eq!(udp(look_udp, &d, 2055), None);
        }
    }

    #[test]
    fn sets() {
        let v9 = hex("00090001 00000001 5f000000 00000001 00000000 0000 000c 0100 0001 00080004");
        is_udp(look_udp, &v9, 9, Class::Netflow);
        let ipfix = hex("000a001c 5f000000 00000001 00000000 0002 000c 0100 0001 00080004");
        is_udp(look_udp, &ipfix, 9, Class::Ipfix);
        is_tcp(look_tcp, &ipfix, 9, Class::Ipfix);
        for (at, value) in [(0, 1), (3, 0x1b), (4, 0), (17, 4), (19, 3)] {
            let mut bad = ipfix.clone();
            bad[at] = value;
            assert_eq!(udp(look_udp, &bad, 4739), None, "{at}");
        }
        assert_eq!(udp(look_udp, &hex("000a000c 5f000000 00000001"), 4739), None, "no header");
        assert_eq!(udp(look_udp, &hex("000a0010 5f000000 00000001 00000000"), 4739), None, "no sets");
    }
}
