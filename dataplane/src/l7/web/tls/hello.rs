//! The ClientHello of TLS, DTLS and QUIC (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2, RFC 6347 §4.2.1): server name (RFC 6066 §3),
//! ALPN (RFC 7301 §3.1), versions, encrypted ClientHello (RFC 9849), and what JA4 is made of.

use super::ja4;
use super::reader::{Handshake, Stop};
use crate::l7::{Alpn, Fact, Facts, HostName};

const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const USE_SRTP: u16 = 14;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// What came before it: the draft's encrypted server name.
const ENCRYPTED_SERVER_NAME: u16 = 0xffce;
/// The outer hello; the inner one never travels in clear (RFC 9849 §5).
const ECH_OUTER: u8 = 0;

/// By what the hello is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Tls,
    Dtls,
    Quic,
}

/// Reserved values that a client sends to keep servers tolerant (RFC 8701).
pub fn is_grease(v: u16) -> bool {
    v & 0x0f0f == 0x0a0a && v >> 8 == v & 0xff
}

/// A list of at most `N` numbers. One too many is remembered as such.
#[derive(Clone, Copy)]
pub struct List<const N: usize> {
    at: [u16; N],
    n: usize,
    pub over: bool,
}

impl<const N: usize> List<N> {
    const fn new() -> Self {
        Self { at: [0; N], n: 0, over: false }
    }

    fn push(&mut self, v: u16) {
        match self.at.get_mut(self.n) {
            Some(place) => {
                *place = v;
                self.n += 1;
            }
            None => self.over = true,
        }
    }

    pub fn all(&self) -> &[u16] {
        &self.at[..self.n]
    }

    /// In ascending order.
    pub fn sort(&mut self) -> &[u16] {
        self.sort_without(|_| false)
    }

    /// In ascending order, without those that `f` names.
    pub fn sort_without(&mut self, f: impl Fn(u16) -> bool) -> &[u16] {
        let mut kept = 0;
        for i in 0..self.n {
            if !f(self.at[i]) {
                self.at[kept] = self.at[i];
                kept += 1;
            }
        }
        self.n = kept;
        self.at[..kept].sort_unstable();
        &self.at[..kept]
    }

    #[cfg(test)]
    pub(super) fn of(all: &[u16]) -> Self {
        let mut list = Self::new();
        all.iter().for_each(|v| list.push(*v));
        list
    }
}

/// What a ClientHello says beside its host name.
pub struct ClientHello {
    pub alpn: Alpn,
    /// First and last byte of the first protocol offered.
    pub alpn_ends: Option<(u8, u8)>,
    /// A server name was there, be it one that is no printable name.
    pub named: bool,
    /// There is an extension for one.
    pub has_name: bool,
    pub legacy_version: u16,
    /// Highest of the extension's; 0 without it.
    pub best_version: u16,
    /// Without GREASE, as they were offered.
    pub ciphers: List<256>,
    pub extensions: List<128>,
    pub signatures: List<64>,
    pub ech: bool,
    pub srtp: bool,
}

impl Default for ClientHello {
    fn default() -> Self {
        Self {
            alpn: Alpn::None,
            alpn_ends: None,
            named: false,
            has_name: false,
            legacy_version: 0,
            best_version: 0,
            ciphers: List::new(),
            extensions: List::new(),
            signatures: List::new(),
            ech: false,
            srtp: false,
        }
    }
}

impl ClientHello {
    /// Highest version that the client offers.
    pub fn version(&self) -> u16 {
        if self.best_version == 0 { self.legacy_version } else { self.best_version }
    }

    /// Puts down what a hello read to its end says.
    pub fn facts(&self, carrier: Carrier, facts: &mut Facts) {
        if carrier != Carrier::Quic {
            put_version(self.version(), facts);
        }
        let mut text = [0; ja4::LEN];
        if ja4::write(self, carrier, &mut text) {
            facts.put(Fact::Ja4, &text);
        }
        if self.ech {
            facts.put(Fact::Ech, b"offered");
        }
        if self.srtp {
            facts.put(Fact::Upgrade, b"srtp");
        }
    }
}

pub fn put_version(version: u16, facts: &mut Facts) {
    let name: &[u8] = match version {
        0x0300 => b"ssl3",
        0x0301 => b"1.0",
        0x0302 => b"1.1",
        0x0303 => b"1.2",
        0x0304 => b"1.3",
        // The version that OpenSSL made before DTLS 1.0 had a number.
        0x0100 | 0xfeff => b"1.0",
        0xfefd => b"1.2",
        0xfefc => b"1.3",
        _ => return,
    };
    facts.put(Fact::Version, name);
}

/// Reads the body of a ClientHello. The flag of the error: what was read so far is certainly a ClientHello.
pub fn client_hello(
    hs: &mut Handshake,
    carrier: Carrier,
    said: &mut ClientHello,
    host: &mut HostName,
) -> Result<(), (Stop, bool)> {
    let open = |s| (s, false);
    let sure = |s| (s, true);
    let bad = |wrong: bool| if wrong { Err((Stop::Bad, false)) } else { Ok(()) };
    said.legacy_version = hs.u16().map_err(open)?;
    bad(!match carrier {
        Carrier::Tls | Carrier::Quic => matches!(said.legacy_version, 0x0300..=0x0304),
        Carrier::Dtls => matches!(said.legacy_version, 0xfeff | 0xfefd | 0x0100),
    })?;
    hs.skip(32).map_err(open)?;
    let session = hs.u8().map_err(open)?;
    bad(session > 32)?;
    hs.skip(usize::from(session)).map_err(open)?;
    if carrier == Carrier::Dtls {
        let cookie = hs.u8().map_err(open)?;
        hs.skip(usize::from(cookie)).map_err(open)?;
    }
    let ciphers = hs.u16().map_err(open)?;
    bad(ciphers < 2 || ciphers % 2 != 0)?;
    let list = &mut said.ciphers;
    hs.words(usize::from(ciphers), |c| {
        if !is_grease(c) {
            list.push(c);
        }
    })
    .map_err(open)?;
    let compressions = hs.u8().map_err(open)?;
    bad(compressions == 0)?;
    hs.skip(usize::from(compressions)).map_err(open)?;
    if hs.left() == 0 {
        return Ok(());
    }
    let mut left = usize::from(hs.u16().map_err(open)?);
    bad(left > hs.left())?;
    while left > 0 {
        let kind = hs.u16().map_err(sure)?;
        let len = usize::from(hs.u16().map_err(sure)?);
        left = left.checked_sub(4 + len).ok_or((Stop::Bad, true))?;
        if !is_grease(kind) {
            said.extensions.push(kind);
        }
        extension(hs, kind, len, said, host).map_err(sure)?;
    }
    Ok(())
}

fn extension(
    hs: &mut Handshake,
    kind: u16,
    len: usize,
    said: &mut ClientHello,
    host: &mut HostName,
) -> Result<(), Stop> {
    match kind {
        SERVER_NAME => {
            said.has_name = true;
            server_name(hs, len, said, host).inspect_err(|stop| {
                // Of a list that does not add up no name is believed.
                if *stop == Stop::Bad {
                    host.clear();
                    host.spoil();
                }
            })
        }
        ALPN => alpn(hs, len, said),
        SUPPORTED_VERSIONS if len >= 1 => {
            let list = usize::from(hs.u8()?).min(len - 1);
            let best = &mut said.best_version;
            // DTLS counts downwards.
            hs.words(list, |v| {
                let newer = *best == 0 || if v >> 8 == 0xfe { v < *best } else { v > *best };
                if !is_grease(v) && newer {
                    *best = v;
                }
            })?;
            hs.skip(len - 1 - list)
        }
        SIGNATURE_ALGORITHMS if len >= 2 => {
            let list = usize::from(hs.u16()?).min(len - 2);
            let signatures = &mut said.signatures;
            hs.words(list, |s| {
                if !is_grease(s) {
                    signatures.push(s);
                }
            })?;
            hs.skip(len - 2 - list)
        }
        ENCRYPTED_CLIENT_HELLO if len >= 1 => {
            said.ech |= hs.u8()? == ECH_OUTER;
            hs.skip(len - 1)
        }
        ENCRYPTED_SERVER_NAME => {
            said.ech = true;
            hs.skip(len)
        }
        USE_SRTP => {
            said.srtp = true;
            hs.skip(len)
        }
        _ => hs.skip(len),
    }
}

/// A list of names; the first of type host_name counts (RFC 6066 allows no second).
fn server_name(hs: &mut Handshake, len: usize, said: &mut ClientHello, host: &mut HostName) -> Result<(), Stop> {
    let mut left = len;
    if left > 0 {
        let list = usize::from(hs.u16()?);
        left -= 2.min(left);
        if list != left {
            return Err(Stop::Bad);
        }
    }
    while left > 0 {
        let kind = hs.u8()?;
        let name = usize::from(hs.u16()?);
        left = left.checked_sub(3 + name).ok_or(Stop::Bad)?;
        if kind == 0 && !said.named {
            let whole = hs.each(name, |b| host.push(&[b]));
            if whole.is_err() {
                // Half a name is no name.
                host.clear();
            }
            whole?;
            said.named = true;
        } else {
            hs.skip(name)?;
        }
    }
    Ok(())
}

fn alpn(hs: &mut Handshake, len: usize, said: &mut ClientHello) -> Result<(), Stop> {
    let list = usize::from(hs.u16()?);
    let mut left = len.checked_sub(2).ok_or(Stop::Bad)?;
    if list != left {
        return Err(Stop::Bad);
    }
    while left > 0 {
        let n = usize::from(hs.u8()?);
        left = left.checked_sub(1 + n).ok_or(Stop::Bad)?;
        let mut id = [0u8; 16];
        let mut at = 0;
        let mut end = 0;
        hs.each(n, |b| {
            if let Some(place) = id.get_mut(at) {
                *place = b;
            }
            end = b;
            at += 1;
        })?;
        // GREASE is not what the client wants.
        let grease = n == 2 && is_grease(u16::from_be_bytes([id[0], id[1]]));
        if said.alpn_ends.is_none() && n > 0 && !grease {
            said.alpn = id.get(..n).map_or(Alpn::Other, Alpn::of);
            said.alpn_ends = Some((id[0], end));
        }
    }
    Ok(())
}
