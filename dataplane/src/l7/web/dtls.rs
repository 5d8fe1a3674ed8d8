//! DTLS 1.0 to 1.3 (RFC 4347, RFC 6347, RFC 9147), also under SRTP (RFC 5764): the ClientHello, whatever fragments it
//! comes in, the ServerHello, and records in mid-life.

use super::pieces::{self, Pieces};
use super::tls::hello::Carrier;
use super::tls::reader::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, CLIENT_HELLO, HANDSHAKE, SERVER_HELLO};
use crate::l7::{Alpn, Class, Found, Look, Notes, Verdict};

const HEARTBEAT: u8 = 24;
const ACK: u8 = 26;
const RECORD_HEADER: usize = 13;
const MESSAGE_HEADER: usize = 12;
const MAX_RECORD: usize = (1 << 14) + 2048;
const MAX_MESSAGE: usize = 1 << 17;
/// Records of a datagram that are looked at.
const MAX_RECORDS: usize = 32;
/// Of DTLS 1.3's own header for encrypted records (RFC 9147 §4).
const UNIFIED: u8 = 0x20;
const UNIFIED_MASK: u8 = 0xe0;

struct Record<'a> {
    kind: u8,
    /// 0: in clear.
    epoch: u16,
    body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the start, if all of it is there and it can be one.
    fn read(d: &'a [u8]) -> Option<Self> {
        let header = d.first_chunk::<RECORD_HEADER>()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (kind, epoch) = (header[0], word(3));
        // 0x0100 is what OpenSSL spoke before DTLS 1.0 had a number.
        if !matches!(word(1), 0xfeff | 0xfefd | 0x0100) || !matches!(kind, CHANGE_CIPHER_SPEC..=HEARTBEAT | ACK) {
            return None;
        }
        let len = usize::from(word(11));
        let body = d.get(RECORD_HEADER..RECORD_HEADER + len).filter(|_| (1..=MAX_RECORD).contains(&len))?;
        let fits = epoch != 0
            || match kind {
                CHANGE_CIPHER_SPEC => len == 1 || len == 3,
                ALERT => len == 2,
                HANDSHAKE => Message::read(body).is_some(),
                APPLICATION_DATA => false,
                _ => true,
            };
        fits.then_some(Self { kind, epoch, body })
    }
}

/// A fragment of a handshake message (RFC 6347 §4.2.2).
struct Message<'a> {
    kind: u8,
    len: usize,
    number: u16,
    offset: usize,
    fragment: &'a [u8],
}

impl<'a> Message<'a> {
    fn read(d: &'a [u8]) -> Option<Self> {
        let header = d.first_chunk::<MESSAGE_HEADER>()?;
        let u24 =
            |at: usize| usize::from(header[at]) << 16 | usize::from(header[at + 1]) << 8 | usize::from(header[at + 2]);
        let (len, offset, here) = (u24(1), u24(6), u24(9));
        let fragment = d.get(MESSAGE_HEADER..MESSAGE_HEADER + here)?;
        // HelloRequest to Finished, and what TLS 1.3 and its extensions added below 26.
        (header[0] <= 25 && len <= MAX_MESSAGE && offset + here <= len).then_some(Self {
            kind: header[0],
            len,
            number: u16::from_be_bytes([header[4], header[5]]),
            offset,
            fragment,
        })
    }

    /// Leaves the fragment with the head that the message would have in a stream.
    fn keep(&self, pieces: &mut Pieces) {
        let [_, high, mid, low] = (self.len as u32).to_be_bytes();
        pieces.carrier = Carrier::Dtls;
        pieces.id = self.number.into();
        let head = pieces.hold(&[self.kind, high, mid, low], |_| Some(0..4));
        let body = pieces.hold(self.fragment, |room| Some(0..room.len()));
        match (head, body) {
            // They stand one behind the other.
            (Some(head), Some(body)) if self.offset == 0 => pieces.note(0, head.start..body.end),
            (Some(head), Some(body)) => {
                let offset = (head.len() + self.offset) as u64;
                pieces.note(0, head);
                pieces.note(offset, body);
            }
            _ => {}
        }
    }
}

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let mut rest = look.data;
    for _ in 0..MAX_RECORDS {
        let Some(record) = Record::read(rest) else { return Verdict::No };
        if record.kind == HANDSHAKE
            && record.epoch == 0
            && notes.pieces.is_empty()
            && let Some(message) = Message::read(record.body)
            && matches!(message.kind, CLIENT_HELLO | SERVER_HELLO)
        {
            message.keep(&mut notes.pieces);
        }
        rest = &rest[RECORD_HEADER + record.body.len()..];
        if rest.first().is_none_or(|b| b & UNIFIED_MASK == UNIFIED) {
            break;
        }
    }
    pieces::only(notes).unwrap_or(Verdict::Class(Found::handshake(Class::Dtls, Alpn::None)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::flow::Direction;
    use crate::l7::Fact;
    use crate::l7::web::tls::tests::extension;
    use proptest::prelude::*;

    const CLASS: Verdict = Verdict::Class(Found { class: Class::Dtls, by: crate::l7::By::Handshake, alpn: Alpn::None });

    fn see(data: &[u8]) -> (Verdict, Notes) {
        let mut notes = Notes::default();
        let v = look(&Look::whole(data, Direction::FromInitiator, (40_000, 443)), &mut notes);
        (v, notes)
    }

    fn record(kind: u8, epoch: u16, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [&[kind, 0xfe, 0xfd][..], &epoch.to_be_bytes(), &[0, 0, 0, 0, 0, 7], &len, body].concat()
    }

    /// The body of a ClientHello with a cookie, SRTP and a name.
    fn hello_body() -> Vec<u8> {
        let name = extension(0, b"\x00\x0c\x00\x00\x09a.example");
        let extensions = [name, extension(14, &[0, 2, 0, 1, 0]), extension(43, &[4, 0xfe, 0xfd, 0xfe, 0xfc])].concat();
        [
            &[0xfe, 0xfd][..],
            &[7; 32],
            &[0, 4, 1, 2, 3, 4, 0, 2, 0xc0, 0x2b, 1, 0],
            &(extensions.len() as u16).to_be_bytes(),
            &extensions,
        ]
        .concat()
    }

    pub(in crate::l7) fn fragment(body: &[u8], from: usize, to: usize) -> Vec<u8> {
        let u24 = |n: usize| (n as u32).to_be_bytes()[1..].to_vec();
        let head = [&[1][..], &u24(body.len()), &[0, 1], &u24(from), &u24(to - from)].concat();
        record(HANDSHAKE, 0, &[head, body[from..to].to_vec()].concat())
    }

    #[test]
    fn a_hello_gives_its_name() {
        let body = hello_body();
        let (v, notes) = see(&fragment(&body, 0, body.len()));
        assert_eq!(v, Verdict::Settled(Found::handshake(Class::Dtls, Alpn::None)));
        assert_eq!(notes.host.get(), Some("a.example"));
        assert_eq!((notes.facts.get(Fact::Version), notes.facts.get(Fact::Upgrade)), (Some("1.3"), Some("srtp")));
        assert!(notes.facts.get(Fact::Ja4).unwrap().starts_with("dd3d010300_"));
    }

    #[test]
    fn fragments_are_left_in_pieces() {
        let body = hello_body();
        let (v, notes) = see(&fragment(&body, 20, 60));
        assert_eq!(v, CLASS);
        let pieces: Vec<_> = notes.pieces.iter().collect();
        assert_eq!((pieces[0].1[0], pieces[1]), (1, (24, &body[20..60])));
    }

    #[test]
    fn records_in_mid_life_count_when_they_add_up() {
        let data = record(APPLICATION_DATA, 1, &[0xee; 60]);
        assert_eq!(see(&data).0, CLASS);
        for n in 1..data.len() {
            assert_eq!(see(&data[..n]).0, Verdict::No, "{n}");
        }
        let verify =
            record(HANDSHAKE, 0, &[&[3, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0xfe, 0xff, 4, 1, 2, 3, 4]].concat());
        assert_eq!(see(&verify).0, CLASS);
        assert_eq!(see(&[verify, record(ALERT, 1, &[1; 40])].concat()).0, CLASS);
        assert_eq!(see(&record(APPLICATION_DATA, 0, &[1; 40])).0, Verdict::No, "data in clear");
        assert_eq!(see(&[data, vec![1, 2, 3]].concat()).0, Verdict::No, "more behind");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 19u8..27, tail in prop::collection::vec(any::<u8>(), 0..200)) {
            see(&record(kind, 0, &tail));
            see(&record(HANDSHAKE, 0, &[&[1, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, tail.len() as u8][..], &tail].concat()));
            if !tail.is_empty() {
                see(&tail);
            }
        }
    }
}
