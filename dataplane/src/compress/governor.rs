//! Whether a packet is worth trying: two bytes of memory per flow, and a look at a few bytes of the packet.

/// Packets that are left alone after the `level`-th failure in a row: 2^level − 1, at most this level.
const MAX_LEVEL: u8 = 8;
/// Bytes sampled by the probe.
const SAMPLE: usize = 64;
/// With so many distinct values among [`SAMPLE`] bytes the data is random: of uniformly random bytes 56.6 ± 2.4 are
/// distinct, of base64 about 41, of machine code about 40, of text 20 to 30.
const RANDOM: u32 = 50;

/// One direction of one flow. Starts by trying; each failure doubles the number of packets left alone, up to 255; a
/// success forgets all failures. So a flow of ciphertext or video costs one probe in 256 packets, and one that turns
/// to text is found after 255 at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Governor {
    /// Packets still to be left alone: 2^[`MAX_LEVEL`] - 1 at most.
    skip: u8,
    /// Failures in a row, at most [`MAX_LEVEL`].
    level: u8,
}

const _: () = assert!(size_of::<Governor>() == 2);

impl Governor {
    /// Goes on from what [`Self::suspend`] gave.
    pub fn resume(skip: u8, level: u8) -> Self {
        Self { skip, level: level.min(MAX_LEVEL) }
    }

    /// Its memory in two bytes, for a flow table's entry.
    pub fn suspend(self) -> (u8, u8) {
        (self.skip, self.level)
    }

    /// Whether to try this packet.
    #[inline]
    pub fn admit(&mut self) -> bool {
        match self.skip.checked_sub(1) {
            Some(left) => {
                self.skip = left;
                false
            }
            None => true,
        }
    }

    /// What became of a packet that was tried.
    #[inline]
    pub fn learn(&mut self, smaller: bool) {
        if smaller {
            *self = Self::default();
        } else {
            self.level = (self.level + 1).min(MAX_LEVEL);
            self.skip = ((1_u16 << self.level) - 1) as u8;
        }
    }
}

/// Whether the bytes look random (encrypted or compressed already), from eight samples of eight bytes. Errs on the side
/// of trying, except for random data that repeats within the packet, which is rare.
#[inline]
pub fn looks_random(payload: &[u8]) -> bool {
    const WORD: usize = 8;
    if payload.len() < SAMPLE {
        return false;
    }
    let stride = (payload.len() - WORD) / (SAMPLE / WORD - 1);
    let mut seen = [0_u64; 4];
    for i in 0..SAMPLE / WORD {
        for byte in &payload[i * stride..i * stride + WORD] {
            seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
    }
    seen.iter().map(|s| s.count_ones()).sum::<u32>() >= RANDOM
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random enough: xorshift.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..len)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x >> 32) as u8
            })
            .collect()
    }

    #[test]
    fn random_data_is_recognised_and_text_is_not() {
        for len in [64, 100, 512, 1400, 9000] {
            let right = (0..1000).filter(|seed| looks_random(&noise(*seed, len))).count();
            assert!(right >= 980, "{right} of 1000 at {len}");
            let text: Vec<u8> = b"<tr><td>Whereas recognition of the inherent dignity</td><td>1948-12-10</td></tr>\n"
                .iter()
                .copied()
                .cycle()
                .take(len)
                .collect();
            let base64: Vec<u8> = noise(7, len)
                .iter()
                .map(|b| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[usize::from(b & 63)])
                .collect();
            assert!(!looks_random(&text) && !looks_random(&base64) && !looks_random(&vec![0; len]));
        }
        for len in 0..64 {
            assert!(!looks_random(&noise(1, len)), "too short to tell");
        }
    }

    #[test]
    fn failures_double_the_pause_and_a_success_ends_it() {
        let mut g = Governor::default();
        let pauses: Vec<usize> = (0..10)
            .map(|_| {
                assert!(g.admit());
                g.learn(false);
                let mut pause = 0;
                while !g.clone().admit() {
                    assert!(!g.admit());
                    pause += 1;
                }
                pause
            })
            .collect();
        assert_eq!(pauses, [1, 3, 7, 15, 31, 63, 127, 255, 255, 255]);
        assert!(g.admit());
        g.learn(true);
        assert!(g.admit() && g.admit());
        g.learn(false);
        assert_eq!((g.admit(), g.admit()), (false, true));
    }
}
