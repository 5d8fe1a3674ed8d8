//! The AEAD layer alone: every back end that runs here against bare `ring`, packet by packet and in batches.
//!
//! All get the same text, 12 bytes of additional data (none with ChaCha20-Poly1305, as in WireGuard) and a new nonce each
//! time, and walk over the same 64 packets. Figures are ns; the notes give medians in ticks of the TSC.

use anyhow::{Context, Result};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use softdpu::crypto::aead::{Aead, AeadKey, BackEnd, Cipher, Job, TAG_LEN, chosen};

use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};
use crate::stats::summary;

const LENGTHS: [usize; 3] = [64, 512, 1400];
const BATCH: usize = 64;

/// Measures all ciphers, lengths and back ends: a section each for seal and open.
///
/// # Errors
/// Where a key cannot be made: a mistake, not a circumstance.
pub fn run(effort: Effort) -> Result<(Vec<Section>, Vec<Target>)> {
    let mut seal = Section::new("aead-seal", "AEAD seal, per packet, one core", "ns");
    let mut open = Section::new("aead-open", "AEAD open, per packet, one core", "ns");
    let mut targets = Vec::new();
    for cipher in Cipher::ALL {
        for length in LENGTHS {
            let name = |who: &str| format!("{who}-{cipher}-{length}");
            let mut seals = vec![bare(&name("bare-ring"), Verb::Seal, cipher, length)?];
            let mut opens = vec![bare(&name("bare-ring"), Verb::Open, cipher, length)?];
            for back in BackEnd::all(cipher) {
                for (cases, verb) in [(&mut seals, Verb::Seal), (&mut opens, Verb::Open)] {
                    cases.push(single(&name(back.name()), verb, back, cipher, length)?);
                    cases.push(batch(&name(&format!("{back}-batch")), verb, back, cipher, length)?);
                }
            }
            alternate(&mut seal, &mut seals, effort);
            alternate(&mut open, &mut opens, effort);
            for back in BackEnd::all(cipher) {
                for (section, verb) in [(&mut seal, "seal"), (&mut open, "open")] {
                    let ratio = section.ratio(&name(back.name()), &name("bare-ring"));
                    if back == BackEnd::Ring && length == 64 {
                        let title = format!("AEAD layer {verb} at 64 B / bare ring, {cipher}");
                        targets.push(Target::new(title, Bound::AtMost, 1.1, ratio));
                    }
                }
            }
        }
    }
    for section in [&mut seal, &mut open] {
        let ticks: Vec<String> = section
            .contenders
            .iter()
            .filter_map(|c| Some(format!("{} {:.0}", c.name, summary(c.more.get("ticks")?)?.median)))
            .collect();
        section.notes.extend(ticks);
    }
    seal.notes.push(format!("chosen: {:?}", chosen()));
    Ok((vec![seal, open], targets))
}

fn key_bytes(cipher: Cipher) -> Vec<u8> {
    (0..cipher.key_len()).map(|i| (i * 7 + 1) as u8).collect()
}

fn ring_key(cipher: Cipher) -> Result<LessSafeKey> {
    let algorithm = match cipher {
        Cipher::Aes128Gcm => &AES_128_GCM,
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    let key = UnboundKey::new(algorithm, &key_bytes(cipher)).map_err(|_| anyhow::anyhow!("key length"))?;
    Ok(LessSafeKey::new(key))
}

fn key(back: BackEnd, cipher: Cipher) -> Result<AeadKey> {
    AeadKey::with(back, cipher, &key_bytes(cipher)).context("a back end that runs here")
}

fn aad(cipher: Cipher) -> &'static [u8] {
    if cipher == Cipher::ChaCha20Poly1305 { &[] } else { &[0x22; 12] }
}

fn nonce(n: u64) -> [u8; 12] {
    let mut nonce = [0x11; 12];
    nonce[4..].copy_from_slice(&n.to_be_bytes());
    nonce
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Seal,
    Open,
}

/// A batch of packets, and how they look sealed.
struct Packets {
    texts: Vec<Vec<u8>>,
    tags: Vec<[u8; TAG_LEN]>,
    sealed: Vec<Vec<u8>>,
    /// Of the first packet's nonce; goes up where packets are sealed.
    count: u64,
}

impl Packets {
    fn new(cipher: Cipher, length: usize) -> Result<Self> {
        let key = key(BackEnd::Ring, cipher)?;
        let mut sealed = vec![vec![0x5a; length]; BATCH];
        let tag = |(i, text): (usize, &mut Vec<u8>)| key.seal(nonce(i as u64), aad(cipher), text);
        let tags: Result<_, _> = sealed.iter_mut().enumerate().map(tag).collect();
        let tags = tags.map_err(|_| anyhow::anyhow!("sealing"))?;
        Ok(Self { texts: sealed.clone(), tags, sealed, count: 0 })
    }
}

/// `run` over a batch, which is put back before each opening.
fn case<'a>(
    name: &str,
    verb: Verb,
    cipher: Cipher,
    length: usize,
    mut run: impl FnMut(&mut Packets) + 'a,
) -> Result<Case<'a>> {
    let prepare = move |p: &mut Packets| {
        if verb == Verb::Open {
            for (text, sealed) in p.texts.iter_mut().zip(&p.sealed) {
                text.copy_from_slice(sealed);
            }
        }
    };
    let run = move |p: &mut Packets| {
        run(p);
        p.count += if verb == Verb::Seal { BATCH as u64 } else { 0 };
    };
    Ok(Case::batches(name, name, BATCH, Packets::new(cipher, length)?, prepare, run))
}

fn bare<'a>(name: &str, verb: Verb, cipher: Cipher, length: usize) -> Result<Case<'a>> {
    let key = ring_key(cipher)?;
    case(name, verb, cipher, length, move |p| {
        for (i, text) in p.texts.iter_mut().enumerate() {
            let nonce = Nonce::assume_unique_for_key(nonce(p.count + i as u64));
            let aad = Aad::from(aad(cipher));
            let ok = match verb {
                Verb::Seal => match key.seal_in_place_separate_tag(nonce, aad, text) {
                    Ok(tag) => {
                        p.tags[i].copy_from_slice(tag.as_ref());
                        true
                    }
                    Err(_) => false,
                },
                Verb::Open => key.open_in_place_separate_tag(nonce, aad, Tag::from(p.tags[i]), text, 0..).is_ok(),
            };
            assert!(ok);
        }
    })
}

pub(crate) fn single<'a>(name: &str, verb: Verb, back: BackEnd, cipher: Cipher, length: usize) -> Result<Case<'a>> {
    let key = key(back, cipher)?;
    case(name, verb, cipher, length, move |p| {
        for (i, text) in p.texts.iter_mut().enumerate() {
            let (nonce, aad) = (nonce(p.count + i as u64), aad(cipher));
            let ok = match verb {
                Verb::Seal => key.seal(nonce, aad, text).map(|tag| p.tags[i] = tag),
                Verb::Open => key.open(nonce, aad, text, p.tags[i]),
            };
            assert!(ok.is_ok());
        }
    })
}

pub(crate) fn batch<'a>(name: &str, verb: Verb, back: BackEnd, cipher: Cipher, length: usize) -> Result<Case<'a>> {
    let key = key(back, cipher)?;
    case(name, verb, cipher, length, move |p| {
        let texts = p.texts.iter_mut().zip(&p.tags).enumerate();
        let mut jobs: Vec<Job<'_>> =
            texts.filter_map(|(i, (text, tag))| Job::new(nonce(p.count + i as u64), aad(cipher), text, *tag)).collect();
        match verb {
            Verb::Seal => key.seal_many(&mut jobs),
            Verb::Open => key.open_many(&mut jobs),
        }
        assert!(jobs.len() == BATCH && jobs.iter().all(|job| job.ok));
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Openings are of valid packets, by every back end: the asserts in the cases would fail otherwise.
    #[test]
    fn every_cipher_length_and_back_end_runs() {
        let (sections, _) = run(Effort::new(1, 1000)).unwrap();
        for s in &sections {
            assert!(s.contenders.len() >= 27);
            assert!(s.contenders.iter().all(|c| c.rounds[0] > 0.0));
        }
    }
}
