//! TLS: server name (RFC 6066 §3) and ALPN (RFC 7301 §3.1) of the ClientHello, or the sight of a ServerHello or of
//! records in mid-life (RFC 8446 §5.1).
//!
//! A ClientHello may be spread over any number of records, and the records over any number of segments, so it is read
//! through [`Handshake`], which steps over the record headers.

use crate::l7::{Alpn, Class, Found, HostName, Look, Notes, Verdict};

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// 2^14 of plaintext and TLS 1.2's most of expansion (RFC 5246 §6.2.3).
const MAX_RECORD: usize = (1 << 14) + 2048;

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// What has been collected ends here.
    End,
    /// Not what the format says.
    Bad,
}

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let data = look.data;
    match data[0] {
        HANDSHAKE => hello(look, &mut notes.host),
        CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA => records(look),
        _ if data[0] & 0x80 != 0 => old_hello(look),
        _ => Verdict::No,
    }
}

/// What a ClientHello says beside its host name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    pub alpn: Alpn,
    /// A server name was there, be it one that is no printable name.
    pub named: bool,
}

fn hello(look: &Look, host: &mut HostName) -> Verdict {
    let mut hs = Handshake::new(look.data);
    let kind = match hs.message() {
        Ok(kind) => kind,
        Err(Stop::End) => return Verdict::More,
        Err(Stop::Bad) => return records(look),
    };
    match kind {
        CLIENT_HELLO => {
            let mut said = ClientHello::default();
            match client_hello(&mut hs, &mut said, host) {
                // Before the extensions nothing is certain.
                Err((Stop::End, false)) => Verdict::More,
                Err((Stop::Bad, false)) => Verdict::No,
                Err((Stop::End, true)) if !look.last => Verdict::Class(Found::handshake(Class::Tls, said.alpn)),
                Ok(()) | Err((_, true)) => Verdict::Done(Found::handshake(Class::Tls, said.alpn)),
            }
        }
        SERVER_HELLO => match server_hello(&mut hs) {
            Ok(()) => Verdict::Done(Found::handshake(Class::Tls, Alpn::None)),
            Err(Stop::End) => Verdict::More,
            Err(Stop::Bad) => Verdict::No,
        },
        _ => records(look),
    }
}

/// RFC 8446 §4.1.2, RFC 5246 §7.4.1.2. The flag of the error: what was read so far is certainly a ClientHello.
fn client_hello(hs: &mut Handshake, said: &mut ClientHello, host: &mut HostName) -> Result<(), (Stop, bool)> {
    let open = |s| (s, false);
    let sure = |s| (s, true);
    hs.version().map_err(open)?;
    hs.skip(32).map_err(open)?;
    let session = hs.u8().map_err(open)?;
    let bad = |wrong: bool| if wrong { Err((Stop::Bad, false)) } else { Ok(()) };
    bad(session > 32)?;
    hs.skip(usize::from(session)).map_err(open)?;
    let ciphers = hs.u16().map_err(open)?;
    bad(ciphers < 2 || ciphers % 2 != 0)?;
    hs.skip(usize::from(ciphers)).map_err(open)?;
    let compressions = hs.u8().map_err(open)?;
    bad(compressions == 0)?;
    hs.skip(usize::from(compressions)).map_err(open)?;
    if hs.body == 0 {
        return Ok(());
    }
    let mut left = usize::from(hs.u16().map_err(open)?);
    bad(left > hs.body)?;
    while left > 0 {
        let kind = hs.u16().map_err(sure)?;
        let len = usize::from(hs.u16().map_err(sure)?);
        left = left.checked_sub(4 + len).ok_or((Stop::Bad, true))?;
        match kind {
            SERVER_NAME => server_name(hs, len, said, host).map_err(|stop| {
                // Of a list that does not add up no name is believed.
                if stop == Stop::Bad {
                    host.clear();
                }
                sure(stop)
            })?,
            ALPN => alpn(hs, len, said).map_err(sure)?,
            _ => hs.skip(len).map_err(sure)?,
        }
    }
    Ok(())
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
    let mut first = true;
    while left > 0 {
        let n = usize::from(hs.u8()?);
        left = left.checked_sub(1 + n).ok_or(Stop::Bad)?;
        let mut id = [0u8; 16];
        let mut at = 0;
        hs.each(n, |b| {
            if let Some(place) = id.get_mut(at) {
                *place = b;
            }
            at += 1;
        })?;
        // GREASE (RFC 8701) is not what the client wants.
        let grease = n == 2 && id[0] == id[1] && id[0] & 0x0f == 0x0a;
        if first && !grease {
            said.alpn = id.get(..n).map_or(Alpn::Other, Alpn::of);
            first = false;
        }
    }
    Ok(())
}

/// RFC 8446 §4.1.3 up to the compression method.
fn server_hello(hs: &mut Handshake) -> Result<(), Stop> {
    hs.version()?;
    hs.skip(32)?;
    let session = hs.u8()?;
    if session > 32 {
        return Err(Stop::Bad);
    }
    hs.skip(usize::from(session))?;
    hs.skip(2)?;
    if hs.u8()? > 1 { Err(Stop::Bad) } else { Ok(()) }
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

/// Type and length of the record whose header stands at the start.
fn record(data: &[u8]) -> Result<(u8, usize), Stop> {
    let bad = |b: Option<&u8>, ok: fn(u8) -> bool| b.is_some_and(|b| !ok(*b));
    if bad(data.first(), |b| (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&b))
        || bad(data.get(1), |b| b == 3)
        || bad(data.get(2), |b| b <= 4)
    {
        return Err(Stop::Bad);
    }
    let Some(header) = data.first_chunk::<5>() else { return Err(Stop::End) };
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let fits = match header[0] {
        CHANGE_CIPHER_SPEC => len == 1,
        // Two bytes in clear, or encrypted with at most a block of padding and a tag.
        ALERT => (2..=256).contains(&len),
        _ => (1..=MAX_RECORD).contains(&len),
    };
    if fits { Ok((header[0], len)) } else { Err(Stop::Bad) }
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

/// Handshake bytes across record headers.
struct Handshake<'a> {
    data: &'a [u8],
    at: usize,
    /// Left of the record at hand.
    record: usize,
    /// Left of the message at hand.
    body: usize,
}

impl<'a> Handshake<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, record: 0, body: 4 }
    }

    /// Type of the message that starts here; from then on reading ends with its body. Only a plausible one: the two
    /// hellos are between 38 bytes and 64 KiB.
    fn message(&mut self) -> Result<u8, Stop> {
        let kind = self.u8()?;
        let len = usize::from(self.u8()?) << 16 | usize::from(self.u16()?);
        if len > 1 << 17 || matches!(kind, CLIENT_HELLO | SERVER_HELLO) && len < 38 {
            return Err(Stop::Bad);
        }
        self.body = len;
        Ok(kind)
    }

    fn version(&mut self) -> Result<(), Stop> {
        if self.u8()? != 3 || self.u8()? > 4 { Err(Stop::Bad) } else { Ok(()) }
    }

    /// Opens the next record where the last one is used up. It must be a handshake record.
    fn open(&mut self) -> Result<(), Stop> {
        while self.record == 0 {
            let (kind, len) = record(&self.data[self.at..])?;
            if kind != HANDSHAKE {
                return Err(Stop::Bad);
            }
            self.at += 5;
            self.record = len;
        }
        Ok(())
    }

    /// Calls `f` with each of `n` bytes of the body.
    fn each(&mut self, n: usize, mut f: impl FnMut(u8)) -> Result<(), Stop> {
        self.spend(n)?;
        let mut left = n;
        while left > 0 {
            self.open()?;
            let take = left.min(self.record);
            let end = (self.at + take).min(self.data.len());
            self.data[self.at..end].iter().for_each(|b| f(*b));
            let got = end - self.at;
            self.at = end;
            self.record -= got;
            left -= got;
            if got < take {
                return Err(Stop::End);
            }
        }
        Ok(())
    }

    fn skip(&mut self, n: usize) -> Result<(), Stop> {
        self.spend(n)?;
        let mut left = n;
        while left > 0 {
            self.open()?;
            let take = left.min(self.record);
            if take > self.data.len() - self.at {
                self.at = self.data.len();
                return Err(Stop::End);
            }
            self.at += take;
            self.record -= take;
            left -= take;
        }
        Ok(())
    }

    fn spend(&mut self, n: usize) -> Result<(), Stop> {
        self.body = self.body.checked_sub(n).ok_or(Stop::Bad)?;
        Ok(())
    }

    fn u8(&mut self) -> Result<u8, Stop> {
        let mut v = 0;
        self.each(1, |b| v = b)?;
        Ok(v)
    }

    fn u16(&mut self) -> Result<u16, Stop> {
        let mut v = 0;
        self.each(2, |b| v = v << 8 | u16::from(b))?;
        Ok(v)
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
pub(in crate::l7) mod tests;
