//! The inspector with the real table: streams cut, shuffled and repeated, and streams meant to exhaust it.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use softdpu_ebpf_common::walk::{Headers, L3, walk};

use super::inspect::{MAX_DATAGRAMS, MAX_PACKETS};
use super::web::tls::tests::client_hello_bytes;
use super::*;
use crate::flow::tcp::{ACK, FIN, RST, SYN};
use crate::flow::{Direction, FlowConfig, FlowIdx, FlowTable, Hit, Seed, Tick};

struct Bench {
    table: FlowTable,
    inspector: Inspector,
    now: Tick,
}

/// One end's address and port, and the other's.
type Ends = (u8, u16, u8, u16);
const CLIENT: Ends = (1, 40_000, 2, 443);
const SERVER: Ends = (2, 443, 1, 40_000);

impl Bench {
    fn new() -> Self {
        Self::with(&L7Config { buffers: 4, hosts: 64, starts: 64, facts: 64, addresses: 64 })
    }

    fn with(config: &L7Config) -> Self {
        let flows = FlowConfig { capacity: 64, ..FlowConfig::default() };
        Self { table: FlowTable::new(&flows, Seed::fixed(3), Tick(0)), inspector: Inspector::new(config), now: Tick(1) }
    }

    fn tcp(&mut self, (a, sport, b, dport): Ends, flags: u8, seq: u32, payload: &[u8]) -> (Outcome, FlowIdx) {
        let total = 40 + payload.len() as u16;
        let mut f = vec![0u8; 14];
        f[12] = 8;
        f.extend([0x45, 0]);
        f.extend(total.to_be_bytes());
        f.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, a, 10, 0, 0, b]);
        f.extend(sport.to_be_bytes());
        f.extend(dport.to_be_bytes());
        f.extend(seq.to_be_bytes());
        f.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        f.extend(payload);
        self.packet(&f)
    }

    fn udp(&mut self, (a, sport, b, dport): Ends, payload: &[u8]) -> (Outcome, FlowIdx) {
        let mut f = vec![0u8; 14];
        f[12] = 8;
        f.extend([0x45, 0]);
        f.extend((28 + payload.len() as u16).to_be_bytes());
        f.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, a, 10, 0, 0, b]);
        f.extend(sport.to_be_bytes());
        f.extend(dport.to_be_bytes());
        f.extend((8 + payload.len() as u16).to_be_bytes());
        f.extend([0, 0]);
        f.extend(payload);
        self.packet(&f)
    }

    fn packet(&mut self, frame: &[u8]) -> (Outcome, FlowIdx) {
        let h = walk(frame).unwrap();
        assert_eq!(h.l3, L3::V4);
        self.walked(&h, frame)
    }

    fn walked(&mut self, h: &Headers, frame: &[u8]) -> (Outcome, FlowIdx) {
        let p = self.table.prepare(h, frame, self.now).unwrap();
        let inspector = &mut self.inspector;
        let Hit { idx, dir, new } = self.table.lookup_or_insert(&p, self.now, |i, f| inspector.release(i, f)).unwrap();
        self.table.touch(Hit { idx, dir, new }, &p, frame.len() as u32, self.now);
        (inspector.inspect(idx, self.table.get_mut(idx), dir, h, frame, self.now), idx)
    }

    fn open(&mut self) {
        self.tcp(CLIENT, SYN, 999, b"");
        self.tcp(SERVER, SYN | ACK, 4999, b"");
        self.tcp(CLIENT, ACK, 1000, b"");
    }

    fn host(&self, idx: FlowIdx) -> Option<&str> {
        self.inspector.host_of(self.table.get(idx))
    }
}

fn done(outcome: Outcome) -> Option<Class> {
    match outcome {
        Outcome::Recognised { class, .. } => Some(class),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However a ClientHello is cut into segments, shuffled, repeated and overlapped, the same name comes out, once.
    #[test]
    fn segmentation_makes_no_difference(padding in 0usize..3000, record in 20usize..4000, isn: u32,
                                        mut cuts in proptest::collection::vec(any::<u16>(), 0..6),
                                        order in any::<[u32; 8]>(), overlap in 0usize..40, handshake: bool) {
        let hello = client_hello_bytes("www.example.com", &["h2"], padding, record);
        cuts.iter_mut().for_each(|c| *c %= hello.len() as u16);
        cuts.sort_unstable();
        cuts.dedup();
        let edges: Vec<usize> = std::iter::once(0).chain(cuts.iter().map(|c| usize::from(*c)).filter(|c| *c > 0))
            .chain([hello.len()]).collect();
        let mut segments: Vec<(usize, usize)> =
            edges.windows(2).map(|w| (w[0], (w[1] + overlap).min(hello.len()))).collect();
        // Without a SYN only the order of the stream tells where it starts.
        if handshake {
            let mut keys = order.iter();
            segments.sort_by_cached_key(|_| keys.next().copied().unwrap_or(0));
        }
        let mut b = Bench::new();
        if handshake {
            b.tcp(CLIENT, SYN, isn.wrapping_sub(1), b"");
        }
        let mut decided = 0;
        let mut flow = None;
        for (from, to) in segments {
            let (outcome, idx) = b.tcp(CLIENT, ACK, isn.wrapping_add(from as u32), &hello[from..to]);
            flow = Some(idx);
            match outcome {
                Outcome::NeedMore => {}
                Outcome::Recognised { class, .. } => { prop_assert_eq!(class, Class::Tls); decided += 1; }
                Outcome::GivenUp(r) => prop_assert!(false, "{:?}", r),
            }
        }
        let idx = flow.unwrap();
        prop_assert_eq!(decided, 1);
        prop_assert_eq!(b.host(idx), Some("www.example.com"));
        prop_assert_eq!(b.table.get(idx).alpn(), Alpn::H2);
        prop_assert_eq!(b.inspector.pool().in_use(), 0);
    }

    /// Any bytes on any flow: no panic, every flow decided within its budget, every buffer back.
    #[test]
    fn noise_is_survived_and_decided(packets in proptest::collection::vec(
        (any::<bool>(), any::<bool>(), 0u8..64, 0u32..20_000, proptest::collection::vec(any::<u8>(), 0..80)), 1..120)) {
        let mut b = Bench::new();
        for (udp, client, flags, seq, payload) in packets {
            let ends = if client { CLIENT } else { SERVER };
            let (_, idx) = if udp { b.udp(ends, &payload) } else { b.tcp(ends, flags, seq, &payload) };
            let f = b.table.get(idx);
            prop_assert!(f.is_decided() || f.l7_packets < MAX_PACKETS);
        }
        prop_assert!(b.inspector.pool().in_use() <= 1);
    }
}

#[test]
fn the_first_bytes_win_where_segments_disagree() {
    let honest = client_hello_bytes("honest.example", &[], 0, 9999);
    let forged = client_hello_bytes("forged.example", &[], 0, 9999);
    let mut b = Bench::new();
    b.open();
    let half = honest.len() / 2;
    b.tcp(CLIENT, ACK, 1000 + half as u32, &honest[half..]);
    let (outcome, idx) = b.tcp(CLIENT, ACK, 1000, &forged);
    assert_eq!(done(outcome), Some(Class::Tls));
    let name = b.host(idx).unwrap();
    assert!(name == "honest.example", "{name}");
}

#[test]
fn a_hello_of_64_kib_is_given_up_by_name_or_by_class() {
    let hello = client_hello_bytes("late.example", &[], 40_000, 16_000);
    let mut b = Bench::new();
    b.open();
    let mut outcome = Outcome::NeedMore;
    let mut idx = FlowIdx(0);
    for (i, segment) in hello.chunks(1400).enumerate() {
        if outcome == Outcome::NeedMore {
            (outcome, idx) = b.tcp(CLIENT, ACK, 1000 + (i * 1400) as u32, segment);
        }
    }
    assert_eq!(done(outcome), Some(Class::Tls));
    assert_eq!(b.host(idx), None);
    assert!(b.table.get(idx).is_cut_short(), "a name may have stood where nobody read");
    assert_eq!((b.inspector.pool().in_use(), b.inspector.cut_short(Reason::TooMuchData)), (0, 1));
}

#[test]
fn endless_fields_end_at_the_cap_with_the_class() {
    let mut b = Bench::new();
    b.open();
    let field = [b"X-Filler: ", [b'f'; 1000].as_slice(), b"\r\n"].concat();
    let stream = [b"GET / HTTP/1.1\r\n".as_slice(), &field.repeat(20)].concat();
    let mut segments = stream.chunks(1400).enumerate();
    let mut pass =
        |b: &mut Bench| segments.next().map(|(i, s)| b.tcp(CLIENT, ACK, 1000 + (i * 1400) as u32, s)).unwrap();
    for _ in 0..11 {
        let (outcome, idx) = pass(&mut b);
        assert_eq!((outcome, b.table.get(idx).class()), (Outcome::NeedMore, Class::Http));
    }
    assert_eq!(done(pass(&mut b).0), Some(Class::Http));
    assert_eq!(b.inspector.pool().in_use(), 0);
}

#[test]
fn a_stream_of_holes_is_given_up() {
    let mut b = Bench::new();
    b.open();
    let mut last = Outcome::NeedMore;
    for i in 1..20u32 {
        last = b.tcp(CLIENT, ACK, 1000 + i * 10, b"x").0;
        if last != Outcome::NeedMore {
            break;
        }
    }
    assert_eq!(last, Outcome::GivenUp(Reason::TooManyPieces));
    let (_, flow) = b.table.iter().next().unwrap();
    assert!(flow.is_cut_short() && !flow.is_headless() && flow.known_class().is_none());
    assert_eq!(b.inspector.given_up(Reason::TooManyPieces), 1);
    assert_eq!(b.inspector.pool().in_use(), 0);
}

#[test]
fn half_open_hellos_cannot_keep_the_buffers() {
    let mut b = Bench::with(&L7Config { buffers: 2, hosts: 8, starts: 64, facts: 64, addresses: 64 });
    let hello = client_hello_bytes("www.example.com", &[], 0, 9999);
    for i in 0..20u16 {
        let ends = (1, 1000 + i, 2, 443);
        b.tcp(ends, SYN, 0, b"");
        let (outcome, idx) = b.tcp(ends, ACK, 1, &hello[..20]);
        let want = if i < 2 { Outcome::NeedMore } else { Outcome::GivenUp(Reason::NoBuffer) };
        assert_eq!(outcome, want, "{i}");
        assert_eq!(b.table.get(idx).is_cut_short(), i >= 2);
    }
    // After a second of silence an honest flow gets one; its former owner is told at its next segment.
    b.now = b.now.plus(150);
    b.open();
    b.tcp(CLIENT, ACK, 1000, &hello[..20]);
    let (outcome, idx) = b.tcp(CLIENT, ACK, 1020, &hello[20..]);
    assert_eq!((done(outcome), b.host(idx)), (Some(Class::Tls), Some("www.example.com")));
    b.tcp((1, 3000, 2, 443), ACK, 1, &hello[..20]);
    let outcomes: Vec<_> = (0..2).map(|i| b.tcp((1, 1000 + i, 2, 443), ACK, 21, &hello[20..]).0).collect();
    assert!(outcomes.contains(&Outcome::GivenUp(Reason::NoBuffer)), "{outcomes:?}");
}

#[test]
fn connections_that_are_over_keep_no_buffer() {
    let mut b = Bench::with(&L7Config { buffers: 1, hosts: 8, starts: 64, facts: 64, addresses: 64 });
    let hello = client_hello_bytes("www.example.com", &[], 0, 9999);
    let said = &hello[..32];
    for (i, reset) in (0..20u16).map(|i| (i, i % 2 == 0)) {
        let (client, server) = ((1, 1000 + i, 2, 9999), (2, 9999, 1, 1000 + i));
        b.tcp(client, SYN, 0, b"");
        b.tcp(server, SYN | ACK, 70, b"");
        let (outcome, idx) = b.tcp(client, ACK, 1, said);
        assert_eq!((outcome, b.inspector.pool().in_use()), (Outcome::NeedMore, 1), "{i}");
        if reset {
            b.tcp(client, RST | ACK, 33, b"");
        } else {
            b.tcp(client, FIN | ACK, 33, b"");
            assert_eq!(b.inspector.pool().in_use(), 1, "the server may have more to say");
            b.tcp(server, FIN | ACK, 71, b"");
        }
        assert_eq!(b.inspector.pool().in_use(), 0, "{i}");
        // What follows is not taken for something harmless: nobody reads it.
        let (outcome, _) = b.tcp(client, ACK, 33, said);
        assert_eq!(outcome, Outcome::GivenUp(Reason::NoBuffer));
        assert!(b.table.get(idx).is_cut_short());
    }
}

#[test]
fn a_reply_seen_first_leaves_room_for_the_request() {
    let mut b = Bench::new();
    let (outcome, idx) = b.tcp(SERVER, ACK, 77, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(outcome, Outcome::NeedMore);
    assert_eq!(b.table.get(idx).class(), Class::Http);
    let (outcome, idx) = b.tcp(CLIENT, ACK, 99, b"GET / HTTP/1.1\r\nHost: late.example\r\n\r\n");
    assert_eq!((done(outcome), b.host(idx)), (Some(Class::Http), Some("late.example")));
}

#[test]
fn strangers_are_given_up_when_both_sides_have_spoken() {
    let mut b = Bench::new();
    b.open();
    assert_eq!(b.tcp(CLIENT, ACK, 1000, b"\x01\x02strange and long enough").0, Outcome::NeedMore);
    assert_eq!(b.tcp(CLIENT, ACK, 1025, b"more of it").0, Outcome::NeedMore);
    assert_eq!(b.tcp(SERVER, ACK, 5000, b"\x03indeed, long enough too").0, Outcome::GivenUp(Reason::NoMatch));
    assert_eq!(b.inspector.pool().in_use(), 0, "nothing is kept of a stream that nobody knows");
}

#[test]
fn a_one_sided_stranger_and_a_chatty_datagram_flow_have_budgets() {
    let mut b = Bench::new();
    b.open();
    let n = (0u32..).take_while(|i| b.tcp(CLIENT, ACK, 1000 + i * 9, b"\x01strange!").0 == Outcome::NeedMore).count();
    assert_eq!(n, usize::from(MAX_PACKETS) - 1);
    let n = (0..100).take_while(|_| b.udp(CLIENT, b"\x01strange!").0 == Outcome::NeedMore).count();
    assert_eq!(n, usize::from(MAX_DATAGRAMS) - 1);
    assert_eq!(b.inspector.given_up(Reason::TooManyPackets), 2);
    assert!(b.table.iter().all(|(_, f)| !f.is_cut_short() && !f.is_headless() && f.known_class() == Some(0)));
    // Found in the middle: what it said first may have told.
    let found = (1, 50_000, 2, 443);
    let n = (0u32..).take_while(|i| b.tcp(found, ACK, 1000 + i * 9, b"\x01strange!").0 == Outcome::NeedMore).count();
    let flow = b.table.iter().map(|(_, f)| f).find(|f| f.initiator().port == 50_000).unwrap();
    assert_eq!((n, flow.is_headless(), flow.known_class()), (usize::from(MAX_PACKETS) - 1, true, None));
}

#[test]
fn a_hello_that_is_dribbled_is_not_a_hello_without_a_name() {
    let mut b = Bench::new();
    b.open();
    let hello = client_hello_bytes("late.example", &[], 500, 9999);
    let mut bytes = hello.iter().enumerate();
    let n = bytes.by_ref().take_while(|(i, c)| b.tcp(CLIENT, ACK, 1000 + *i as u32, &[**c]).0 == Outcome::NeedMore);
    assert_eq!(n.count(), usize::from(MAX_PACKETS) - 1);
    let (_, flow) = b.table.iter().next().unwrap();
    assert!(flow.is_decided() && flow.is_cut_short() && flow.host().is_none());
}

/// Birth times and ports that are one another's mirror: what the one said is not the other's.
#[test]
fn a_flow_inherits_nothing_from_the_one_that_had_its_entry() {
    for k in 1..40u16 {
        let mut b = Bench::new();
        b.now = Tick(1);
        let (_, first) = b.tcp((1, 40_000, 2, 80), ACK, 1, b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert!(b.inspector.facts_of(first, b.table.get(first)).is_some());
        b.now = Tick(1 + u32::from(k) * Tick::PER_SECOND * 3600);
        let inspector = &mut b.inspector;
        while b.table.iter().next().is_some() {
            b.table.expire(b.now, 64, |i, f| inspector.release(i, f));
        }
        let twist = 1 ^ b.now.0;
        let ports = (40_000 ^ (twist & 0xffff) as u16, 80 ^ (twist >> 16) as u16);
        let (_, second) = b.tcp((1, ports.0, 2, ports.1), ACK, 1, b"\x01strange");
        assert_eq!(first, second, "the same entry");
        assert!(b.inspector.facts_of(second, b.table.get(second)).is_none(), "{ports:?}");
    }
}

#[test]
fn hosts_are_released_with_their_flows() {
    let mut b = Bench::with(&L7Config { buffers: 1, hosts: 1, starts: 16, facts: 64, addresses: 64 });
    let get = |n: u32| format!("GET / HTTP/1.1\r\nHost: h{n}.example\r\n\r\n");
    for n in 0..5u16 {
        let ends = (1, 40_000 + n, 2, 80);
        b.tcp(ends, SYN, 999, b"");
        let (_, idx) = b.tcp(ends, ACK, 1000, get(n.into()).as_bytes());
        assert_eq!(b.host(idx), Some(format!("h{n}.example").as_str()));
        while n < 4 && b.table.iter().next().is_some() {
            b.now = b.now.plus(10 * Tick::PER_SECOND);
            let inspector = &mut b.inspector;
            b.table.expire(b.now, 64, |i, f| inspector.release(i, f));
        }
    }
    // One name in use and no room for another: the flow has its class, and no host.
    let (outcome, idx) = b.tcp((9, 9, 8, 80), ACK, 1, get(77).as_bytes());
    assert_eq!((done(outcome), b.host(idx)), (Some(Class::Http), None));
    assert_eq!(b.inspector.hosts().refused(), 1);
    assert!(b.table.get(idx).is_cut_short() && b.table.get(idx).known_class().is_none());
    assert_eq!(b.table.get(idx).initiator().port, 9);
    assert_eq!(b.table.get(idx).packets(Direction::FromInitiator), 1);
}

/// However a hello is scattered over frames and datagrams, one name comes out; pieces of one kept for another are not mixed.
#[test]
fn a_quic_hello_over_datagrams_gives_its_name() {
    use super::web::quic::tests::{initial, later};
    let message = super::web::tls::tests::hello_message("quic.example", &["h3"], 900);
    let n = message.len();
    let first = initial(&message, &[(200, 300), (0, 100), (500, 600), (400, 450)]);
    // The second goes to the name the server chose, and so do those after it.
    let rest = [later(&message, 100, 200), later(&message, 600, n), later(&message, 300, 500)];
    let mut b = Bench::new();
    assert_eq!(b.udp(CLIENT, &first).0, Outcome::NeedMore);
    b.udp(SERVER, b"\x40short header of the server");
    assert_eq!(b.udp(CLIENT, &rest[0]).0, Outcome::NeedMore);
    assert_eq!(b.udp(CLIENT, &rest[1]).0, Outcome::NeedMore);
    let (outcome, idx) = b.udp(CLIENT, &rest[2]);
    assert_eq!((done(outcome), b.host(idx)), (Some(Class::Quic), Some("quic.example")));
    assert_eq!((b.table.get(idx).alpn(), b.inspector.pool().in_use()), (Alpn::H3, 0));
    assert!(b.inspector.facts_of(idx, b.table.get(idx)).unwrap().get(Fact::Ja4).is_some());
}

/// As clients send it whose hello is longer than a datagram and who do not scatter it: the name is in the second.
#[test]
fn a_quic_hello_in_two_datagrams_in_order_is_waited_for() {
    use super::web::quic::tests::{initial, later};
    let message = super::web::tls::tests::hello_message("quic.example", &["h3"], 1500);
    let mut b = Bench::new();
    let (outcome, idx) = b.udp(CLIENT, &initial(&message, &[(0, 1100)]));
    assert_eq!((outcome, b.host(idx)), (Outcome::NeedMore, None));
    let (outcome, idx) = b.udp(CLIENT, &later(&message, 1100, message.len()));
    assert_eq!((done(outcome), b.host(idx)), (Some(Class::Quic), Some("quic.example")));
    assert_eq!(b.inspector.pool().in_use(), 0);
}

#[test]
fn a_quic_hello_that_never_ends_has_a_budget() {
    use super::web::quic::tests::initial;
    let message = super::web::tls::tests::hello_message("quic.example", &["h3"], 60_000);
    let mut b = Bench::new();
    let mut outcome = Outcome::NeedMore;
    let mut sent = 0;
    while outcome == Outcome::NeedMore && sent < 60 {
        outcome = b.udp(CLIENT, &initial(&message, &[(sent * 1000, sent * 1000 + 1000)])).0;
        sent += 1;
    }
    assert_eq!((done(outcome), b.inspector.pool().in_use()), (Some(Class::Quic), 0), "after {sent}");
    assert!(sent <= 17, "{sent}");
}

/// A name counts for the client that asked, in the answer to its query, as long as the answer lasts.
#[test]
fn an_address_is_named_by_the_answer_that_its_client_asked_for() {
    use super::web::dns::tests::{a_query, an_answer};
    const RESOLVER: (u8, u16) = (53, 53);
    let noise = b"\x01strange and long enough";
    let flow = |b: &mut Bench, client: u8, port: u16| {
        let (mut outcome, mut idx) = (Outcome::NeedMore, FlowIdx(0));
        while outcome == Outcome::NeedMore {
            (outcome, idx) = b.udp((client, port, 77, 9999), noise);
        }
        let f = b.table.get(idx);
        (b.host(idx).map(str::to_owned), f.by(), f.class())
    };
    let unnamed = (None, By::Nothing, Class::Unknown);
    let ask = |b: &mut Bench, client: u8, id: u16, name: &str| {
        b.udp((client, 5000, RESOLVER.0, RESOLVER.1), &a_query(id, name)).1
    };
    let answer = |b: &mut Bench, client: u8, id: u16, name: &str| {
        b.udp((RESOLVER.0, RESOLVER.1, client, 5000), &an_answer(id, name, [10, 0, 0, 77])).1
    };
    let mut b = Bench::new();
    answer(&mut b, 1, 7, "nobody.asked");
    ask(&mut b, 1, 7, "a.example");
    answer(&mut b, 1, 8, "a.example");
    answer(&mut b, 1, 7, "b.example");
    assert_eq!(flow(&mut b, 1, 1001), unnamed, "neither number nor name may differ");
    let idx = answer(&mut b, 1, 7, "a.example");
    let dns = b.table.get(idx);
    assert_eq!((dns.class(), b.host(idx), dns.host_by()), (Class::Dns, Some("nobody.asked"), By::Payload));
    assert_eq!(flow(&mut b, 1, 1002), (Some("a.example".into()), By::Dns, Class::Unknown));
    assert_eq!(flow(&mut b, 2, 1003), unnamed, "another client has not asked");
    // TLS without a server name keeps its own reason for the class.
    let hello = client_hello_bytes("", &["h2"], 0, 9999);
    b.tcp((1, 1004, 77, 443), SYN, 0, b"");
    let (outcome, idx) = b.tcp((1, 1004, 77, 443), ACK, 1, &hello);
    let f = b.table.get(idx);
    assert_eq!((done(outcome), f.by(), f.host_by()), (Some(Class::Tls), By::Handshake, By::Dns));
    assert_eq!((b.host(idx), f.alpn()), (Some("a.example"), Alpn::H2));
    b.now = b.now.plus(61 * Tick::PER_SECOND);
    assert_eq!(flow(&mut b, 1, 1005), unnamed, "the answer is over");
}
