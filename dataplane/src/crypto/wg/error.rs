//! Why a session refuses a packet, in either direction.

/// Why a packet was not sealed. Each is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealError {
    /// Not enough room in front of or behind the packet.
    NoRoom,
    /// The outer packet would be longer than IP can say (65,535 bytes).
    TooLong,
    /// All counters of this session are used up.
    CounterExhausted,
    /// The session is too old.
    Expired,
    /// A packet in several frames: it must be gathered first.
    Chained,
    /// The inner packet's place is not within the frame.
    BadPlace,
}

impl SealError {
    pub const ALL: [SealError; 6] =
        [Self::NoRoom, Self::TooLong, Self::CounterExhausted, Self::Expired, Self::Chained, Self::BadPlace];

    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoRoom => "no_room",
            Self::TooLong => "too_long",
            Self::CounterExhausted => "counter_exhausted",
            Self::Expired => "expired",
            Self::Chained => "chained",
            Self::BadPlace => "bad_place",
        }
    }
}

/// Why a packet was not opened. Each is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenError {
    /// Shorter than a keepalive, or cut off.
    Short,
    /// Not a transport message.
    NotTransport,
    /// For another session.
    WrongIndex,
    /// The session is too old.
    Expired,
    /// A counter that no sender uses.
    CounterExhausted,
    /// The counter was seen before.
    Replay,
    /// The counter is left of the window.
    TooOld,
    /// The packet does not authenticate: damaged, forged, or another key.
    BadTag,
    /// Authentic, but there is no IP packet inside, or less of it than it says.
    BadInner,
    /// Congestion was marked on the outer header of a packet whose sender cannot hear of it (RFC 6040 §4.2).
    EcnNotCapable,
    /// A packet in several frames: it must be gathered first.
    Chained,
}

impl OpenError {
    pub const ALL: [OpenError; 11] = [
        Self::Short,
        Self::NotTransport,
        Self::WrongIndex,
        Self::Expired,
        Self::CounterExhausted,
        Self::Replay,
        Self::TooOld,
        Self::BadTag,
        Self::BadInner,
        Self::EcnNotCapable,
        Self::Chained,
    ];

    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::NotTransport => "not_transport",
            Self::WrongIndex => "wrong_index",
            Self::Expired => "expired",
            Self::CounterExhausted => "counter_exhausted",
            Self::Replay => "replay",
            Self::TooOld => "too_old",
            Self::BadTag => "bad_tag",
            Self::BadInner => "bad_inner",
            Self::EcnNotCapable => "ecn_not_capable",
            Self::Chained => "chained",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn reasons_are_distinct_per_direction() {
        let open: HashSet<_> = OpenError::ALL.iter().map(|e| e.reason()).collect();
        let seal: HashSet<_> = SealError::ALL.iter().map(|e| e.reason()).collect();
        assert_eq!((open.len(), seal.len()), (OpenError::ALL.len(), SealError::ALL.len()));
    }
}
