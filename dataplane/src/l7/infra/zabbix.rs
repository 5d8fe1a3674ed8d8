//! Zabbix: the header of agent, sender and server messages (Zabbix manual, "Header and data length").

use super::read::le32_at;
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const MAGIC: &[u8] = b"ZBXD";
const HEADER: usize = 13;
/// Zabbix protocol, compressed, large packet.
const FLAGS: u8 = 0x07;
/// Servers refuse more.
const MOST: u32 = 1 << 30;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    match look.begins(MAGIC) {
        Some(true) => {}
        Some(false) => return Verdict::No,
        None => return Verdict::More,
    }
    let Some(flags) = look.data.get(4) else { return Verdict::More };
    if flags & 1 == 0 || flags & !FLAGS != 0 {
        return Verdict::No;
    }
    let Some(len) = look.u32_le(5) else { return Verdict::More };
    if len > MOST {
        return Verdict::No;
    }
    let large = flags & 4 != 0;
    let Some(reserved) = le32_at(look.data, 9) else { return Verdict::More };
    // Uncompressed and short: the reserved field is zero.
    if flags & 2 == 0 && !large && reserved != 0 {
        return Verdict::No;
    }
    let json = look.data.get(HEADER..).unwrap_or(&[]);
    if let Some(at) = json.iter().take(64).position(|b| *b == b':').filter(|at| json[..*at].ends_with(b"\"request\"")) {
        let text = json[at + 1..].trim_ascii_start().strip_prefix(b"\"").unwrap_or(&[]);
        let end = text.iter().take(40).position(|b| *b == b'"').unwrap_or(0);
        notes.facts.put(Fact::Method, &text[..end]);
    }
    Verdict::payload(Class::Zabbix)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fact, is_tcp, tcp};
    use super::*;
    use crate::flow::Direction::FromInitiator;

    #[test]
    fn the_header() {
        let d = b"ZBXD\x01\x20\0\0\0\0\0\0\0{\"request\":\"agent data\",\"x\":1}  ";
        is_tcp(look, d, 10051, Class::Zabbix);
        assert_eq!(fact(look, d, 10051, Fact::Method).as_deref(), Some("agent data"));
        for no in [&b"ZBXE"[..], b"ZBXD\0", b"ZBXD\x09", b"ZBXD\x01\0\0\0\xff", b"ZBXD\x01\0\0\0\0\x01\0\0\0"] {
            assert_eq!(tcp(look, no, FromInitiator, 10051), Verdict::No, "{no:?}");
        }
    }
}
