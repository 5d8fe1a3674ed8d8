//! AMQP: the protocol header of every version, and frames in mid-life (AMQP 0-9-1 §2.3.5, §4.2.2; AMQP 1.0 §2.2, §2.3).

use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

const NAME: &[u8] = b"AMQP";
const METHOD: u8 = 1;
const HEADERS: u8 = 2;
const HEARTBEAT: u8 = 8;
/// Octet behind each frame of 0-9-1.
const END: u8 = 0xce;
/// connection, channel, access, exchange, queue, basic, confirm, tx.
const CLASSES: [u16; 8] = [10, 20, 30, 40, 50, 60, 85, 90];
const BASIC: u16 = 60;
const MAX_METHOD: u16 = 120;
const MAX_FRAME: u32 = 1 << 24;
/// Of 1.0: open to close, and SASL's.
const PERFORMATIVES: std::ops::RangeInclusive<u8> = 0x10..=0x18;
const SASL: std::ops::RangeInclusive<u8> = 0x40..=0x44;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    match d[0] {
        b'A' => header(look, notes),
        0 => frame_1_0(look),
        _ => frame_0_9(look),
    }
}

fn header(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    if d.len() < 8 {
        return if d[..d.len().min(4)] == NAME[..d.len().min(4)] { Verdict::More } else { Verdict::No };
    }
    let version: &[u8] = match d[4..8] {
        [0, 0, 9, 1] => b"0-9-1",
        [1, 1, 0, 9 | 10] => b"0-10",
        [1, 1, 8 | 9, 0 | 1] => b"0-8",
        [0 | 2 | 3, 1, 0, 0] => b"1.0",
        _ => return Verdict::No,
    };
    if !d.starts_with(NAME) {
        return Verdict::No;
    }
    notes.facts.put(Fact::Version, version);
    Verdict::Done(Found::payload(Class::Amqp))
}

/// Kind, channel, size, payload, end.
fn frame_0_9(look: &Look) -> Verdict {
    let d = look.data;
    let Some(size) = look.u32(3) else {
        return if look.has_port(5672) { Verdict::More } else { Verdict::No };
    };
    if size > MAX_FRAME {
        return Verdict::No;
    }
    let (Some(class), Some(method)) = (look.u16(7), look.u16(9)) else {
        let beat = d[0] == HEARTBEAT && size == 0 && d == [8, 0, 0, 0, 0, 0, 0, END];
        return if beat { Verdict::payload(Class::Amqp) } else { Verdict::No };
    };
    let fits = match d[0] {
        METHOD => CLASSES.contains(&class) && (10..=MAX_METHOD).contains(&method) && size >= 4,
        // Weight is always 0.
        HEADERS => class == BASIC && method == 0 && size >= 14,
        _ => false,
    };
    if !fits {
        return Verdict::No;
    }
    match d.get(7 + size as usize) {
        Some(&END) => Verdict::payload(Class::Amqp),
        Some(_) => Verdict::No,
        None => Verdict::More,
    }
}

/// Size, where the body begins, kind, channel; then a described list.
fn frame_1_0(look: &Look) -> Verdict {
    let d = look.data;
    if d.get(1).is_some_and(|b| *b != 0)
        || d.get(4).is_some_and(|offset| *offset != 2)
        || d.get(5).is_some_and(|k| *k > 1)
    {
        return Verdict::No;
    }
    let (Some(size), Some(body)) = (look.u32(0), d.get(8..12)) else { return Verdict::More };
    // A descriptor, a small number, and a list.
    let [0, 0x53, code, 0x45 | 0xc0 | 0xd0] = *body else { return Verdict::No };
    let known = if d[5] == 1 { SASL.contains(&code) } else { PERFORMATIVES.contains(&code) };
    if known && size >= 12 { Verdict::payload(Class::Amqp) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn headers_and_frames() {
        assert_eq!(client(5672, b"AMQP\0\0\x09\x01", Class::Amqp).facts.get(Fact::Version), Some("0-9-1"));
        assert_eq!(server(1, b"AMQP\x03\x01\0\0", Class::Amqp).facts.get(Fact::Version), Some("1.0"));
        let deliver = "01000100000021003c002800000863656c657279657610776f726b65722e68656172746265617400ce";
        client(5672, &hex(deliver), Class::Amqp);
        let mut odd = hex(deliver);
        *odd.last_mut().unwrap() = 0;
        no_stream(5672, &odd);
        server(5671, &hex("00000020 02 01 0000 005340c0 1301e010a3"), Class::Amqp);
        no_stream(5672, &hex("00000020 02 01 0000 005320c0"));
        no_stream(5672, b"AMQP/1.0");
    }
}
