//! MQTT 3.1, 3.1.1 and 5: connect and its answer, and in mid-life the packets whose parts add up (OASIS MQTT 3.1.1 §2,
//! §3.1, §3.2, §3.3, §3.8; MQTT 5.0 §3.1, §3.2).

use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PORT: u16 = 1883;
const MAX_TOPIC: usize = 512;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some((len, at)) = remaining(d) else { return if d.len() < 5 { Verdict::More } else { Verdict::No } };
    match d[0] {
        CONNECT => connect(look, len, at, notes),
        CONNACK => connack(look, len, at),
        SUBSCRIBE => filters(look, len, at),
        SUBACK if look.has_port(PORT) => exact(d, len, at, |b| b.len() >= 3 && b[b.len() - 1] & 0x7c == 0),
        // Both bits of the quality of service set: none.
        0x30..=0x35 => exact(d, len, at, |b| publish(b, d[0] & 0x06 != 0)),
        _ => Verdict::No,
    }
}

/// Length of what follows, seven bits a byte, and where that begins. `None` also where it is not whole.
fn remaining(d: &[u8]) -> Option<(usize, usize)> {
    let mut len = 0;
    for i in 0..4 {
        let b = *d.get(1 + i)?;
        len |= usize::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some((len, 2 + i));
        }
    }
    None
}

fn connect(look: &Look, len: usize, at: usize, notes: &mut Notes) -> Verdict {
    let body = &look.data[at..];
    for (name, levels) in [(&b"\0\x04MQTT"[..], 4..=5), (b"\0\x06MQIsdp", 3..=3)] {
        let n = body.len().min(name.len());
        if body[..n] != name[..n] {
            continue;
        }
        let Some([level, flags]) = body.get(name.len()..name.len() + 2) else { return Verdict::More };
        // The uppermost bit of the level marks a bridge; the lowest of the flags is reserved.
        let level = level & 0x7f;
        if !levels.contains(&level) || flags & 1 != 0 || len < name.len() + 6 {
            return Verdict::No;
        }
        let version: &[u8] = match level {
            3 => b"3.1",
            4 => b"3.1.1",
            _ => b"5.0",
        };
        notes.facts.put(Fact::Version, version);
        return Verdict::Done(Found::payload(Class::Mqtt));
    }
    Verdict::No
}

/// Flags, code, and from version 5 on properties.
fn connack(look: &Look, len: usize, at: usize) -> Verdict {
    let body = &look.data[at..];
    match (len, body) {
        (2, [flags, code]) if look.has_port(PORT) && *flags <= 1 && *code <= 5 => Verdict::payload(Class::Mqtt),
        (3.., [flags, code, properties, ..]) => {
            let adds_up = usize::from(*properties) == len - 3 && *flags <= 1 && (*code == 0 || *code >= 0x80);
            if adds_up && body.len() >= len && len > 3 { Verdict::payload(Class::Mqtt) } else { Verdict::No }
        }
        (2, []) | (2, [_]) if look.has_port(PORT) => Verdict::More,
        _ => Verdict::No,
    }
}

/// One packet that fills the segment.
fn exact(d: &[u8], len: usize, at: usize, is: impl Fn(&[u8]) -> bool) -> Verdict {
    let body = &d[at..];
    if body.len() == len && is(body) { Verdict::payload(Class::Mqtt) } else { Verdict::No }
}

/// A topic without wildcards, and a number where the sender wants to know that it came.
fn publish(body: &[u8], numbered: bool) -> bool {
    let Some(len) = body.first_chunk::<2>().map(|l| usize::from(u16::from_be_bytes(*l))) else { return false };
    let Some(topic) = body.get(2..2 + len) else { return false };
    let text = topic.iter().all(|b| *b > b' ' && *b != 0x7f && !matches!(b, b'+' | b'#'));
    let number = !numbered || body.get(2 + len..4 + len).is_some_and(|n| n != [0, 0]);
    (3..=MAX_TOPIC).contains(&len) && text && number
}

/// A number, then filters, each with the quality of service wanted; version 5 has properties before them.
fn filters(look: &Look, len: usize, at: usize) -> Verdict {
    let adds_up = |body: &[u8], mut from: usize| {
        let mut n = 0;
        while let Some(l) = body.get(from..from + 2) {
            let end = from + 2 + usize::from(u16::from_be_bytes([l[0], l[1]]));
            let Some(filter) = body.get(from + 2..end) else { return false };
            let text = filter.iter().all(|b| *b >= b' ' && *b != 0x7f) && !filter.is_empty();
            if !text || body.get(end).is_none_or(|options| options & 0xc0 != 0 || options & 3 == 3) {
                return false;
            }
            (from, n) = (end + 1, n + 1);
        }
        from == body.len() && n > 0
    };
    exact(look.data, len, at, |b| {
        b.len() > 5 && (b[0] != 0 || b[1] != 0) && (adds_up(b, 2) || adds_up(b, 3 + usize::from(b[2])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn packets() {
        let told = client(1, &hex("101100044d5154540402003c00054275733431"), Class::Mqtt);
        assert_eq!(told.facts.get(Fact::Version), Some("3.1.1"));
        client(1, b"\x10\x14\0\x06MQIsdp\x03\x02\0\x3c\0\x06client", Class::Mqtt);
        server(1883, &hex("20020000"), Class::Mqtt);
        server(1, &hex("2006000003 22000a"), Class::Mqtt);
        client(1, b"\x32\x0c\0\x05a/b/c\0\x02{}\n", Class::Mqtt);
        client(1, b"\x82\x08\0\x01\0\x03a/#\x01", Class::Mqtt);
        no_stream(1, &hex("20020000"));
        no_stream(1883, b"\x32\x0c\0\x05a/#/c\0\x02{}\n");
        no_stream(1883, b"\x10\x11\0\x04MQTT\x04\x03\0\x3c\0\x05Bus41");
        no_stream(1883, b"0123456789");
    }
}
