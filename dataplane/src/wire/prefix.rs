//! IP prefixes, as policies, routes and steering rules name sets of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address prefix. The host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// `None` when `len` is longer than the address. Host bits are cleared.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        match addr {
            IpAddr::V4(a) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                Some(Self { addr: Ipv4Addr::from(u32::from(a) & mask).into(), len })
            }
            IpAddr::V6(a) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                Some(Self { addr: Ipv6Addr::from(u128::from(a) & mask).into(), len })
            }
            _ => None,
        }
    }

    /// The prefix that holds just this address.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// The network address.
    #[inline]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length in bits: 0..=32 for IPv4, 0..=128 for IPv6.
    #[inline]
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    #[inline]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.covers(&Self::host(addr))
    }

    /// Whether every address of `other` is in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        self.addr.is_ipv4() == other.addr.is_ipv4()
            && self.len <= other.len
            && Self::new(other.addr, self.len).is_some_and(|p| p.addr == self.addr)
    }

    /// Two prefixes meet only when one holds the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}
