//! Sequence numbers and the replay window, as the kernel's two structs hold them.
//!
//! `xfrm_replay_state`: 32-bit numbers, a window of at most 32; bit *i* of the bitmap stands for the packet *i* before the
//! highest. `xfrm_replay_state_esn`: 64-bit numbers or not, a window of at most 4096 as a ring in which the highest has the
//! bit `(seq - 1) % window` (`net/xfrm/xfrm_replay.c`).

use super::layout::{Bytes, size};

/// `XFRMA_REPLAY_ESN_MAX`, packets.
pub const MAX_WINDOW: u32 = 4096;

/// The receive side: the highest number seen and which before it were.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Received {
    /// 0: none yet.
    pub highest: u64,
    /// Bit `i % 64` of word `i / 64`: the packet `highest - i` was seen. Bit 0 is the highest itself.
    pub seen: Vec<u64>,
}

impl Received {
    pub fn was_seen(&self, before: u32) -> bool {
        self.seen.get(before as usize / 64).is_some_and(|word| word >> (before % 64) & 1 == 1)
    }

    /// All that either has seen, within `window` packets of the higher of both.
    pub fn merge(&self, other: &Received, window: u32) -> Received {
        let highest = self.highest.max(other.highest);
        let mut merged = Received { highest, seen: Vec::new() };
        for one in [self, other] {
            let behind = highest - one.highest;
            for before in 0..window {
                if one.was_seen(before)
                    && let Ok(at) = u32::try_from(behind + u64::from(before))
                    && at < window
                {
                    merged.set(at);
                }
            }
        }
        merged
    }

    fn set(&mut self, before: u32) {
        let word = before as usize / 64;
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << (before % 64);
    }
}

/// Both directions' numbers of a state, and in which form the kernel wants them back.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Replay {
    /// Packets; 0: no protection.
    pub window: u32,
    /// The last number given to a packet sent (or reserved).
    pub oseq: u64,
    pub received: Received,
    /// Words of the kernel's bitmap where it keeps an `xfrm_replay_state_esn`; what is sent back must have as many.
    pub bitmap_words: Option<u32>,
}

impl Replay {
    /// `XFRMA_REPLAY_VAL`; the window is of `xfrm_usersa_info`.
    pub fn parse_short(bytes: Bytes<'_>, window: u32) -> Option<Self> {
        let (oseq, seq, bitmap) = (bytes.u32(0)?, bytes.u32(4)?, bytes.u32(8)?);
        let received = Received { highest: seq.into(), seen: vec![bitmap.into()] };
        Some(Self { window, oseq: oseq.into(), received, bitmap_words: None })
    }

    /// `XFRMA_REPLAY_ESN_VAL`. The bitmap may be left out.
    pub fn parse_esn(bytes: Bytes<'_>) -> Option<Self> {
        let words = bytes.u32(0)?;
        let window = bytes.u32(20)?;
        if words > MAX_WINDOW / 32 || window > words * 32 {
            return None;
        }
        let wide = |low: usize, high: usize| Some(u64::from(bytes.u32(high)?) << 32 | u64::from(bytes.u32(low)?));
        let mut received = Received { highest: wide(8, 16)?, seen: Vec::new() };
        if bytes.0.len() >= size::REPLAY_ESN + 4 * words as usize && window > 0 {
            for before in 0..window {
                let bit = ring_bit(received.highest, before, window);
                if bytes.u32(size::REPLAY_ESN + 4 * (bit as usize / 32))? >> (bit % 32) & 1 == 1 {
                    received.set(before);
                }
            }
        }
        Some(Self { window, oseq: wide(4, 12)?, received, bitmap_words: Some(words) })
    }

    /// The attribute's payload to send back, in the kernel's form for this state.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Some(words) = self.bitmap_words else {
            let bitmap = self.received.seen.first().copied().unwrap_or(0) as u32;
            let fields = [self.oseq as u32, self.received.highest as u32, bitmap];
            return fields.iter().flat_map(|f| f.to_ne_bytes()).collect();
        };
        let highest = self.received.highest;
        let head =
            [words, self.oseq as u32, highest as u32, (self.oseq >> 32) as u32, (highest >> 32) as u32, self.window];
        let mut bitmap = vec![0_u32; words as usize];
        for before in 0..self.window.min(words * 32) {
            if self.received.was_seen(before) {
                let bit = ring_bit(highest, before, self.window);
                bitmap[bit as usize / 32] |= 1 << (bit % 32);
            }
        }
        head.iter().chain(&bitmap).flat_map(|f| f.to_ne_bytes()).collect()
    }
}

/// Where the packet `before` the highest has its bit. The kernel counts from the low half of the highest number.
fn ring_bit(highest: u64, before: u32, window: u32) -> u32 {
    let top = (highest as u32).wrapping_sub(1) % window;
    (top + window - before % window) % window
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The kernel's `xfrm_replay_advance_esn` for numbers that only rise or fall behind.
    struct Kernel {
        seq: u64,
        window: u32,
        bitmap: Vec<u32>,
    }

    impl Kernel {
        fn receive(&mut self, seq: u64) {
            let window = u64::from(self.window);
            let position = u64::from((self.seq as u32).wrapping_sub(1)) % window;
            let bit = if seq > self.seq {
                let ahead = seq - self.seq;
                if ahead < window {
                    for i in 1..ahead {
                        let bit = (position + i) % window;
                        self.bitmap[bit as usize / 32] &= !(1 << (bit % 32));
                    }
                } else {
                    self.bitmap.fill(0);
                }
                self.seq = seq;
                (position + ahead) % window
            } else {
                (position + window - (self.seq - seq)) % window
            };
            self.bitmap[bit as usize / 32] |= 1 << (bit % 32);
        }
    }

    proptest! {
        #[test]
        fn the_kernels_ring_there_and_back(
            // Where the low half is 0, the kernel's own places only fit together for windows that divide 2^32.
            (window, start) in prop_oneof![
                (prop_oneof![Just(64_u32), Just(128), Just(4096)], prop_oneof![Just(0_u64), Just(1 << 33), Just((1 << 32) - 50)]),
                (33..2000_u32, Just(1_u64 << 33 | 5)),
            ],
            steps in proptest::collection::vec(-60_i64..90, 1..200),
        ) {
            let words = window.div_ceil(32);
            let mut kernel = Kernel { seq: start, window, bitmap: vec![0; words as usize] };
            let mut got = std::collections::BTreeSet::new();
            for step in steps {
                let seq = kernel.seq as i64 + step;
                if seq > start as i64 && kernel.seq as i64 - seq < i64::from(window) && got.insert(seq as u64) {
                    kernel.receive(seq as u64);
                }
            }
            let replay = Replay { window, bitmap_words: Some(words), oseq: 7 << 32 | 5, received: Received { highest: kernel.seq, seen: vec![] } };
            let mut bytes = replay.to_bytes();
            for (at, word) in kernel.bitmap.iter().enumerate() {
                bytes[24 + 4 * at..][..4].copy_from_slice(&word.to_ne_bytes());
            }
            let parsed = Replay::parse_esn(Bytes(&bytes)).unwrap();
            for before in 0..window {
                let want = kernel.seq.checked_sub(before.into()).is_some_and(|s| got.contains(&s));
                prop_assert_eq!(parsed.received.was_seen(before), want, "{} before {}", before, kernel.seq);
            }
            prop_assert_eq!(parsed.to_bytes(), bytes);
        }
    }

    #[test]
    fn two_views_of_a_window_are_joined() {
        let kernel = Received { highest: 100, seen: vec![0b101] };
        let ours = Received { highest: 103, seen: vec![0b11] };
        for merged in [kernel.merge(&ours, 32), ours.merge(&kernel, 32)] {
            assert_eq!(merged, Received { highest: 103, seen: vec![0b101011] });
        }
        let far = Received { highest: 1 << 40, seen: vec![1] };
        assert_eq!(far.merge(&ours, 64), far, "what has left the window is forgotten");
    }

    #[test]
    fn the_short_form() {
        let fields = [9_u32, 70, 0b1011];
        let bytes: Vec<u8> = fields.iter().flat_map(|f| f.to_ne_bytes()).collect();
        let replay = Replay::parse_short(Bytes(&bytes), 32).unwrap();
        assert_eq!((replay.oseq, replay.received.highest, replay.window), (9, 70, 32));
        assert_eq!((0..5).map(|i| replay.received.was_seen(i)).collect::<Vec<_>>(), [true, true, false, true, false]);
        assert_eq!(replay.to_bytes(), bytes);
    }

    #[test]
    fn impossible_windows_are_refused() {
        let bytes = |words: u32, window: u32| {
            let head = [words, 0, 0, 0, 0, window];
            head.iter().flat_map(|f| f.to_ne_bytes()).chain(vec![0; 64]).collect::<Vec<u8>>()
        };
        assert!(Replay::parse_esn(Bytes(&bytes(129, 4096))).is_none(), "more than the kernel keeps");
        assert!(Replay::parse_esn(Bytes(&bytes(2, 65))).is_none(), "more packets than bits");
        assert!(Replay::parse_esn(Bytes(&bytes(u32::MAX, u32::MAX))).is_none());
        assert_eq!(Replay::parse_esn(Bytes(&bytes(2, 0))).unwrap().window, 0);
        let short = Replay::parse_esn(Bytes(&bytes(128, 4096)[..24])).unwrap();
        assert_eq!((short.window, short.bitmap_words), (4096, Some(128)), "a fresh state is described without bitmap");
    }
}
