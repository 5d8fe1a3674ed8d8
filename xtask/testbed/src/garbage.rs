//! Random and mutated frames: what no dataplane should fall over. The same seed gives the same frames.

/// Source of frames.
#[derive(Debug)]
pub struct Garbage {
    state: u64,
    to: [u8; 6],
    templates: Vec<Vec<u8>>,
}

impl Garbage {
    /// `to` is the link address that most frames are sent to. `seed` 0 counts as 1.
    pub fn new(seed: u64, to: [u8; 6]) -> Self {
        Self { state: seed.max(1), to, templates: templates() }
    }

    /// Adds frames of one's own to mutate, such as captured ESP.
    pub fn learn(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.templates.extend(frames.into_iter().filter(|frame| frame.len() >= 14));
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end.max(1)
    }

    /// The next frame: 14 to 1514 bytes.
    pub fn next_frame(&mut self) -> Vec<u8> {
        let mut frame = match self.below(8) {
            0 => self.noise(),
            1 => self.noise_behind_ip(),
            _ => {
                let at = self.below(self.templates.len());
                let frame = self.templates[at].clone();
                self.mutate(frame)
            }
        };
        frame.resize(frame.len().clamp(14, 1514), 0);
        // Frames for other stations are dropped for that alone; a few of those are enough.
        if self.below(32) != 0 {
            frame[..6].copy_from_slice(&self.to);
        }
        frame
    }

    fn noise(&mut self) -> Vec<u8> {
        let length = 14 + self.below(1501);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// A plausible start and then anything.
    fn noise_behind_ip(&mut self) -> Vec<u8> {
        let mut frame = self.noise();
        let v4 = self.below(2) == 0;
        frame[12..14].copy_from_slice(&if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        if let Some(first) = frame.get_mut(14) {
            *first = if v4 { 0x45 } else { 0x60 };
        }
        if let Some(protocol) = frame.get_mut(if v4 { 23 } else { 20 }) {
            *protocol = [6, 17, 1, 50, 58, 0, 43, 44, 60, 108, 4, 41][(self.state >> 20) as usize % 12];
        }
        frame
    }

    fn mutate(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(4) {
            let length = frame.len();
            // Headers are where it hurts.
            let at = if self.below(4) == 0 { self.below(length) } else { 12 + self.below(length.min(96) - 12) };
            match self.below(6) {
                0 => frame[at] ^= 1 << self.below(8),
                1 => frame[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][self.below(6)],
                2 => frame[at] = self.next() as u8,
                3 => frame.truncate(at.max(14)),
                4 => {
                    let more = self.below(1514 - length.min(1513));
                    frame.resize(length + more, 0x41);
                }
                // A 16-bit field, such as a length.
                _ => {
                    let value = (self.next() as u16).to_be_bytes();
                    let end = (at + 2).min(length);
                    frame[at..end].copy_from_slice(&value[..end - at]);
                }
            }
            if frame.len() <= 14 {
                break;
            }
        }
        frame
    }
}

const V4: [[u8; 4]; 2] = [[10, 1, 0, 2], [10, 2, 0, 2]];
const OUTER: [[u8; 4]; 2] = [[192, 0, 2, 2], [192, 0, 2, 1]];

/// Well-formed frames of every kind the dataplane knows, between the addresses of the topology.
fn templates() -> Vec<Vec<u8>> {
    let tcp = [
        &[0xc0, 0x00, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0][..],
        b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    ]
    .concat();
    let dns = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01";
    let udp = [&[0xc0, 0x01, 0x00, 0x35][..], &(8 + dns.len() as u16).to_be_bytes(), &[0, 0], dns].concat();
    let ping = [&[8u8, 0, 0, 0, 0, 1, 0, 1][..], &[0x61; 48]].concat();
    let esp = [&[0u8, 0, 0x10, 0x01, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0xa5; 200]].concat();
    let in_udp = [&[0x11, 0x94, 0x11, 0x94][..], &(8 + esp.len() as u16).to_be_bytes(), &[0, 0], &esp].concat();
    let hello = [
        &[0xc0, 0x02, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0][..],
        &[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3],
        &[0x5a; 193],
    ]
    .concat();
    let ip4 = |protocol: u8, pair: [[u8; 4]; 2], body: &[u8], flags: u16| {
        let mut header = [0x45, 0, 0, 0, 0, 7, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        header[12..16].copy_from_slice(&pair[0]);
        header[16..20].copy_from_slice(&pair[1]);
        let sum = header.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        [&header[..], body].concat()
    };
    let ip6 = |next: u8, body: &[u8]| {
        let ends = [
            [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2u8],
            [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        ];
        let length = (body.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0][..], &length, &[next, 64], &ends[0], &ends[1], body].concat()
    };
    let frame = |kind: &[u8], packet: &[u8]| [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], kind, packet].concat();
    let (v4, v6) = (&[0x08, 0x00][..], &[0x86, 0xdd][..]);
    // Hop-by-hop, routing, fragment and destination options, in a row.
    let extensions = [
        &[43u8, 0, 1, 4, 0, 0, 0, 0, 44, 0, 4, 0, 0, 0, 0, 0, 60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0][..],
        &udp,
    ]
    .concat();
    vec![
        frame(v4, &ip4(6, V4, &tcp, 0x4000)),
        frame(v4, &ip4(6, V4, &hello, 0x4000)),
        frame(v4, &ip4(17, V4, &udp, 0)),
        frame(v4, &ip4(1, V4, &ping, 0)),
        frame(v4, &ip4(17, V4, &udp, 0x2000)),
        frame(v4, &ip4(17, V4, &udp, 0x0003)),
        frame(v4, &ip4(50, OUTER, &esp, 0)),
        frame(v4, &ip4(17, OUTER, &in_udp, 0)),
        frame(v4, &ip4(4, V4, &ip4(6, V4, &tcp, 0), 0)),
        frame(v6, &ip6(6, &tcp)),
        frame(v6, &ip6(17, &udp)),
        frame(v6, &ip6(58, &ping)),
        frame(v6, &ip6(0, &extensions)),
        frame(&[0x81, 0, 0, 5, 0x08, 0], &ip4(17, V4, &udp, 0)),
        frame(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd], &ip6(6, &tcp)),
        frame(&[0x08, 0x06], &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_repeat_by_seed_fit_a_link_and_differ() {
        let (mut one, mut two, mut other) = (Garbage::new(3, [2; 6]), Garbage::new(3, [2; 6]), Garbage::new(4, [2; 6]));
        let mut same = 0;
        let mut kinds = std::collections::BTreeMap::<[u8; 2], u32>::new();
        for _ in 0..20_000 {
            let frame = one.next_frame();
            assert_eq!(frame, two.next_frame());
            assert!((14..=1514).contains(&frame.len()));
            same += u32::from(frame == other.next_frame());
            *kinds.entry([frame[12], frame[13]]).or_default() += 1;
        }
        assert!(same < 200, "{same} equal frames from two seeds");
        // Most still look like IP, or nothing behind the first check would be reached.
        assert!(kinds[&[0x08, 0x00]] > 4000 && kinds[&[0x86, 0xdd]] > 2000, "{kinds:?}");
    }

    #[test]
    fn templates_are_well_formed() {
        for frame in templates().iter().filter(|frame| frame[12..14] == [8, 0]) {
            let header = &frame[14..34];
            let sum = header.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum::<u32>();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "IPv4 header checksum");
            assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), frame.len() - 14);
        }
    }
}
