//! The structs of `linux/xfrm.h` and `linux/netlink.h` as byte offsets.
//!
//! Own code and not `netlink-packet-xfrm`: key material must go from the socket's buffer into zeroing memory without a copy
//! in a plain `Vec` of a type that prints itself.
//!
//! Offsets are those of the 64-bit ABI (a `u64` stands on a multiple of 8). All numbers are in host order, except ports,
//! SPIs and addresses.

use super::model::{Lifetimes, Limits, Mark, Selector, Used};
use crate::wire::prefix::Prefix;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zeroize::Zeroizing;

pub const NLMSG_HEADER: usize = 16;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const NLMSG_OVERRUN: u16 = 4;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_DUMP: u16 = 0x300;

/// Message types (`XFRM_MSG_…`).
pub mod kind {
    pub const NEWSA: u16 = 0x10;
    pub const DELSA: u16 = 0x11;
    pub const GETSA: u16 = 0x12;
    pub const NEWPOLICY: u16 = 0x13;
    pub const DELPOLICY: u16 = 0x14;
    pub const GETPOLICY: u16 = 0x15;
    pub const ACQUIRE: u16 = 0x17;
    pub const EXPIRE: u16 = 0x18;
    pub const UPDPOLICY: u16 = 0x19;
    pub const UPDSA: u16 = 0x1a;
    pub const POLEXPIRE: u16 = 0x1b;
    pub const FLUSHSA: u16 = 0x1c;
    pub const FLUSHPOLICY: u16 = 0x1d;
    pub const NEWAE: u16 = 0x1e;
    pub const GETAE: u16 = 0x1f;
    pub const REPORT: u16 = 0x20;
    pub const MIGRATE: u16 = 0x21;
    pub const MAPPING: u16 = 0x26;
    pub const SETDEFAULT: u16 = 0x27;
    pub const GETDEFAULT: u16 = 0x28;
}

/// Attribute types (`XFRMA_…`).
pub mod attr {
    pub const ALG_AUTH: u16 = 1;
    pub const ALG_CRYPT: u16 = 2;
    pub const ALG_COMP: u16 = 3;
    pub const ENCAP: u16 = 4;
    pub const TMPL: u16 = 5;
    pub const SA: u16 = 6;
    pub const POLICY: u16 = 7;
    pub const SEC_CTX: u16 = 8;
    pub const LTIME_VAL: u16 = 9;
    pub const REPLAY_VAL: u16 = 10;
    pub const COADDR: u16 = 14;
    pub const LASTUSED: u16 = 15;
    pub const POLICY_TYPE: u16 = 16;
    pub const ALG_AEAD: u16 = 18;
    pub const ALG_AUTH_TRUNC: u16 = 20;
    pub const MARK: u16 = 21;
    pub const TFCPAD: u16 = 22;
    pub const REPLAY_ESN_VAL: u16 = 23;
    pub const SA_EXTRA_FLAGS: u16 = 24;
    pub const OFFLOAD_DEV: u16 = 28;
    pub const SET_MARK: u16 = 29;
    pub const SET_MARK_MASK: u16 = 30;
    pub const IF_ID: u16 = 31;
    pub const MTIMER_THRESH: u16 = 32;
    pub const SA_DIR: u16 = 33;
    pub const SA_PCPU: u16 = 35;
}

/// Bytes of the structs.
pub mod size {
    pub const SELECTOR: usize = 56;
    pub const USERSA_INFO: usize = 224;
    pub const USERSA_ID: usize = 24;
    pub const POLICY_INFO: usize = 168;
    pub const POLICY_ID: usize = 64;
    pub const TMPL: usize = 64;
    pub const EXPIRE: usize = 232;
    pub const POLEXPIRE: usize = 176;
    pub const AEVENT_ID: usize = 48;
    pub const ACQUIRE: usize = 280;
    pub const ENCAP: usize = 24;
    pub const LIFETIME_CUR: usize = 32;
    pub const REPLAY_ESN: usize = 24;
    pub const ALG_AEAD: usize = 72;
}

const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;

/// The address family of [`IpAddr`] as the kernel counts.
pub fn family(address: IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Checked reads at fixed places; `None` beyond the end.
#[derive(Clone, Copy)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub fn part(self, at: usize, len: usize) -> Option<Bytes<'a>> {
        self.0.get(at..at.checked_add(len)?).map(Bytes)
    }

    pub fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    pub fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    pub fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    pub fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    pub fn be16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub fn be32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    /// `xfrm_address_t`.
    pub fn address(self, at: usize, family: u16) -> Option<IpAddr> {
        match family {
            AF_INET => self.array::<4>(at).map(|b| Ipv4Addr::from(b).into()),
            AF_INET6 => self.array::<16>(at).map(|b| Ipv6Addr::from(b).into()),
            _ => None,
        }
    }

    /// `xfrm_selector`. `Some(None)` where its family is 0: it selects everything.
    pub fn selector(self, at: usize) -> Option<Option<Selector>> {
        let bytes = self.part(at, size::SELECTOR)?;
        let family = bytes.u16(40)?;
        if family == 0 {
            return Some(None);
        }
        Some(Some(Selector {
            dst: Prefix::new(bytes.address(0, family)?, bytes.u8(42)?)?,
            src: Prefix::new(bytes.address(16, family)?, bytes.u8(43)?)?,
            dport: bytes.be16(32)?,
            dport_mask: bytes.be16(34)?,
            sport: bytes.be16(36)?,
            sport_mask: bytes.be16(38)?,
            protocol: bytes.u8(44)?,
            interface: bytes.u32(48)?,
        }))
    }

    /// `xfrm_lifetime_cfg`.
    pub fn lifetimes(self, at: usize) -> Option<Lifetimes> {
        let limit = |index: usize| {
            let value = self.u64(at + 8 * index)?;
            // XFRM_INF for bytes and packets, 0 for times: no limit.
            Some((value != u64::MAX && (index < 4 || value != 0)).then_some(value))
        };
        let limits = |soft: usize| {
            Some(Limits {
                bytes: limit(soft)?,
                packets: limit(2 + soft)?,
                since_added: limit(4 + soft)?,
                since_used: limit(6 + soft)?,
            })
        };
        Some(Lifetimes { soft: limits(0)?, hard: limits(1)? })
    }

    /// `xfrm_lifetime_cur`.
    pub fn used(self, at: usize) -> Option<Used> {
        Some(Used {
            bytes: self.u64(at)?,
            packets: self.u64(at + 8)?,
            added: self.u64(at + 16)?,
            first_use: self.u64(at + 24)?,
        })
    }

    pub fn mark(self, at: usize) -> Option<Mark> {
        Some(Mark { value: self.u32(at)?, mask: self.u32(at + 4)? })
    }

    /// A name in a field of 64 bytes, ended by a zero.
    pub fn name(self, at: usize) -> Option<&'a str> {
        let field = self.0.get(at..at.checked_add(64)?)?;
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).ok()
    }
}

/// Attributes: type and payload. Stops at the first that does not fit.
#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, Bytes<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = Bytes(self.0);
        let (len, kind) = (usize::from(bytes.u16(0)?), bytes.u16(2)?);
        let payload = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        // The two upper bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        Some((kind & 0x3fff, Bytes(payload)))
    }
}

/// One netlink message being written. It may hold keys, so it is zeroed when dropped.
pub struct Builder(Zeroizing<Vec<u8>>);

impl Builder {
    /// Header, then `fixed` zero bytes.
    pub fn new(kind: u16, flags: u16, sequence: u32, fixed: usize) -> Self {
        // Room for the largest (an ESN replay state of 4096 bits), so that keys are not left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
        bytes.resize(NLMSG_HEADER + fixed, 0);
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Self(bytes)
    }

    /// Writes into the fixed part.
    ///
    /// # Panics
    /// Beyond the fixed part: offsets are constants.
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        let at = NLMSG_HEADER + at;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn attribute(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&(4 + payload.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        let padded = self.0.len().next_multiple_of(4);
        self.0.resize(padded, 0);
        self
    }

    /// The whole message, its length written.
    pub fn finish(mut self) -> Zeroizing<Vec<u8>> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// `xfrm_address_t`.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(a) => bytes[..4].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => bytes = a.octets(),
    }
    bytes
}

pub fn selector_bytes(selector: Option<&Selector>) -> [u8; size::SELECTOR] {
    let mut bytes = [0; size::SELECTOR];
    let Some(s) = selector else { return bytes };
    bytes[..16].copy_from_slice(&address_bytes(s.dst.addr()));
    bytes[16..32].copy_from_slice(&address_bytes(s.src.addr()));
    for (at, port) in [(32, s.dport), (34, s.dport_mask), (36, s.sport), (38, s.sport_mask)] {
        bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
    }
    bytes[40..42].copy_from_slice(&family(s.dst.addr()).to_ne_bytes());
    bytes[42] = s.dst.prefix_len();
    bytes[43] = s.src.prefix_len();
    bytes[44] = s.protocol;
    bytes[48..52].copy_from_slice(&s.interface.to_ne_bytes());
    bytes
}

pub fn lifetimes_bytes(lifetimes: &Lifetimes) -> [u8; 64] {
    let mut bytes = [0; 64];
    let fields = |l: &Limits| {
        let infinite = u64::MAX;
        [
            l.bytes.unwrap_or(infinite),
            l.packets.unwrap_or(infinite),
            l.since_added.unwrap_or(0),
            l.since_used.unwrap_or(0),
        ]
    };
    for (index, (soft, hard)) in fields(&lifetimes.soft).iter().zip(fields(&lifetimes.hard)).enumerate() {
        bytes[16 * index..16 * index + 8].copy_from_slice(&soft.to_ne_bytes());
        bytes[16 * index + 8..16 * index + 16].copy_from_slice(&hard.to_ne_bytes());
    }
    bytes
}

pub fn used_bytes(used: &Used) -> [u8; size::LIFETIME_CUR] {
    let mut bytes = [0; size::LIFETIME_CUR];
    for (index, value) in [used.bytes, used.packets, used.added, used.first_use].iter().enumerate() {
        bytes[8 * index..8 * index + 8].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

pub fn mark_bytes(mark: Mark) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&mark.value.to_ne_bytes());
    bytes[4..].copy_from_slice(&mark.mask.to_ne_bytes());
    bytes
}
