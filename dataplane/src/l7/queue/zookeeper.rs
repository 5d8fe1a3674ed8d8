//! ZooKeeper: the opening of a session and its answer, and on its port the words of four letters (ZooKeeper source,
//! zookeeper.jute: ConnectRequest, ConnectResponse; Administrator's Guide, "The Four Letter Words").

use crate::l7::{Class, Look, Notes, Verdict};

const PORT: u16 = 2181;
const PASSWORD: u32 = 16;
/// Version, last transaction seen, timeout, session, password; newer ones say at the end whether reading is enough.
const REQUEST: u32 = 44;
/// Version, timeout, session, password.
const RESPONSE: u32 = 36;
/// 12 hours in milliseconds.
const MAX_TIMEOUT: u32 = 12 * 3_600_000;
const WORDS: [&[u8]; 15] = [
    b"conf", b"cons", b"crst", b"dump", b"envi", b"ruok", b"srst", b"srvr", b"stat", b"wchs", b"wchc", b"wchp",
    b"mntr", b"isro", b"dirs",
];
const OK: &[u8] = b"imok";

pub fn look(look: &Look, _: &mut Notes) -> Verdict {
    let d = look.data;
    if d[0] != 0 {
        let word = d.strip_suffix(b"\n").unwrap_or(d);
        let word = word.strip_suffix(b"\r").unwrap_or(word);
        let told = look.has_port(PORT) && (WORDS.contains(&word) || word == OK);
        return if told { Verdict::payload(Class::Zookeeper) } else { Verdict::No };
    }
    let Some(len) = look.u32(0) else {
        return if d[1..].iter().all(|b| *b == 0) { Verdict::More } else { Verdict::No };
    };
    let (timeout, password) = match len {
        REQUEST | 45 => (16, 28),
        RESPONSE | 37 => (8, 20),
        _ => return Verdict::No,
    };
    // The protocol's version has always been 0.
    if d.iter().skip(4).take(4).any(|b| *b != 0) {
        return Verdict::No;
    }
    if d.len() < 4 + len as usize {
        return Verdict::More;
    }
    let fits = look.u32(timeout).is_some_and(|t| t <= MAX_TIMEOUT) && look.u32(password) == Some(PASSWORD);
    let flag = len & 1 == 0 || d[3 + len as usize] <= 1;
    if fits && flag && d.len() == 4 + len as usize { Verdict::payload(Class::Zookeeper) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::told::{client, hex, no_stream, server};

    #[test]
    fn sessions_and_words() {
        let mut request = hex("0000002d 00000000 0000000000000000 00007530 0000000000000000 00000010");
        request.resize(49, 0);
        client(1, &request, Class::Zookeeper);
        let mut response =
            hex("00000025 00000000 00007530 0100000000000001 00000010 0102030405060708090a0b0c0d0e0f10 00");
        server(1, &response, Class::Zookeeper);
        response[23] = 17;
        no_stream(2181, &response);
        client(2181, b"ruok", Class::Zookeeper);
        server(2181, b"imok", Class::Zookeeper);
        no_stream(1, b"stat\n");
    }
}
