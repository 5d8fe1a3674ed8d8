//! BitTorrent: the peers' handshake (BEP 3), and over UDP the distributed table (BEP 5), the tracker's opening (BEP 15),
//! uTP (BEP 29) and the search on the local network (BEP 14).

use crate::l7::text::has;
use crate::l7::{Class, Look, Notes, Verdict};

const HANDSHAKE: &[u8] = b"\x13BitTorrent protocol";
const SEARCH: &[u8] = b"BT-SEARCH * HTTP/1.1\r\n";
/// In place of a connection in the first request to a tracker.
const TRACKER: &[u8] = &[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0];
const UTP_HEADER: usize = 20;
const ST_DATA: u8 = 0;
const ST_FIN: u8 = 1;
const ST_STATE: u8 = 2;
const ST_SYN: u8 = 4;
/// Selective acknowledgement is 1; 2 was once for extension bits.
const LAST_EXTENSION: u8 = 2;
/// Microseconds between two packets of a connection that is alive.
const MAX_PAUSE: u32 = 60_000_000;
const MAX_WINDOW: u32 = 64 << 20;

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    match look.begins(HANDSHAKE) {
        Some(true) => Verdict::payload(Class::Bittorrent),
        Some(false) => Verdict::No,
        None => Verdict::More,
    }
}

pub fn look_udp(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    let told = match d[0] {
        b'd' => table(d),
        b'B' => d.starts_with(SEARCH),
        0 => d.len() == 16 && d.starts_with(TRACKER),
        _ => utp(look),
    };
    if told { Verdict::payload(Class::Bittorrent) } else { Verdict::No }
}

/// A dictionary with one of a query's, a response's or an error's keys, and its kind.
fn table(d: &[u8]) -> bool {
    const FIRST: [&[u8]; 6] = [b"d1:ad2:id20:", b"d1:rd2:id20:", b"d1:eli", b"d2:ip6:", b"d2:ip4:", b"d1:q"];
    const KINDS: [&[u8]; 3] = [b"1:y1:q", b"1:y1:r", b"1:y1:e"];
    d.ends_with(b"e") && FIRST.iter().any(|f| d.starts_with(f)) && KINDS.iter().any(|k| has(d, k)) && has(d, b"1:t")
}

/// Alone certain with a handshake in it; else by the packet before it.
fn utp(look: &Look) -> bool {
    let d = look.data;
    let Some(h) = Header::read(d) else { return false };
    if d.get(UTP_HEADER..).is_some_and(|body| h.extension == 0 && body.starts_with(HANDSHAKE)) {
        return true;
    }
    let Some(before) = Header::read(look.before) else { return false };
    // The opening's number is one less than that of what its sender says later.
    let same = h.connection == before.connection && before.kind != ST_SYN
        || before.kind == ST_SYN
            && (h.kind == ST_SYN && h.connection == before.connection
                || h.connection == before.connection.wrapping_add(1));
    let next = h.sequence.wrapping_sub(before.sequence) <= 1;
    let pause = h.time.wrapping_sub(before.time);
    let room = h.kind == ST_SYN || d.len() > UTP_HEADER || matches!(h.kind, ST_STATE | ST_FIN);
    same && next && pause > 0 && pause < MAX_PAUSE && room && h.connection != 0
}

struct Header {
    kind: u8,
    extension: u8,
    connection: u16,
    time: u32,
    sequence: u16,
}

impl Header {
    /// Version 1, kind, extension, connection, time, difference, window, sequence and acknowledged number.
    fn read(d: &[u8]) -> Option<Self> {
        let h = d.first_chunk::<UTP_HEADER>()?;
        let (kind, extension) = (h[0] >> 4, h[1]);
        let window = u32::from_be_bytes([h[12], h[13], h[14], h[15]]);
        let fits =
            h[0] & 0xf == 1 && matches!(kind, ST_DATA..=ST_SYN) && extension <= LAST_EXTENSION && window <= MAX_WINDOW;
        fits.then(|| Self {
            kind,
            extension,
            connection: u16::from_be_bytes([h[2], h[3]]),
            time: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            sequence: u16::from_be_bytes([h[16], h[17]]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::told::{client, datagram, hex, no_datagram, no_stream};

    #[test]
    fn handshake_and_table() {
        client(1, b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x05", Class::Bittorrent);
        no_stream(1, b"\x13BitTorrent protocool");
        let ping = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe";
        datagram(FromInitiator, 6881, &[], ping, Class::Bittorrent);
        no_datagram(6881, &[], b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aae");
        datagram(FromInitiator, 1, &[], &hex("0000041727101980 00000000 12345678"), Class::Bittorrent);
    }

    #[test]
    fn utp_by_two_packets() {
        let syn = hex("4100 1234 00010000 00000000 00040000 0001 0000");
        let state = hex("2100 1235 00020000 00000100 00040000 0002 0007");
        datagram(FromInitiator, 1, &syn, &state, Class::Bittorrent);
        no_datagram(1, &[], &state);
        no_datagram(1, &state, &hex("2100 1236 00030000 00000100 00040000 0002 0007"));
        no_datagram(1, &state, &state);
    }
}
