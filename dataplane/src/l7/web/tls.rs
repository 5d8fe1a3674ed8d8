//! TLS: what its ClientHello says, then what the server answers in clear; or the sight of records in mid-life
//! (RFC 8446 §5.1).
//!
//! A hello may be spread over any number of records, and the records over any number of segments, so it is read through
//! [`Handshake`], which steps over the record headers.

mod certificate;
mod ciphers;
pub mod hello;
pub mod ja4;
pub mod reader;
pub mod server;

use self::hello::{Carrier, ClientHello, client_hello};
use self::reader::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, CLIENT_HELLO, HANDSHAKE, Handshake, SERVER_HELLO, Stop, record,
};
use self::server::{Read, server};
use super::resolvers;
use crate::l7::{Alpn, Class, Facts, Found, HostName, Look, Notes, Verdict};

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let data = look.data;
    match data[0] {
        HANDSHAKE => hello(look, notes),
        CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA => records(look),
        _ if data[0] & 0x80 != 0 => old_hello(look),
        _ => Verdict::No,
    }
}

fn hello(look: &Look, notes: &mut Notes) -> Verdict {
    let mut hs = Handshake::new(look.data);
    let kind = match hs.message() {
        Ok(kind) => kind,
        Err(Stop::End) => return Verdict::More,
        Err(Stop::Bad) => return records(look),
    };
    match kind {
        CLIENT_HELLO => client(&mut hs, Carrier::Tls, look.last, &mut notes.host, &mut notes.facts),
        SERVER_HELLO => match server(&mut hs, &mut notes.facts) {
            Ok(Read::Sure) if !look.last => Verdict::Class(Found::handshake(Class::Tls, Alpn::None)),
            Ok(_) => Verdict::Done(Found::handshake(Class::Tls, Alpn::None)),
            Err(Stop::End) => Verdict::More,
            Err(Stop::Bad) => Verdict::No,
        },
        _ => records(look),
    }
}

/// The verdict on a ClientHello whose header has been read.
pub fn client(hs: &mut Handshake, carrier: Carrier, last: bool, host: &mut HostName, facts: &mut Facts) -> Verdict {
    let mut said = ClientHello::default();
    let read = client_hello(hs, carrier, &mut said, host);
    let found = Found::handshake(resolvers::class(carrier, said.alpn, host.get()), said.alpn);
    match read {
        // Before the extensions nothing is certain.
        Err((Stop::End, false)) => return Verdict::More,
        Err((Stop::Bad, false)) => return Verdict::No,
        Err((Stop::End, true)) if !last => return Verdict::Class(found),
        Err((_, true)) => {}
        Ok(()) => said.facts(carrier, facts),
    }
    // QUIC's server answers under keys that are made of what its client sent: that is not gone after.
    if carrier == Carrier::Quic { Verdict::Done(found) } else { Verdict::Settled(found) }
}

/// Records of a connection in mid-life: certain when two follow each other, or one ends just where the bytes do.
fn records(look: &Look) -> Verdict {
    let data = look.data;
    let mut at = 0;
    let mut seen = 0;
    loop {
        match record(&data[at..]) {
            Ok((_, len)) => {
                seen += 1;
                at += 5 + len;
                if seen >= 2 || at == data.len() {
                    return Verdict::Other(Found::handshake(Class::Tls, Alpn::None));
                }
                if at > data.len() {
                    return Verdict::More;
                }
            }
            Err(Stop::End) => return Verdict::More,
            Err(Stop::Bad) => return Verdict::No,
        }
    }
}

/// A ClientHello in SSLv2's framing that offers SSL 3 or TLS (RFC 5246 appendix E.2). It has no server name.
fn old_hello(look: &Look) -> Verdict {
    let d = look.data;
    let len = usize::from(d[0] & 0x7f) << 8 | usize::from(d.get(1).copied().unwrap_or(0));
    let word = |at: usize| d.get(at..at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]));
    if d.get(2).is_some_and(|b| *b != CLIENT_HELLO) || d.get(3).is_some_and(|b| *b != 3) {
        return Verdict::No;
    }
    if d.get(4).is_some_and(|b| *b > 3) {
        return Verdict::No;
    }
    let (Some(ciphers), Some(session), Some(challenge)) = (word(5), word(7), word(9)) else { return Verdict::More };
    let plausible = ciphers % 3 == 0 && ciphers > 0 && session == 0 && (16..=32).contains(&challenge);
    if !plausible || len != 9 + ciphers + session + challenge {
        return Verdict::No;
    }
    if d.len() < 2 + len && !look.last {
        return Verdict::More;
    }
    Verdict::Done(Found::handshake(Class::Tls, Alpn::None))
}

#[cfg(test)]
pub(in crate::l7) mod tests;
