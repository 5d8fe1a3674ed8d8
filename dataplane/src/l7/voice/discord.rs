//! Discord's voice servers: IP discovery (Discord developer documentation, "Voice Connections", IP Discovery), 74 bytes of
//! which 64 are an address or zero.
//!
//! What follows has RTP's header and an encryption that is neither RTP's nor SRTP's, and there is no class for it: such a
//! flow is closed as unknown, rather than called RTP by its header.

use crate::l7::{Alpn, By, Class, Found, Look, Notes, Verdict};

const SIZE: usize = 74;
/// Length behind the first four bytes.
const LENGTH: u16 = 70;
const REQUEST: u16 = 1;
const ANSWER: u16 = 2;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let (Some(kind), Some(LENGTH), SIZE) = (look.u16(0), look.u16(2), d.len()) else { return Verdict::No };
    let address = &d[8..72];
    let text = address.iter().take_while(|b| **b != 0).count();
    let zeros = address[text..].iter().all(|b| *b == 0);
    let good = match kind {
        REQUEST => text == 0,
        ANSWER => text > 6 && address[..text].iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b'.' | b':')),
        _ => false,
    };
    if good && zeros {
        Verdict::Done(Found { class: Class::Unknown, by: By::Nothing, alpn: Alpn::None })
    } else {
        Verdict::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::infra::testing::{is_udp, udp};

    #[test]
    fn discovery_ends_the_search() {
        let mut d = vec![0; SIZE];
        d[1] = 1;
        d[3] = 70;
        d[4..8].copy_from_slice(&[0, 3, 0xcf, 0xa8]);
        is_udp(look, &d, 50004, Class::Unknown);
        d[1] = 2;
        assert_eq!(udp(look, &d, 50004), None);
        d[8..17].copy_from_slice(b"192.0.2.1");
        is_udp(look, &d, 50004, Class::Unknown);
        d[9] = b'x';
        assert_eq!(udp(look, &d, 50004), None);
    }
}
