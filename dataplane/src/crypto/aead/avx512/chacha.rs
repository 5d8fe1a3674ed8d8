//! ChaCha20 (RFC 8439 §2.3): four blocks side by side in four registers, a *set*; up to four sets at once.
//!
//! Each of the four rows of the state is one register, with the row of one block in each 128-bit lane. A quarter round
//! then works on a column of four blocks by one instruction, and only the way to the diagonals and back costs shuffles.
//! One set alone waits for its own results; four keep the CPU's vector units busy. Sets may be of different packets.

use std::arch::x86_64::*;

/// The rows of four blocks.
pub(super) type Set = [__m512i; 4];

/// Bytes of key stream a set gives.
pub(super) const SET_BYTES: usize = 256;
pub(super) const BLOCK: usize = 64;

/// Key stream, written over with zeros when it goes. As many sets as are worked on at once.
#[repr(align(64))]
pub(super) struct Stream(pub [[__m512i; 4]; 4]);

impl Stream {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    pub(super) fn new() -> Self {
        Self([[_mm512_setzero_si512(); 4]; 4])
    }

    /// Zeros over the first `sets`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    pub(super) fn scrub(&mut self, sets: usize) {
        for set in self.0.iter_mut().take(sets) {
            *set = [_mm512_setzero_si512(); 4];
        }
        // The compiler must take it that somebody reads the zeros.
        std::hint::black_box(&raw const self.0);
    }
}

/// The state of a set before the rounds: blocks `counter` to `counter + 3` of this key and nonce.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) fn start(key: &[u8; 32], nonce: &[u8; 12], counter: u32) -> Set {
    // SAFETY: 16 bytes each, of an array that has them.
    let (low, high) = unsafe { (_mm_loadu_si128(key.as_ptr().cast()), _mm_loadu_si128(key.as_ptr().add(16).cast())) };
    let word = |n: usize| i32::from_le_bytes([nonce[n], nonce[n + 1], nonce[n + 2], nonce[n + 3]]);
    // "expand 32-byte k"
    let constant = _mm_set_epi32(0x6b20_6574, 0x7962_2d32, 0x3320_646e, 0x6170_7865);
    let last = _mm_set_epi32(word(8), word(4), word(0), counter as i32);
    let lanes = _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0);
    [
        _mm512_broadcast_i32x4(constant),
        _mm512_broadcast_i32x4(low),
        _mm512_broadcast_i32x4(high),
        _mm512_add_epi32(_mm512_broadcast_i32x4(last), lanes),
    ]
}

/// Twenty rounds, and the starting state added.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn rounds<const N: usize>(start: &[Set; N]) -> [Set; N] {
    let mut v = *start;
    for _ in 0..10 {
        columns(&mut v);
        for s in &mut v {
            s[1] = _mm512_shuffle_epi32::<0b00_11_10_01>(s[1]);
            s[2] = _mm512_shuffle_epi32::<0b01_00_11_10>(s[2]);
            s[3] = _mm512_shuffle_epi32::<0b10_01_00_11>(s[3]);
        }
        columns(&mut v);
        for s in &mut v {
            s[1] = _mm512_shuffle_epi32::<0b10_01_00_11>(s[1]);
            s[2] = _mm512_shuffle_epi32::<0b01_00_11_10>(s[2]);
            s[3] = _mm512_shuffle_epi32::<0b00_11_10_01>(s[3]);
        }
    }
    for (s, first) in v.iter_mut().zip(start) {
        for (row, add) in s.iter_mut().zip(first) {
            *row = _mm512_add_epi32(*row, *add);
        }
    }
    v
}

/// Quarter rounds on all columns (RFC 8439 §2.1), set beside set so that they hide each other's latency.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn columns<const N: usize>(v: &mut [Set; N]) {
    macro_rules! step {
        ($a:literal, $b:literal, $d:literal, $by:literal) => {
            for s in v.iter_mut() {
                s[$a] = _mm512_add_epi32(s[$a], s[$b]);
            }
            for s in v.iter_mut() {
                s[$d] = _mm512_rol_epi32::<$by>(_mm512_xor_si512(s[$d], s[$a]));
            }
        };
    }
    step!(0, 1, 3, 16);
    step!(2, 3, 1, 12);
    step!(0, 1, 3, 8);
    step!(2, 3, 1, 7);
}

/// The key stream of `N` sets: a block in each register, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) fn stream<const N: usize>(start: &[Set; N], out: &mut Stream) {
    for (set, out) in rounds(start).iter().zip(&mut out.0) {
        let [a, b, c, d] = *set;
        let (ab01, cd01) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        let (ab23, cd23) = (_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(c, d));
        *out = [
            _mm512_shuffle_i32x4::<0x88>(ab01, cd01),
            _mm512_shuffle_i32x4::<0xDD>(ab01, cd01),
            _mm512_shuffle_i32x4::<0x88>(ab23, cd23),
            _mm512_shuffle_i32x4::<0xDD>(ab23, cd23),
        ];
    }
}

/// `sets` (1 to 4) sets from block `counter` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) fn run(key: &[u8; 32], nonce: &[u8; 12], counter: u32, sets: usize, out: &mut Stream) {
    let one = start(key, nonce, counter);
    let step = |s: Set, n: i32| [s[0], s[1], s[2], _mm512_add_epi32(s[3], _mm512_maskz_set1_epi32(0x1111, 4 * n))];
    match sets {
        1 => stream(&[one], out),
        2 => stream(&[one, step(one, 1)], out),
        3 => stream(&[one, step(one, 1), step(one, 2)], out),
        _ => stream(&[one, step(one, 1), step(one, 2), step(one, 3)], out),
    }
}

/// Key stream onto `text`, as far as both reach. Returns the bytes done.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) fn xor(stream: &[__m512i], text: &mut [u8]) -> usize {
    let whole = (text.len() / BLOCK).min(stream.len());
    for (block, bytes) in stream.iter().zip(text.chunks_exact_mut(BLOCK)) {
        // SAFETY: `bytes` is 64 bytes.
        unsafe {
            let mixed = _mm512_xor_si512(*block, _mm512_loadu_si512(bytes.as_ptr().cast()));
            _mm512_storeu_si512(bytes.as_mut_ptr().cast(), mixed);
        }
    }
    let done = whole * BLOCK;
    let (Some(block), rest) = (stream.get(whole), &mut text[done..]) else { return done };
    // Less than a block, so the shift is in range.
    let mask = (1u64 << rest.len()) - 1;
    // SAFETY: the mask has a bit for each byte of `rest` and none beyond; what is masked off is not touched.
    unsafe {
        let bytes = _mm512_maskz_loadu_epi8(mask, rest.as_ptr().cast());
        _mm512_mask_storeu_epi8(rest.as_mut_ptr().cast(), mask, _mm512_xor_si512(*block, bytes));
    }
    done + rest.len()
}
