#![allow(clippy::unwrap_used)]
use super::*;
use crate::flow::Direction;
use crate::l7::Fact;
use proptest::prelude::*;

fn see(data: &[u8], port: u16) -> (Verdict, Option<String>) {
    let mut notes = Notes::default();
    let v = look_udp(&Look::whole(data, Direction::FromInitiator, (40000, port)), &mut notes);
    (v, notes.host.get().map(str::to_owned))
}

fn see_tcp(data: &[u8], last: bool) -> (Verdict, Option<String>) {
    let mut notes = Notes::default();
    let v = look_tcp(&Look { last, ..Look::whole(data, Direction::FromInitiator, (40000, 53)) }, &mut notes);
    (v, notes.host.get().map(str::to_owned))
}

fn is(class: Class, host: &str) -> (Verdict, Option<String>) {
    let found = Found::payload(class);
    let verdict = if class == Class::Dns { Verdict::Settled(found) } else { Verdict::Done(found) };
    (verdict, (!host.is_empty()).then(|| host.to_owned()))
}

fn encode(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

pub(in crate::l7) fn a_query(id: u16, host: &str) -> Vec<u8> {
    let mut d = query(&encode(host), 1);
    d[..2].copy_from_slice(&id.to_be_bytes());
    d
}

/// Its answer: an alias, then an address with 60 s to live.
pub(in crate::l7) fn an_answer(id: u16, host: &str, address: [u8; 4]) -> Vec<u8> {
    let mut d = a_query(id, host);
    (d[2], d[3], d[7]) = (0x81, 0x80, 2);
    d.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'x', 0xc0, 12]);
    d.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    d.extend(address);
    d
}

fn query(name: &[u8], qtype: u16) -> Vec<u8> {
    let mut d = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    d.extend(name);
    d.extend(qtype.to_be_bytes());
    d.extend([0, 1]);
    d
}

#[test]
fn queries_and_answers_name_the_question() {
    let q = query(&encode("WWW.Example.COM"), 1);
    assert_eq!(see(&q, 53), is(Class::Dns, "www.example.com"));
    assert_eq!(see(&q, 12345), is(Class::Dns, "www.example.com"));
    assert_eq!(see(&q, 5353), is(Class::Mdns, "www.example.com"));
    assert_eq!(see(&q, 5355), is(Class::Llmnr, "www.example.com"));
    let mut a = q.clone();
    a[2] = 0x81;
    a[3] = 0x80;
    a[7] = 1;
    a.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    assert_eq!(see(&a, 12345), is(Class::Dns, "www.example.com"));
    // A byte too many or too few, away from the well-known ports.
    assert_eq!(see(&a[..a.len() - 1], 12345).0, Verdict::No);
    a.push(0);
    assert_eq!(see(&a, 12345).0, Verdict::No);
    assert_eq!(
        see(&query(&encode("2.dnscrypt-cert.example"), 16), 443),
        is(Class::Dnscrypt, "2.dnscrypt-cert.example")
    );
    // The root has no name.
    assert_eq!(see(&query(&[0], 2), 53), is(Class::Dns, ""));
}

#[test]
fn tcp_waits_for_the_length_it_was_told() {
    let q = query(&encode("a.example"), 1);
    let whole = [&(q.len() as u16).to_be_bytes()[..], &q].concat();
    for n in 1..whole.len() {
        assert_eq!(see_tcp(&whole[..n], false).0, Verdict::More, "{n}");
    }
    assert_eq!(see_tcp(&whole, false), is(Class::Dns, "a.example"));
    assert_eq!(see_tcp(&[0, 5, 1, 2, 3], false).0, Verdict::No);
}

#[test]
fn pointers_that_loop_or_lead_forward_end() {
    for name in [
        vec![0xc0, 12],
        vec![0xc0, 14, 0],
        vec![1, b'a', 0xc0, 12],
        vec![0xff, 0xff],
        vec![0x40, 1],
        [[63; 64].repeat(5), vec![0]].concat(),
    ] {
        let q = query(&name, 1);
        assert_eq!(see(&q, 12345).0, Verdict::No, "{name:?}");
        // On port 53 the header still says DNS; a name it has none.
        assert_eq!(see(&q, 53), is(Class::Dns, ""));
    }
}

#[test]
fn each_pointer_must_go_further_back() {
    // A staircase of pointers, each to the one before: legal, but only so many are followed.
    for (steps, ok) in [(MAX_JUMPS, true), (MAX_JUMPS + 1, false)] {
        let mut d = vec![0u8; HEADER];
        d.push(0);
        let mut at = HEADER;
        for _ in 0..steps {
            let here = d.len();
            d.extend([0xc0 | (at >> 8) as u8, at as u8]);
            at = here;
        }
        assert_eq!(name(&d, at, None), ok.then_some(d.len()), "{steps}");
    }
}

#[test]
fn netbios_names_are_spelt_back() {
    let coded = [&[32u8][..], b"EGEPEPCACACACACACACACACACACACAAA", &[0]].concat();
    assert_eq!(see(&query(&coded, 32), 137), is(Class::Netbios, "foo"));
    // Port and header are enough; the name is none of NetBIOS's.
    assert_eq!(see(&query(&encode("www.example.com"), 1), 137), is(Class::Netbios, ""));
    let mut two = query(&encode("www.example.com"), 1);
    two[5] = 2;
    assert_eq!(see(&two, 137).0, Verdict::No);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 1..600), port in prop_oneof![Just(53u16), Just(137), any::<u16>()], last: bool) {
        see(&data, port);
        see_tcp(&data, last);
    }

    /// Names go in and come out, whatever stands behind them.
    #[test]
    fn names_survive_the_wire(labels in proptest::collection::vec("[a-zA-Z0-9_-]{1,20}", 1..8), flip in any::<(usize, u8)>()) {
        let name = labels.join(".");
        let mut q = query(&encode(&name), 1);
        prop_assert_eq!(see(&q, 4000), is(Class::Dns, &name.to_lowercase()));
        let at = flip.0 % q.len();
        q[at] ^= flip.1;
        see(&q, 4000);
        see(&q, 53);
    }
}

#[test]
fn facts_of_query_and_answer() {
    let facts = |d: &[u8]| {
        let mut notes = Notes::default();
        look_udp(&Look::whole(d, Direction::FromInitiator, (40000, 53)), &mut notes);
        let of = |f| notes.facts.get(f).map(str::to_owned);
        [of(Fact::DnsType), of(Fact::DnsRcode), of(Fact::DnsAnswer)]
    };
    let some = |s: &str| Some(s.to_owned());
    assert_eq!(facts(&a_query(1, "a.example")), [some("A"), None, None]);
    let answer = an_answer(1, "a.example", [192, 0, 2, 7]);
    assert_eq!(facts(&answer), [some("A"), some("NOERROR"), some("192.0.2.7")]);
    let mut refused = a_query(1, "a.example");
    (refused[2], refused[3]) = (0x81, 0x83);
    assert_eq!(facts(&refused), [some("A"), some("NXDOMAIN"), None]);
    assert_eq!(facts(&query(&encode("a.example"), 4711))[0], some("TYPE4711"));
}

#[test]
fn an_announcement_is_known_by_its_first_record() {
    let mut d = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    d.extend(encode("_dacp._tcp.local"));
    d.extend([0, 16, 0x80, 1, 0, 0, 0, 9, 0, 1, 0]);
    assert_eq!(see(&d, 5353), is(Class::Mdns, "_dacp._tcp.local"));
}

#[test]
fn a_netbios_answer_without_a_question_is_known_by_its_record() {
    let mut d = vec![0x84, 0x86, 0x85, 0, 0, 0, 0, 1, 0, 0, 0, 0, 32];
    d.extend(b"EHFFEOEOEBFCCACACACACACACACACAAA");
    d.extend([0, 0, 32, 0, 1, 0, 4, 0x93, 0xe0, 0, 6, 0, 0, 10, 0, 4, 24]);
    assert_eq!(see(&d, 137), is(Class::Netbios, "gunnar"));
}
