//! Lives of connections, and those who would end them.

use super::*;
use L4State::*;

const A: u32 = 0x1000_0000;
const B: u32 = 0x9000_0000;

/// A flow under test: `(from initiator, flags, seq, ack, len)`.
struct Play {
    state: L4State,
    s: Sequences,
    began: bool,
    unbelieved: u32,
}

type Step = (bool, u8, u32, u32, u16);

impl Play {
    fn new() -> Self {
        Self { state: TcpFound, s: Sequences::default(), began: false, unbelieved: 0 }
    }

    fn step(&mut self, (initiator, flags, seq, ack, len): Step) -> L4State {
        let seg = Segment { flags, seq, ack, len };
        let dir = if initiator { Direction::FromInitiator } else { Direction::FromResponder };
        if !self.began {
            (self.state, self.began) = (L4State::first(TCP, flags), true);
            self.s.learn(dir.index(), seg.end());
            return self.state;
        }
        let (state, not) = next(self.state, &mut self.s, dir, &seg);
        self.state = state;
        self.unbelieved += u32::from(not);
        state
    }

    fn run(&mut self, steps: &[Step]) -> Vec<L4State> {
        steps.iter().map(|s| self.step(*s)).collect()
    }

    fn established() -> Self {
        let mut p = Self::new();
        p.run(&[(true, SYN, A, 0, 0), (false, SYN | ACK, B, A + 1, 0), (true, ACK, A + 1, B + 1, 0)]);
        assert_eq!(p.state, TcpEstablished);
        p
    }
}

#[test]
fn a_connection_opens_and_closes() {
    let life = [
        (true, SYN, A, 0, 0),
        (false, SYN | ACK, B, A + 1, 0),
        (true, ACK, A + 1, B + 1, 0),
        (true, ACK, A + 1, B + 1, 1000),
        (false, ACK, B + 1, A + 1001, 60_000),
        (true, FIN | ACK, A + 1001, B + 60_001, 0),
        (false, ACK, B + 60_001, A + 1002, 9000),
        (true, FIN | ACK, A + 1001, B + 69_001, 0),
        (false, FIN | ACK, B + 69_001, A + 1002, 0),
        (true, ACK, A + 1002, B + 69_002, 0),
    ];
    let states = [
        TcpOpening,
        TcpAnswered,
        TcpEstablished,
        TcpEstablished,
        TcpEstablished,
        TcpInitiatorDone,
        TcpInitiatorDone,
        TcpInitiatorDone,
        TcpClosing,
        TcpTimeWait,
    ];
    assert_eq!(Play::new().run(&life), states);
}

#[test]
fn nobody_is_established_who_has_not_seen_the_answer() {
    let mut p = Play::new();
    let blind =
        [(true, SYN, A, 0, 0), (true, ACK, A + 1, 77, 0), (false, SYN | ACK, B, A + 1, 0), (true, ACK, A + 1, 77, 0)];
    assert_eq!(p.run(&blind), [TcpOpening, TcpOpening, TcpAnswered, TcpAnswered]);
    // Nor does an answer to another SYN count.
    let mut p = Play::new();
    assert_eq!(
        p.run(&[(true, SYN, A, 0, 0), (false, SYN | ACK, B, 5, 0), (true, ACK, A + 1, B + 1, 0)]),
        [TcpOpening; 3]
    );
}

#[test]
fn both_may_open_at_once() {
    let both = [
        (true, SYN, A, 0, 0),
        (false, SYN, B, 0, 0),
        (false, SYN | ACK, B, A + 1, 0),
        (true, SYN | ACK, A, B + 1, 0),
        (true, ACK, A + 1, B + 1, 5),
    ];
    assert_eq!(Play::new().run(&both)[3..], [TcpAnswered, TcpEstablished]);
}

#[test]
fn an_rst_must_be_near_what_its_sender_sends() {
    let mut p = Play::established();
    for seq in [0, B, A + 0x0100_0000, A.wrapping_sub(0x0020_0000), u32::MAX] {
        assert_eq!(p.step((true, RST, seq, 0, 0)), TcpEstablished, "{seq:#x}");
    }
    assert_eq!(p.unbelieved, 5);
    assert_eq!(p.step((true, RST, A + 1, 0, 0)), TcpClosed);
    // Also where the numbers wrap, and after many bytes.
    let mut p = Play::new();
    let a = u32::MAX - 5;
    p.run(&[
        (true, SYN, a, 0, 0),
        (false, SYN | ACK, B, a.wrapping_add(1), 0),
        (true, ACK, a.wrapping_add(1), B + 1, 0),
    ]);
    for n in 0..200u32 {
        p.step((false, ACK, B + 1 + n * 60_000, a.wrapping_add(1), 60_000));
    }
    assert_eq!(p.step((false, RST, B + 1, 0, 0)), TcpEstablished, "12 MB behind");
    assert_eq!(p.step((false, RST | ACK, B + 1 + 200 * 60_000, a.wrapping_add(1), 0)), TcpClosed);
}

#[test]
fn a_refused_syn_is_closed_by_who_saw_it() {
    for (ack, state) in [(A + 1, TcpClosed), (A + 0x0100_0000, TcpOpening), (0, TcpOpening)] {
        let mut p = Play::new();
        p.step((true, SYN, A, 0, 0));
        assert_eq!(p.step((false, RST | ACK, 0, ack, 0)), state);
    }
}

#[test]
fn a_flow_found_in_mid_life_is_established_once_both_sides_agree() {
    let mut p = Play::new();
    assert_eq!(p.run(&[(true, ACK, A, B, 100), (true, ACK, A + 100, B, 100)]), [TcpFound, TcpFound]);
    assert_eq!(p.step((false, ACK, B, 5, 10)), TcpFound, "it acknowledges what was never sent");
    let mut p = Play::new();
    p.step((true, ACK, A, B, 100));
    assert_eq!(p.step((false, ACK, B, A + 100, 10)), TcpEstablished);
    assert_eq!(p.step((false, RST, 12, 0, 0)), TcpEstablished);
    assert_eq!(p.step((false, RST, B + 10, 0, 0)), TcpClosed);
}

#[test]
fn a_forged_fin_closes_nothing() {
    let mut p = Play::established();
    p.run(&[(true, FIN | ACK, B, B + 1, 0), (false, FIN | ACK, A, A + 1, 0)]);
    assert_eq!((p.state, p.unbelieved), (TcpEstablished, 2));
}

#[test]
fn a_forged_segment_does_not_lead_away() {
    let mut p = Play::established();
    // Within reach of nothing: the next true segment and RST are still believed.
    p.step((true, ACK, A + 0x4000_0000, B + 1, 1000));
    p.step((true, RST, A + 0x4000_0000 + 1000, 0, 0));
    assert_eq!(p.state, TcpEstablished);
    assert_eq!(p.step((true, RST, A + 1, 0, 0)), TcpClosed);
}

#[test]
fn many_small_steps_do_not_lead_away_either() {
    let mut p = Play::established();
    for n in 1..=300 {
        // Each in reach of the one before, but with nothing to show of the other side.
        p.step((true, ACK, A + n * 0x0040_0000, B + 0x4000_0000, 1000));
    }
    assert_eq!(p.step((true, RST, A + 300 * 0x0040_0000, 0, 0)), TcpEstablished);
    assert_eq!(p.step((true, RST, A + 1, 0, 0)), TcpClosed);
}

#[test]
fn a_fin_of_a_side_not_seen_yet_answers_the_other() {
    let mut p = Play::established();
    p.s.known = [false, true];
    assert_eq!(p.step((true, FIN | ACK, A + 1, B + 0x1000_0000, 0)), TcpEstablished);
    assert_eq!(p.unbelieved, 1);
    assert_eq!(p.step((true, FIN | ACK, A + 1, B + 1, 0)), TcpInitiatorDone);
    p = Play::established();
    p.s.known = [false; 2];
    assert_eq!(p.step((true, FIN | ACK, A + 1, B + 1, 0)), TcpEstablished, "nothing to hold it against");
}

#[test]
fn forgotten_numbers_are_learnt_again() {
    let mut p = Play::established();
    p.s.known = [false; 2];
    assert_eq!(p.step((true, RST, A + 0x4000_0000, 0, 0)), TcpEstablished, "nothing to hold it against");
    p.run(&[(true, ACK, A + 0x4000_0000, B + 0x2000_0000, 10), (false, ACK, B + 0x2000_0000, A + 0x4000_000a, 10)]);
    assert_eq!(p.step((false, RST, B + 0x2000_000a, 0, 0)), TcpClosed);
}

#[test]
fn every_state_has_its_number_and_standing() {
    for n in 0..L4State::COUNT as u8 {
        assert_eq!(L4State::of(n) as u8, n);
    }
    const { assert!(L4State::COUNT <= 16) };
    assert_eq!(L4State::of(15), OtherOneSided);
    assert!(!TcpClosing.is_proven() && TcpResponderDone.is_proven() && TcpFound.gives_way() && !TcpOpening.gives_way());
}

#[test]
fn the_side_that_answers_is_not_the_initiator() {
    assert!(sender_is_initiator(TCP, SYN) && sender_is_initiator(TCP, ACK) && sender_is_initiator(UDP, SYN | ACK));
    assert!(!sender_is_initiator(TCP, SYN | ACK));
    assert!(opens(TCP, SYN) && !opens(TCP, SYN | ACK) && !opens(UDP, SYN));
}
