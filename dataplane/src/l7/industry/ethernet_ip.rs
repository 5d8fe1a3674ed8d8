//! EtherNet/IP: the encapsulation header, whose length is the message's (ODVA, CIP volume 2 §2-3), over TCP and UDP.

use crate::l7::{Class, Look, Notes, Verdict};

const HEADER: usize = 24;
const REGISTER: u16 = 0x65;
const UNREGISTER: u16 = 0x66;
/// Without a session: NOP, ListServices, ListIdentity, ListInterfaces.
const LISTS: [u16; 3] = [0x04, 0x63, 0x64];
/// SendRRData and SendUnitData.
const DATA: [u16; 2] = [0x6f, 0x70];
const STATUSES: [u32; 7] = [0, 1, 2, 3, 0x64, 0x65, 0x69];

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let Some(command) = look.u16_le(0) else { return Verdict::More };
    if !LISTS.contains(&command) && !DATA.contains(&command) && !matches!(command, REGISTER | UNREGISTER) {
        return Verdict::No;
    }
    let (Some(len), Some(session)) = (look.u16_le(2), look.u32_le(4)) else { return Verdict::More };
    let len = usize::from(len);
    // Data have an interface, a timeout and at least a count of items.
    let sized = match command {
        REGISTER => len == 4,
        UNREGISTER => len == 0,
        _ => LISTS.contains(&command) && session == 0 || len >= 8 && session != 0,
    };
    if !sized {
        return Verdict::No;
    }
    let (Some(status), Some(options)) = (look.u32_le(8), look.u32_le(20)) else { return Verdict::More };
    if !STATUSES.contains(&status) || options != 0 {
        return Verdict::No;
    }
    let Some(body) = d.get(HEADER..HEADER + len) else { return Verdict::More };
    let good = match command {
        // Protocol version 1, no options.
        REGISTER => body == [1, 0, 0, 0],
        UNREGISTER => d.len() == HEADER,
        // Interface 0 is CIP; up to a handful of items.
        _ if DATA.contains(&command) => body[..4] == [0; 4] && matches!(body[6..8], [1..=8, 0]),
        // Requests are bare, answers are lists.
        _ => d.len() == HEADER + len && (body.is_empty() || body.len() > 2 && body[1] == 0),
    };
    if good { Verdict::payload(Class::EthernetIp) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{hex, is_tcp, is_udp, udp};

    #[test]
    fn commands() {
        let register = hex("6500 0400 00000000 00000000 0000000000000000 00000000 01000000");
        is_tcp(look, &register, 44818, Class::EthernetIp);
        is_udp(look, &hex("6300 0000 00000000 00000000 0102030405060708 00000000"), 9, Class::EthernetIp);
        let send = hex("6f00 0a00 01000000 00000000 0000000000000000 00000000 00000000 0500 0200 0000");
        is_tcp(look, &send, 9, Class::EthernetIp);
        for (at, value) in [(0, 0x67), (2, 5), (8, 4), (20, 1), (24, 2)] {
            let mut bad = register.clone();
            bad[at] = value;
            assert_eq!(udp(look, &bad, 44818), None, "{at}");
        }
    }
}
