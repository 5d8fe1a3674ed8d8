//! The four messages on the wire (the paper §5.4): read with every length and the reserved bytes checked, and written.
//!
//! ```text
//! initiation 148   1 0 0 0  sender 4               ephemeral 32  static 32+16  timestamp 12+16  mac1 16  mac2 16
//! response    92   2 0 0 0  sender 4  receiver 4   ephemeral 32  empty 0+16                     mac1 16  mac2 16
//! cookie      64   3 0 0 0  receiver 4  nonce 24   cookie 16+16
//! transport  ≥32   4 0 0 0  receiver 4  counter 8  packet, padded + 16
//! ```
//!
//! Numbers are little-endian. The three reserved bytes are zero: others are refused, as the Linux kernel does.

/// Lengths in bytes; of a transport message, the header and the shortest (a keepalive).
pub const INITIATION_LEN: usize = 148;
pub const RESPONSE_LEN: usize = 92;
pub const COOKIE_REPLY_LEN: usize = 64;
pub const TRANSPORT_HEADER_LEN: usize = 16;
pub const TRANSPORT_MIN_LEN: usize = TRANSPORT_HEADER_LEN + super::symmetric::TAG_LEN;
/// What each of the two authenticators at the end of a handshake message has.
pub const MAC_LEN: usize = 16;

const INITIATION: u32 = 1;
const RESPONSE: u32 = 2;
const COOKIE_REPLY: u32 = 3;
const TRANSPORT: u32 = 4;

/// Why bytes are no message. Each is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageError {
    /// Another length than the type has.
    BadLength,
    /// Not one of the four types, or reserved bytes that are not zero.
    BadType,
}

impl MessageError {
    pub const ALL: [MessageError; 2] = [Self::BadLength, Self::BadType];

    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadLength => "bad_length",
            Self::BadType => "bad_type",
        }
    }
}

/// A message by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Initiation(Initiation),
    Response(Response),
    CookieReply(CookieReply),
    Transport(Transport),
}

impl Message {
    /// Reads a UDP payload.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut r = Reader { rest: bytes };
        let (kind, len) = (r.number(), bytes.len());
        let (Some(message), []) = (match (kind, len) {
            (Some(INITIATION), INITIATION_LEN) => (Initiation::read(&mut r).map(Self::Initiation), r.rest),
            (Some(RESPONSE), RESPONSE_LEN) => (Response::read(&mut r).map(Self::Response), r.rest),
            (Some(COOKIE_REPLY), COOKIE_REPLY_LEN) => (CookieReply::read(&mut r).map(Self::CookieReply), r.rest),
            (Some(TRANSPORT), TRANSPORT_MIN_LEN..) => (Transport::read(&mut r).map(Self::Transport), &[][..]),
            (Some(INITIATION..=TRANSPORT) | None, _) => return Err(MessageError::BadLength),
            _ => return Err(MessageError::BadType),
        }) else {
            return Err(MessageError::BadLength);
        };
        Ok(message)
    }
}

/// The first message: who it is from is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiation {
    /// The initiator's name for the session to be.
    pub sender: u32,
    pub ephemeral: [u8; 32],
    pub sealed_static: [u8; 48],
    pub sealed_timestamp: [u8; 28],
    pub mac1: [u8; MAC_LEN],
    pub mac2: [u8; MAC_LEN],
}

impl Initiation {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            sender: r.number()?,
            ephemeral: r.bytes()?,
            sealed_static: r.bytes()?,
            sealed_timestamp: r.bytes()?,
            mac1: r.bytes()?,
            mac2: r.bytes()?,
        })
    }

    pub fn to_bytes(&self) -> [u8; INITIATION_LEN] {
        let mut out = [0; INITIATION_LEN];
        let mut w = Writer { rest: &mut out };
        w.number(INITIATION).number(self.sender).bytes(&self.ephemeral).bytes(&self.sealed_static);
        w.bytes(&self.sealed_timestamp).bytes(&self.mac1).bytes(&self.mac2);
        debug_assert!(w.rest.is_empty());
        out
    }
}

/// The second message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The responder's name for the session to be.
    pub sender: u32,
    /// The initiation's sender.
    pub receiver: u32,
    pub ephemeral: [u8; 32],
    pub sealed_empty: [u8; 16],
    pub mac1: [u8; MAC_LEN],
    pub mac2: [u8; MAC_LEN],
}

impl Response {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            sender: r.number()?,
            receiver: r.number()?,
            ephemeral: r.bytes()?,
            sealed_empty: r.bytes()?,
            mac1: r.bytes()?,
            mac2: r.bytes()?,
        })
    }

    pub fn to_bytes(&self) -> [u8; RESPONSE_LEN] {
        let mut out = [0; RESPONSE_LEN];
        let mut w = Writer { rest: &mut out };
        w.number(RESPONSE).number(self.sender).number(self.receiver).bytes(&self.ephemeral).bytes(&self.sealed_empty);
        w.bytes(&self.mac1).bytes(&self.mac2);
        debug_assert!(w.rest.is_empty());
        out
    }
}

/// What a busy responder answers instead: a cookie that the next attempt is to carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieReply {
    /// The sender of the message that is answered.
    pub receiver: u32,
    pub nonce: [u8; 24],
    pub sealed_cookie: [u8; 32],
}

impl CookieReply {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self { receiver: r.number()?, nonce: r.bytes()?, sealed_cookie: r.bytes()? })
    }

    pub fn to_bytes(&self) -> [u8; COOKIE_REPLY_LEN] {
        let mut out = [0; COOKIE_REPLY_LEN];
        let mut w = Writer { rest: &mut out };
        w.number(COOKIE_REPLY).number(self.receiver).bytes(&self.nonce).bytes(&self.sealed_cookie);
        debug_assert!(w.rest.is_empty());
        out
    }
}

/// The header of a transport message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The receiver's name for the session.
    pub receiver: u32,
    /// Counts the sender's packets from 0.
    pub counter: u64,
}

impl Transport {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self { receiver: r.number()?, counter: r.bytes().map(u64::from_le_bytes)? })
    }

    /// Reads the header of a transport message, and only of one: what a worker asks of each packet.
    ///
    /// # Errors
    /// See [`MessageError`].
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() < TRANSPORT_MIN_LEN {
            return Err(MessageError::BadLength);
        }
        let mut r = Reader { rest: bytes };
        if r.number() != Some(TRANSPORT) {
            return Err(MessageError::BadType);
        }
        Self::read(&mut r).ok_or(MessageError::BadLength)
    }

    /// Type, receiver and counter. Put together in registers: one store.
    #[inline]
    pub fn to_bytes(self) -> [u8; TRANSPORT_HEADER_LEN] {
        (u128::from(self.counter) << 64 | u128::from(self.receiver) << 32 | u128::from(TRANSPORT)).to_le_bytes()
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    #[inline]
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    fn number(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }
}

/// Fills an array that has exactly the place for all that is written.
struct Writer<'a> {
    rest: &'a mut [u8],
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let (place, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        self.rest = rest;
        self
    }

    fn number(&mut self, n: u32) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_is_written_again(kind in 0_u8..6, tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            for len in [INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN, TRANSPORT_MIN_LEN, 4 + tail.len()] {
                let mut bytes = vec![kind, 0, 0, 0];
                bytes.extend(tail.iter().cycle().take(if tail.is_empty() { 0 } else { len - 4 }));
                let parsed = Message::parse(&bytes);
                let again = match &parsed {
                    Ok(Message::Initiation(m)) => m.to_bytes().to_vec(),
                    Ok(Message::Response(m)) => m.to_bytes().to_vec(),
                    Ok(Message::CookieReply(m)) => m.to_bytes().to_vec(),
                    Ok(Message::Transport(m)) => [&m.to_bytes()[..], &bytes[16..]].concat(),
                    Err(_) => bytes.clone(),
                };
                prop_assert_eq!(&again, &bytes);
                let right = match kind {
                    1 => bytes.len() == INITIATION_LEN,
                    2 => bytes.len() == RESPONSE_LEN,
                    3 => bytes.len() == COOKIE_REPLY_LEN,
                    4 => bytes.len() >= TRANSPORT_MIN_LEN,
                    _ => false,
                };
                prop_assert_eq!(parsed.is_ok(), right);
                prop_assert_eq!(Transport::parse(&bytes).is_ok(), right && kind == 4);
            }
        }

        #[test]
        fn rubbish_is_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Message::parse(&bytes);
            let _ = Transport::parse(&bytes);
        }
    }

    #[test]
    fn the_reserved_bytes_are_zero() {
        for (kind, len) in [(1, INITIATION_LEN), (2, RESPONSE_LEN), (3, COOKIE_REPLY_LEN), (4, 40)] {
            let mut bytes = vec![0; len];
            bytes[0] = kind;
            Message::parse(&bytes).unwrap();
            for at in 1..4 {
                bytes[at] = 1;
                assert_eq!(Message::parse(&bytes), Err(MessageError::BadType));
                assert!(Transport::parse(&bytes).is_err());
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn the_transport_header_is_as_the_paper_draws_it() {
        let header = Transport { receiver: 0x0403_0201, counter: 0x0c0b_0a09_0807_0605 };
        assert_eq!(header.to_bytes(), [4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let mut whole = header.to_bytes().to_vec();
        whole.extend([0; 16]);
        assert_eq!(Transport::parse(&whole), Ok(header));
        assert_eq!(Transport::parse(&whole[..31]), Err(MessageError::BadLength));
    }
}
