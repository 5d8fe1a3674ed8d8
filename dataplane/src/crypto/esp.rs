//! ESP on the wire (RFC 4303) with an AEAD (RFC 4106, RFC 7634), and the words both directions share.
//!
//! ```text
//!  outer IP │ UDP 4500 │ SPI  seq │ IV │ inner packet  1 2 3 …  pad length  next header │ ICV
//!             RFC 3948   4    4     8    └────────────── encrypted ──────────────────┘   16
//!             only then └─ AAD ─┘
//! ```
//!
//! Of RFC 4106's key sizes AES-192 is missing: no back end has it. Ciphers that are not AEADs (AES-CBC with HMAC) are not
//! offered either.

use std::ops::Range;

use softdpu_ebpf_common::walk::{Headers, L3};

pub const PROTO_UDP: u8 = 17;
pub const PROTO_ESP: u8 = 50;
/// Next header values that may be in a tunnel: a whole IPv4 or IPv6 packet, or one that IPComp compressed (RFC 3173).
pub const NEXT_IPV4: u8 = 4;
pub const NEXT_IPV6: u8 = 41;
pub const NEXT_IPCOMP: u8 = 108;
/// "No next header": a dummy packet, sent to hide the traffic's shape and thrown away (RFC 4303 §2.6).
pub const NEXT_NONE: u8 = 59;

/// SPI and the low half of the sequence number.
pub const ESP_LEN: usize = 8;
pub const IV_LEN: usize = 8;
/// Pad length and next header.
pub const TRAILER_LEN: usize = 2;
pub const ICV_LEN: usize = super::aead::TAG_LEN;
pub const UDP_LEN: usize = 8;
/// Bytes of the Ethernet header that stand free in front of every packet that leaves here: addresses zero, ethertype
/// right, so that the frame can be walked again. Who sends the frame writes the addresses.
pub const LINK_LEN: usize = 14;
/// UDP port of encapsulated ESP (RFC 3948).
pub const NAT_T_PORT: u16 = 4500;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// What ESP is put around (RFC 4303 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A whole IP packet, behind a new IP header.
    #[default]
    Tunnel,
    /// What an IP packet carries, behind that packet's own header.
    Transport,
}

/// The packet that goes into a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Where it is, in bytes from the start of the frame (or slice). What is in front and behind is cut.
    pub place: Range<usize>,
    /// [`NEXT_IPV4`], [`NEXT_IPV6`] or [`NEXT_IPCOMP`]. Transport mode reads the packet's own header instead.
    pub next_header: u8,
    /// Its DSCP and ECN byte, which the outer header copies. Transport mode leaves the packet's own.
    pub tos: u8,
}

impl Inner {
    /// The IP packet that the walk found. `None` where it found none.
    pub fn of(headers: &Headers) -> Option<Self> {
        let next_header = match headers.l3 {
            L3::V4 => NEXT_IPV4,
            L3::V6 => NEXT_IPV6,
            L3::Other => return None,
        };
        Some(Self { place: headers.l3_off.into()..headers.end.into(), next_header, tos: headers.tos })
    }
}

/// What came out of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where it is, in bytes from the start of the frame (or slice).
    pub place: Range<usize>,
    /// [`NEXT_IPV4`], [`NEXT_IPV6`] or [`NEXT_IPCOMP`]. In transport mode the version of the restored packet, as one of
    /// the first two.
    pub next_header: u8,
    /// Its full sequence number.
    pub seq: u64,
}

/// Why a packet was not sealed. Each is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealError {
    /// Not enough room in front of or behind the packet for ESP's bytes.
    NoRoom,
    /// The outer packet would be longer than IP can say (65,535 bytes).
    TooLong,
    /// All sequence numbers of this key are used up. Nothing may be sent with it any more (RFC 4303 §3.3.3).
    SeqExhausted,
    /// A packet in several frames: it must be gathered first.
    Chained,
    /// The inner packet's place is not within the frame.
    BadPlace,
    /// A hard limit of the association's lifetime was reached.
    Expired,
    /// A fragment, which transport mode does not seal (RFC 4303 §3.1.1).
    Fragment,
    /// Transport mode: the packet has no IP header, or one that makes no sense.
    BadInner,
}

impl SealError {
    pub const ALL: [SealError; 8] = [
        Self::NoRoom,
        Self::TooLong,
        Self::SeqExhausted,
        Self::Chained,
        Self::BadPlace,
        Self::Expired,
        Self::Fragment,
        Self::BadInner,
    ];

    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoRoom => "no_room",
            Self::TooLong => "too_long",
            Self::SeqExhausted => "seq_exhausted",
            Self::Chained => "chained",
            Self::BadPlace => "bad_place",
            Self::Expired => "sa_expired",
            Self::Fragment => "fragment",
            Self::BadInner => "bad_inner",
        }
    }
}

/// Why a packet was not opened. Each is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenError {
    /// Neither ESP nor ESP in UDP.
    NotEsp,
    /// A fragment of an outer packet. ESP is not reassembled here: lower the tunnel's MTU.
    Fragment,
    /// A packet in several frames: it must be gathered first.
    Chained,
    /// Shorter than any ESP packet with this cipher, or cut off.
    Short,
    /// One byte 0xff: keeps a NAT's mapping alive (RFC 3948 §2.3).
    Keepalive,
    /// No security association has this SPI.
    NoSa,
    /// The sequence number was seen before.
    Replay,
    /// The sequence number is left of the window.
    TooOld,
    /// The IV does not carry the sequence number, as was agreed with this peer.
    BadIv,
    /// The packet does not authenticate: damaged, forged, or another key.
    BadIcv,
    /// The padding is not 1, 2, 3 … or longer than the packet.
    BadPadding,
    /// A dummy packet, as it should be.
    Dummy,
    /// Authentic, but neither IPv4, IPv6 nor IPComp inside.
    BadNextHeader,
    /// Authentic, but what is inside is not the IP packet that the next header says.
    BadInner,
    /// Congestion was marked on the outer header of a packet whose sender cannot hear of it (RFC 6040 §4.2).
    EcnNotCapable,
    /// A hard limit of the association's lifetime was reached.
    Expired,
}

impl OpenError {
    pub const ALL: [OpenError; 16] = [
        Self::NotEsp,
        Self::Fragment,
        Self::Chained,
        Self::Short,
        Self::Keepalive,
        Self::NoSa,
        Self::Replay,
        Self::TooOld,
        Self::BadIv,
        Self::BadIcv,
        Self::BadPadding,
        Self::Dummy,
        Self::BadNextHeader,
        Self::BadInner,
        Self::EcnNotCapable,
        Self::Expired,
    ];

    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotEsp => "not_esp",
            Self::Fragment => "fragment",
            Self::Chained => "chained",
            Self::Short => "short",
            Self::Keepalive => "keepalive",
            Self::NoSa => "no_sa",
            Self::Replay => "replay",
            Self::TooOld => "too_old",
            Self::BadIv => "bad_iv",
            Self::BadIcv => "bad_icv",
            Self::BadPadding => "bad_padding",
            Self::Dummy => "dummy",
            Self::BadNextHeader => "bad_next_header",
            Self::BadInner => "bad_inner",
            Self::EcnNotCapable => "ecn_not_capable",
            Self::Expired => "sa_expired",
        }
    }
}

/// Why a security association could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaError {
    #[error("SPI {0:#x} is reserved; choose one from 0x100 on (RFC 4303 §2.1)")]
    ReservedSpi(u32),
    #[error("SPI {0:#x} is used twice for inbound traffic")]
    DuplicateSpi(u32),
    #[error(
        "the clock says it is before 2025; with keys from files it must be right before anything is sent, since the IVs that are used once only start from it"
    )]
    ClockNotSet,
}

/// SPIs 0 to 255 are not for use on the wire (RFC 4303 §2.1).
pub(super) fn check_spi(spi: u32) -> Result<(), SaError> {
    if spi < 256 { Err(SaError::ReservedSpi(spi)) } else { Ok(()) }
}

/// The additional authenticated data: SPI and sequence number, the number in full where it is extended
/// (RFC 4106 §5, RFC 7634 §2.1).
///
/// Here and in [`nonce`] the bytes are put together in a register: written piece by piece, the AEAD's wider load right
/// after would have to wait for the stores.
pub(super) struct AssociatedData {
    bytes: [u8; 16],
    len: usize,
}

impl AssociatedData {
    #[inline]
    pub(super) fn new(spi: u32, seq: u64, extended: bool) -> Self {
        let (number, len) = if extended { (seq, 12) } else { (seq << 32, 8) };
        Self { bytes: (u128::from(spi) << 96 | u128::from(number) << 32).to_be_bytes(), len }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[inline]
pub(super) fn nonce(salt: [u8; 4], iv: [u8; IV_LEN]) -> [u8; 12] {
    let all = u128::from(u32::from_be_bytes(salt)) << 96 | u128::from(u64::from_be_bytes(iv)) << 32;
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&all.to_be_bytes()[..12]);
    nonce
}

/// Writes the free Ethernet place in front of an IP packet (see [`LINK_LEN`]).
#[inline]
pub(crate) fn write_link(place: &mut [u8], ethertype: u16) {
    place[..12].fill(0);
    place[12..LINK_LEN].copy_from_slice(&ethertype.to_be_bytes());
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

    #[test]
    fn associated_data_is_as_the_rfc_draws_it() {
        let seq = 0x0102_0304_0506_0708;
        assert_eq!(AssociatedData::new(0x1122_3344, seq, false).as_slice(), [0x11, 0x22, 0x33, 0x44, 5, 6, 7, 8]);
        assert_eq!(
            AssociatedData::new(0x1122_3344, seq, true).as_slice(),
            [0x11, 0x22, 0x33, 0x44, 1, 2, 3, 4, 5, 6, 7, 8]
        );
    }
}
