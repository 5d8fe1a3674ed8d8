//! ChaCha20-Poly1305 (RFC 8439 §2.8) in AVX-512 with IFMA, for CPUs that have them: Intel's since Ice Lake, AMD's since Zen 4.
//!
//! Constant time: no branch and no address depends on key, text or tag; lengths are public. Key stream that was kept in
//! memory is zeroed. A text is decrypted only after its tag was found right. Whether this code is used at all is decided
//! by [`choose`](super::choose), after known vectors came out right.

mod chacha;
mod poly;

use std::fmt;

use super::{Aead, AeadError, Job, NONCE_LEN, TAG_LEN};
use crate::crypto::secret::Secret;
use chacha::{BLOCK, SET_BYTES, Stream};
use poly::OneTime;

/// Sets worked on at once.
const SETS: usize = 4;
/// Text that one set serves: small packets are done four at a time.
const SMALL: usize = SET_BYTES - BLOCK;
/// The block counter has 32 bits, and block 0 is not for text.
const LONGEST: u64 = (u32::MAX as u64) * BLOCK as u64;

pub(super) struct Key(Secret<32>);

/// Whether this CPU has all that is used here.
pub(super) fn runs() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512ifma") && has!("bmi2")
}

impl Key {
    /// `None` where the CPU cannot, or the key has another length.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let mut own = Secret::zeroed();
        if !runs() || key.len() != 32 {
            return None;
        }
        own.expose_mut().copy_from_slice(key);
        Some(Self(own))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("avx512::Key(…)")
    }
}

fn too_long(text: &[u8]) -> bool {
    text.len() as u64 > LONGEST
}

/// Sets that block 0 and `text` need at first.
fn first_sets(text: &[u8]) -> usize {
    (text.len() + BLOCK).div_ceil(SET_BYTES).clamp(1, SETS)
}

/// The text behind the first sets' reach.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn rest(key: &[u8; 32], nonce: &[u8; NONCE_LEN], text: &mut [u8], stream: &mut Stream) {
    let mut counter = (SETS * SET_BYTES / BLOCK) as u32;
    for part in text.chunks_mut(SETS * SET_BYTES) {
        chacha::run(key, nonce, counter, part.len().div_ceil(SET_BYTES), stream);
        chacha::xor(stream.0.as_flattened(), part);
        counter = counter.wrapping_add(16);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn seal(key: &[u8; 32], nonce: &[u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
    let mut stream = Stream::new();
    let sets = first_sets(text);
    chacha::run(key, nonce, 0, sets, &mut stream);
    let one_time = OneTime::new(stream.0[0][0]);
    let done = chacha::xor(&stream.0.as_flattened()[1..], text);
    rest(key, nonce, &mut text[done..], &mut stream);
    stream.scrub(sets);
    poly::tag(&one_time, aad, text)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn open(key: &[u8; 32], nonce: &[u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
    let mut stream = Stream::new();
    let sets = first_sets(text);
    chacha::run(key, nonce, 0, sets, &mut stream);
    let ok = same(&poly::tag(&OneTime::new(stream.0[0][0]), aad, text), tag);
    if ok {
        let done = chacha::xor(&stream.0.as_flattened()[1..], text);
        rest(key, nonce, &mut text[done..], &mut stream);
    }
    stream.scrub(sets);
    ok
}

/// In constant time.
#[inline(always)]
fn same(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> bool {
    std::hint::black_box(u128::from_le_bytes(*a) ^ u128::from_le_bytes(*b)) == 0
}

/// Jobs of at most [`SMALL`] bytes, up to four; their first sets run side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn small(key: &[u8; 32], jobs: &mut [Job<'_>], sealing: bool) {
    let mut stream = Stream::new();
    let nonce = |n: usize| jobs.get(n).map_or([0; NONCE_LEN], |job| job.nonce);
    let start = |n: usize| chacha::start(key, &nonce(n), 0);
    match jobs.len() {
        1 => chacha::stream(&[start(0)], &mut stream),
        2 => chacha::stream(&[start(0), start(1)], &mut stream),
        3 => chacha::stream(&[start(0), start(1), start(2)], &mut stream),
        _ => chacha::stream(&[start(0), start(1), start(2), start(3)], &mut stream),
    }
    for (job, blocks) in jobs.iter_mut().zip(&stream.0) {
        let one_time = OneTime::new(blocks[0]);
        if sealing {
            chacha::xor(&blocks[1..], job.text);
        }
        let tag = poly::tag(&one_time, &job.aad[..usize::from(job.aad_len)], job.text);
        if sealing {
            (job.tag, job.ok) = (tag, true);
        } else {
            job.ok = same(&tag, &job.tag);
            if job.ok {
                chacha::xor(&blocks[1..], job.text);
            }
        }
    }
    stream.scrub(jobs.len());
}

impl Key {
    fn many(&self, mut jobs: &mut [Job<'_>], sealing: bool) {
        while !jobs.is_empty() {
            let few = jobs.iter().take(SETS).take_while(|job| job.text.len() <= SMALL).count();
            let (now, later) = jobs.split_at_mut(few.max(1));
            if few > 0 {
                // SAFETY: `new` found the CPU to have the features.
                unsafe { small(self.0.expose(), now, sealing) };
            } else if sealing {
                let job = &mut now[0];
                let sealed = self.seal(job.nonce, &job.aad[..usize::from(job.aad_len)], job.text);
                (job.ok, job.tag) = (sealed.is_ok(), sealed.unwrap_or([0; TAG_LEN]));
            } else {
                let job = &mut now[0];
                job.ok = self.open(job.nonce, &job.aad[..usize::from(job.aad_len)], job.text, job.tag).is_ok();
            }
            jobs = later;
        }
    }
}

impl Aead for Key {
    #[inline]
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        if too_long(text) {
            return Err(AeadError);
        }
        // SAFETY: `new` found the CPU to have the features.
        Ok(unsafe { seal(self.0.expose(), &nonce, aad, text) })
    }

    #[inline]
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError> {
        // SAFETY: `new` found the CPU to have the features.
        if !too_long(text) && unsafe { open(self.0.expose(), &nonce, aad, text, &tag) } {
            Ok(())
        } else {
            Err(AeadError)
        }
    }

    fn seal_many(&self, jobs: &mut [Job<'_>]) {
        self.many(jobs, true);
    }

    fn open_many(&self, jobs: &mut [Job<'_>]) {
        self.many(jobs, false);
    }
}

#[cfg(test)]
mod tests;
