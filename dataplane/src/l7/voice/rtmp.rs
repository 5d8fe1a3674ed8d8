//! RTMP: version, and the handshake's blocks of 1536 bytes (Adobe, "RTMP 1.0" §5.2), then the first chunk that each side
//! sends (§5.3): `connect` from the client, a control message from the server.
//!
//! The blocks are random but for eight bytes; on port 1935 these are enough once a whole block is there.

use crate::l7::infra::read::u32_at;
use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 1935;
const VERSION: u8 = 3;
const BLOCK: usize = 1536;
/// Version byte and two blocks.
const HANDSHAKE: usize = 1 + 2 * BLOCK;
const CONNECT: &[u8] = b"\x02\0\x07connect";

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] != VERSION {
        return Verdict::No;
    }
    let Some(zero) = u32_at(d, 5) else { return Verdict::More };
    // Zero, or the version of the player or server (9.0.124.2, 3.5.1.1, 128.0.7.2 and so on).
    let [major, _, minor, _] = zero.to_be_bytes();
    if zero != 0 && !matches!((major, minor), (1..=32 | 128, 0..=0x7f)) {
        return Verdict::No;
    }
    if look.has_port(PORT) {
        return if d.len() > BLOCK { Verdict::payload(Class::Rtmp) } else { Verdict::More };
    }
    let Some(chunk) = d.get(HANDSHAKE..) else { return Verdict::More };
    // Chunk of type 0 on chunk stream 2 or 3: time, length, kind, stream identifier.
    let [basic, _, _, _, 0, len_high, len, kind, 0, 0, 0, 0, body @ ..] = chunk else {
        return if chunk.len() < 12 { Verdict::More } else { Verdict::No };
    };
    match (basic, kind) {
        (3, 0x14) if body.len() < CONNECT.len() => Verdict::More,
        (3, 0x14) if body.starts_with(CONNECT) => Verdict::payload(Class::Rtmp),
        // Set chunk size, window acknowledgement size, set peer bandwidth.
        (2, 1 | 5) if (*len_high, *len) == (0, 4) => Verdict::payload(Class::Rtmp),
        (2, 6) if (*len_high, *len) == (0, 5) => Verdict::payload(Class::Rtmp),
        _ => Verdict::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{class, is_tcp, tcp};

    #[test]
    fn the_handshake_and_the_first_chunk() {
        let mut d = vec![0x5a; HANDSHAKE];
        d[0] = VERSION;
        d[5..9].fill(0);
        assert_eq!(class(tcp(look, &d[..=BLOCK], FromInitiator, PORT)), Some(Class::Rtmp));
        let client = [&d[..], &[3, 0, 0, 0, 0, 0, 0x3e, 0x14, 0, 0, 0, 0], CONNECT].concat();
        is_tcp(look, &client, 6002, Class::Rtmp);
        is_tcp(look, &[&d[..], &[2, 0, 0, 0, 0, 0, 4, 5, 0, 0, 0, 0]].concat(), 6002, Class::Rtmp);
        let mut bad = client;
        *bad.last_mut().unwrap_or(&mut 0) = b'x';
        assert_eq!(tcp(look, &bad, FromInitiator, 6002), Verdict::No);
        // A connection request of TPKT.
        assert_eq!(tcp(look, &[3, 0, 0, 19, 14, 0xe0, 0, 0xff, 0, 0, 1], FromInitiator, PORT), Verdict::No);
    }
}
