//! NTP: versions 1 to 4 (RFC 5905 §7.3; RFC 1059, 1119, 1305), control messages (mode 6, RFC 9327 §2) and ntpd's private
//! ones (mode 7).
//!
//! The format has no magic: on port 123 a plausible header is enough; elsewhere only a server's answer is, whose times agree.

use crate::l7::{Class, Fact, Look, Notes, Verdict};

const PORT: u16 = 123;
const HEADER: usize = 48;
const SERVER: u8 = 4;
const CONTROL: u8 = 6;
const PRIVATE: u8 = 7;
/// Answers are sent within this many seconds of the request's arrival.
const PROMPT: u32 = 2;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let (version, mode) = (look.data[0] >> 3 & 7, look.data[0] & 7);
    let on_port = look.has_port(PORT);
    let good = match mode {
        CONTROL => on_port && control(look),
        PRIVATE => on_port && private(look.data),
        _ => (1..=4).contains(&version) && time(look, version, mode, on_port),
    };
    if !good {
        return Verdict::No;
    }
    notes.facts.put(Fact::Version, &[b'0' + version]);
    Verdict::payload(Class::Ntp)
}

fn time(look: &Look, version: u8, mode: u8, on_port: bool) -> bool {
    let d = look.data;
    let (Some(receive), Some(transmit)) = (look.u32(32), look.u32(40)) else { return false };
    // Version 1 clients send mode 0 (RFC 5905 §7.3, figure 10).
    let modes = mode != 0 || version == 1;
    // Extension fields and MACs are multiples of four bytes (§7.3, §7.5).
    if d.len() < HEADER || !d.len().is_multiple_of(4) || !modes || d[1] > 16 {
        return false;
    }
    if on_port {
        return true;
    }
    // Precision 2^-30 to 1 s, poll interval to 2^17 s.
    let sane = (1..16).contains(&d[1]) && d[2] <= 17 && (0xe0..=0xff).contains(&d[3]);
    let usual = matches!(d.len(), 48 | 68 | 72) && version >= 3;
    let delay = look.u32(4).is_some_and(|v| v < 1 << 20);
    mode == SERVER && sane && usual && delay && receive >> 31 == 1 && transmit.wrapping_sub(receive) <= PROMPT
}

/// Response, error and more bits with the opcode; the count of data bytes fits, padded to four, before a MAC.
fn control(look: &Look) -> bool {
    let d = look.data;
    let Some(count) = look.u16(10) else { return false };
    let version = d[0] >> 3 & 7;
    matches!(d[1] & 0x1f, 0..=12 | 31) && (1..=4).contains(&version) && d.len() >= 12 + usize::from(count)
}

fn private(d: &[u8]) -> bool {
    // Implementation: any, XNTPD old, XNTPD. Items and their size fit; the reserved bits are zero.
    let [_, _, implementation, _, items_high, items, size_high, size, ..] = *d else { return false };
    let n = usize::from(u16::from_be_bytes([items_high & 0xf, items]));
    let total = 8 + n * usize::from(u16::from_be_bytes([size_high, size]));
    matches!(implementation, 0 | 2 | 3) && size_high & 0xf0 == 0 && d.len() >= total
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fact, is_udp, udp};
    use super::*;

    fn answer() -> Vec<u8> {
        let mut d = vec![0x24, 2, 6, 0xe9, 0, 0, 1, 0, 0, 0, 2, 0, 10, 0, 0, 1];
        for seconds in [0xe1b8_4730u32, 0xe1b8_4740, 0xe1b8_4741, 0xe1b8_4741] {
            d.extend(seconds.to_be_bytes());
            d.extend([0x12; 4]);
        }
        d
    }

    #[test]
    fn clients_and_servers() {
        let mut client = vec![0u8; 48];
        client[0] = 0x23;
        is_udp(look, &client, PORT, Class::Ntp);
        assert_eq!(udp(look, &client, 9), None);
        is_udp(look, &answer(), PORT, Class::Ntp);
        is_udp(look, &answer(), 9, Class::Ntp);
        assert_eq!(fact(look, &answer(), PORT, Fact::Version).as_deref(), Some("4"));
        let mut late = answer();
        late[43] += 9;
        assert_eq!(udp(look, &late, 9), None);
        client[0] = 0x2b;
        assert_eq!(udp(look, &client, PORT), None, "version 5");
        client[0] = 0x23;
        client[1] = 17;
        assert_eq!(udp(look, &client, PORT), None, "stratum 17");
    }

    #[test]
    fn control_and_private() {
        is_udp(look, &[0x16, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], PORT, Class::Ntp);
        assert_eq!(udp(look, &[0x16, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9], PORT), None);
        is_udp(look, &[0x17, 0, 3, 42, 0, 0, 0, 0], PORT, Class::Ntp);
        assert_eq!(udp(look, &[0x17, 0, 3, 42, 0, 0, 0, 0], 9), None);
    }
}
