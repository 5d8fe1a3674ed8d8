//! SMB 1 to 3 in NetBIOS session messages, and the session request before them (MS-SMB2 §2.1, §2.2.1; MS-CIFS §2.2.3.1;
//! RFC 1002 §4.3.1, §4.3.2).

use crate::l7::{Class, Fact, Found, Look, Notes, Verdict};

const MESSAGE: u8 = 0x00;
const REQUEST: u8 = 0x81;
const HEADER: usize = 4;
/// Two names of 34 bytes.
const REQUEST_LEN: u32 = 68;
const NAME: usize = 34;
const SMB1: u8 = 0xff;
const SMB2: u8 = 0xfe;
/// Encrypted and compressed SMB 3.
const ENCRYPTED: u8 = 0xfd;
const COMPRESSED: u8 = 0xfc;
const SMB2_HEADER: u16 = 64;
const LAST_COMMAND: u16 = 0x12;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    match look.data[0] {
        REQUEST => request(look, notes),
        MESSAGE => message(look, 0, notes),
        _ => Verdict::No,
    }
}

fn message(look: &Look, at: usize, notes: &mut Notes) -> Verdict {
    let d = &look.data[at..];
    let Some(len) = look.u32(at) else { return Verdict::More };
    if d[0] != MESSAGE || len < 32 {
        return Verdict::No;
    }
    let Some([kind, name @ ..]) = d.get(HEADER..HEADER + 4) else {
        let so_far = d[HEADER..].iter().zip([0, b'S', b'M', b'B']).enumerate();
        let fits = so_far.into_iter().all(|(i, (b, is))| if i == 0 { *b >= COMPRESSED } else { *b == is });
        return if fits { Verdict::More } else { Verdict::No };
    };
    if *name != *b"SMB" {
        return Verdict::No;
    }
    let version: &[u8] = match *kind {
        SMB1 => b"1",
        SMB2 => match (look.u16_le(at + HEADER + 4), look.u16_le(at + HEADER + 12)) {
            (Some(SMB2_HEADER), Some(0..=LAST_COMMAND)) => b"2",
            (None, _) | (_, None) => return Verdict::More,
            _ => return Verdict::No,
        },
        ENCRYPTED | COMPRESSED => b"3",
        _ => return Verdict::No,
    };
    notes.facts.put(Fact::Version, version);
    Verdict::Done(Found::payload(Class::Smb))
}

/// Whom and who, in NetBIOS's spelling; then messages, if it is accepted.
fn request(look: &Look, notes: &mut Notes) -> Verdict {
    let Some(len) = look.u32(0) else { return Verdict::More };
    if len & 0xff_ffff != REQUEST_LEN {
        return Verdict::No;
    }
    let d = look.data;
    for n in 0..2 {
        let Some(name) = d.get(HEADER + n * NAME..HEADER + (n + 1) * NAME) else { return Verdict::More };
        if name[0] != 32 || name[33] != 0 || !name[1..33].iter().all(|b| (b'A'..=b'P').contains(b)) {
            return Verdict::No;
        }
    }
    for pair in d[HEADER + 1..HEADER + 31].chunks_exact(2) {
        let b = (pair[0] - b'A') << 4 | (pair[1] - b'A');
        if b == b' ' || b == 0 {
            break;
        }
        notes.host.push(&[b]);
    }
    let at = HEADER + REQUEST_LEN as usize;
    let found = Found::payload(Class::Netbios);
    if d.len() == at {
        return Verdict::Class(found);
    }
    match message(look, at, notes) {
        Verdict::No => Verdict::Done(found),
        Verdict::More => Verdict::Class(found),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    const SESSION: &[u8] = b"\x81\0\0\x44\x20EKEDFEEIEDCACACACACACACACACACAAA\0\x20EKEDFEEIEDCACACACACACACACACACAAA\0";

    #[test]
    fn messages_and_sessions() {
        let mut two = hex("00000040 fe534d42 4000 0100 00000000 0000 1f00");
        two.resize(68, 0);
        assert_eq!(client(445, &two, Class::Smb).facts.get(Fact::Version), Some("2"));
        let mut one = hex("00000054 ff534d42 72 00000000 18 53c8");
        one.resize(88, 0);
        assert_eq!(server(139, &one, Class::Smb).facts.get(Fact::Version), Some("1"));
        assert_eq!(client(139, SESSION, Class::Netbios).host, "jcthc");
        two[8] = 65;
        no_stream(445, &two);
        no_stream(139, b"\x81\0\0\x44\x20abcd");
    }
}
