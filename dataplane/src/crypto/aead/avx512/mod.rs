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
use chacha::{BLOCK, BLOCKS, Place, Places, Stream};
use poly::Tagger;

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

    #[inline]
    pub(super) fn prefetch(&self) {
        crate::crypto::prefetch(self.0.expose());
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

/// Whether to seal or to open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Seal,
    Open,
}

/// In constant time.
#[inline(always)]
fn same(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> bool {
    std::hint::black_box(u128::from_le_bytes(*a) ^ u128::from_le_bytes(*b)) == 0
}

/// Seals or opens all `jobs`, none of them too long. Their blocks, block 0 of each first, are lined up one job behind the
/// other and made sixteen at a time, so that neither short packets nor the ends of long ones leave the CPU's lanes empty.
/// `aad` stands for that of all jobs where it is given.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn work(key: &[u8; 32], jobs: &mut [Job<'_>], verb: Verb, aad: Option<&[u8]>) {
    let mut places = Places([Place::new(&[0; NONCE_LEN], 0); BLOCKS]);
    let mut stream = Stream::new();
    // The next block to make: of which job, and its counter.
    let (mut wanted, mut counter) = (0, 0);
    // The job whose blocks come next, its tagger once block 0 was there, and the bytes of its text that are done.
    let (mut current, mut tagger, mut done) = (0, None, 0);
    while current < jobs.len() {
        let mut blocks = 0;
        while let Some(job) = jobs.get(wanted).filter(|_| blocks < BLOCKS) {
            if counter == 0 {
                chacha::prefetch(job.text);
            }
            let all = job.text.len().div_ceil(BLOCK) + 1;
            let now = (all - counter).min(BLOCKS - blocks);
            for place in &mut places.0[blocks..blocks + now] {
                *place = Place::new(&job.nonce, counter as u32);
                counter += 1;
            }
            blocks += now;
            if counter == all {
                (wanted, counter) = (wanted + 1, 0);
            }
        }
        chacha::run(key, &places, blocks, &mut stream);
        let mut blocks = &stream.0.as_flattened()[..blocks];
        while let (Some(job), Some(first)) = (jobs.get_mut(current), blocks.first()) {
            if tagger.is_none() {
                let new = Tagger::new(*first, job.text.len());
                blocks = &blocks[1..];
                if verb == Verb::Open {
                    // Nothing is decrypted before it is known to be from the peer.
                    job.ok = same(&new.tag(aad.unwrap_or(job.aad()), job.text), &job.tag);
                }
                tagger = Some(new);
            }
            let rest = &mut job.text[done..];
            let now = rest.len().div_ceil(BLOCK).min(blocks.len());
            if verb == Verb::Seal || job.ok {
                chacha::xor(&blocks[..now], rest);
            }
            blocks = &blocks[now..];
            done += rest.len().min(now * BLOCK);
            if done < job.text.len() {
                break;
            }
            if let Some(tagger) = tagger.take().filter(|_| verb == Verb::Seal) {
                (job.tag, job.ok) = (tagger.tag(aad.unwrap_or(job.aad()), job.text), true);
            }
            (current, done) = (current + 1, 0);
        }
    }
    stream.scrub();
}

impl Key {
    fn many(&self, jobs: &mut [Job<'_>], verb: Verb) {
        for job in &mut *jobs {
            job.ok = false;
        }
        // As good as never; but one is enough for the 32-bit counter.
        for part in jobs.split_mut(|job| too_long(job.text)) {
            // SAFETY: `new` found the CPU to have the features.
            unsafe { work(self.0.expose(), part, verb, None) };
        }
    }

    /// One packet with AAD of any length.
    fn one(&self, job: &mut Job<'_>, verb: Verb, aad: &[u8]) -> Result<(), AeadError> {
        if !too_long(job.text) {
            // SAFETY: `new` found the CPU to have the features.
            unsafe { work(self.0.expose(), std::slice::from_mut(job), verb, Some(aad)) };
        }
        if job.ok { Ok(()) } else { Err(AeadError) }
    }
}

impl Aead for Key {
    #[inline]
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        let mut job = Job::bare(nonce, text, [0; TAG_LEN]);
        self.one(&mut job, Verb::Seal, aad)?;
        Ok(job.tag)
    }

    #[inline]
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError> {
        self.one(&mut Job::bare(nonce, text, tag), Verb::Open, aad)
    }

    fn seal_many(&self, jobs: &mut [Job<'_>]) {
        self.many(jobs, Verb::Seal);
    }

    fn open_many(&self, jobs: &mut [Job<'_>]) {
        self.many(jobs, Verb::Open);
    }
}

#[cfg(test)]
mod tests;
