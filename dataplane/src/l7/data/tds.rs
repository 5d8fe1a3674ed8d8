//! Microsoft SQL Server: pre-login, its answer, and login (MS-TDS §2.2.3.1, §2.2.6.4, §2.2.6.5).

use crate::l7::{Class, Fact, Found, Look, Notes, Verdict, upgrade};

const HEADER: usize = 8;
const RESULT: u8 = 0x04;
const LOGIN7: u8 = 0x10;
const PRELOGIN: u8 = 0x12;
const END_OF_MESSAGE: u8 = 1;
const TERMINATOR: u8 = 0xff;
/// Token, offset, length.
const OPTION: usize = 5;
const MAX_OPTIONS: usize = 16;
/// 7.0 to 7.4, and 8.0.
const VERSIONS: [u32; 7] = [0x7000_0000, 0x7100_0000, 0x7100_0001, 0x7209_0002, 0x730a_0003, 0x730b_0003, 0x7400_0004];
const LOGIN_FIXED: u32 = 94;
const MAX_LOGIN: u32 = 128 * 1024;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    // Packets begin with number 0 or 1 and window 0.
    let odd = d.get(1).is_some_and(|s| *s & !0x0b != 0) || d.get(7).is_some_and(|w| *w != 0);
    if odd || d.get(6).is_some_and(|n| *n > 1) {
        return Verdict::No;
    }
    let Some(len) = look.u16(2).map(usize::from) else { return Verdict::More };
    if len < HEADER + OPTION {
        return Verdict::No;
    }
    match d[0] {
        LOGIN7 => login(look, notes),
        PRELOGIN | RESULT if d[1] == END_OF_MESSAGE => prelogin(look, len, notes),
        _ => Verdict::No,
    }
}

/// Options by offset: the first is the version, and its data stand right behind the last option's end mark.
fn prelogin(look: &Look, len: usize, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let first = [0, 0, 0, 0, 6];
    let begun = &d[HEADER.min(d.len())..];
    // The second byte is the offset's upper half, the third the offset.
    if begun.iter().zip(first).enumerate().any(|(i, (b, is))| i != 2 && *b != is) || len > 1024 {
        return Verdict::No;
    }
    let Some(body) = d.get(HEADER..len) else { return Verdict::More };
    let Some(options) = (1..=MAX_OPTIONS).find(|n| body.get(n * OPTION) == Some(&TERMINATOR)) else {
        return Verdict::No;
    };
    if usize::from(body[2]) != options * OPTION + 1 {
        return Verdict::No;
    }
    let adds_up = body[..options * OPTION].chunks_exact(OPTION).all(|o| {
        let (at, n) = (u16::from_be_bytes([o[1], o[2]]), u16::from_be_bytes([o[3], o[4]]));
        usize::from(at) + usize::from(n) <= body.len()
    });
    if !adds_up {
        return Verdict::No;
    }
    let at = usize::from(body[2]);
    if let Some([major, minor, ..]) = body.get(at..at + 6).filter(|_| d[0] == RESULT) {
        notes.facts.put(
            Fact::Server,
            &[b'0' + major / 10, b'0' + major % 10, b'.', b'0' + minor / 10 % 10, b'0' + minor % 10],
        );
    }
    let found = Found::payload(Class::Tds);
    if d[0] == RESULT {
        return Verdict::Other(found);
    }
    match d.get(len) {
        // Up to version 7, TLS is inside pre-login packets.
        Some(&PRELOGIN) => upgrade::tls(look, len + HEADER, found, notes),
        Some(_) => Verdict::Done(found),
        None => Verdict::Class(found),
    }
}

fn login(look: &Look, notes: &mut Notes) -> Verdict {
    let (Some(len), Some(version)) = (look.u32_le(HEADER), look.u32_le(HEADER + 4)) else { return Verdict::More };
    // Spelt either way: 7.1 and later say it little-endian.
    let known = VERSIONS.contains(&version) || VERSIONS.contains(&version.swap_bytes());
    if !known || !(LOGIN_FIXED - 8..MAX_LOGIN).contains(&len) {
        return Verdict::No;
    }
    let Some(size) = look.u32_le(HEADER + 8) else { return Verdict::More };
    if !(512..=65_535).contains(&size) && size != 0 {
        return Verdict::No;
    }
    let _ = notes;
    Verdict::payload(Class::Tds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    const PRELOGIN_REQUEST: &str = "1201002f00000100 00001a0006 0100200001 0200210001 0300220004 0400260001 ff
        090000000000 01 00 b80d0000 01";

    #[test]
    fn prelogin_and_login() {
        let mut request = hex(PRELOGIN_REQUEST);
        client(1433, &request, Class::Tds);
        request[0] = 0x04;
        assert_eq!(server(1433, &request, Class::Tds).facts.get(Fact::Server), Some("09.00"));
        let mut login = hex("1001009000000100 88000000 04000074 00100000 00000000");
        login.resize(0x90, 0);
        client(1433, &login, Class::Tds);
        login[12] = 5;
        no_stream(1433, &login);
        request[10] = 0x1b;
        no_stream(1433, &request);
    }
}
