//! iSCSI: login (RFC 7143 §11.12, §11.13), and on its port commands in mid-life (§11.3, §11.4).

use crate::l7::text::{before, find, has};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const HEADER: usize = 48;
/// Immediate, as a login always is.
const LOGIN: u8 = 0x43;
const LOGIN_RESPONSE: u8 = 0x23;
const COMMAND: u8 = 0x01;
const RESPONSE: u8 = 0x21;
const PORT: u16 = 3260;
/// Text of a login; §6.1 of a PDU: 8192 until something else is agreed.
const MAX_TEXT: usize = 8192;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(header) = d.first_chunk::<HEADER>() else {
        // Versions of a login are both 0, and so is the length of additional headers.
        let wrong = matches!(d[0], LOGIN | LOGIN_RESPONSE) && d.iter().skip(2).take(3).any(|b| *b != 0);
        let other = matches!(d[0], COMMAND | RESPONSE) && !look.has_port(PORT);
        return if wrong || other || !matches!(d[0], LOGIN | LOGIN_RESPONSE | COMMAND | RESPONSE) {
            Verdict::No
        } else {
            Verdict::More
        };
    };
    let text = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
    match header[0] {
        LOGIN | LOGIN_RESPONSE => {
            // Stages: 0 security, 1 operational, 3 full feature; 2 is none.
            let stages = header[1] >> 2 & 3 != 2 && header[1] & 3 != 2 && header[1] & 0x30 == 0;
            if header[2..5] != [0; 3] || text > MAX_TEXT || !stages {
                return Verdict::No;
            }
            if text == 0 {
                // A refusal: class and detail of its status (§11.13.5).
                let refused = header[0] == LOGIN_RESPONSE && (1..=3).contains(&header[36]) && header[37] <= 0x0b;
                let whole = d.len() == HEADER && header[38..] == [0; 10];
                return if refused && whole { Verdict::payload(Class::Iscsi) } else { Verdict::No };
            }
            let Some(all) = d.get(HEADER..HEADER + text) else {
                let first = &d[HEADER..];
                return if first.iter().take(64).all(|b| *b == 0 || b.is_ascii_graphic()) {
                    Verdict::More
                } else {
                    Verdict::No
                };
            };
            keys(all, notes)
        }
        // The whole PDU is there, padded to four bytes, and the rest of its header is of the kind.
        COMMAND | RESPONSE if look.has_port(PORT) => {
            let whole = d.len() == HEADER + text.next_multiple_of(4) && header[4] == 0;
            let kind =
                if header[0] == COMMAND { header[1] & 0x18 == 0 } else { header[1] & 0xe1 == 0x80 && header[2] <= 1 };
            if whole && kind { Verdict::payload(Class::Iscsi) } else { Verdict::No }
        }
        _ => Verdict::No,
    }
}

/// `Key=value` pairs, each with a NUL behind it (§6.1).
fn keys(text: &[u8], notes: &mut Notes) -> Verdict {
    let first = before(text, 0);
    let key = before(first, b'=');
    let named = key.len() < first.len() && key.len() <= 63 && key.iter().all(u8::is_ascii_alphanumeric);
    let capital = key.first().is_some_and(u8::is_ascii_uppercase);
    if !named
        || !capital
        || !first.iter().all(u8::is_ascii_graphic)
        || !has(text, b"=")
        || text[first.len()..].is_empty()
    {
        return Verdict::No;
    }
    if let Some(at) = find(text, b"TargetName=") {
        notes.facts.put(Fact::Object, before(&text[at + 11..], 0));
    }
    Verdict::payload(Class::Iscsi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn login_and_commands() {
        let text = b"InitiatorName=iqn.1993-08.org.debian:01:a\0TargetName=iqn.2003-01.org.x:t\0\0\0\0";
        let mut login = hex("43 87 00 00 00 000000");
        login[7] = (text.len() - 3) as u8;
        login.resize(48, 0);
        login.extend(text);
        let told = client(3260, &login, Class::Iscsi);
        assert_eq!(told.facts.get(Fact::Object), Some("iqn.2003-01.org.x:t"));
        client(1, &login, Class::Iscsi);
        let mut answer = hex("23 87 00 00 00 00001a");
        answer.resize(48, 0);
        answer.extend(b"TargetPortalGroupTag=1234\0\0\0");
        server(3260, &answer, Class::Iscsi);
        let mut command = hex("01 c1 0000 00 000000");
        command.resize(48, 0);
        client(3260, &command, Class::Iscsi);
        no_stream(80, &command);
        login[2] = 1;
        no_stream(3260, &login);
    }
}
