//! ONC RPC over UDP, and over TCP behind record marks; NFS and what belongs to it by program number (RFC 5531 §9, §11;
//! RFC 1833; RFC 1813; RFC 7530).

use crate::l7::{Class, Fact, Look, Notes, Verdict};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
/// Number, kind, version, program, its version, procedure.
const CALL_HEADER: usize = 24;
/// AUTH_NONE, SYS, SHORT, DH, RPCSEC_GSS, TLS.
const FLAVOURS: [u32; 6] = [0, 1, 2, 3, 6, 7];
const MAX_AUTH: u32 = 400;
const MAX_PROGRAM_VERSION: u32 = 4;
const MAX_PROCEDURE: u32 = 64;
const PORTMAP: u32 = 100_000;
const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const ACL: u32 = 100_227;
const NFS_PORT: u16 = 2049;
const PORTMAP_PORT: u16 = 111;
/// Standard programs, and those that were given out (RFC 5531 §8.3).
const PROGRAMS: std::ops::RangeInclusive<u32> = 100_000..=100_600;
const ASSIGNED: std::ops::RangeInclusive<u32> = 0x2000_0000..=0x5fff_ffff;
/// The uppermost bit of a record mark: the last fragment.
const LAST: u32 = 0x8000_0000;
const MAX_FRAGMENT: u32 = 1 << 24;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let Some(mark) = look.u32(0) else { return Verdict::More };
    let len = mark & !LAST;
    if mark & LAST == 0 || !(24..=MAX_FRAGMENT).contains(&len) {
        return Verdict::No;
    }
    let (data, whole) = (&look.data[4..], look.data.len() as u64 == u64::from(len) + 4);
    if data.is_empty() {
        return Verdict::More;
    }
    match message(&Look { data, ..*look }, whole, notes) {
        Some(Some(class)) => Verdict::payload(class),
        Some(None) => Verdict::No,
        None if data.len() < len as usize => Verdict::More,
        None => Verdict::No,
    }
}

pub fn look_udp(look: &Look, notes: &mut Notes) -> Verdict {
    match message(look, true, notes) {
        Some(Some(class)) => Verdict::payload(class),
        _ => Verdict::No,
    }
}

/// The class, or that there is none; nothing where more bytes are needed.
fn message(look: &Look, whole: bool, notes: &mut Notes) -> Option<Option<Class>> {
    match look.u32(4)? {
        CALL => call(look, notes),
        REPLY => reply(look, whole),
        _ => Some(None),
    }
}

fn call(look: &Look, notes: &mut Notes) -> Option<Option<Class>> {
    if look.u32(8)? != RPC_VERSION {
        return Some(None);
    }
    let (program, version) = (look.u32(12)?, look.u32(16)?);
    let procedure = look.u32(20)?;
    let standard = PROGRAMS.contains(&program) && version <= MAX_PROGRAM_VERSION;
    let assigned = ASSIGNED.contains(&program) && version <= 16;
    if !(standard || assigned) || procedure > MAX_PROCEDURE {
        return Some(None);
    }
    // Credentials, then a verifier of the same form.
    let mut at = CALL_HEADER;
    for _ in 0..2 {
        let (flavour, len) = (look.u32(at)?, look.u32(at + 4)?);
        if !FLAVOURS.contains(&flavour) || len > MAX_AUTH || len % 4 != 0 {
            return Some(None);
        }
        at += 8 + len as usize;
    }
    if look.data.len() < at {
        return None;
    }
    let mut digits = [0; 10];
    notes.facts.put(Fact::Version, decimal(version, &mut digits));
    Some(Some(class(program)))
}

fn class(program: u32) -> Class {
    match program {
        NFS | MOUNT | ACL => Class::Nfs,
        _ => Class::Sunrpc,
    }
}

/// Accepted, a verifier, and a status. That the program is not in it is why it counts on known ports only.
fn reply(look: &Look, whole: bool) -> Option<Option<Class>> {
    let class = if look.has_port(NFS_PORT) {
        Class::Nfs
    } else if look.has_port(PORTMAP_PORT) {
        self::class(PORTMAP)
    } else {
        return Some(None);
    };
    let (state, flavour, len) = (look.u32(8)?, look.u32(12)?, look.u32(16)?);
    let denied = state == 1 && flavour <= 1 && whole;
    if state != 0 || !FLAVOURS.contains(&flavour) || len > MAX_AUTH || len % 4 != 0 {
        return Some(denied.then_some(class));
    }
    let status = look.u32(20 + len as usize)?;
    Some((status <= 5).then_some(class))
}

fn decimal(n: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    let mut n = n;
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 || at == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::{FromInitiator, FromResponder};
    use crate::l7::told::{client, datagram, hex, no_datagram, no_stream, server};

    const NULL_CALL: &str = "3841aadf 00000000 00000002 000186a3 00000003 00000000 00000000 00000000 00000000 00000000";
    const GETPORT: &str = "3841169f 00000000 00000002 000186a0 00000002 00000003 0000000000000000 0000000000000000
        000186a5 00000001 00000011 00000000";

    #[test]
    fn calls_and_replies() {
        let told = datagram(FromInitiator, 1048, &[], &hex(NULL_CALL), Class::Nfs);
        assert_eq!(told.facts.get(Fact::Version), Some("3"));
        datagram(FromInitiator, 111, &[], &hex(GETPORT), Class::Sunrpc);
        let reply = hex("3841aadf 00000001 00000000 00000000 00000000 00000000");
        datagram(FromResponder, 2049, &[], &reply, Class::Nfs);
        no_datagram(9, &[], &reply);
        client(1, &[hex("80000028"), hex(NULL_CALL)].concat(), Class::Nfs);
        server(2049, &[hex("80000018"), reply].concat(), Class::Nfs);
        let mut odd = hex(NULL_CALL);
        odd[11] = 3;
        no_datagram(2049, &[], &odd);
        no_stream(2049, &[hex("80000028"), odd].concat());
    }
}
