//! Which back end is fastest for each cipher on this machine: known vectors first, then a short measurement.
//!
//! Done once, before the first key is made, in about 10 ms. `SOFTDPU_AEAD=ring` (or another name) names the back end
//! instead of measuring; where it does not have a cipher, that cipher is measured as usual.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Aead, AeadKey, BackEnd, Cipher, NONCE_LEN, TAG_LEN};

/// Of all measuring together. One round is always done.
const LIMIT: Duration = Duration::from_millis(25);
const ROUNDS: usize = 24;
/// Packets per timed stretch: some tens of microseconds, less than a scheduler's tick.
const PACKETS: u32 = 32;
const LENGTHS: [usize; 2] = [64, 1400];
/// Less than this much better than `ring` is noise, and `ring` stays.
const MARGIN: f64 = 0.97;

/// What was chosen for a cipher, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub cipher: Cipher,
    pub back_end: BackEnd,
    /// Nanoseconds to seal 1400 bytes.
    pub ns_1400: u32,
}

/// The back end of each cipher, as `status` shows it. Measures when first asked.
///
/// # Panics
/// Where no back end, `ring` neither, gets known vectors right: nothing must be encrypted by such a program.
pub fn chosen() -> [Choice; 3] {
    static CHOSEN: OnceLock<[Choice; 3]> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("SOFTDPU_AEAD").ok();
        let start = Instant::now();
        let mut n = 0;
        Cipher::ALL.map(|cipher| {
            n += 1;
            choose(cipher, wanted.as_deref(), start + LIMIT * n / 3)
        })
    })
}

pub(super) fn best(cipher: Cipher) -> BackEnd {
    chosen().into_iter().find(|c| c.cipher == cipher).map_or(BackEnd::Ring, |c| c.back_end)
}

/// One that takes part.
struct Candidate {
    back_end: BackEnd,
    key: AeadKey,
    /// Best so far, per packet of each length.
    ns: [f64; 2],
}

fn choose(cipher: Cipher, wanted: Option<&str>, until: Instant) -> Choice {
    let mut candidates: Vec<Candidate> = BackEnd::all(cipher)
        .filter_map(|back_end| match self_test(cipher, &|key| AeadKey::expand(back_end, cipher, key)) {
            Ok(()) => {
                let key = AeadKey::expand(back_end, cipher, &[0x5a; 32][..cipher.key_len()]);
                Some(Candidate { back_end, key, ns: [f64::INFINITY; 2] })
            }
            Err(what) => {
                tracing::error!("{back_end} fails its self-test for {cipher} ({what}) and is not used");
                None
            }
        })
        .collect();
    assert!(!candidates.is_empty(), "no implementation of {cipher} passes its self-test on this machine");
    if let Some(wanted) = wanted {
        if candidates.iter().any(|c| c.back_end.name() == wanted) {
            candidates.retain(|c| c.back_end.name() == wanted);
        } else {
            tracing::warn!("SOFTDPU_AEAD={wanted} is not there for {cipher}: the fastest is taken");
        }
    }
    measure(&mut candidates, until);
    pick(cipher, &candidates)
}

/// Alternating, so that whatever disturbs one round disturbs all.
fn measure(candidates: &mut [Candidate], until: Instant) {
    let mut text = [0; LENGTHS[1]];
    for round in 0..ROUNDS {
        for candidate in candidates.iter_mut() {
            for (best, length) in candidate.ns.iter_mut().zip(LENGTHS) {
                if round > 0 && Instant::now() >= until {
                    return;
                }
                // Builds without optimisation are slow enough to need no more.
                let packets = if cfg!(debug_assertions) { 1 } else { PACKETS };
                let start = Instant::now();
                for _ in 0..packets {
                    // The same nonce again and again: the key is nobody's, and the text is thrown away.
                    let _ = std::hint::black_box(candidate.key.seal([0; NONCE_LEN], &[0; 8], &mut text[..length]));
                }
                *best = best.min(start.elapsed().as_nanos() as f64 / f64::from(packets));
            }
        }
    }
}

/// Least time over short and long packets, both weighing the same. `candidates` is not empty; `ring` comes first.
fn pick(cipher: Cipher, candidates: &[Candidate]) -> Choice {
    let first = &candidates[0];
    let cost = |c: &Candidate| c.ns[0] / first.ns[0] * (c.ns[1] / first.ns[1]);
    let fastest = candidates.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(first);
    let best = if cost(fastest).sqrt() < MARGIN { fastest } else { first };
    Choice { cipher, back_end: best.back_end, ns_1400: best.ns[1].min(f64::from(u32::MAX)) as u32 }
}

const fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let (digits, mut out, mut i) = (hex.as_bytes(), [0; N], 0);
    while i < 2 * N {
        let digit = match digits[i] {
            d @ b'0'..=b'9' => d - b'0',
            d => d - b'a' + 10,
        };
        out[i / 2] = out[i / 2] << 4 | digit;
        i += 1;
    }
    out
}

/// A published sealing: McGrew & Viega, "GCM", test cases 4 and 16; RFC 8439 §2.8.2.
struct Known {
    key: &'static [u8],
    nonce: [u8; NONCE_LEN],
    aad: &'static [u8],
    plain: &'static [u8],
    tag: [u8; TAG_LEN],
}

const GCM_NONCE: [u8; 12] = bytes("cafebabefacedbaddecaf888");
const GCM_AAD: &[u8] = &bytes::<20>("feedfacedeadbeeffeedfacedeadbeefabaddad2");
const GCM_PLAIN: &[u8] = &bytes::<60>(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
);

fn known(cipher: Cipher) -> Known {
    match cipher {
        Cipher::Aes128Gcm => Known {
            key: &const { bytes::<16>("feffe9928665731c6d6a8f9467308308") },
            nonce: GCM_NONCE,
            aad: GCM_AAD,
            plain: GCM_PLAIN,
            tag: bytes("5bc94fbc3221a5db94fae95ae7121a47"),
        },
        Cipher::Aes256Gcm => Known {
            key: &const { bytes::<32>("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308") },
            nonce: GCM_NONCE,
            aad: GCM_AAD,
            plain: GCM_PLAIN,
            tag: bytes("76fc6ece0f4e1768cddf8853bb2d551b"),
        },
        Cipher::ChaCha20Poly1305 => Known {
            key: &const { bytes::<32>("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f") },
            nonce: bytes("070000004041424344454647"),
            aad: &const { bytes::<12>("50515253c0c1c2c3c4c5c6c7") },
            plain: b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
            tag: bytes("1ae10b594f09e26a7e902ecbd0600691"),
        },
    }
}

/// A published vector, then other lengths against `ring`, both ways, and a forged tag each.
///
/// # Errors
/// Says which it was.
fn self_test<A: Aead>(cipher: Cipher, make: &dyn Fn(&[u8]) -> A) -> Result<(), &'static str> {
    let known = known(cipher);
    let key = make(known.key);
    let mut text = known.plain.to_vec();
    // The tag covers the ciphertext, so it alone tells.
    if key.seal(known.nonce, known.aad, &mut text) != Ok(known.tag) {
        return Err("a published vector");
    }
    let ring = AeadKey::expand(BackEnd::Ring, cipher, known.key);
    for length in [0, 1, 15, 64, 100, 192, 193, 512, 960, 961, 1400, 2100] {
        let plain: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
        let (mut ours, mut theirs) = (plain.clone(), plain.clone());
        let tag = ring.seal([3; NONCE_LEN], &[4; 8], &mut theirs).map_err(|_| "ring itself")?;
        if key.seal([3; NONCE_LEN], &[4; 8], &mut ours) != Ok(tag) || ours != theirs {
            return Err("sealing as ring does");
        }
        let mut forged = tag;
        forged[length % TAG_LEN] ^= 1;
        if key.open([3; NONCE_LEN], &[4; 8], &mut ours, forged).is_ok() {
            return Err("a forged tag");
        }
        if key.open([3; NONCE_LEN], &[4; 8], &mut theirs, tag).is_err() || theirs != plain {
            return Err("opening what was sealed");
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::AeadError;
    use super::*;

    #[test]
    fn every_cipher_gets_a_back_end_that_has_it() {
        for choice in chosen() {
            assert!(BackEnd::all(choice.cipher).any(|b| b == choice.back_end) && choice.ns_1400 > 0, "{choice:?}");
            assert_eq!(best(choice.cipher), choice.back_end);
        }
    }

    #[test]
    fn the_name_in_the_environment_is_taken_where_it_is_there() {
        let soon = Instant::now();
        for cipher in Cipher::ALL {
            for back in BackEnd::all(cipher) {
                assert_eq!(choose(cipher, Some(back.name()), soon).back_end, back);
            }
            choose(cipher, Some("nobody"), soon);
        }
    }

    #[test]
    fn the_fastest_wins_and_noise_does_not() {
        let cipher = Cipher::ChaCha20Poly1305;
        let candidate =
            |back_end, ns| Candidate { back_end, key: AeadKey::expand(BackEnd::Ring, cipher, &[0; 32]), ns };
        for back in BackEnd::all(cipher).filter(|b| *b != BackEnd::Ring) {
            let ring = || candidate(BackEnd::Ring, [200.0, 1000.0]);
            let picked = |ns| pick(cipher, &[ring(), candidate(back, ns)]).back_end;
            assert_eq!(picked([150.0, 500.0]), back);
            assert_eq!(picked([198.0, 990.0]), BackEnd::Ring);
            // Half as fast for short packets, a third of the time for long ones.
            assert_eq!(picked([400.0, 300.0]), back);
        }
    }

    /// `ring`, with something wrong.
    struct Broken(AeadKey, u8);

    impl std::fmt::Debug for Broken {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Broken")
        }
    }

    impl Aead for Broken {
        fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8]) -> Result<[u8; 16], AeadError> {
            let mut tag = self.0.seal(nonce, aad, text)?;
            tag[15] ^= u8::from(self.1 == 1 || self.1 == 2 && text.len() == 961);
            Ok(tag)
        }

        fn open(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: [u8; 16]) -> Result<(), AeadError> {
            match self.1 {
                3 => self.0.open(nonce, aad, text, tag).or(Ok(())),
                4 => Err(AeadError),
                _ => self.0.open(nonce, aad, text, tag),
            }
        }
    }

    #[test]
    fn what_is_broken_is_found_out() {
        for cipher in Cipher::ALL {
            let test = |how| self_test(cipher, &|key| Broken(AeadKey::expand(BackEnd::Ring, cipher, key), how));
            let whys = [0, 1, 2, 3, 4].map(test);
            let want = [
                Ok(()),
                Err("a published vector"),
                Err("sealing as ring does"),
                Err("a forged tag"),
                Err("opening what was sealed"),
            ];
            assert_eq!(whys, want);
        }
    }
}
