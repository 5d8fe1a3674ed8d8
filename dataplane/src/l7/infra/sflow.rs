//! sFlow version 5: agent address and samples that add up to the datagram (sFlow.org, "sFlow Version 5" §5); versions 2
//! and 4 (RFC 3176 §5) on their port.

use super::read::{fills, u32_at};
use crate::l7::{Class, Fact, Look, Notes, Verdict};

const PORT: u16 = 6343;
const MOST_SAMPLES: u32 = 256;

pub fn look(look: &Look, notes: &mut Notes) -> Verdict {
    let (Some(version), Some(family)) = (look.u32(0), look.u32(4)) else { return Verdict::No };
    let Some(after) = [None, Some(12usize), Some(24)].get(family as usize).copied().flatten() else {
        return Verdict::No;
    };
    let good = match version {
        // Sub-agent, sequence number, up-time, count of samples.
        5 => look.u32(after + 12).zip(look.data.get(after + 16..)).is_some_and(|(n, rest)| samples(n, rest)),
        2 | 4 => look.has_port(PORT) && look.u32(after + 8).is_some_and(|n| (1..=MOST_SAMPLES).contains(&n)),
        _ => false,
    };
    if !good {
        return Verdict::No;
    }
    notes.facts.put(Fact::Version, &[b'0' + version as u8]);
    Verdict::payload(Class::Sflow)
}

/// Each sample: format, length, and as many bytes.
fn samples(n: u32, d: &[u8]) -> bool {
    let sample = |s: &[u8]| 8usize.checked_add(u32_at(s, 4)? as usize);
    (1..=MOST_SAMPLES).contains(&n) && fills(d, 8, n as usize, sample)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hex, is_udp, udp};
    use super::*;

    #[test]
    fn samples_add_up() {
        let d = hex(
            "00000005 00000001 0a000001 00000000 00000001 00000010 00000002 00000001 00000004 aabbccdd 00000002 00000000",
        );
        is_udp(look, &d, 9, Class::Sflow);
        for (at, value) in [(3, 6), (7, 3), (27, 0), (27, 1), (35, 5)] {
            let mut bad = d.clone();
            bad[at] = value;
            assert_eq!(udp(look, &bad, PORT), None, "{at}");
        }
        let old = hex("00000004 00000001 0a000001 00000001 00000010 00000001");
        is_udp(look, &old, PORT, Class::Sflow);
        assert_eq!(udp(look, &old, 9), None);
    }
}
