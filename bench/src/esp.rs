//! ESP seal and open against bare `ring` on the same buffers: what the packet format costs beside the cipher.
//!
//! Lengths are the inner IP packet's. Bare `ring` gets exactly the text that ESP encrypts (padding and trailer included),
//! the same additional data and a fresh nonce each time. Both walk over the same set of frames, as many as a large batch,
//! so that caches see what they would see in a worker.

use std::net::Ipv4Addr;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use softdpu::crypto::aead::{Cipher, KeyMaterial};
use softdpu::crypto::esp::{ETHERTYPE_IPV4, Inner, NEXT_IPV4};
use softdpu::crypto::inbound::{InboundConfig, InboundOptions, InboundSa, Sequence};
use softdpu::crypto::outbound::{OutboundConfig, OutboundOptions, OutboundSa, Start};
use softdpu::crypto::outer::{Encapsulation, Endpoints};
use softdpu::io::frame::{Frame, HEADROOM};
use softdpu_ebpf_common::walk::{Headers, walk};

use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};

const LENGTHS: [usize; 3] = [64, 512, 1400];
/// Frames the cases walk over, and packets per batch.
pub(crate) const BATCH: usize = 64;
const CHUNK: usize = 2048;
pub(crate) const LINK: usize = 14;
const SPI: u32 = 0x1001;
const TAG: usize = 16;
/// Outer IPv4, SPI and sequence number, IV: what is between the link header and the text.
const BEFORE_TEXT: usize = 20 + 8 + 8;

/// Measures all ciphers and lengths: a section each for seal and open.
///
/// # Errors
/// Where an association cannot be made: a mistake, not a circumstance.
pub fn run(effort: Effort) -> Result<(Vec<Section>, Vec<Target>)> {
    let mut seal = Section::new("esp-seal", "ESP seal against bare ring, per packet, one core", "ns");
    let mut open = Section::new("esp-open", "ESP open against bare ring, per packet, one core", "ns");
    let mut targets = Vec::new();
    for cipher in Cipher::ALL {
        for length in LENGTHS {
            let (esp, bare) = (format!("esp-{cipher}-{length}"), format!("ring-{cipher}-{length}"));
            let mut frames = Frames::new();
            let memory = frames.memory();
            // Seal.
            let mut cases = [seal_esp(&esp, cipher, length, memory)?, seal_ring(&bare, cipher, length, memory)?];
            alternate(&mut seal, &mut cases, effort);
            drop(cases);
            let ratio = seal.ratio(&esp, &bare);
            if length == 1400 {
                let title = format!("ESP seal at 1400 B / bare ring, {cipher}");
                targets.push(Target::new(title, Bound::AtMost, 1.15, ratio));
            }
            // Open.
            let sealed = Sealed::new(cipher, length)?;
            let mut cases = [open_esp(&esp, &sealed, memory)?, open_ring(&bare, &sealed, memory)?];
            alternate(&mut open, &mut cases, effort);
            drop(cases);
            open.ratio(&esp, &bare);
            drop(frames);
        }
    }
    let note = format!(
        "Lengths are of the inner packet; ring gets the same text (trailer and padding included). {BATCH} frames in turn."
    );
    seal.notes.push(note.clone());
    open.notes.push(note);
    open.notes.push("Putting the sealed packets back, and a new replay window, are not in the time of either.".into());
    Ok((vec![seal, open], targets))
}

/// Chunks as a UMEM has them.
pub(crate) struct Frames {
    memory: Vec<u8>,
}

impl Frames {
    pub(crate) fn new() -> Self {
        // Written once, so that the pages are there.
        Self { memory: vec![0x5a; BATCH * CHUNK] }
    }

    pub(crate) fn memory(&mut self) -> Memory {
        Memory(NonNull::from(&mut *self.memory).cast())
    }
}

/// The frames' memory, lent to the cases of one comparison, which run one after the other and never together.
#[derive(Clone, Copy)]
pub(crate) struct Memory(NonNull<u8>);

impl Memory {
    /// Lends chunk `i` with a packet in `off..off + len` to `work`.
    #[inline]
    pub(crate) fn with_frame<T>(self, i: usize, off: usize, len: usize, work: impl FnOnce(&mut Frame) -> T) -> T {
        // SAFETY: `i` is below BATCH at every caller, `Frames` outlives the cases, and no other token or slice exists while
        // this one does: cases run one after the other and keep none.
        let mut frame =
            unsafe { Frame::from_raw(self.0.add(i * CHUNK), i as u32, CHUNK as u32, off as u32, len as u32) };
        let done = work(&mut frame);
        frame.into_index();
        done
    }

    /// Lends bytes of chunk `i` to `work`.
    #[inline]
    pub(crate) fn with_bytes<T>(self, i: usize, place: std::ops::Range<usize>, work: impl FnOnce(&mut [u8]) -> T) -> T {
        // SAFETY: as above; `place` is within CHUNK at every caller.
        work(unsafe { std::slice::from_raw_parts_mut(self.0.add(i * CHUNK + place.start).as_ptr(), place.len()) })
    }
}

fn key_bytes(cipher: Cipher) -> Vec<u8> {
    (0..cipher.material_len()).map(|i| (i * 7 + 1) as u8).collect()
}

fn material(cipher: Cipher) -> Result<KeyMaterial> {
    KeyMaterial::new(cipher, &key_bytes(cipher)).context("key length")
}

fn outbound(cipher: Cipher) -> Result<OutboundSa> {
    let endpoints = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
    Ok(OutboundSa::new(&OutboundConfig {
        spi: SPI,
        material: &material(cipher)?,
        endpoints,
        encapsulation: Encapsulation::None,
        extended: true,
        start: Start::At { seq: 1, iv_offset: 0 },
        options: OutboundOptions::default(),
    })?)
}

fn ring_key(cipher: Cipher) -> Result<LessSafeKey> {
    let algorithm: &'static Algorithm = match cipher {
        Cipher::Aes128Gcm => &AES_128_GCM,
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    let key = UnboundKey::new(algorithm, &key_bytes(cipher)[..algorithm.key_len()]);
    Ok(LessSafeKey::new(key.map_err(|_| anyhow::anyhow!("key length"))?))
}

/// What ESP encrypts for an inner packet of `length` bytes (RFC 4303 §2.4).
fn text_length(length: usize) -> usize {
    (length + 2).next_multiple_of(4)
}

fn nonce(n: u64) -> [u8; 12] {
    let mut nonce = [0x11; 12];
    nonce[4..].copy_from_slice(&n.to_be_bytes());
    nonce
}

pub(crate) fn seal_esp<'a>(name: &str, cipher: Cipher, length: usize, memory: Memory) -> Result<Case<'a>> {
    let sa = outbound(cipher)?;
    let inner = Inner { place: LINK..LINK + length, next_header: NEXT_IPV4, tos: 0 };
    let run = move |n: usize| {
        let mut left = n;
        while left > 0 {
            let batch = left.min(BATCH);
            let mut sealer = sa.sealer(batch as u64);
            for i in 0..batch {
                let sealed = memory.with_frame(i, HEADROOM, LINK + length, |f| sealer.seal(f, &inner));
                assert_eq!(sealed, Ok(()));
            }
            left -= batch;
        }
    };
    Ok(Case::new(name, format!("ESP {cipher}, {length} B"), run))
}

fn seal_ring<'a>(name: &str, cipher: Cipher, length: usize, memory: Memory) -> Result<Case<'a>> {
    let key = ring_key(cipher)?;
    let start = HEADROOM + LINK;
    let text = start..start + text_length(length);
    let mut count = 0u64;
    let run = move |n: usize| {
        for i in 0..n {
            count += 1;
            let aad = [0x22u8; 12];
            memory.with_bytes(i % BATCH, text.start..text.end + TAG, |bytes| {
                let (text, icv) = bytes.split_at_mut(bytes.len() - TAG);
                let tag = key
                    .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce(count)), Aad::from(aad), text)
                    .expect("shorter than the cipher's limit");
                icv.copy_from_slice(tag.as_ref());
            });
        }
    };
    Ok(Case::new(name, format!("ring {cipher}, {length} B"), run))
}

/// A batch of packets as they come from the wire.
pub(crate) struct Sealed {
    cipher: Cipher,
    length: usize,
    /// Link header to ICV.
    packets: Vec<Vec<u8>>,
    headers: Headers,
}

impl Sealed {
    pub(crate) fn new(cipher: Cipher, length: usize) -> Result<Self> {
        let mut frames = Frames::new();
        let memory = frames.memory();
        let sa = outbound(cipher)?;
        let mut sealer = sa.sealer(BATCH as u64);
        let mut packets = Vec::new();
        for i in 0..BATCH {
            let packet = memory.with_frame(i, HEADROOM, LINK + length, |f| {
                let bytes = f.bytes_mut();
                // Enough of an IPv4 header for the receiver, which looks at its version.
                bytes[LINK..].fill(0);
                bytes[LINK] = 0x45;
                let inner = Inner { place: LINK..LINK + length, next_header: NEXT_IPV4, tos: 0 };
                sealer.seal(f, &inner).map(|()| f.bytes().to_vec())
            });
            let mut packet = packet.map_err(|e| anyhow::anyhow!("sealing: {}", e.reason()))?;
            packet[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
            packets.push(packet);
        }
        let headers = walk(&packets[0][..]).map_err(|e| anyhow::anyhow!("walking what was sealed: {e:?}"))?;
        Ok(Self { cipher, length, packets, headers })
    }

    fn put(&self, memory: Memory) {
        for (i, p) in self.packets.iter().enumerate() {
            memory.with_bytes(i, HEADROOM..HEADROOM + p.len(), |bytes| bytes.copy_from_slice(p));
        }
    }
}

pub(crate) fn open_esp<'a>(name: &str, sealed: &'a Sealed, memory: Memory) -> Result<Case<'a>> {
    let (material, headers, whole) = (material(sealed.cipher)?, sealed.headers, sealed.packets[0].len());
    let fresh = move || {
        InboundSa::new(&InboundConfig {
            spi: SPI,
            material: &material,
            sequence: Sequence::InIv,
            window: 1024,
            options: InboundOptions::default(),
        })
    };
    let first = fresh()?;
    let prepare = move |sa: &mut InboundSa| {
        sealed.put(memory);
        // What was opened once would be a replay.
        if let Ok(new) = fresh() {
            *sa = new;
        }
    };
    let run = move |sa: &mut InboundSa| {
        let mut opener = sa.opener();
        for i in 0..BATCH {
            let opened = memory.with_frame(i, HEADROOM, whole, |f| opener.open(f, &headers));
            assert!(opened.is_ok());
        }
    };
    let title = format!("ESP {}, {} B", sealed.cipher, sealed.length);
    Ok(Case::batches(name, title, BATCH, first, prepare, run))
}

fn open_ring<'a>(name: &str, sealed: &'a Sealed, memory: Memory) -> Result<Case<'a>> {
    let key = ring_key(sealed.cipher)?;
    let material = key_bytes(sealed.cipher);
    let mut salt = [0; 4];
    salt.copy_from_slice(&material[material.len() - 4..]);
    let start = HEADROOM + LINK + BEFORE_TEXT;
    let text = start..HEADROOM + sealed.packets[0].len();
    let run = move |key: &mut LessSafeKey| {
        for i in 0..BATCH {
            // Number and IV are 1, 2, 3 …, as the sealer began.
            let seq = i as u64 + 1;
            let mut nonce = nonce(seq);
            nonce[..4].copy_from_slice(&salt);
            let mut aad = [0; 12];
            aad[..4].copy_from_slice(&SPI.to_be_bytes());
            aad[4..].copy_from_slice(&seq.to_be_bytes());
            let opened = memory.with_bytes(i, text.clone(), |bytes| {
                key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes).is_ok()
            });
            assert!(opened);
        }
    };
    let title = format!("ring {}, {} B", sealed.cipher, sealed.length);
    Ok(Case::batches(name, title, BATCH, key, move |_| sealed.put(memory), run))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Both sides work on valid packets: the asserts in the cases would fail otherwise.
    #[test]
    fn every_cipher_and_length_runs() {
        let (sections, targets) = run(Effort::new(1, 1000)).unwrap();
        for s in &sections {
            assert_eq!(s.contenders.len(), 18);
            assert_eq!(s.ratios.len(), 9);
            assert!(s.contenders.iter().all(|c| c.rounds[0] > 0.0));
        }
        assert_eq!(targets.len(), 3);
    }

    #[test]
    fn ring_gets_the_text_that_esp_encrypts() {
        for length in LENGTHS {
            let sealed = Sealed::new(Cipher::Aes128Gcm, length).unwrap();
            assert_eq!(sealed.packets[0].len(), LINK + BEFORE_TEXT + text_length(length) + TAG);
        }
    }
}
