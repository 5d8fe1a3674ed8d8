//! Kafka: requests by their header, and the answer to the first of them (Kafka, "A Guide to the Protocol": Request
//! Header v0 to v2, ApiVersions).

use crate::l7::{Class, Fact, Look, Notes, Verdict};

const PORT: u16 = 9092;
const MAX_SIZE: u32 = 100 << 20;
const MAX_KEY: u16 = 92;
const MAX_VERSION: u16 = 18;
/// In place of a length: no client name.
const NONE: u16 = 0xffff;
const MAX_CLIENT: usize = 128;
/// Of keys that open a connection: the newest version with some to spare.
const OPENING: [(u16, u16); 6] = [(3, 14), (10, 7), (17, 2), (18, 6), (36, 4), (60, 4)];

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(size) = look.u32(0) else { return Verdict::More };
    if !(8..MAX_SIZE).contains(&size) || d.len() as u64 > u64::from(size) + 4 && !look.has_port(PORT) {
        return Verdict::No;
    }
    match request(look, size, notes) {
        Some(true) => Verdict::payload(Class::Kafka),
        None if d.len() < 14 => Verdict::More,
        Some(false) | None => versions(look, size),
    }
}

/// Key, version, number, the client's name: printable, and known by a key that comes first, or on the port.
fn request(look: &Look, size: u32, notes: &mut Notes) -> Option<bool> {
    let (key, version, len) = (look.u16(4)?, look.u16(6)?, look.u16(12)?);
    if key > MAX_KEY || version > MAX_VERSION || len == 0 {
        return Some(false);
    }
    let opening = OPENING.iter().any(|(k, newest)| *k == key && version <= *newest);
    if len == NONE {
        return Some(look.has_port(PORT) && opening);
    }
    let len = usize::from(len);
    if len > MAX_CLIENT || len + 10 > size as usize {
        return Some(false);
    }
    let name = look.data.get(14..14 + len)?;
    let whole = look.data.len() as u64 == u64::from(size) + 4;
    let text =
        name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b' ' | b'@' | b':' | b'/'));
    notes.facts.put(Fact::UserAgent, name);
    Some(text && (opening && whole || look.has_port(PORT)) && len >= 2)
}

/// The answer to ApiVersions: number, no error, then keys with their lowest and highest versions.
fn versions(look: &Look, size: u32) -> Verdict {
    if look.u16(8) != Some(0) {
        return Verdict::No;
    }
    let d = look.data;
    // An array of six bytes each; from version 3 on it is compact, of seven.
    let (at, each, n) = match look.u32(10) {
        Some(n @ 1..=200) => (14, 6, n),
        Some(_) => (11, 7, u32::from(d[10]).saturating_sub(1)),
        None => return Verdict::No,
    };
    let array = at as u64 - 4 + each as u64 * u64::from(n);
    // Behind it at most the throttle time, tags and features.
    if n < 10 || u64::from(size) < array || u64::from(size) > array + 200 {
        return Verdict::No;
    }
    let Some(first) = d.get(at..at + 2 * each) else { return Verdict::More };
    let word = |i: usize| u16::from_be_bytes([first[i], first[i + 1]]);
    let ascending = word(0) < word(each) && word(each) <= MAX_KEY;
    let ranges = word(2) <= word(4)
        && word(4) <= MAX_VERSION
        && word(each + 2) <= word(each + 4)
        && word(each + 4) <= MAX_VERSION;
    if ascending && ranges { Verdict::payload(Class::Kafka) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn requests_and_the_first_answer() {
        let request = hex("00000014 0012 0000 00000001 000a 636f6e73756d65722d31");
        assert_eq!(client(1, &request, Class::Kafka).facts.get(Fact::UserAgent), Some("consumer-1"));
        client(9092, &hex("0000000a 0012 0000 00000001 ffff"), Class::Kafka);
        let mut answer = hex("00000000 00000001 0000 0000000c");
        (0..12u8).for_each(|k| answer.extend([0, k, 0, 0, 0, 7]));
        answer[3] = (answer.len() - 4) as u8;
        server(1, &answer, Class::Kafka);
        answer[15] = 9;
        no_stream(9092, &answer);
        no_stream(1, &hex("00000014 0012 0000 00000001 000a 636f6e73756d65722d3100"));
        no_stream(9092, &hex("00000014 0082 0000 00000001 000a 636f6e73756d65722d31"));
    }
}
