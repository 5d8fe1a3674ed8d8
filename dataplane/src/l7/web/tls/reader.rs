//! Handshake messages read byte by byte: across the headers of TLS records, or as a stream that has none (QUIC's CRYPTO
//! frames, a DTLS message put together).

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;
pub const CLIENT_HELLO: u8 = 1;
pub const SERVER_HELLO: u8 = 2;
/// 2^14 of plaintext and TLS 1.2's most of expansion (RFC 5246 §6.2.3).
const MAX_RECORD: usize = (1 << 14) + 2048;
/// Longest message that is believed.
const MAX_MESSAGE: usize = 1 << 17;
/// A hello without session, with one cipher: RFC 8446 §4.1.2 and §4.1.3.
const MIN_HELLO: usize = 38;

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What has been collected ends here.
    End,
    /// Not what the format says.
    Bad,
}

/// Type and length of the record whose header stands at the start.
pub(super) fn record(data: &[u8]) -> Result<(u8, usize), Stop> {
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

pub struct Handshake<'a> {
    data: &'a [u8],
    at: usize,
    /// Left of the record at hand.
    record: usize,
    /// Left of the message at hand.
    body: usize,
}

impl<'a> Handshake<'a> {
    /// Of TLS records.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, record: 0, body: 0 }
    }

    /// Of a stream without record headers.
    pub fn plain(data: &'a [u8]) -> Self {
        Self { data, at: 0, record: usize::MAX, body: 0 }
    }

    /// Type of the message that starts here; from then on reading ends with its body. Only a plausible one. What is left
    /// of the message before is stepped over.
    pub fn message(&mut self) -> Result<u8, Stop> {
        self.skip(self.body)?;
        self.body = 4;
        let kind = self.u8()?;
        let len = self.u24()?;
        if len > MAX_MESSAGE || matches!(kind, CLIENT_HELLO | SERVER_HELLO) && len < MIN_HELLO {
            return Err(Stop::Bad);
        }
        self.body = len;
        Ok(kind)
    }

    /// Left of the message at hand.
    pub fn left(&self) -> usize {
        self.body
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
    pub fn each(&mut self, n: usize, mut f: impl FnMut(u8)) -> Result<(), Stop> {
        self.spend(n)?;
        let mut left = n;
        while left > 0 {
            self.open()?;
            let take = left.min(self.record);
            let end = self.at.saturating_add(take).min(self.data.len());
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

    /// Calls `f` with each word of `n` bytes of the body.
    pub fn words(&mut self, n: usize, mut f: impl FnMut(u16)) -> Result<(), Stop> {
        let (mut high, mut odd) = (0, false);
        self.each(n, |b| {
            if odd {
                f(u16::from_be_bytes([high, b]));
            }
            (high, odd) = (b, !odd);
        })
    }

    /// The next `n` bytes of the body where they stand in one record; `None` where they are spread over several, and
    /// have been stepped over.
    pub fn slice(&mut self, n: usize) -> Result<Option<&'a [u8]>, Stop> {
        if n == 0 {
            return Ok(Some(&[]));
        }
        self.open()?;
        let together = n <= self.record;
        let from = self.at;
        self.skip(n)?;
        Ok(if together { self.data.get(from..from + n) } else { None })
    }

    pub fn skip(&mut self, n: usize) -> Result<(), Stop> {
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

    pub fn u8(&mut self) -> Result<u8, Stop> {
        let mut v = 0;
        self.each(1, |b| v = b)?;
        Ok(v)
    }

    pub fn u16(&mut self) -> Result<u16, Stop> {
        let mut v = 0;
        self.each(2, |b| v = v << 8 | u16::from(b))?;
        Ok(v)
    }

    pub fn u24(&mut self) -> Result<usize, Stop> {
        let mut v = 0;
        self.each(3, |b| v = v << 8 | usize::from(b))?;
        Ok(v)
    }
}
