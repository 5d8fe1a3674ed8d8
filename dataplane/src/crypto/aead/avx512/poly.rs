//! Poly1305 (RFC 8439 §2.5) over `AAD | 0… | text | 0… | lengths` (§2.8): eight blocks at a time with 52-bit multiply-add.
//!
//! Numbers modulo p = 2^130 - 5 are held in limbs of 44, 44 and 42 bits. Lane *i* of the vectors collects every eighth
//! block; between groups of eight all lanes are multiplied by r^8, and after the last one each by its own power of r.
//! The stream of blocks is filled up to whole groups with zeros *in front*, which change nothing, so that only the first
//! and the last group are special. Short texts are done by ordinary 64-bit multiplications.

use std::arch::x86_64::*;

const MASK44: u64 = (1 << 44) - 1;
const MASK42: u64 = (1 << 42) - 1;
/// The bit 2^128 that each block has (§2.5.1), in the third limb.
const HIGH: u64 = 1 << 40;
/// Below this many blocks of text the powers of r cost more than they save.
const SCALAR: usize = 18;

/// The one-time key of a packet.
#[derive(Clone, Copy)]
struct OneTime {
    /// Clamped (§2.5.1).
    r: [u64; 2],
    s: [u64; 2],
}

impl OneTime {
    /// The first 32 bytes of the packet's block 0 (§2.6).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    fn new(block: __m512i) -> Self {
        let low = _mm512_castsi512_si128(block);
        let high = _mm512_extracti32x4_epi32::<1>(block);
        let half = |v: __m128i| [_mm_cvtsi128_si64(v) as u64, _mm_cvtsi128_si64(_mm_unpackhi_epi64(v, v)) as u64];
        let r = half(low);
        Self { r: [r[0] & 0x0fff_fffc_0fff_ffff, r[1] & 0x0fff_fffc_0fff_fffc], s: half(high) }
    }
}

/// What the key alone decides, so that it can be worked out while something else waits.
pub(super) struct Tagger {
    key: OneTime,
    /// `None`: too short to need them.
    powers: Option<Powers>,
}

impl Tagger {
    /// For a text of `length` bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    pub(super) fn new(block: __m512i, length: usize) -> Self {
        let key = OneTime::new(block);
        // Text alone counts, however long the AAD: `vector` needs two groups of it.
        let powers = (length.div_ceil(16) >= SCALAR).then(|| Powers::new(&key));
        Self { key, powers }
    }

    /// The tag of `aad` and `text`, which is as long as was said.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    pub(super) fn tag(&self, aad: &[u8], text: &[u8]) -> [u8; 16] {
        let sum = match &self.powers {
            Some(powers) => vector(&self.key, powers, aad, text),
            None => {
                let mut h = [0; 3];
                scalar(&mut h, &self.key, aad);
                scalar(&mut h, &self.key, text);
                absorb(&mut h, &self.key, aad.len() as u64, text.len() as u64);
                h
            }
        };
        finish(sum, self.key.s)
    }
}

/// `h = (h + block) · r`, partly reduced: the third limb stays below 8.
#[inline(always)]
fn absorb(h: &mut [u64; 3], key: &OneTime, low: u64, high: u64) {
    let [r0, r1] = key.r;
    // r1 is a multiple of 4, so 5 · r1 / 4 stands for r1 · 2^64 behind 2^130.
    let s1 = r1 + (r1 >> 2);
    let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
    let t = u128::from(h[0]) + u128::from(low);
    let h0 = t as u64;
    let t = u128::from(h[1]) + u128::from(high) + (t >> 64);
    let h1 = t as u64;
    let h2 = h[2] + (t >> 64) as u64 + 1;
    let d0 = wide(h0, r0) + wide(h1, s1);
    let d1 = wide(h0, r1) + wide(h1, r0) + u128::from(h2 * s1) + (d0 >> 64);
    let d2 = h2 * r0 + (d1 >> 64) as u64;
    let fold = (d2 >> 2) + (d2 & !3);
    let t = u128::from(d0 as u64) + u128::from(fold);
    h[0] = t as u64;
    let t = u128::from(d1 as u64) + (t >> 64);
    h[1] = t as u64;
    h[2] = (d2 & 3) + (t >> 64) as u64;
}

/// All of `bytes`, the last block filled up with zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn scalar(h: &mut [u64; 3], key: &OneTime, bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<16>();
    for block in whole {
        let n = u128::from_le_bytes(*block);
        absorb(h, key, n as u64, (n >> 64) as u64);
    }
    if !rest.is_empty() {
        let [low, high] = partial(rest);
        absorb(h, key, low, high);
    }
}

/// Up to 16 bytes, and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn partial(bytes: &[u8]) -> [u64; 2] {
    let mask = ((1u32 << bytes.len().min(16)) - 1) as u16;
    // SAFETY: the mask has a bit per byte of `bytes` at most; what is masked off is not read.
    let v = unsafe { _mm_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) };
    [_mm_cvtsi128_si64(v) as u64, _mm_cvtsi128_si64(_mm_unpackhi_epi64(v, v)) as u64]
}

/// In limbs of 44, 44, and the rest.
#[inline(always)]
fn limbs(low: u64, high: u64, top: u64) -> [u64; 3] {
    [low & MASK44, (low >> 44 | high << 20) & MASK44, high >> 24 | top << 40]
}

type Lanes = [__m512i; 3];

/// A factor for all lanes, with what its limbs are behind 2^130.
#[derive(Clone, Copy)]
struct Factor {
    r: Lanes,
    /// 20 times the second and third limb.
    s: [__m512i; 2],
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    fn new(r: Lanes) -> Self {
        let twenty = |v| _mm512_add_epi64(_mm512_slli_epi64::<4>(v), _mm512_slli_epi64::<2>(v));
        Self { r, s: [twenty(r[1]), twenty(r[2])] }
    }
}

/// `h · f` in every lane. Limbs of `h` below 2^47; those of the result below 2^44, 2^44 + 2^9, 2^42.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn multiply(h: Lanes, f: &Factor) -> Lanes {
    let zero = _mm512_setzero_si512();
    let [r0, r1, r2] = f.r;
    let [s1, s2] = f.s;
    let low = |a, b, c| {
        let sum = _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(zero, h[2], c), h[1], b);
        _mm512_madd52lo_epu64(sum, h[0], a)
    };
    let high = |a, b, c| {
        let sum = _mm512_madd52hi_epu64(_mm512_madd52hi_epu64(zero, h[2], c), h[1], b);
        _mm512_madd52hi_epu64(sum, h[0], a)
    };
    let (l0, h0) = (low(r0, s2, s1), high(r0, s2, s1));
    let (l1, h1) = (low(r1, r0, s2), high(r1, r0, s2));
    let (l2, h2) = (low(r2, r1, r0), high(r2, r1, r0));
    let (m44, m42) = (_mm512_set1_epi64(MASK44 as i64), _mm512_set1_epi64(MASK42 as i64));
    // The high halves stand 52 bits up: 8 above the next limb, 10 above 2^130 behind the last.
    let d1 = _mm512_add_epi64(_mm512_add_epi64(l1, _mm512_slli_epi64::<8>(h0)), _mm512_srli_epi64::<44>(l0));
    let d2 = _mm512_add_epi64(_mm512_add_epi64(l2, _mm512_slli_epi64::<8>(h1)), _mm512_srli_epi64::<44>(d1));
    let over = _mm512_add_epi64(_mm512_slli_epi64::<10>(h2), _mm512_srli_epi64::<42>(d2));
    let five = _mm512_add_epi64(_mm512_slli_epi64::<2>(over), over);
    let d0 = _mm512_add_epi64(_mm512_and_si512(l0, m44), five);
    [
        _mm512_and_si512(d0, m44),
        _mm512_add_epi64(_mm512_and_si512(d1, m44), _mm512_srli_epi64::<44>(d0)),
        _mm512_and_si512(d2, m42),
    ]
}

/// Eight blocks, four in each register, as limbs without the bit 2^128. The lanes hold blocks 0, 4, 1, 5, 2, 6, 3, 7.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn split(x: __m512i, y: __m512i) -> Lanes {
    let m44 = _mm512_set1_epi64(MASK44 as i64);
    let (low, high) = (_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y));
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [_mm512_and_si512(low, m44), _mm512_and_si512(middle, m44), _mm512_srli_epi64::<24>(high)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn plus(a: Lanes, b: Lanes) -> Lanes {
    [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1]), _mm512_add_epi64(a[2], b[2])]
}

/// 64 bytes from `at` on, counted from the start of `text`; zeros where `text` is not.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn load(text: &[u8], at: isize) -> __m512i {
    let below = |n: isize| _bzhi_u64(u64::MAX, n.clamp(0, 64) as u32);
    let mask = below(text.len() as isize - at) & !below(-at);
    // SAFETY: the mask has bits for bytes of `text` only; what is masked off is not read.
    unsafe { _mm512_maskz_loadu_epi8(mask, text.as_ptr().wrapping_offset(at).cast()) }
}

/// Powers of r, which depend on the key alone.
struct Powers {
    r8: Factor,
    r16: Factor,
    /// What each lane is multiplied by at the end: r^8 for the first block of a group, r for the last.
    last: Factor,
}

impl Powers {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
    fn new(key: &OneTime) -> Self {
        let blend = |mask, a: Lanes, b: Lanes| [0, 1, 2].map(|n| _mm512_mask_blend_epi64(mask, a[n], b[n]));
        let first_lane = |v: Lanes| v.map(|limb| _mm512_broadcastq_epi64(_mm512_castsi512_si128(limb)));
        let r1 = limbs(key.r[0], key.r[1], 0).map(|limb| _mm512_set1_epi64(limb as i64));
        let r2 = multiply(r1, &Factor::new(r1));
        // Exponents by lane, the first lane first.
        let x2211 = blend(0b1100_1100, r2, r1);
        let x4433 = multiply(x2211, &Factor::new(r2));
        let x44332211 = blend(0b1111_0000, x4433, x2211);
        let x88776655 = multiply(x44332211, &Factor::new(first_lane(x4433)));
        let r8 = first_lane(x88776655);
        let by_r8 = Factor::new(r8);
        Self {
            r16: Factor::new(multiply(r8, &by_r8)),
            r8: by_r8,
            // The order of blocks that `split` leaves: 0, 4, 1, 5, 2, 6, 3, 7.
            last: Factor::new(blend(0b1010_1010, x88776655, x44332211)),
        }
    }
}

/// The sum over all blocks, in limbs of 64, 64 and a few bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,bmi2")]
fn vector(key: &OneTime, powers: &Powers, aad: &[u8], text: &[u8]) -> [u64; 3] {
    // The last block of the AAD goes into the stream, with those before it already in.
    let aad_blocks = aad.len().div_ceil(16);
    let ahead = aad_blocks.min(1);
    let first = if aad_blocks == 0 {
        [0; 3]
    } else {
        let (before, last) = aad.split_at((aad_blocks - 1) * 16);
        let mut h = [0; 3];
        scalar(&mut h, key, before);
        let [low, high] = partial(last);
        let t = u128::from(h[0]) + u128::from(low);
        let u = u128::from(h[1]) + u128::from(high) + (t >> 64);
        limbs(t as u64, u as u64, h[2] + (u >> 64) as u64)
    };
    let blocks = ahead + text.len().div_ceil(16) + 1;
    let groups = blocks.div_ceil(8);
    let empty = groups * 8 - blocks;

    let order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    let high = _mm512_set1_epi64(HIGH as i64);
    let lengths = _mm512_set_epi64(text.len() as i64, aad.len() as i64, 0, 0, 0, 0, 0, 0);
    let ahead_of_text = -16 * (empty + ahead) as isize;

    // SCALAR blocks and the lengths are more than a group, so the first is not the last.
    let mut even = split(load(text, ahead_of_text), load(text, ahead_of_text + 64));
    let here = _mm512_set1_epi64(empty as i64);
    let used = _mm512_cmpge_epu64_mask(order, here);
    even[2] = _mm512_mask_add_epi64(even[2], used, even[2], high);
    let lane = _mm512_cmpeq_epu64_mask(order, here);
    for (limb, add) in even.iter_mut().zip(first) {
        *limb = _mm512_mask_add_epi64(*limb, lane, *limb, _mm512_set1_epi64(add as i64));
    }
    let group = |n: usize| {
        let at = ahead_of_text + 128 * n as isize;
        let (x, y) = if n + 1 < groups {
            // SAFETY: a group between the first and the last is text alone: the first had all before it, the last has at
            // least the lengths and whatever does not fill a block.
            unsafe {
                let from = text.as_ptr().offset(at);
                (_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(64).cast()))
            }
        } else {
            (load(text, at), _mm512_or_si512(load(text, at + 64), lengths))
        };
        let [low, middle, top] = split(x, y);
        [low, middle, _mm512_or_si512(top, high)]
    };
    // Two sums, of every other group, so that one is multiplied while the other waits.
    let mut next = 1;
    if groups % 2 == 1 {
        even = plus(multiply(even, &powers.r8), group(1));
        next = 2;
    }
    let mut odd = group(next);
    next += 1;
    while next < groups {
        even = plus(multiply(even, &powers.r16), group(next));
        odd = plus(multiply(odd, &powers.r16), group(next + 1));
        next += 2;
    }
    let h = plus(multiply(even, &powers.r8), odd);

    let h = multiply(h, &powers.last);
    // Eight lanes of less than 2^45 each.
    let sum = h.map(|v| _mm512_reduce_add_epi64(v) as u64);
    let low = u128::from(sum[0]) + (u128::from(sum[1]) << 44);
    let high = (low >> 64) + (u128::from(sum[2]) << 24);
    [low as u64, high as u64, (high >> 64) as u64]
}

/// `(h mod p + s) mod 2^128` (§2.5.1), without a branch.
#[inline(always)]
fn finish(h: [u64; 3], s: [u64; 2]) -> [u8; 16] {
    // To below 2^130 + a little: what is above counts five times.
    let over = (h[2] >> 2) * 5;
    let t = u128::from(h[0]) + u128::from(over);
    let h0 = t as u64;
    let t = u128::from(h[1]) + (t >> 64);
    let h1 = t as u64;
    let h2 = (h[2] & 3) + (t >> 64) as u64;
    // h + 5 reaches 2^130 exactly where h reaches p; then h - p is h + 5 without that bit.
    let t = u128::from(h0) + 5;
    let g0 = t as u64;
    let t = u128::from(h1) + (t >> 64);
    let g1 = t as u64;
    let g2 = h2 + (t >> 64) as u64;
    let reach = 0u64.wrapping_sub(g2 >> 2 & 1);
    let (h0, h1) = (h0 & !reach | g0 & reach, h1 & !reach | g1 & reach);
    let h = u128::from(h1) << 64 | u128::from(h0);
    let s = u128::from(s[1]) << 64 | u128::from(s[0]);
    h.wrapping_add(s).to_le_bytes()
}
