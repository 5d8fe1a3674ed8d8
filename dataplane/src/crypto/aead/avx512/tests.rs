//! Byte for byte against `ring`. Published vectors are in `aead/vectors.rs`, with those of the other back ends.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::{AeadKey, BackEnd, Cipher};
use super::*;

fn pair(key: &[u8; 32]) -> Option<(AeadKey, AeadKey)> {
    let ours = AeadKey::with(BackEnd::Avx512, Cipher::ChaCha20Poly1305, key);
    if ours.is_none() {
        println!("skipped: no AVX-512 with IFMA here");
    }
    Some((ours?, AeadKey::with(BackEnd::Ring, Cipher::ChaCha20Poly1305, key).unwrap()))
}

/// Bytes that look random and are the same every time.
fn bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..n).map(step).collect()
}

/// Seals with both at an offset, opens with both, and refuses a wrong tag leaving the text as it was.
fn agree(ours: &AeadKey, ring: &AeadKey, nonce: [u8; 12], aad: &[u8], plain: &[u8], offset: usize) {
    let what = || format!("{} bytes at {offset}, {} of AAD", plain.len(), aad.len());
    let mut want = plain.to_vec();
    let want_tag = ring.seal(nonce, aad, &mut want).unwrap();
    let mut memory = vec![0xEE; offset + plain.len() + 64];
    memory[offset..offset + plain.len()].copy_from_slice(plain);
    let text = &mut memory[offset..offset + plain.len()];
    let tag = ours.seal(nonce, aad, text).unwrap();
    assert!(text == want, "text of {}", what());
    assert_eq!(tag, want_tag, "tag of {}", what());
    let mut bad = tag;
    bad[plain.len() % 16] ^= 1 << (plain.len() % 8);
    assert_eq!(ours.open(nonce, aad, text, bad), Err(AeadError));
    assert!(text == want, "a forged text was touched: {}", what());
    ours.open(nonce, aad, text, tag).unwrap();
    assert!(text == plain, "opened: {}", what());
    assert!(memory[..offset].iter().chain(&memory[offset + plain.len()..]).all(|b| *b == 0xEE), "outside: {}", what());
}

#[test]
fn all_lengths_and_alignments_are_as_ring_does_them() {
    let Some((ours, ring)) = pair(&[0x42; 32]) else { return };
    let plain = bytes(4096 + 1, 7);
    for n in 0..=4096 {
        let mut nonce = [9; 12];
        nonce[..8].copy_from_slice(&(n as u64).to_le_bytes());
        agree(&ours, &ring, nonce, &plain[..[0, 8, 12, n % 70][n % 4]], &plain[..n], n % 67);
    }
    for offset in 0..64 {
        for n in [0, 1, 63, 64, 65, 191, 192, 193, 959, 960, 961, 1420] {
            agree(&ours, &ring, [3; 12], &plain[..12], &plain[..n], offset);
        }
    }
    for n in [9000, 65_535, 1 << 18] {
        agree(&ours, &ring, [3; 12], &[], &bytes(n, 3), 5);
    }
}

#[test]
fn batches_are_as_single_packets() {
    let Some((ours, ring)) = pair(&bytes(32, 99).try_into().unwrap()) else { return };
    let lengths = [0, 68, 192, 193, 64, 1400, 1, 16, 512, 100, 180, 190, 191, 40, 2000, 3];
    for take in 0..=lengths.len() {
        let plain: Vec<Vec<u8>> = lengths[..take].iter().map(|n| bytes(*n, *n as u64)).collect();
        let mut texts = plain.clone();
        let mut jobs: Vec<Job<'_>> = texts
            .iter_mut()
            .enumerate()
            .map(|(i, t)| Job::new([i as u8; 12], &[7; 12][..i % 13], t, [0; 16]).unwrap())
            .collect();
        ours.seal_many(&mut jobs);
        for (i, (job, plain)) in jobs.iter().zip(&plain).enumerate() {
            let mut want = plain.clone();
            let tag = ring.seal([i as u8; 12], job.aad(), &mut want).unwrap();
            assert!(job.ok && job.tag == tag && *job.text == want, "job {i} of {take}");
        }
        // Every third is forged: it alone is refused.
        for (i, job) in jobs.iter_mut().enumerate() {
            job.tag[3] ^= u8::from(i % 3 == 1);
        }
        ours.open_many(&mut jobs);
        for (i, (job, plain)) in jobs.iter().zip(&plain).enumerate() {
            assert_eq!(job.ok, i % 3 != 1, "job {i} of {take}");
            assert_eq!(*job.text == *plain, job.ok || plain.is_empty(), "job {i} of {take}");
        }
    }
}

/// Poly1305 over numbers close to the modulus: long runs of all ones, with every key nibble pattern that clamping leaves.
#[test]
fn carries_through_all_limbs() {
    for seed in 0..64u8 {
        let Some((ours, ring)) = pair(&[seed; 32]) else { return };
        // Sealing a text that is the key stream's complement makes the ciphertext all ones, and the stream itself zeros.
        for (n, fill) in [(160, 0xFF), (160, 0), (1024, 0xFF), (1024, 0), (176, 0xFF), (1400, 0xFF)] {
            let mut text = vec![0; n];
            ring.seal([seed; 12], &[], &mut text).unwrap();
            for b in &mut text {
                *b ^= fill;
            }
            agree(&ours, &ring, [seed; 12], &[0xFF; 12], &text, 0);
        }
    }
}

/// Poly1305 as it is written down (RFC 8439 §2.5.1), bit by bit: numbers are `(above 2^128, below)`.
fn reference(r: u128, s: u128, blocks: &[u128]) -> [u8; 16] {
    const P: (u128, u128) = (3, u128::MAX - 4);
    let add = |a: (u128, u128), b: (u128, u128)| {
        let (low, carry) = a.1.overflowing_add(b.1);
        let sum = (a.0 + b.0 + u128::from(carry), low);
        if sum >= P {
            let (low, borrow) = sum.1.overflowing_sub(P.1);
            (sum.0 - P.0 - u128::from(borrow), low)
        } else {
            sum
        }
    };
    let mut h = (0, 0);
    for block in blocks {
        h = add(h, (1, *block));
        let times = h;
        h = (0, 0);
        for bit in (0..128).rev() {
            h = add(h, h);
            h = if r >> bit & 1 == 1 { add(h, times) } else { h };
        }
    }
    h.1.wrapping_add(s).to_le_bytes()
}

/// Through the vectors' code.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn tag_with(r: u128, s: u128, text: &[u8]) -> [u8; 16] {
    let mut block = [0; 64];
    block[..16].copy_from_slice(&r.to_le_bytes());
    block[16..32].copy_from_slice(&s.to_le_bytes());
    // SAFETY: 64 bytes of an array that has them.
    let block = unsafe { std::arch::x86_64::_mm512_loadu_si512(block.as_ptr().cast()) };
    Tagger::new(block, text.len()).tag(&[], text)
}

/// Keys and sums at the edges: r of 0, 1, 2 and all that clamping leaves; blocks that make the sum p - 1, p, p + 1 or all ones.
#[test]
fn poly1305_at_the_edges() {
    if !runs() {
        return println!("skipped: no AVX-512 with IFMA here");
    }
    const CLAMP: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let keys = [0, 1, 2, 4, CLAMP, (CLAMP >> 1) & CLAMP, 1 << 44, 1 << 100, CLAMP - 3, (u128::MAX / 3) & CLAMP];
    let fills = [0, 1, u128::MAX, u128::MAX - 4, u128::MAX - 5, u128::MAX - 3, 5, 1 << 127, u128::MAX << 64];
    for r in keys {
        for s in [0, 1, u128::MAX] {
            for (n, fill) in fills.iter().enumerate() {
                for count in [0, 1, 7, 16, 17, 18, 23, 24, 25, 31, 32, 33, 40, 90] {
                    let mut blocks = vec![*fill; count];
                    // The last of them differs, so that sums cross the edge at the end as well.
                    if let Some(last) = blocks.last_mut() {
                        *last = fills[(n + count) % fills.len()];
                    }
                    let text: Vec<u8> = blocks.iter().flat_map(|b| b.to_le_bytes()).collect();
                    blocks.push((text.len() as u128) << 64);
                    // SAFETY: `runs` says that the CPU has the features.
                    let tag = unsafe { tag_with(r, s, &text) };
                    assert_eq!(tag, reference(r, s, &blocks), "r {r:x}, s {s:x}, {count} blocks of {fill:x}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_it_is_ring_agrees(
        key: [u8; 32], nonce: [u8; 12], aad in prop::collection::vec(any::<u8>(), 0..80),
        text in prop::collection::vec(any::<u8>(), 0..2200), offset in 0_usize..64,
    ) {
        if let Some((ours, ring)) = pair(&key) {
            agree(&ours, &ring, nonce, &aad, &text, offset);
        }
    }
}
