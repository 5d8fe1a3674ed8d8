//! Pieces of a handshake that datagrams bring: opened, and yet to be put in order. A hello that stands in one piece is read
//! at once; others the inspector collects in a buffer of its pool.

use std::ops::Range;

use super::quic;
use super::tls::hello::Carrier;
use super::tls::reader::{CLIENT_HELLO, Handshake, SERVER_HELLO, Stop};
use super::tls::server::server;
use super::{resolvers, tls};
use crate::l7::facts::Facts;
use crate::l7::hosts::HostName;
use crate::l7::{Alpn, Found, Notes, Verdict};

/// Bytes of the pieces of one datagram: Initial packets are no longer than the path's packets.
const ROOM: usize = 2048;
/// Pieces of one datagram. Clients that scatter a hello on purpose make about twenty.
const MAX: usize = 48;

/// `len` bytes at `at` of the room, which belong to `offset` of the handshake.
#[derive(Clone, Copy, Default)]
struct Piece {
    offset: u32,
    at: u16,
    len: u16,
}

#[derive(Clone)]
pub struct Pieces {
    pub carrier: Carrier,
    /// Tells one handshake message from the next, where they are sent one by one.
    pub id: u32,
    used: usize,
    n: usize,
    list: [Piece; MAX],
    room: [u8; ROOM],
}

impl Default for Pieces {
    fn default() -> Self {
        Self { carrier: Carrier::Quic, id: 0, used: 0, n: 0, list: [Piece::default(); MAX], room: [0; ROOM] }
    }
}

impl Pieces {
    pub fn clear(&mut self) {
        (self.id, self.used, self.n) = (0, 0, 0);
    }

    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Copies `bytes` into the room and lets `open` work on them; what it finds stays, with the place of its bytes in the
    /// room. `None`: no room, or nothing found.
    pub fn hold(&mut self, bytes: &[u8], open: impl FnOnce(&mut [u8]) -> Option<Range<usize>>) -> Option<Range<usize>> {
        let at = self.used;
        let room = self.room.get_mut(at..at + bytes.len())?;
        room.copy_from_slice(bytes);
        let found = open(room)?;
        self.used += bytes.len();
        Some(at + found.start..at + found.end)
    }

    pub fn bytes(&self, at: Range<usize>) -> &[u8] {
        self.room.get(at).unwrap_or(&[])
    }

    /// Notes that these bytes of the room are the handshake's from `offset` on.
    pub fn note(&mut self, offset: u64, at: Range<usize>) {
        if let (Some(place), Ok(offset)) = (self.list.get_mut(self.n), u32::try_from(offset))
            && !at.is_empty()
        {
            *place = Piece { offset, at: at.start as u16, len: at.len() as u16 };
            self.n += 1;
        }
    }

    fn sort(&mut self) {
        self.list[..self.n].sort_unstable_by_key(|p| p.offset);
    }

    /// Offset and bytes of each, in the order of the handshake.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.list[..self.n].iter().map(|p| {
            let at = usize::from(p.at);
            (p.offset as usize, self.bytes(at..at + usize::from(p.len)))
        })
    }
}

/// Reads the hello if one piece brings it whole. `None`: it is not known yet, and the pieces have to be collected, or
/// there are none.
pub fn only(notes: &mut Notes) -> Option<Verdict> {
    let Notes { host, facts, pieces, .. } = notes;
    pieces.sort();
    let (_, whole) = pieces.iter().next().filter(|(offset, _)| *offset == 0)?;
    // A beginning of one is waited for: the name may be in the next datagram.
    match hello(whole, pieces.carrier, false, host, facts) {
        found @ (Verdict::Done(_) | Verdict::Settled(_)) => {
            pieces.clear();
            Some(found)
        }
        Verdict::No => {
            pieces.clear();
            host.clear();
            facts.clear();
            None
        }
        _ => {
            host.clear();
            facts.clear();
            None
        }
    }
}

/// What is to be said of a handshake's beginning. `Done`: it is whole; `No`: it is no hello.
pub fn hello(data: &[u8], carrier: Carrier, last: bool, host: &mut HostName, facts: &mut Facts) -> Verdict {
    if carrier == Carrier::Quic && data.starts_with(quic::google::CHLO) {
        return quic::google::hello(data, host, facts);
    }
    let mut hs = Handshake::plain(data);
    match hs.message() {
        Ok(CLIENT_HELLO) => tls::client(&mut hs, carrier, last, host, facts),
        Ok(SERVER_HELLO) => match server(&mut hs, facts) {
            Ok(_) => Verdict::Done(Found::handshake(resolvers::class(carrier, Alpn::None, None), Alpn::None)),
            Err(Stop::End) if !last => Verdict::More,
            Err(_) => Verdict::No,
        },
        Err(Stop::End) => Verdict::More,
        Ok(_) | Err(Stop::Bad) => Verdict::No,
    }
}
