//! RTP: two packets in a row of one source (RFC 3550 §5.1, appendix A.1), in datagrams or framed in a stream (RFC 4571).
//!
//! One packet alone has too little that is fixed, but that it comes after STUN from the same side: then first bytes from 128
//! to 191 are RTP's and RTCP's (RFC 7983 §7). Encrypted RTP (RFC 3711) has the same header in clear.

use crate::l7::infra::read::{u16_at, u32_at};
use crate::l7::{Class, Look, Notes, Verdict};

const HEADER: usize = 12;
/// Packets of a source that may have been lost or have overtaken between two.
const LOST: u16 = 2;
/// Most ticks between two packets that follow each other: ten seconds of the fastest usual clock.
const PAUSE: u32 = 10 * 90_000;
/// Framed packets of a stream that must follow each other.
const FRAMES: usize = 3;
const STUN_COOKIE: u32 = 0x2112_a442;

pub fn look_udp(look: &Look, _: &mut Notes) -> Verdict {
    let Some(now) = Header::read(look.data).filter(|h| h.source != 0) else { return Verdict::No };
    let good =
        fits(look.data) && (after_stun(look.before) || Header::read(look.before).is_some_and(|b| now.follows(&b)));
    if good { Verdict::payload(Class::Rtp) } else { Verdict::No }
}

pub fn look_tcp(look: &Look, _: &mut Notes) -> Verdict {
    let mut rest = look.data;
    let mut last: Option<Header> = None;
    for n in 0..FRAMES {
        if rest.get(2).is_some_and(|b| b >> 6 != 2) {
            return Verdict::No;
        }
        let Some(len) = u16_at(rest, 0).map(usize::from) else { return Verdict::More };
        if len <= HEADER {
            return Verdict::No;
        }
        let Some(header) = Header::read(&rest[2..]) else { return Verdict::More };
        if last.is_some_and(|l| !header.follows(&l)) {
            return Verdict::No;
        }
        // Of the last only the header is needed.
        if n + 1 == FRAMES {
            break;
        }
        let Some(frame) = rest.get(2..2 + len) else { return Verdict::More };
        if !fits(frame) {
            return Verdict::No;
        }
        last = Some(header);
        rest = &rest[2 + len..];
    }
    Verdict::payload(Class::Rtp)
}

#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    sequence: u16,
    time: u32,
    source: u32,
}

impl Header {
    fn read(d: &[u8]) -> Option<Self> {
        let kind = d.get(1)? & 0x7f;
        let header = Self { kind, sequence: u16_at(d, 2)?, time: u32_at(d, 4)?, source: u32_at(d, 8)? };
        // Types 72 to 76 would be RTCP's 200 to 204 (§5.1); what else is between is not assigned (RFC 3551 §6).
        (d[0] >> 6 == 2 && matches!(kind, 0..=63 | 96..=127)).then_some(header)
    }

    fn follows(&self, earlier: &Self) -> bool {
        let step = self.sequence.wrapping_sub(earlier.sequence);
        self.source == earlier.source
            && (self.kind == earlier.kind || step == 1)
            && (1..=LOST).contains(&step)
            && self.time.wrapping_sub(earlier.time) <= PAUSE
    }
}

fn after_stun(before: &[u8]) -> bool {
    before.first().is_some_and(|b| b >> 6 == 0) && u32_at(before, 4) == Some(STUN_COOKIE)
}

/// Contributing sources, extension and padding fit into the packet.
fn fits(d: &[u8]) -> bool {
    let sources = usize::from(d[0] & 0xf) * 4;
    let mut head = HEADER + sources;
    if d[0] & 0x10 != 0 {
        let Some(words) = u16_at(d, head + 2) else { return false };
        head += 4 + usize::from(words) * 4;
    }
    let padding = if d[0] & 0x20 != 0 { d.last().map_or(0, |n| usize::from(*n)) } else { 0 };
    head + padding <= d.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Direction::FromInitiator;
    use crate::l7::infra::testing::{class, is_tcp, tcp, udp, udp_after};

    fn packet(sequence: u16, time: u32) -> Vec<u8> {
        [&[0x80, 8][..], &sequence.to_be_bytes(), &time.to_be_bytes(), &[1, 2, 3, 4], &[0xd5; 160]].concat()
    }

    #[test]
    fn two_in_a_row() {
        let before = packet(0xffff, 0xffff_ff60);
        assert_eq!(udp_after(look_udp, &before, &packet(0, 0), 9), Some(Class::Rtp));
        assert_eq!(udp(look_udp, &packet(0, 0), 9), None);
        let mut marked = packet(0, 0);
        marked[1] |= 0x80;
        assert_eq!(udp_after(look_udp, &before, &marked, 9), Some(Class::Rtp));
        for (at, value) in [(0, 0x40), (1, 72), (1, 200), (2, 1), (3, 3), (4, 1), (8, 9), (0, 0x90)] {
            let mut bad = packet(0, 0);
            bad[at] = value;
            assert_eq!(udp_after(look_udp, &before, &bad, 9), None, "{at}");
        }
        assert_eq!(udp_after(look_udp, &before[..11], &packet(0, 0), 9), None);
    }

    #[test]
    fn one_after_stun() {
        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        assert_eq!(udp_after(look_udp, &stun, &packet(0, 0), 9), Some(Class::Rtp));
        let mut rtcp = packet(0, 0);
        rtcp[1] = 200;
        assert_eq!(udp_after(look_udp, &stun, &rtcp, 9), None);
    }

    #[test]
    fn framed() {
        let frame = |n: u16| [&172u16.to_be_bytes()[..], &packet(n, u32::from(n) * 160)].concat();
        is_tcp(look_tcp, &[frame(7), frame(8), frame(9)].concat(), 9, Class::Rtp);
        assert_eq!(tcp(look_tcp, &[frame(7), frame(8), frame(12)].concat(), FromInitiator, 9), Verdict::No);
        assert_eq!(class(tcp(look_tcp, &[0, 12, 0x80, 8], FromInitiator, 9)), None);
    }
}
