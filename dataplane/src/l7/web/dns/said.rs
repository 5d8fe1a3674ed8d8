//! What a DNS message says beside its question's name: type, response code, addresses (RFC 1035 §3.2, §4.1; RFC 6895).

use std::io::Write;
use std::net::IpAddr;

use super::{HEADER, Header, name};
use crate::l7::{Fact, Facts, Notes};

const A: u16 = 1;
const AAAA: u16 = 28;
/// Addresses of an answer that are kept.
const MOST: usize = 8;
/// Records of an answer that are looked at.
const MAX_RECORDS: usize = 32;

/// One message, for who puts answers to queries.
#[derive(Clone, Default)]
pub struct Said {
    /// A message was read.
    pub there: bool,
    pub response: bool,
    pub id: u16,
    pub kind: u16,
    /// Seconds that the shortest-lived address is good for.
    pub ttl: u32,
    n: usize,
    addresses: [Option<IpAddr>; MOST],
}

impl Said {
    pub fn clear(&mut self) {
        self.there = false;
        self.n = 0;
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses[..self.n].iter().flatten().copied()
    }

    /// Reads a message that has been found to be one, into the notes and their facts. What is cut short is left out.
    pub(super) fn read(d: &[u8], notes: &mut Notes) {
        let Notes { facts, dns, .. } = notes;
        dns.clear();
        let Some(header) = Header::read(d) else { return };
        dns.there = true;
        dns.response = header.flags & 0x8000 != 0;
        dns.id = d.first_chunk().map_or(0, |b| u16::from_be_bytes(*b));
        if dns.response {
            put_code(header.flags & 0xf, facts);
        }
        if header.counts[0] != 1 {
            return;
        }
        let Some(after) = name(d, HEADER, None) else { return };
        let Some(kind) = word(d, after) else { return };
        dns.kind = kind;
        put_type(kind, facts);
        if dns.response && header.flags & 0xf == 0 {
            dns.answers(d, after + 4, usize::from(header.counts[1]));
        }
        if let Some(first) = dns.addresses().next() {
            let mut text = [0; 48];
            facts.put(Fact::DnsAnswer, written(&mut text, format_args!("{first}")));
        }
    }

    fn answers(&mut self, d: &[u8], mut at: usize, n: usize) {
        self.ttl = u32::MAX;
        for _ in 0..n.min(MAX_RECORDS) {
            let Some(fixed) = name(d, at, None) else { return };
            let (Some(kind), Some(len)) = (word(d, fixed), word(d, fixed + 8)) else { return };
            let from = fixed + 10;
            let Some(data) = d.get(from..from + usize::from(len)) else { return };
            let address = match kind {
                A => data.try_into().ok().map(|b: [u8; 4]| IpAddr::from(b)),
                AAAA => data.try_into().ok().map(|b: [u8; 16]| IpAddr::from(b)),
                _ => None,
            };
            if let Some(place) = self.addresses.get_mut(self.n)
                && address.is_some()
            {
                *place = address;
                self.n += 1;
                let ttl = d.get(fixed + 4..fixed + 8).and_then(|b| b.first_chunk());
                self.ttl = self.ttl.min(ttl.map_or(0, |b| u32::from_be_bytes(*b)));
            }
            at = from + data.len();
        }
    }
}

fn word(d: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*d.get(at..)?.first_chunk()?))
}

/// Text without an allocation; cut where it does not fit.
fn written<'a>(room: &'a mut [u8], text: std::fmt::Arguments) -> &'a [u8] {
    let whole = room.len();
    let mut rest = &mut room[..];
    let _ = rest.write_fmt(text);
    let used = whole - rest.len();
    &room[..used]
}

fn put_type(kind: u16, facts: &mut Facts) {
    let name = match kind {
        A => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        AAAA => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        41 => "OPT",
        43 => "DS",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        250 => "TSIG",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        n => return facts.put(Fact::DnsType, written(&mut [0; 16], format_args!("TYPE{n}"))),
    };
    facts.put(Fact::DnsType, name.as_bytes());
}

fn put_code(code: u16, facts: &mut Facts) {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
        "NOTZONE",
    ];
    match NAMES.get(usize::from(code)) {
        Some(name) => facts.put(Fact::DnsRcode, name.as_bytes()),
        None => facts.put(Fact::DnsRcode, written(&mut [0; 16], format_args!("RCODE{code}"))),
    }
}
