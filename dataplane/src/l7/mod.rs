//! What a flow carries, told from its bytes: one file per protocol, in folders by family, each of which registers its
//! files in a table of its own ([`FAMILIES`]).
//!
//! A recogniser is a function over the first bytes of one direction (TCP) or over one datagram (UDP). It keeps nothing;
//! the [`Inspector`] collects the bytes, calls it again when there are more, and gives up after [`inspect::MAX_PACKETS`]
//! packets or [`reassembly::CAP`] bytes. Ports alone never make a recognition.

pub mod addresses;
pub mod ber;
pub mod class;
pub mod facts;
pub mod fuzz;
pub mod hosts;
pub mod inspect;
pub mod reassembly;
pub mod table;
pub mod text;
pub mod upgrade;

pub mod data;
pub mod files;
pub mod industry;
pub mod infra;
pub mod mail;
pub mod measure;
pub mod queue;
pub mod remote;
pub mod voice;
pub mod vpn;
pub mod web;

pub use class::{Alpn, By, Class};
pub use facts::{Fact, Facts};
pub use hosts::{HostName, Hosts};
pub use inspect::{Inspector, L7Config, Outcome, Reason};
pub use table::{Recogniser, Starts, Table};
pub use web::pieces::Pieces;

use crate::flow::Direction;

/// What a recogniser gets to see.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// A TCP stream's bytes from its start, or one datagram. Never empty.
    pub data: &'a [u8],
    pub dir: Direction,
    /// Source and destination port of the packet at hand. Where one format is spoken under several names, the port says
    /// which; it never says that the format is there.
    pub ports: (u16, u16),
    /// No more will be collected: say what can be said.
    pub last: bool,
    /// UDP only: how the datagram before this one in the same direction began, at most [`BEFORE`] bytes; empty where there
    /// was none, or it is forgotten. For formats that only two messages together make certain.
    pub before: &'a [u8],
    /// TCP only: how far the recogniser had read when it was asked last about fewer of these bytes.
    pub resume: Resume,
}

/// How far a recogniser has read of a stream that it is certain of and that goes on, so that it need not begin anew with each
/// segment: a message of many segments would cost the square of its length. The default: at the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Bytes that are done with.
    pub at: u16,
    /// Bytes that were there: between `at` and here no end was found.
    pub looked: u16,
    /// What it has met, in bits of its own.
    pub met: u8,
}

/// Bytes of a datagram that are kept for [`Look::before`].
pub const BEFORE: usize = 28;

impl<'a> Look<'a> {
    /// A datagram or a stream of which nothing more will come: for tests, and for what is found inside something else.
    pub fn whole(data: &'a [u8], dir: Direction, ports: (u16, u16)) -> Self {
        Self { data, dir, ports, last: true, before: &[], resume: Resume::default() }
    }

    pub fn has_port(&self, port: u16) -> bool {
        self.ports.0 == port || self.ports.1 == port
    }

    /// Big-endian word at `at`.
    pub fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(*self.data.get(at..)?.first_chunk()?))
    }

    /// Big-endian double word at `at`.
    pub fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(*self.data.get(at..)?.first_chunk()?))
    }

    /// Little-endian word at `at`.
    pub fn u16_le(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.data.get(at..)?.first_chunk()?))
    }

    /// Little-endian double word at `at`.
    pub fn u32_le(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.data.get(at..)?.first_chunk()?))
    }

    /// Whether the data begin with `text`; `None` while they are a shorter beginning of it.
    pub fn begins(&self, text: &[u8]) -> Option<bool> {
        if self.data.starts_with(text) {
            Some(true)
        } else if text.starts_with(self.data) {
            None
        } else {
            Some(false)
        }
    }
}

/// What a recogniser says beside its verdict. Emptied before each is asked; kept only of one that is certain.
#[derive(Clone, Default)]
pub struct Notes {
    pub host: HostName,
    pub facts: Facts,
    /// What has to be put together with what other datagrams bring: with `Verdict::Class` only.
    pub pieces: Pieces,
    /// What a DNS message said.
    pub dns: web::dns::said::Said,
    /// Where to go on: with `Verdict::Class` of a stream only. What it has told before it need not tell again.
    pub resume: Resume,
}

impl Notes {
    pub fn clear(&mut self) {
        self.host.clear();
        self.facts.clear();
        self.pieces.clear();
        self.dns.clear();
        self.resume = Resume::default();
    }
}

/// What was recognised. Host name and facts, where there are any, are left in the [`Notes`] beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub class: Class,
    pub by: By,
    pub alpn: Alpn,
}

impl Found {
    pub fn payload(class: Class) -> Self {
        Self { class, by: By::Payload, alpn: Alpn::None }
    }

    pub fn handshake(class: Class, alpn: Alpn) -> Self {
        Self { class, by: By::Handshake, alpn }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not this protocol, whatever follows. Of a datagram: not told by this one.
    No,
    /// Could be; more bytes will tell. Of a datagram: as `No`.
    More,
    /// Certainly this protocol; more bytes of this direction may tell more of it.
    Class(Found),
    /// Certainly this protocol; only the other direction may tell more of it.
    Other(Found),
    /// Certainly this protocol, and class and host stay as they are said; the other direction may tell facts.
    Settled(Found),
    /// Nothing more to learn.
    Done(Found),
}

impl Verdict {
    /// Certain, by the application's bytes, and nothing more to learn.
    pub fn payload(class: Class) -> Self {
        Self::Done(Found::payload(class))
    }

    /// Certain, by an encrypted protocol's handshake, and nothing more to learn.
    pub fn handshake(class: Class) -> Self {
        Self::Done(Found::handshake(class, Alpn::None))
    }
}

/// One function of a recogniser.
pub type Ask = fn(&Look, &mut Notes) -> Verdict;

/// All recognisers, in the order in which they are asked: the more certain first. Each rejects a stranger within its first
/// few bytes.
pub static FAMILIES: &[&[Recogniser]] = &[
    web::RECOGNISERS,
    remote::RECOGNISERS,
    mail::RECOGNISERS,
    files::RECOGNISERS,
    data::RECOGNISERS,
    queue::RECOGNISERS,
    infra::RECOGNISERS,
    voice::RECOGNISERS,
    vpn::RECOGNISERS,
    industry::RECOGNISERS,
    measure::RECOGNISERS,
];

#[cfg(test)]
mod inspect_tests;
#[cfg(test)]
pub mod told;
