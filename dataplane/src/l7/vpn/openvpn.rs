//! OpenVPN: the resets that begin a session, plain, with tls-auth, tls-crypt or tls-crypt-v2 (OpenVPN's `ssl_pkt.h` and
//! `tls_crypt.h`, and "OpenVPN wire protocol", draft-openvpn), over UDP or behind lengths over TCP.

use crate::l7::infra::read::{u16_at, u32_at};
use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 1194;
/// P_CONTROL_HARD_RESET_CLIENT_V2, _SERVER_V2, _CLIENT_V3, shifted over key number 0.
const CLIENT: u8 = 7 << 3;
const SERVER: u8 = 8 << 3;
const CLIENT_V3: u8 = 10 << 3;
/// P_CONTROL_V1 and P_ACK_V1.
const CONTROL: u8 = 4 << 3;
const ACK: u8 = 5 << 3;
/// Opcode and session.
const HEAD: usize = 9;
/// Lengths of tls-auth's HMAC: MD5, SHA-1, SHA-256, SHA-384, SHA-512.
const HMACS: [usize; 5] = [16, 20, 32, 48, 64];
/// tls-crypt's tag.
const TAG: usize = 32;
/// Count of acknowledgements and message number of an empty reset.
const EMPTY: usize = 5;
const LONGEST: u16 = 2048;

pub fn look_udp(look: &Look, _: &mut Notes) -> Verdict {
    if reset(look.data) || look.has_port(PORT) && goes_on(look.before, look.data) {
        Verdict::handshake(Class::Openvpn)
    } else {
        Verdict::No
    }
}

pub fn look_tcp(look: &Look, _: &mut Notes) -> Verdict {
    let (Some(len), Some(op)) = (look.u16(0), look.data.get(2)) else { return Verdict::More };
    if !(14..=LONGEST).contains(&len) || !matches!(*op, CLIENT | SERVER | CLIENT_V3) {
        return Verdict::No;
    }
    match look.data.get(2..2 + usize::from(len)) {
        Some(packet) if reset(packet) => Verdict::handshake(Class::Openvpn),
        Some(_) => Verdict::No,
        None => Verdict::More,
    }
}

fn reset(d: &[u8]) -> bool {
    let (CLIENT | SERVER | CLIENT_V3) = d[0] else { return false };
    let Some(session) = d.get(1..HEAD) else { return false };
    // Random, so hardly any of its bytes is zero; counters and tags of others have many.
    if session.iter().filter(|b| **b == 0).count() > 3 {
        return false;
    }
    let rest = &d[HEAD..];
    let numbered = |at: usize| rest.get(at..at + 8).is_some_and(replay);
    // Plain; replay number and time behind an HMAC; the same before tls-crypt's tag and encrypted rest.
    empty(d[0], rest)
        || HMACS.iter().any(|n| numbered(*n) && rest.get(n + 8..).is_some_and(|r| empty(d[0], r)))
        || numbered(0) && crypt(d[0], rest.len() - 8, d)
}

/// The first numbers of a sender, or with the mark of early negotiation in the high bits, and the seconds of its clock.
fn replay(d: &[u8]) -> bool {
    let (number, time) = (u32_at(d, 0).unwrap_or(0), u32_at(d, 4).unwrap_or(0));
    (1..=16).contains(&(number & 0xffff)) && number >> 28 == 0 && (0x4000_0000..0xc000_0000).contains(&time)
}

/// What an empty reset says: acknowledgements and the session they are for, then message number 0.
fn empty(op: u8, d: &[u8]) -> bool {
    match d.first() {
        Some(0) => op != SERVER && d.len() == EMPTY && d[1..] == [0; 4],
        Some(1) => op == SERVER && d.len() == EMPTY + 12 && d[1..5] == [0; 4] && d[EMPTY + 8..] == [0; 4],
        _ => false,
    }
}

/// `len` bytes from the tag on: as long as an empty reset, or one with the client's wrapped key behind it, whose length ends it.
fn crypt(op: u8, len: usize, d: &[u8]) -> bool {
    let plain = TAG + EMPTY;
    match op {
        CLIENT => len == plain,
        SERVER => len >= plain + 12,
        _ => u16_at(d, d.len() - 2).is_some_and(|key| key > 256 && len == plain + usize::from(key)),
    }
}

/// Control messages and acknowledgements of the session that the datagram before had.
fn goes_on(before: &[u8], d: &[u8]) -> bool {
    let known = |op: Option<&u8>| op.is_some_and(|op| matches!(*op, CONTROL | ACK | CLIENT | SERVER | CLIENT_V3));
    let sessions = before.get(1..HEAD).zip(d.get(1..HEAD));
    known(before.first()) && known(d.first()) && sessions.is_some_and(|(a, b)| a == b && a != [0; 8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{hex, is_tcp, is_udp, tcp, udp, udp_after};

    const SID: &str = "aae06512392a3d71";
    const REPLAY: &str = "00000001 625a9e97";

    #[test]
    fn resets() {
        let plain = hex(&format!("38 {SID} 00 00000000"));
        let server = hex(&format!("40 {SID} 01 00000000 {SID} 00000000"));
        let auth = [hex(&format!("38 {SID}")), vec![7; 20], hex(REPLAY), hex("00 00000000")].concat();
        let crypt = [hex(&format!("38 {SID} {REPLAY}")), vec![7; 37]].concat();
        let v2 = [hex(&format!("50 {SID} 0a010001 625a9e97")), vec![7; 37 + 298], hex("012c")].concat();
        for d in [&plain, &server, &auth, &crypt, &v2] {
            is_udp(look_udp, d, 9, Class::Openvpn);
            is_tcp(look_tcp, &[&(d.len() as u16).to_be_bytes()[..], d].concat(), 443, Class::Openvpn);
        }
        for no in
            ["38 0000000000000000 00 00000000", "39 aae06512392a3d71 00 00000000", "38 aae06512392a3d71 00 00000001"]
        {
            assert_eq!(udp(look_udp, &hex(no), PORT), None, "{no}");
        }
        assert_eq!(tcp(look_tcp, &[0, 14, 0x20], FromInitiator, PORT), Verdict::No);
        let mut old = crypt;
        old[13] = 0;
        assert_eq!(udp(look_udp, &old, PORT), None, "1970");
    }

    #[test]
    fn in_mid_life() {
        let d = hex(&format!("20 {SID} 1234"));
        assert_eq!(udp_after(look_udp, &d, &d, PORT), Some(Class::Openvpn));
        assert_eq!((udp_after(look_udp, &d, &d, 9), udp(look_udp, &d, PORT)), (None, None));
    }
}
