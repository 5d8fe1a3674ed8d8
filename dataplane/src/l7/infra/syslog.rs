//! Syslog: RFC 5424 and RFC 3164 messages in a datagram (RFC 5426) or a stream (RFC 6587).
//!
//! Many devices write after the priority what they please: on the usual ports the priority and printable text behind it
//! are enough; elsewhere a version or a time must follow.

use crate::l7::{Class, Look, Notes, Verdict};

const PORTS: [u16; 4] = [514, 601, 1514, 5514];
/// 23 facilities of 8 severities (RFC 5424 §6.2.1).
const MOST_PRIORITY: u16 = 191;
/// Bytes after the priority that must be text.
const TEXT: usize = 8;
const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

pub fn look_udp(look: &Look, _: &mut Notes) -> Verdict {
    let on_port = PORTS.iter().any(|p| look.has_port(*p));
    match priority(look.data) {
        Some(rest) if on_port && is_text(rest) || dated(rest) => Verdict::payload(Class::Syslog),
        _ => Verdict::No,
    }
}

pub fn look_tcp(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    // Octet counting (RFC 6587 §3.4.1): a length and a blank before each message.
    let digits = d.iter().take(5).take_while(|b| b.is_ascii_digit()).count();
    let message = match d.get(digits) {
        _ if digits > 0 && d[0] == b'0' || digits > 4 => return Verdict::No,
        None => return Verdict::More,
        Some(b' ') if digits > 0 => &d[digits + 1..],
        Some(_) if digits == 0 => d,
        Some(_) => return Verdict::No,
    };
    match priority(message) {
        Some(rest) if dated(rest) => Verdict::payload(Class::Syslog),
        // Priority, version or month, day, hour: in 24 bytes it shows.
        _ if message.len() < 24 && message.first().is_none_or(|b| *b == b'<') => Verdict::More,
        _ => Verdict::No,
    }
}

/// `<0>` to `<191>`, without leading zeros; gives what follows.
fn priority(d: &[u8]) -> Option<&[u8]> {
    let rest = d.strip_prefix(b"<")?;
    let digits = rest.iter().take(4).take_while(|b| b.is_ascii_digit()).count();
    let value = rest[..digits].iter().fold(0, |n: u16, b| n * 10 + u16::from(b - b'0'));
    let plain = (1..=3).contains(&digits) && value <= MOST_PRIORITY && (digits == 1 || rest[0] != b'0');
    plain.then(|| rest[digits..].strip_prefix(b">")).flatten()
}

fn is_text(d: &[u8]) -> bool {
    let start = &d[..d.len().min(TEXT)];
    start.len() > 2 && start.iter().all(|b| matches!(b, b' '..=b'~' | b'\t' | 0x80..))
}

/// `1 2003-10-11T…` or `1 - ` (RFC 5424 §6), or `Oct 11 22:14:15` (RFC 3164 §4.1.2).
fn dated(d: &[u8]) -> bool {
    if let Some(rest) = d.strip_prefix(b"1 ") {
        let digit = |at: usize| rest.get(at).is_some_and(u8::is_ascii_digit);
        return rest.starts_with(b"- ") || (0..4).all(digit) && rest.get(4) == Some(&b'-') && digit(5) && digit(6);
    }
    let at = |i: usize| d.get(i).copied().unwrap_or(0);
    MONTHS.iter().any(|m| d.starts_with(m)) && at(3) == b' ' && at(6) == b' ' && at(9) == b':' && at(12) == b':'
}

#[cfg(test)]
mod tests {
    use super::super::testing::{class, is_tcp, is_udp, tcp, udp};
    use super::*;
    use crate::flow::Direction::FromInitiator;

    #[test]
    fn both_formats_anywhere() {
        for text in ["<34>Oct 11 22:14:15 host su: x", "<165>1 2003-08-24T05:14:15 h a 1 - -", "<0>1 - - - - - -"] {
            is_udp(look_udp, text.as_bytes(), 9, Class::Syslog);
            is_tcp(look_tcp, text.as_bytes(), 9, Class::Syslog);
            is_tcp(look_tcp, format!("{} {text}", text.len()).as_bytes(), 9, Class::Syslog);
        }
    }

    #[test]
    fn devices_of_their_own_mind() {
        for text in ["<189>12345: *Mar  1", "<13>date=2020 x", "<30>[x] \u{e4}"] {
            assert_eq!(udp(look_udp, text.as_bytes(), 514), Some(Class::Syslog));
            assert_eq!(udp(look_udp, text.as_bytes(), 9), None);
        }
        for no in ["<192>1 - x", "<034>1 - x", "<>1 - x", "<34", "34>x", "<html>", "<1>\0\0\0\0"] {
            assert_eq!(udp(look_udp, no.as_bytes(), 514), None, "{no}");
            assert_eq!(class(tcp(look_tcp, no.as_bytes(), FromInitiator, 514)), None, "{no}");
        }
        assert_eq!(tcp(look_tcp, b"<?xml version='1.0' encoding='utf-8'?>", FromInitiator, 514), Verdict::No);
        assert_eq!(tcp(look_tcp, b"220 mail.example.com ESMTP", FromInitiator, 514), Verdict::No);
    }
}
