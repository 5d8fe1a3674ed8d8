//! Where in its life a flow is, as far as a bystander needs to know: what its idle timeout is, and whether it is proven.
//!
//! RFC 9293 §3.3.2 has eleven states for an end that knows its own window. A bystander sees each segment once, before its
//! receiver, and knows no window scale. Of sequence numbers it keeps the upper halves, per side: what that side is to send
//! next, in units of 64 KiB. That is enough to tell what belongs to the connection from what was made up: RST and FIN are only
//! believed near there (RFC 5961 §3), and who answers a SYN-ACK must have seen it. What is not believed is forwarded all the
//! same, for the ends judge by themselves; it only changes nothing here.

use super::key::Direction;

/// TCP flag bits, as in the header.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// IANA protocol number.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum L4State {
    /// Neither TCP nor UDP, one side seen.
    OtherOneSided = 0,
    Other = 1,
    /// One side seen.
    UdpOneSided = 2,
    Udp = 3,
    /// A SYN.
    TcpOpening = 4,
    /// The SYN-ACK that belongs to it.
    TcpAnswered = 5,
    /// In mid-life, one side seen.
    TcpFound = 6,
    TcpEstablished = 7,
    /// The initiator sent FIN; the other side may go on.
    TcpInitiatorDone = 8,
    TcpResponderDone = 9,
    /// Both sides sent FIN.
    TcpClosing = 10,
    /// And both were acknowledged.
    TcpTimeWait = 11,
    /// By an RST.
    TcpClosed = 12,
}

use L4State as S;

/// What a flow in some state is worth when there is not room for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Anybody could have made it, with a forged source: opening, or one-sided.
    Unproven,
    Proven,
    /// Over: kept for its last packets only.
    Over,
}

impl L4State {
    pub const COUNT: usize = 13;

    /// From the number; one that is none is [`S::OtherOneSided`].
    #[inline]
    pub(super) fn of(n: u8) -> Self {
        const ALL: [L4State; L4State::COUNT] = [
            S::OtherOneSided,
            S::Other,
            S::UdpOneSided,
            S::Udp,
            S::TcpOpening,
            S::TcpAnswered,
            S::TcpFound,
            S::TcpEstablished,
            S::TcpInitiatorDone,
            S::TcpResponderDone,
            S::TcpClosing,
            S::TcpTimeWait,
            S::TcpClosed,
        ];
        ALL.get(usize::from(n)).copied().unwrap_or(S::OtherOneSided)
    }

    /// The state that a flow's first packet puts it in.
    pub fn first(proto: u8, flags: u8) -> Self {
        match proto {
            TCP if flags & RST != 0 => S::TcpClosed,
            TCP if flags & SYN == 0 => S::TcpFound,
            TCP if flags & ACK != 0 => S::TcpAnswered,
            TCP => S::TcpOpening,
            UDP => S::UdpOneSided,
            _ => S::OtherOneSided,
        }
    }

    #[inline]
    pub fn standing(self) -> Standing {
        match self {
            S::OtherOneSided | S::UdpOneSided | S::TcpOpening | S::TcpAnswered | S::TcpFound => Standing::Unproven,
            S::Other | S::Udp | S::TcpEstablished | S::TcpInitiatorDone | S::TcpResponderDone => Standing::Proven,
            S::TcpClosing | S::TcpTimeWait | S::TcpClosed => Standing::Over,
        }
    }

    #[inline]
    pub fn is_proven(self) -> bool {
        self.standing() == Standing::Proven
    }

    #[inline]
    pub fn is_tcp(self) -> bool {
        self as u8 >= S::TcpOpening as u8
    }

    /// Both sides have closed, or one has reset it.
    #[inline]
    pub fn is_over(self) -> bool {
        self.standing() == Standing::Over
    }

    /// Whether a SYN on its ports makes a new flow: the old connection is over, or was never seen to begin.
    pub(super) fn gives_way(self) -> bool {
        self.is_over() || self == S::TcpFound
    }

    /// `"established"` and so on: for `softdpu flows`.
    pub fn name(self) -> &'static str {
        match self {
            S::OtherOneSided | S::Other => "other",
            S::UdpOneSided | S::Udp => "udp",
            S::TcpOpening | S::TcpAnswered | S::TcpFound => "opening",
            S::TcpEstablished => "established",
            S::TcpInitiatorDone | S::TcpResponderDone => "half_closed",
            S::TcpClosing => "closing",
            S::TcpTimeWait => "time_wait",
            S::TcpClosed => "closed",
        }
    }
}

/// What a segment says that matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The flags byte; 0 for what is not TCP.
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// Bytes of payload.
    pub len: u16,
}

impl Segment {
    /// Of the TCP header at `l4` in `packet`. `None`: the bytes are not there.
    #[inline]
    pub fn read(packet: &[u8], l4: usize, payload_off: usize, end: usize) -> Option<Self> {
        let header: &[u8; 14] = packet.get(l4..)?.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Some(Self { flags: header[13], seq: word(4), ack: word(8), len: end.saturating_sub(payload_off) as u16 })
    }

    /// The sequence number behind it: SYN and FIN count as one each (RFC 9293 §3.4).
    #[inline]
    fn end(&self) -> u32 {
        let marks = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.seq.wrapping_add(u32::from(self.len)).wrapping_add(marks)
    }

    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Neither SYN nor FIN nor RST.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.flags & (SYN | FIN | RST) == 0
    }

    /// The sequence number behind a plain one, in units of 64 KiB.
    #[inline]
    pub(super) fn upper_end(&self) -> u16 {
        upper(self.seq.wrapping_add(u32::from(self.len)))
    }
}

/// Per side (by [`Direction::index`]) the upper half of what it is to send next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    pub next: [u16; 2],
    pub known: [bool; 2],
}

/// 8 MiB: as much as may be under way or lost before it came here.
const FAR: u16 = 128;
/// 1 MiB: how far an RST or FIN may lag behind what its sender has sent.
const NEAR: u16 = 16;

#[inline]
fn upper(seq: u32) -> u16 {
    (seq >> 16) as u16
}

/// Whether `seq` is within so many units around side `i`'s next.
#[inline]
fn around(s: &Sequences, i: usize, seq: u32, behind: u16, ahead: u16) -> bool {
    upper(seq).wrapping_sub(s.next[i].wrapping_sub(behind)) <= behind + ahead
}

impl Sequences {
    /// From a flow's first segment.
    pub(super) fn begin(&mut self, dir: Direction, seg: &Segment) {
        self.learn(dir.index(), seg.end());
    }

    fn learn(&mut self, i: usize, end: u32) {
        self.next[i] = upper(end);
        self.known[i] = true;
    }

    /// Moves side `i`'s next on, where the segment is in reach of it.
    #[inline]
    fn follow(&mut self, i: usize, seg: &Segment) {
        if !self.known[i] {
            self.learn(i, seg.end());
        } else {
            let ahead = upper(seg.end()).wrapping_sub(self.next[i]);
            if ahead != 0 && ahead <= FAR {
                self.next[i] = upper(seg.end());
            }
        }
    }

    /// Whether a packet of side `i` may have begun at `seq`: for what others quote of it (RFC 5927 §4).
    pub fn may_have_sent(&self, i: usize, seq: u32) -> bool {
        self.known[i] && around(self, i, seq, FAR, 1)
    }
}

/// Whether an RST is of this connection (RFC 5961 §3.2, RFC 9293 §3.10.7).
fn believes_reset(state: L4State, s: &Sequences, me: usize, seg: &Segment) -> bool {
    let peer = 1 - me;
    let answers = |behind| seg.has(ACK) && s.known[peer] && around(s, peer, seg.ack, behind, 0);
    if s.known[me] {
        return around(s, me, seg.seq, NEAR, 1);
    }
    // A refused SYN, whose RST has the sequence number 0; or a connection of which this side was not seen yet.
    if state == S::TcpOpening { answers(1) } else { answers(NEAR) }
}

/// The state after one more segment of side `dir`, and whether it had an RST or FIN that was not believed.
#[inline]
pub fn next(state: L4State, s: &mut Sequences, dir: Direction, seg: &Segment) -> (L4State, bool) {
    let (me, peer) = (dir.index(), 1 - dir.index());
    if seg.is_plain() && state == S::TcpEstablished {
        // Only what answers the peer, as the acknowledgements of who sees its packets do (RFC 9293 §3.10.7.4, RFC 5961 §5): to
        // drag the numbers away from the connection one has to guess both.
        if s.known != [true; 2] || seg.has(ACK) && around(s, peer, seg.ack, FAR, 1) {
            s.follow(me, seg);
        }
        return (state, false);
    }
    step(state, s, me, peer, seg)
}

#[cold]
fn step(state: L4State, s: &mut Sequences, me: usize, peer: usize, seg: &Segment) -> (L4State, bool) {
    const RESPONDER: usize = Direction::FromResponder as usize;
    if seg.has(RST) {
        return if state.standing() == Standing::Over {
            (state, false)
        } else if believes_reset(state, s, me, seg) {
            (S::TcpClosed, false)
        } else {
            (state, true)
        };
    }
    let acks = |s: &Sequences, behind, ahead| seg.has(ACK) && s.known[peer] && around(s, peer, seg.ack, behind, ahead);
    if seg.has(SYN) {
        return match state {
            // Repeated, perhaps with another number; or both sides open at once (RFC 9293 §3.5).
            S::TcpOpening if !seg.has(ACK) => {
                s.learn(me, seg.end());
                (state, false)
            }
            // The SYN may have brought data that is not acknowledged yet (RFC 7413 §3).
            S::TcpOpening if me == RESPONDER && acks(s, 1, 0) => {
                s.learn(me, seg.end());
                (S::TcpAnswered, false)
            }
            S::TcpAnswered if me == RESPONDER && s.known[me] => {
                s.follow(me, seg);
                (state, false)
            }
            // An open connection's SYN is challenged by its receiver and changes nothing (RFC 5961 §4).
            _ => (state, false),
        };
    }
    let mut state = match state {
        // Who acknowledges what the responder chose has seen it.
        S::TcpAnswered if me != RESPONDER && acks(s, 0, 1) => S::TcpEstablished,
        S::TcpFound if !s.known[me] && acks(s, FAR, 1) => S::TcpEstablished,
        other => other,
    };
    if seg.has(FIN) {
        // Of a side that was not seen yet, what answers the other.
        let believed = if s.known[me] {
            around(s, me, seg.seq, NEAR, FAR)
        } else {
            state == S::TcpEstablished && acks(s, NEAR, 1)
        };
        if !believed {
            return (state, true);
        }
        state = match (state, me) {
            (S::TcpEstablished, RESPONDER) => S::TcpResponderDone,
            (S::TcpEstablished, _) => S::TcpInitiatorDone,
            (S::TcpInitiatorDone, RESPONDER) => S::TcpClosing,
            (S::TcpResponderDone, me) if me != RESPONDER => S::TcpClosing,
            (other, _) => other,
        };
    } else if state == S::TcpClosing && acks(s, 0, 1) {
        state = S::TcpTimeWait;
    }
    // Only what answers the peer may teach this side's numbers once both are known.
    if !s.known[me] || !s.known[peer] || acks(s, FAR, 1) {
        s.follow(me, seg);
    }
    (state, false)
}

/// Whether the sender of a flow's first packet is its initiator. A SYN-ACK is an answer (RFC 9293 §3.5).
pub fn sender_is_initiator(proto: u8, flags: u8) -> bool {
    !(proto == TCP && flags & (SYN | ACK) == SYN | ACK)
}

/// A SYN that opens a connection, rather than answers one.
pub fn opens(proto: u8, flags: u8) -> bool {
    proto == TCP && flags & (SYN | ACK | RST | FIN) == SYN
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
