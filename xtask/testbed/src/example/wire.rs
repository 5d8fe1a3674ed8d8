//! What the wire between the sites showed, by what a stranger could tell.

use std::collections::BTreeMap;

use crate::capture::Seen;

/// Frames and bytes of IP.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    pub frames: u64,
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
    }
}

/// One capture.
#[derive(Debug, Default)]
pub struct Wire {
    /// ESP from site A, and to it.
    pub esp: [Amount; 2],
    /// TCP and UDP in clear, by protocol number and the lower of both ports.
    pub clear: BTreeMap<(u8, u16), Amount>,
    /// Frames that matched and were not captured.
    pub lost: u64,
    /// Frames that hold the word that was looked for.
    pub leaks: u64,
}

/// Outer address of site A.
const A: [u8; 4] = [192, 0, 2, 1];

impl Wire {
    /// `word`: text of an application that nobody on the wire should be able to read.
    pub fn of(seen: &Seen, word: &[u8]) -> Self {
        let mut this = Self { lost: seen.lost, ..Self::default() };
        for frame in &seen.frames {
            let Some(ip) = frame.bytes.get(14..).filter(|ip| ip.len() >= 20 && ip[0] >> 4 == 4) else { continue };
            if frame.bytes[12..14] != [8, 0] {
                continue;
            }
            let length = u64::from(u16::from_be_bytes([ip[2], ip[3]]));
            let header = usize::from(ip[0] & 15) * 4;
            this.leaks += u64::from(!word.is_empty() && ip.windows(word.len()).any(|window| window == word));
            match (ip[9], ip.get(header..header + 4)) {
                (50, _) => this.esp[usize::from(ip[12..16] != A)].add(length),
                (protocol @ (6 | 17), Some(ports)) => {
                    let [a, b] = [[ports[0], ports[1]], [ports[2], ports[3]]].map(u16::from_be_bytes);
                    this.clear.entry((protocol, a.min(b))).or_default().add(length);
                }
                _ => {}
            }
        }
        this
    }

    /// Both directions.
    pub fn sealed(&self) -> Amount {
        Amount { frames: self.esp[0].frames + self.esp[1].frames, bytes: self.esp[0].bytes + self.esp[1].bytes }
    }

    pub fn in_clear(&self, protocol: u8, port: u16) -> Amount {
        self.clear.get(&(protocol, port)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcap::Captured;

    fn frame(protocol: u8, source: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Captured {
        let mut bytes = vec![0; 12];
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((28 + payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        bytes.extend(source);
        bytes.extend([10, 2, 0, 2]);
        bytes.extend(ports.map(u16::to_be_bytes).concat());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        Captured { time: 0, length: bytes.len() as u32, bytes }
    }

    #[test]
    fn it_tells_sealed_from_clear_and_finds_the_word() {
        let frames = vec![
            frame(50, A, [0, 0], b"xxxx"),
            frame(50, [192, 0, 2, 2], [0, 0], b""),
            frame(6, [10, 1, 0, 2], [40_000, 443], b"card 4111"),
            frame(17, [10, 2, 0, 2], [5004, 41_000], b""),
        ];
        let wire = Wire::of(&Seen { frames, lost: 2, file: Default::default() }, b"4111");
        assert_eq!(wire.esp, [Amount { frames: 1, bytes: 32 }, Amount { frames: 1, bytes: 28 }]);
        assert_eq!(wire.sealed().frames, 2);
        assert_eq!(
            (wire.in_clear(6, 443).frames, wire.in_clear(17, 5004).frames, wire.in_clear(6, 873).frames),
            (1, 1, 0)
        );
        assert_eq!((wire.leaks, wire.lost), (1, 2));
    }
}
