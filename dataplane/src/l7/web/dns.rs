//! DNS: the first question's name (RFC 1035 §4.1), over UDP and TCP (§4.2.2); multicast DNS, LLMNR and NetBIOS name
//! service, which speak the same format on ports of their own.
//!
//! The whole message must hold together: counts, every record's place, and an end where the datagram ends. On the
//! well-known ports that is relaxed to the header and the question, and on port 53 to the header, since such a port and
//! such a header together are certain enough, and real messages are cut, padded, extended and damaged.

pub mod said;

use self::said::Said;
use crate::l7::{Class, Found, HostName, Look, Notes, Verdict};

const HEADER: usize = 12;
/// Jumps in a compressed name; each must also go backwards.
const MAX_JUMPS: usize = 16;
/// Octets of a name on the wire (RFC 1035 §2.3.4).
const MAX_WIRE: usize = 255;
const MAX_RECORDS: usize = 512;

pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    let host = &mut notes.host;
    let strict = !(look.has_port(53) || look.has_port(5353) || look.has_port(5355) || look.has_port(137));
    match message(look.data, strict, look.has_port(137), host) {
        Some(()) => verdict(class(look, host), look.data, notes),
        None if look.has_port(53) && Header::read(look.data).is_some_and(|h| h.asks_once()) => {
            host.clear();
            host.spoil();
            Verdict::Settled(Found::payload(Class::Dns))
        }
        None if look.has_port(137) && Header::read(look.data).is_some_and(|h| h.asks_once()) => {
            host.clear();
            host.spoil();
            Verdict::Done(Found::payload(Class::Netbios))
        }
        None => Verdict::No,
    }
}

/// Of DNS proper the answer is waited for; what else speaks its format says all at once.
fn verdict(class: Class, d: &[u8], notes: &mut Notes) -> Verdict {
    let found = Found::payload(class);
    if class == Class::Mdns && notes.host.get().is_none() {
        // An answer that nobody asked for is known by what it tells of.
        name(d, HEADER, Some(&mut notes.host));
    }
    if class == Class::Netbios {
        // An answer has no question, but its first name is of the same form at the same place.
        if notes.host.get().is_none() {
            netbios_name(d, &mut notes.host);
        }
        return Verdict::Done(found);
    }
    Said::read(d, notes);
    if class == Class::Dns { Verdict::Settled(found) } else { Verdict::Done(found) }
}

pub fn look_tcp(look: &Look, notes: &mut Notes) -> Verdict {
    let host = &mut notes.host;
    let d = look.data;
    // The header alone turns most strangers away before the whole message is waited for.
    if d.len() >= 2 + HEADER && Header::read(&d[2..]).is_none_or(|h| !h.plausible(true)) {
        return Verdict::No;
    }
    let Some(len) = d.first_chunk::<2>().map(|l| usize::from(u16::from_be_bytes(*l))) else { return Verdict::More };
    if len < HEADER + 5 {
        return Verdict::No;
    }
    let Some(all) = d.get(2..2 + len) else {
        // The name is near the front; a long zone transfer need not be waited for.
        let cut = look.last && look.has_port(53) && message(&d[2..], false, false, host).is_some();
        return if cut { Verdict::Done(Found::payload(Class::Dns)) } else { Verdict::More };
    };
    match message(all, true, false, host) {
        Some(()) => verdict(Class::Dns, all, notes),
        None => Verdict::No,
    }
}

const TXT: u16 = 16;

fn class(look: &Look, host: &HostName) -> Class {
    // DNSCrypt's first exchange fetches the certificate: TXT of the provider's name, which begins with the version, 2.
    let asks_certificate = || host.get().is_some_and(|n| n.starts_with("2.")) && question_type(look.data) == Some(TXT);
    if !look.has_port(53) && asks_certificate() {
        Class::Dnscrypt
    } else if look.has_port(5353) {
        Class::Mdns
    } else if look.has_port(5355) {
        Class::Llmnr
    } else if look.has_port(137) {
        Class::Netbios
    } else {
        Class::Dns
    }
}

struct Header {
    flags: u16,
    /// Questions, answers, authorities, additionals.
    counts: [u16; 4],
}

impl Header {
    fn read(d: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*d.get(at)?, *d.get(at + 1)?]));
        Some(Self { flags: word(2)?, counts: [word(4)?, word(6)?, word(8)?, word(10)?] })
    }

    /// All that is left of some messages: an opcode that is in use (RFC 6895 §2.2, RFC 1002 §4.2.1.1), and one question.
    fn asks_once(&self) -> bool {
        matches!(self.flags >> 11 & 0xf, 0 | 2 | 4..=8) && self.counts[0] == 1
    }

    fn plausible(&self, strict: bool) -> bool {
        let opcode = self.flags >> 11 & 0xf;
        let response = self.flags & 0x8000 != 0;
        let [questions, answers, authorities, additionals] = self.counts;
        // Query, status, notify, update (RFC 6895 §2.2); the response code of a query is 0.
        let code = response || self.flags & 0xf == 0;
        let usual = matches!(opcode, 0 | 2 | 4 | 5) && code && questions == 1;
        let total = usize::from(answers) + usize::from(authorities) + usize::from(additionals);
        // The bit that must be zero (RFC 1035 §4.1.1) is.
        if strict { usual && self.flags & 0x40 == 0 && total <= MAX_RECORDS } else { total <= MAX_RECORDS }
    }
}

/// Reads a message; the first question's name goes to `host`. `strict`: nothing but a whole and usual one will do.
fn message(d: &[u8], strict: bool, netbios: bool, host: &mut HostName) -> Option<()> {
    let header = Header::read(d)?;
    if !header.plausible(strict) {
        return None;
    }
    let [questions, answers, authorities, additionals] = header.counts.map(usize::from);
    if questions == 0 {
        // Multicast answers, and refusals: they must hold together in full.
        let response = header.flags & 0x8000 != 0;
        let records = answers + authorities + additionals;
        if !response || records == 0 && (d.len() != HEADER || header.flags & 0xf == 0) {
            return None;
        }
        return whole(d, HEADER, records);
    }
    let after = question(d, HEADER, host)?;
    if netbios && !netbios_name(d, host) {
        return None;
    }
    if !strict {
        return Some(());
    }
    whole(d, after, answers + authorities + additionals)
}

/// Name, type and class of a question; gives where it ends.
fn question(d: &[u8], at: usize, host: &mut HostName) -> Option<usize> {
    let end = name(d, at, Some(host))?;
    let class = u16::from_be_bytes([*d.get(end + 2)?, *d.get(end + 3)?]);
    // IN, CS, CH, HS, NONE, ANY (RFC 6895 §3.2); multicast DNS uses the top bit (RFC 6762 §5.4).
    matches!(class & 0x7fff, 1..=4 | 254 | 255).then_some(end + 4)
}

fn question_type(d: &[u8]) -> Option<u16> {
    let end = name(d, HEADER, None)?;
    Some(u16::from_be_bytes([*d.get(end)?, *d.get(end + 1)?]))
}

/// Whether exactly `n` resource records fill the rest.
fn whole(d: &[u8], mut at: usize, n: usize) -> Option<()> {
    for _ in 0..n.min(3 * MAX_RECORDS) {
        at = name(d, at, None)?;
        let len = usize::from(u16::from_be_bytes([*d.get(at + 8)?, *d.get(at + 9)?]));
        at += 10 + len;
    }
    (at == d.len()).then_some(())
}

/// Follows a name, compression pointers included (RFC 1035 §4.1.4), and gives where what stands at `at` ends. Pointers
/// go backwards only, so a name ends.
fn name(d: &[u8], at: usize, mut host: Option<&mut HostName>) -> Option<usize> {
    let mut pos = at;
    let mut end = None;
    let mut floor = at;
    let mut wire = 0;
    let mut jumps = 0;
    loop {
        let len = *d.get(pos)?;
        match len >> 6 {
            0b00 if len == 0 => return Some(end.unwrap_or(pos + 1)),
            0b00 => {
                let label = d.get(pos + 1..pos + 1 + usize::from(len))?;
                wire += 1 + label.len();
                if wire > MAX_WIRE {
                    return None;
                }
                if let Some(host) = host.as_deref_mut() {
                    if wire > 1 + label.len() {
                        host.push(b".");
                    }
                    host.push(label);
                }
                pos += 1 + label.len();
            }
            0b11 => {
                let to = usize::from(len & 0x3f) << 8 | usize::from(*d.get(pos + 1)?);
                end.get_or_insert(pos + 2);
                jumps += 1;
                if to >= floor || jumps > MAX_JUMPS {
                    return None;
                }
                floor = to;
                pos = to;
            }
            _ => return None,
        }
    }
}

/// NetBIOS spells a name in 32 letters A to P (RFC 1001 §14.1). Says whether the question's does, and spells it back.
fn netbios_name(d: &[u8], host: &mut HostName) -> bool {
    let Some(coded) = d.get(HEADER + 1..HEADER + 33).filter(|_| d[HEADER] == 32) else { return false };
    if !coded.iter().all(|b| (b'A'..=b'P').contains(b)) {
        return false;
    }
    host.clear();
    // The sixteenth byte is the kind of name, no letter of it.
    for pair in coded.chunks_exact(2).take(15) {
        let b = (pair[0] - b'A') << 4 | (pair[1] - b'A');
        if b == b' ' || b == 0 {
            break;
        }
        host.push(&[b]);
    }
    true
}

#[cfg(test)]
#[path = "dns_tests.rs"]
pub(in crate::l7) mod tests;
