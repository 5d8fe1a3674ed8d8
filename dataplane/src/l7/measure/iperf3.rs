//! iperf3: every TCP stream, control or data, begins with the test's cookie; a UDP stream with a four-byte greeting.
//!
//! Seen on the wire of iperf 3.12: the cookie is 36 characters of `a-z2-7` and a NUL, from the client; UDP's client says
//! `9876` and the server answers `6789` (before 3.11: 123456789 and 987654321 as 32-bit numbers in host byte order).

use crate::l7::{Class, Found, Look, Notes, Verdict};

const COOKIE: usize = 37;

pub fn look_tcp(look: &Look, _: &mut Notes) -> Verdict {
    let seen = &look.data[..look.data.len().min(COOKIE)];
    let (text, end) = seen.split_at(seen.len().min(COOKIE - 1));
    if !text.iter().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
        return Verdict::No;
    }
    match end {
        [0] => Verdict::Done(Found::payload(Class::Iperf3)),
        [_, ..] => Verdict::No,
        [] => Verdict::More,
    }
}

pub fn look_udp(look: &Look, _: &mut Notes) -> Verdict {
    let Ok(word) = <[u8; 4]>::try_from(look.data) else { return Verdict::No };
    let numbers = [123_456_789u32, 987_654_321];
    let old = numbers.iter().any(|n| word == n.to_le_bytes() || word == n.to_be_bytes());
    if old || &word == b"9876" || &word == b"6789" { Verdict::Done(Found::payload(Class::Iperf3)) } else { Verdict::No }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction;

    fn tcp(data: &[u8]) -> Verdict {
        look_tcp(&Look { last: false, ..Look::whole(data, Direction::FromInitiator, (1, 2)) }, &mut Notes::default())
    }

    #[test]
    fn the_cookie_of_a_real_run() {
        let cookie = b"asn7vbw54sdcb6x6rl3nptv5ywwgf4ek5s26\0";
        let found = Verdict::Done(Found::payload(Class::Iperf3));
        assert_eq!(tcp(cookie), found);
        assert_eq!(tcp(&[cookie, &[0u8; 500][..]].concat()), found);
        assert_eq!(tcp(&cookie[..36]), Verdict::More);
        assert_eq!(tcp(&[b'a'; 37]), Verdict::No);
        assert_eq!(tcp(b"hello world"), Verdict::No);
    }

    #[test]
    fn the_greeting_is_the_whole_datagram() {
        let udp = |data| look_udp(&Look::whole(data, Direction::FromInitiator, (1, 2)), &mut Notes::default());
        for yes in [b"9876", b"6789", &[0xb1, 0x68, 0xde, 0x3a], &[0x15, 0xcd, 0x5b, 0x07]] {
            assert_eq!(udp(yes), Verdict::Done(Found::payload(Class::Iperf3)));
        }
        for no in [&b"98765"[..], b"987", b"1234", b"6798"] {
            assert_eq!(udp(no), Verdict::No);
        }
    }
}
