//! ChaCha20 (RFC 8439 §2.3): up to sixteen blocks at once, which may be of different packets.
//!
//! Two ways. For a few blocks, four of them are a *set* of four registers: one for each row of the state, with the row of
//! one block in each 128-bit lane. A quarter round then works on a column of four blocks by one instruction, and only the
//! way to the diagonals and back costs shuffles. Sixteen blocks go faster with each of the 16 words in a register of its
//! own ([`wide`]).

use std::arch::x86_64::*;

/// The rows of four blocks.
pub(super) type Set = [__m512i; 4];

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;
/// Blocks at once.
pub(super) const BLOCKS: usize = 16;
/// "expand 32-byte k"
const CONSTANT: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// What makes a block its own: counter and nonce (§2.3), as the last row of its state.
#[derive(Clone, Copy)]
#[repr(align(16))]
#[expect(dead_code)] // `Places::row` reads it as memory
pub(super) struct Place([u32; 4]);

impl Place {
    #[inline]
    pub(super) fn new(nonce: &[u8; 12], counter: u32) -> Self {
        let word = |n: usize| u32::from_le_bytes([nonce[n], nonce[n + 1], nonce[n + 2], nonce[n + 3]]);
        Self([counter, word(0), word(4), word(8)])
    }
}

/// Places of the blocks wanted.
#[repr(align(64))]
pub(super) struct Places(pub [Place; BLOCKS]);

impl Places {
    /// Those of set `n`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    fn row(&self, n: usize) -> __m512i {
        // SAFETY: four places of 16 bytes; the slice is checked.
        unsafe { _mm512_loadu_si512(self.0[4 * n..4 * n + 4].as_ptr().cast()) }
    }
}

/// Key stream, a block per register, in sets.
#[repr(align(64))]
pub(super) struct Stream(pub [Set; 4]);

impl Stream {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    pub(super) fn new() -> Self {
        Self([[_mm512_setzero_si512(); 4]; 4])
    }

    /// Zeros over all of it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    pub(super) fn scrub(&mut self) {
        *self = Self::new();
        // The compiler must take it that somebody reads the zeros.
        std::hint::black_box(&raw const self.0);
    }
}

/// The key stream of the first `blocks` (1 to 16) places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) fn run(key: &[u8; 32], places: &Places, blocks: usize, out: &mut Stream) {
    match blocks {
        0..=4 => sets::<1>(key, places, out),
        5..=8 => sets::<2>(key, places, out),
        9..=12 => sets::<3>(key, places, out),
        _ => wide(key, places, out),
    }
}

/// The key stream of `N` sets.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn sets<const N: usize>(key: &[u8; 32], places: &Places, out: &mut Stream) {
    // SAFETY: 16 bytes each, of an array that has them.
    let (low, high) = unsafe { (_mm_loadu_si128(key.as_ptr().cast()), _mm_loadu_si128(key.as_ptr().add(16).cast())) };
    let [c0, c1, c2, c3] = CONSTANT;
    let constant = _mm512_broadcast_i32x4(_mm_set_epi32(c3, c2, c1, c0));
    let (low, high) = (_mm512_broadcast_i32x4(low), _mm512_broadcast_i32x4(high));
    let mut start = [[constant, low, high, constant]; N];
    for (n, set) in start.iter_mut().enumerate() {
        set[3] = places.row(n);
    }
    for (set, out) in rounds(&start).iter().zip(&mut out.0) {
        *out = lanes(*set);
    }
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

/// Four rows of four blocks to four blocks of four rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn lanes([a, b, c, d]: Set) -> Set {
    let (ab01, cd01) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
    let (ab23, cd23) = (_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab01, cd01),
        _mm512_shuffle_i32x4::<0xDD>(ab01, cd01),
        _mm512_shuffle_i32x4::<0x88>(ab23, cd23),
        _mm512_shuffle_i32x4::<0xDD>(ab23, cd23),
    ]
}

/// Sixteen blocks: word *i* of all of them in register *i*, so that rounds need no shuffles; the blocks are put together
/// at the end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn wide(key: &[u8; 32], places: &Places, out: &mut Stream) {
    let word = |n: usize| i32::from_le_bytes([key[4 * n], key[4 * n + 1], key[4 * n + 2], key[4 * n + 3]]);
    // Element 4L + k of each register is of block 4k + L.
    let last = quads([places.row(0), places.row(1), places.row(2), places.row(3)]);
    let mut first = [_mm512_setzero_si512(); 16];
    for (n, v) in first.iter_mut().enumerate() {
        *v = match n {
            0..4 => _mm512_set1_epi32(CONSTANT[n]),
            4..12 => _mm512_set1_epi32(word(n - 4)),
            _ => last[n - 12],
        };
    }
    let mut v = first;
    // x += y, z = (z ^ x) <<< by, on four columns or diagonals: each operand is a row and how far it is turned.
    macro_rules! step {
        ($x:literal, $xt:literal, $y:literal, $yt:literal, $z:literal, $zt:literal, $by:literal) => {
            for i in 0..4 {
                v[$x + (i + $xt) % 4] = _mm512_add_epi32(v[$x + (i + $xt) % 4], v[$y + (i + $yt) % 4]);
            }
            for i in 0..4 {
                let z = _mm512_xor_si512(v[$z + (i + $zt) % 4], v[$x + (i + $xt) % 4]);
                v[$z + (i + $zt) % 4] = _mm512_rol_epi32::<$by>(z);
            }
        };
    }
    macro_rules! quarters {
        ($b:literal, $c:literal, $d:literal) => {
            step!(0, 0, 4, $b, 12, $d, 16);
            step!(8, $c, 12, $d, 4, $b, 12);
            step!(0, 0, 4, $b, 12, $d, 8);
            step!(8, $c, 12, $d, 4, $b, 7);
        };
    }
    for _ in 0..10 {
        quarters!(0, 0, 0);
        quarters!(1, 2, 3);
    }
    for (v, add) in v.iter_mut().zip(first) {
        *v = _mm512_add_epi32(*v, add);
    }
    // Words 4g to 4g + 3 of block 4k + L are lane L of rows[k][g].
    let mut rows = [[_mm512_setzero_si512(); 4]; 4];
    for g in 0..4 {
        let four = quads([v[4 * g], v[4 * g + 1], v[4 * g + 2], v[4 * g + 3]]);
        for (row, part) in rows.iter_mut().zip(four) {
            row[g] = part;
        }
    }
    for (set, rows) in out.0.iter_mut().zip(rows) {
        *set = lanes(rows);
    }
}

/// Transposes 4 × 4 words within each 128-bit lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn quads([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab2, cd2),
        _mm512_unpackhi_epi64(ab2, cd2),
    ]
}

/// Asks for the lines of `text` that rounds take longer to get at than memory does.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
pub(super) fn prefetch(text: &[u8]) {
    for line in text.chunks(BLOCK).take(32) {
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
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
