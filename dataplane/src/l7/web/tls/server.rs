//! What a server answers in clear: version and cipher of its ServerHello (RFC 8446 §4.1.3), and up to TLS 1.2 the name its
//! certificate is for (RFC 5246 §7.4.2).

use super::certificate;
use super::ciphers;
use super::hello::put_version;
use super::reader::{Handshake, Stop};
use crate::l7::{Fact, Facts};

const CERTIFICATE: u8 = 11;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS_1_3: u16 = 0x0304;
const DTLS_1_3: u16 = 0xfefc;

/// How far the answer has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// It is a ServerHello; more of the handshake may follow in clear.
    Sure,
    /// To the end of what is in clear or of interest.
    All,
}

/// Reads the body of a ServerHello and what follows it.
///
/// # Errors
/// Where it is not certain that it is one.
pub fn server(hs: &mut Handshake, facts: &mut Facts) -> Result<Read, Stop> {
    let legacy = hs.u16()?;
    if !matches!(legacy, 0x0300..=TLS_1_3 | 0xfefd | 0xfeff | 0x0100) {
        return Err(Stop::Bad);
    }
    hs.skip(32)?;
    let session = hs.u8()?;
    if session > 32 {
        return Err(Stop::Bad);
    }
    hs.skip(usize::from(session))?;
    let cipher = hs.u16()?;
    if hs.u8()? > 1 {
        return Err(Stop::Bad);
    }
    ciphers::put(cipher, facts);
    let version = match chosen(hs) {
        Ok(version) => version.unwrap_or(legacy),
        Err(Stop::End) => return Ok(Read::Sure),
        Err(Stop::Bad) => legacy,
    };
    put_version(version, facts);
    if matches!(version, TLS_1_3 | DTLS_1_3) {
        return Ok(Read::All);
    }
    match certificate(hs, facts) {
        Ok(()) | Err(Stop::Bad) => Ok(Read::All),
        Err(Stop::End) => Ok(Read::Sure),
    }
}

/// The version in the extensions, where there is one.
fn chosen(hs: &mut Handshake) -> Result<Option<u16>, Stop> {
    if hs.left() == 0 {
        return Ok(None);
    }
    let mut left = usize::from(hs.u16()?);
    while left > 0 {
        let kind = hs.u16()?;
        let len = usize::from(hs.u16()?);
        left = left.checked_sub(4 + len).ok_or(Stop::Bad)?;
        if kind == SUPPORTED_VERSIONS && len == 2 {
            return Ok(Some(hs.u16()?));
        }
        hs.skip(len)?;
    }
    Ok(None)
}

/// The next message, if it is the certificates: the first of them counts.
fn certificate(hs: &mut Handshake, facts: &mut Facts) -> Result<(), Stop> {
    if hs.message()? != CERTIFICATE {
        return Err(Stop::Bad);
    }
    hs.u24()?;
    let len = hs.u24()?;
    if let Some(name) = hs.slice(len)?.and_then(certificate::name) {
        facts.put(Fact::CertName, name);
    }
    Ok(())
}
