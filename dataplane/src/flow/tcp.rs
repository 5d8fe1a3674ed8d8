//! Where in its life a flow is, as far as a bystander needs to know: what its idle timeout is and whether it is proven.
//!
//! RFC 9293 §3.3.2 has eleven states for an end that knows its own window. Between the ends four are enough; sequence
//! numbers are not checked, so a forged RST shortens a timeout and does no more.

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
    /// Neither TCP nor UDP.
    Other = 0,
    Udp = 1,
    /// From SYN until the initiator's ACK of the SYN-ACK; a flow found in mid-life stays here until both sides spoke.
    TcpOpening = 2,
    TcpEstablished = 3,
    /// One side sent FIN.
    TcpHalfClosed = 4,
    /// Both sides sent FIN, or one RST.
    TcpClosed = 5,
}

impl L4State {
    /// The state that a flow's first packet puts it in.
    pub fn first(proto: u8, flags: u8) -> Self {
        match proto {
            TCP if flags & RST != 0 => Self::TcpClosed,
            TCP => Self::TcpOpening,
            UDP => Self::Udp,
            _ => Self::Other,
        }
    }

    /// The state after one more packet. `answered`: packets of both sides have been seen, this one included. `fins`:
    /// [`fin_bit`] of each side that has sent FIN, this packet included.
    #[inline]
    pub fn next(self, flags: u8, answered: bool, fins: u8) -> Self {
        match self {
            Self::Other | Self::Udp => self,
            _ if flags & RST != 0 => Self::TcpClosed,
            Self::TcpClosed => Self::TcpClosed,
            _ if fins == BOTH_FINS => Self::TcpClosed,
            _ if fins != 0 => Self::TcpHalfClosed,
            Self::TcpOpening if answered && flags & (SYN | ACK) == ACK => Self::TcpEstablished,
            _ => self,
        }
    }

    /// `"established"` and so on: for `softdpu flows`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Udp => "udp",
            Self::TcpOpening => "opening",
            Self::TcpEstablished => "established",
            Self::TcpHalfClosed => "half_closed",
            Self::TcpClosed => "closed",
        }
    }
}

/// Whether the sender of a flow's first packet is its initiator. A SYN-ACK is an answer (RFC 9293 §3.5).
pub fn sender_is_initiator(proto: u8, flags: u8) -> bool {
    !(proto == TCP && flags & (SYN | ACK) == SYN | ACK)
}

/// A SYN that opens a connection, rather than answers one.
pub fn opens(proto: u8, flags: u8) -> bool {
    proto == TCP && flags & (SYN | ACK | RST | FIN) == SYN
}

/// The bit of one side in the set of sides that have sent FIN.
pub(super) fn fin_bit(dir: Direction) -> u8 {
    1 << dir.index()
}

const BOTH_FINS: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays packets `(from initiator, flags)` and gives the states after each.
    fn play(packets: &[(bool, u8)]) -> Vec<L4State> {
        let (mut state, mut fins, mut seen) = (L4State::first(TCP, packets[0].1), 0, 0);
        let mut out = Vec::new();
        for &(from_initiator, flags) in packets {
            let dir = if from_initiator { Direction::FromInitiator } else { Direction::FromResponder };
            seen |= fin_bit(dir);
            if flags & FIN != 0 {
                fins |= fin_bit(dir);
            }
            state = state.next(flags, seen == 3, fins);
            out.push(state);
        }
        out
    }

    use L4State::{TcpClosed as C, TcpEstablished as E, TcpHalfClosed as H, TcpOpening as O};

    #[test]
    fn a_connection_opens_and_closes() {
        let life = [
            (true, SYN),
            (false, SYN | ACK),
            (true, ACK),
            (false, ACK),
            (true, FIN | ACK),
            (false, ACK),
            (true, FIN | ACK),
            (false, FIN | ACK),
            (true, ACK),
        ];
        assert_eq!(play(&life), [O, O, E, E, H, H, H, C, C]);
    }

    #[test]
    fn a_flood_stays_opening_and_a_reset_closes() {
        assert_eq!(play(&[(true, SYN), (true, SYN), (true, ACK), (true, ACK)]), [O, O, O, O]);
        assert_eq!(play(&[(true, SYN), (false, RST | ACK), (true, ACK)]), [O, C, C]);
        assert_eq!(play(&[(true, RST)]), [C]);
    }

    #[test]
    fn a_flow_found_in_mid_life_is_established_once_both_sides_spoke() {
        assert_eq!(play(&[(true, ACK), (true, ACK), (false, ACK)]), [O, O, E]);
    }

    #[test]
    fn the_side_that_answers_is_not_the_initiator() {
        assert!(sender_is_initiator(TCP, SYN) && sender_is_initiator(TCP, ACK) && sender_is_initiator(UDP, SYN | ACK));
        assert!(!sender_is_initiator(TCP, SYN | ACK));
        assert!(opens(TCP, SYN) && !opens(TCP, SYN | ACK) && !opens(UDP, SYN));
    }
}
