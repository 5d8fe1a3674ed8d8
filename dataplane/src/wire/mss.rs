//! The MSS option of TCP's SYN, lowered to what a tunnel carries (RFC 9293 §3.7.1, RFC 4459 §3.2): for ends that never hear
//! of the path's MTU because somebody drops the ICMP errors.

use super::checksum;

/// TCP header without options.
const HEADER: usize = 20;
/// Where the checksum is.
const CHECKSUM: usize = 16;
const SYN: u8 = 2;
const KIND_END: u8 = 0;
const KIND_NOP: u8 = 1;
const KIND_MSS: u8 = 2;
const MSS_LEN: usize = 4;

/// Largest MSS over a way that carries IP packets of `mtu` bytes: without the IP header (`ip` bytes) and TCP's 20. Options
/// are not taken off; senders do that themselves (RFC 6691 §2).
pub fn of_mtu(mtu: usize, ip: usize) -> u16 {
    mtu.saturating_sub(ip + HEADER).min(usize::from(u16::MAX)) as u16
}

/// Lowers the MSS that a SYN offers to `most`, and keeps the checksum true. Never raises it, and adds none where there is
/// none: the default (536, or 1220 over IPv6) is small enough. `segment` starts at the TCP header; what is behind the header
/// is not looked at. `true` where something was changed. Options that make no sense end the search.
pub fn clamp(segment: &mut [u8], most: u16) -> bool {
    let Some(fixed) = segment.first_chunk::<HEADER>() else { return false };
    let header = usize::from(fixed[12] >> 4) * 4;
    if fixed[13] & SYN == 0 || header > segment.len() {
        return false;
    }
    let (mut at, mut changed) = (HEADER, false);
    while at < header {
        let len = match segment[at] {
            KIND_END => break,
            KIND_NOP => 1,
            _ if at + 1 < header => usize::from(segment[at + 1]),
            _ => break,
        };
        let kind = segment[at];
        if (kind != KIND_NOP && len < 2) || at + len > header {
            break;
        }
        // Which of several counts is the receiver's business, so each is lowered.
        if kind == KIND_MSS && len == MSS_LEN {
            changed |= lower(segment, at + 2, most);
        }
        at += len;
    }
    changed
}

fn lower(segment: &mut [u8], at: usize, most: u16) -> bool {
    let old = [segment[at], segment[at + 1]];
    if u16::from_be_bytes(old) <= most {
        return false;
    }
    let new = most.to_be_bytes();
    segment[at..at + 2].copy_from_slice(&new);
    // At an odd place the two bytes are halves of two words, each in the other's place: as if swapped (RFC 1071 §2 (B)).
    let words = if at.is_multiple_of(2) { (old, new) } else { ([old[1], old[0]], [new[1], new[0]]) };
    checksum::patch(segment, CHECKSUM, words.0, words.1);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::{add, fold};
    use proptest::prelude::*;

    /// A SYN with these options (padded to words with zeros), its checksum right.
    fn syn(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = HEADER + options.len().next_multiple_of(4);
        let mut segment = vec![0x11; HEADER];
        segment[12] = ((header / 4) as u8) << 4;
        segment[13] = flags;
        segment[CHECKSUM..CHECKSUM + 4].fill(0);
        segment.extend(options);
        segment.resize(header, 0);
        segment.extend(payload);
        let sum = checksum::of(&segment);
        segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum);
        segment
    }

    fn sums_up(segment: &[u8]) -> bool {
        fold(add(0, segment)) == 0xffff
    }

    #[test]
    fn a_large_mss_is_lowered_and_a_small_one_stays() {
        for (offered, most, want) in [(1460, 1400, 1400), (1400, 1400, 1400), (536, 1400, 536), (65_535, 0, 0)] {
            let mut segment = syn(SYN, &[2, 4, (offered >> 8) as u8, offered as u8, 1, 3, 3, 7], b"");
            assert_eq!(clamp(&mut segment, most), offered > usize::from(most));
            assert_eq!(u16::from_be_bytes([segment[22], segment[23]]), want);
            assert!(sums_up(&segment));
        }
    }

    #[test]
    fn only_of_a_syn_and_only_where_there_is_one() {
        let mss = [2, 4, 5, 0xb4];
        for (flags, options) in [(16, &mss[..]), (SYN, &[][..]), (SYN, &[1, 1, 1, 0]), (SYN, &[0, 2, 4, 5])] {
            let mut segment = syn(flags, options, b"");
            let before = segment.clone();
            assert!(!clamp(&mut segment, 1000));
            assert_eq!(segment, before);
        }
        let mut answer = syn(SYN | 16, &mss, b"");
        assert!(clamp(&mut answer, 1000), "both directions");
    }

    #[test]
    fn at_an_odd_place_and_twice() {
        let mut segment = syn(SYN, &[1, 2, 4, 5, 0xb4, 1, 1, 2, 4, 5, 0xb5, 0], b"payload");
        assert!(clamp(&mut segment, 1000));
        assert_eq!((&segment[23..25], &segment[29..31]), (&[3, 0xe8][..], &[3, 0xe8][..]));
        assert!(sums_up(&segment));
    }

    #[test]
    fn mss_of_an_mtu() {
        assert_eq!((of_mtu(1438, 20), of_mtu(1438, 40), of_mtu(30, 20)), (1398, 1378, 0));
        assert_eq!(of_mtu(200_000, 20), u16::MAX);
    }

    proptest! {
        /// Whatever the options: the sum stays right, nothing but MSS values and the sum changes, and no MSS is raised.
        #[test]
        fn garbage_is_left_alone(options in proptest::collection::vec(prop_oneof![Just(1u8), Just(2), Just(4), any::<u8>()], 0..40), flags: u8, most: u16) {
            let before = syn(flags, &options, b"data");
            let mut after = before.clone();
            let changed = clamp(&mut after, most);
            prop_assert_eq!(changed, after != before);
            prop_assert!(sums_up(&after));
            prop_assert_eq!(&before[..CHECKSUM], &after[..CHECKSUM]);
            for at in 20..after.len() {
                let in_mss = |from: usize| from >= 22 && before[from - 2..from] == [2, 4];
                prop_assert!(before[at] == after[at] || in_mss(at) || in_mss(at - 1));
            }
        }

        /// Nothing that is shorter or lies about its length is touched, or read beyond its end.
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..70), most: u16) {
            let before = bytes.clone();
            let changed = clamp(&mut bytes, most);
            prop_assert_eq!(changed, bytes != before);
        }
    }
}
