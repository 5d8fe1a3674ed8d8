#![allow(clippy::unwrap_used)]
use super::*;
use crate::flow::Direction;
use proptest::prelude::*;

pub(crate) fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    let entry = [&[0u8][..], &(name.len() as u16).to_be_bytes(), name].concat();
    extension(0, &[&(entry.len() as u16).to_be_bytes()[..], &entry].concat())
}

fn alpn_of(ids: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = ids.iter().flat_map(|i| std::iter::once(i.len() as u8).chain(i.bytes())).collect();
    extension(16, &[&(list.len() as u16).to_be_bytes()[..], &list].concat())
}

/// A ClientHello message without record headers.
fn message_with(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([32]);
    body.extend([9; 32]);
    body.extend([0, 4, 0x13, 1, 0x13, 2, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    [&[1u8][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
}

/// Cut into records of at most `size` bytes.
fn records_of(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|c| [&[22u8, 3, 1][..], &(c.len() as u16).to_be_bytes(), c].concat()).collect()
}

pub(crate) fn client_hello_bytes(name: &str, alpn: &[&str], padding: usize, record: usize) -> Vec<u8> {
    let extensions = [extension(21, &vec![0; padding]), sni(name.as_bytes()), alpn_of(alpn)].concat();
    records_of(&message_with(&extensions), record)
}

/// The message alone, as QUIC carries it.
pub(crate) fn hello_message(name: &str, alpn: &[&str], padding: usize) -> Vec<u8> {
    message_with(&[extension(21, &vec![0; padding]), sni(name.as_bytes()), alpn_of(alpn)].concat())
}

fn see(data: &[u8], last: bool) -> (Verdict, Option<String>) {
    let mut notes = Notes::default();
    let v = look(&Look { last, ..Look::whole(data, Direction::FromInitiator, (40000, 443)) }, &mut notes);
    (v, notes.host.get().map(str::to_owned))
}

fn tls(alpn: Alpn) -> Verdict {
    Verdict::Settled(Found::handshake(Class::Tls, alpn))
}

#[test]
fn name_and_alpn_whatever_the_records() {
    for record in [1, 2, 3, 7, 40, 100, 16384] {
        let hello = client_hello_bytes("Www.Example.com", &["h2", "http/1.1"], 30, record);
        assert_eq!(see(&hello, false), (tls(Alpn::H2), Some("www.example.com".into())), "{record}");
    }
    let grease = client_hello_bytes("a.b", &["\x3a\x3a", "http/1.1"], 0, 9999);
    assert_eq!(see(&grease, false).0, tls(Alpn::Http11));
    assert_eq!(see(&client_hello_bytes("a.b", &["\u{1}private-thing-of-ours"], 0, 9999), false).0, tls(Alpn::Other));
}

#[test]
fn every_beginning_is_waited_on_and_names_nothing_wrong() {
    let hello = client_hello_bytes("www.example.com", &["h2"], 20, 50);
    for n in 1..hello.len() {
        let (v, host) = see(&hello[..n], false);
        assert!(matches!(v, Verdict::More | Verdict::Class(_)), "{n}: {v:?}");
        assert!(host.is_none() || host.as_deref() == Some("www.example.com"), "{n}: {host:?}");
    }
}

#[test]
fn a_hello_of_64_kib_gives_its_name_if_it_stands_within_the_cap() {
    let big = extension(21, &vec![0; 30_000]);
    let early =
        records_of(&message_with(&[sni(b"early.example"), big.clone(), extension(99, &[1; 20_000])].concat()), 16384);
    assert!(early.len() > 50_000);
    let cut = &early[..16384];
    let found = Found::handshake(Class::Tls, Alpn::None);
    assert_eq!(see(cut, false), (Verdict::Class(found), Some("early.example".into())));
    assert_eq!(see(cut, true), (Verdict::Settled(found), Some("early.example".into())));
    let late = records_of(&message_with(&[big, sni(b"late.example")].concat()), 16384);
    assert_eq!(see(&late[..16384], true), (Verdict::Settled(found), None));
}

#[test]
fn lists_that_do_not_add_up_give_no_name() {
    let lists: [&[u8]; 6] = [
        &[0, 9, 0, 0, 3, b'a', b'.', b'b'],
        &[0, 6, 0, 0, 9, b'a', b'.', b'b'],
        &[0, 6, 0, 0, 2, b'a', b'.', b'b'],
        &[0, 6, 7, 0, 3, b'a', b'.', b'b'],
        &[0],
        &[0, 6, 0, 0, 3, b'a', 0, b'b'],
    ];
    for list in lists {
        let hello = records_of(&message_with(&extension(0, list)), 16384);
        let (v, host) = see(&hello, false);
        assert_eq!((v, host), (tls(Alpn::None), None), "{list:?}");
    }
    // A second host name does not replace the first.
    let two = [0, 12, 0, 0, 3, b'a', b'.', b'b', 0, 0, 3, b'c', b'.', b'd'];
    let hello = records_of(&message_with(&extension(0, &two)), 16384);
    assert_eq!(see(&hello, false).1.as_deref(), Some("a.b"));
}

/// The specification hashes "the list of signature algorithms", and its authors made plain that this is that of the extension
/// of the name and of no other (FoxIO-LLC/ja4, issue 41): Firefox offers delegated credentials (RFC 9345) with a list of the
/// same form. Dissectors that give both lists one name lead to another hash.
#[test]
fn ja4_takes_signature_algorithms_from_their_own_extension_only() {
    let ja4 = |extensions: &[Vec<u8>]| {
        let mut notes = Notes::default();
        let hello = records_of(&message_with(&extensions.concat()), 16384);
        look(&Look::whole(&hello, Direction::FromInitiator, (40_000, 443)), &mut notes);
        notes.facts.get(crate::l7::Fact::Ja4).unwrap().to_owned()
    };
    let list = |kind: u16, algorithms: &[u8]| {
        extension(kind, &[&(algorithms.len() as u16).to_be_bytes()[..], algorithms].concat())
    };
    const OWN: u16 = 13;
    const DELEGATED: u16 = 34;
    const CERTIFICATES: u16 = 50;
    let own = list(OWN, &[4, 3, 5, 3]);
    let all = |other: &[u8]| ja4(&[list(DELEGATED, other), own.clone(), list(CERTIFICATES, other)]);
    assert_eq!(all(&[8, 4]), all(&[8, 5, 6, 1]));
    assert_ne!(all(&[8, 4]), ja4(&[list(DELEGATED, &[8, 4]), list(OWN, &[4, 3]), list(CERTIFICATES, &[8, 4])]));
    // Reserved values count nowhere.
    assert_eq!(ja4(&[own]), ja4(&[list(OWN, &[0x3a, 0x3a, 4, 3, 5, 3])]));
}

#[test]
fn strangers_are_turned_away() {
    for other in [
        &[22, 3, 1, 0, 0, 1, 0][..],
        &[22, 4, 1, 0, 50, 1],
        &[22, 3, 9],
        &[20, 3, 3, 0, 9],
        &[23, 3, 3, 0xff, 0xff],
        &[0x80, 9, 9],
        b"GET / HTTP/1.1",
    ] {
        assert_eq!(see(other, false).0, Verdict::No, "{other:?}");
    }
    // A hello whose session identifier is too long.
    let mut hello = client_hello_bytes("a.b", &[], 0, 9999);
    hello[43] = 33;
    assert_eq!(see(&hello, false).0, Verdict::No);
}

#[test]
fn mid_life_records_count_when_they_add_up() {
    let record = |kind: u8, n: usize| [&[kind, 3, 3][..], &(n as u16).to_be_bytes(), &vec![0xee; n]].concat();
    let found = Verdict::Other(Found::handshake(Class::Tls, Alpn::None));
    assert_eq!(see(&record(23, 100), false).0, found);
    assert_eq!(see(&record(23, 100)[..50], false).0, Verdict::More);
    assert_eq!(see(&[record(20, 1), record(22, 40)[..9].to_vec()].concat(), false).0, found);
    assert_eq!(see(&[record(23, 100), b"plain text".to_vec()].concat(), false).0, Verdict::No);
}

#[test]
fn old_framing_is_tls_without_a_name() {
    let mut hello = vec![0x80, 9 + 6 + 16, 1, 3, 1, 0, 6, 0, 0, 0, 16, 0, 0, 5, 0, 0, 10];
    hello.extend([3; 16]);
    let old = Verdict::Done(Found::handshake(Class::Tls, Alpn::None));
    assert_eq!(see(&hello, false), (old, None));
    assert_eq!(see(&hello[..12], false).0, Verdict::More);
    hello[6] = 5;
    assert_eq!(see(&hello, false).0, Verdict::No);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(kind in 0usize..3, tail in proptest::collection::vec(any::<u8>(), 1..500), last: bool) {
        let head: &[u8] = [&b""[..], &[22, 3, 1, 0, 200, 1, 0, 0, 190, 3, 3], &[23, 3, 3]][kind];
        see(&[head, &tail].concat(), last);
    }

    #[test]
    fn a_damaged_hello_is_survived(at: usize, with: u8, record in 1usize..300, last: bool) {
        let mut hello = client_hello_bytes("www.example.com", &["h2"], 10, record);
        let n = hello.len();
        hello[at % n] = with;
        see(&hello, last);
    }
}
