//! Whether a whole IP packet or Ethernet frame is inside: what makes a tunnel's short header certain.

use crate::l7::infra::read::u16_at;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
const MPLS: u16 = 0x8847;
const LLDP: u16 = 0x88cc;
const ETHERNET: usize = 14;
/// Payload of the shortest Ethernet frame, to which short packets are padded.
const SHORTEST: usize = 46;

/// An IP packet whose length is that of `d`.
pub fn ip(d: &[u8]) -> bool {
    ip_length(d) == Some(d.len())
}

fn ip_length(d: &[u8]) -> Option<usize> {
    match d.first()? >> 4 {
        4 => {
            let (head, total) = (usize::from(d[0] & 0xf) * 4, usize::from(u16_at(d, 2)?));
            // The reserved flag is zero (RFC 791 §3.1), and the life is not over.
            (head >= 20 && total >= head && d.get(6)? & 0x80 == 0 && *d.get(8)? != 0).then_some(total)
        }
        6 => (d.len() >= 40).then_some(40 + usize::from(u16_at(d, 4)?)),
        _ => None,
    }
}

/// What the type says stands here: by `strict` only what can be checked.
pub fn of_type(kind: u16, d: &[u8], strict: bool) -> bool {
    match kind {
        IPV4 | IPV6 => {
            let version = if kind == IPV4 { 4 } else { 6 };
            let right = d.first().is_some_and(|b| b >> 4 == version);
            right && ip_length(d).is_some_and(|len| len == d.len() || len < d.len() && d.len() <= SHORTEST || !strict)
        }
        // Ethernet and IPv4 addresses (RFC 826).
        ARP => d.starts_with(&[0, 1, 8, 0, 6, 4]) && d.len() >= 28,
        VLAN | QINQ => u16_at(d, 2).is_some_and(|inner| inner != kind || kind == VLAN) && vlan(d, strict),
        MPLS | LLDP => !strict && d.len() > 4,
        // A length: LLC (802.3).
        len if len <= 1500 => !strict && usize::from(len) <= d.len() && d.len() > 3,
        _ => false,
    }
}

fn vlan(d: &[u8], strict: bool) -> bool {
    let (Some(kind), Some(rest)) = (u16_at(d, 2), d.get(4..)) else { return false };
    // One tag more at most.
    match (kind, u16_at(rest, 2)) {
        (VLAN, Some(kind)) if kind != VLAN && kind != QINQ => rest.get(4..).is_some_and(|d| of_type(kind, d, strict)),
        (VLAN | QINQ, _) => false,
        _ => of_type(kind, rest, strict),
    }
}

/// An Ethernet frame, whose source is no group.
pub fn ethernet(d: &[u8], strict: bool) -> bool {
    let (Some(kind), Some(rest)) = (u16_at(d, 12), d.get(ETHERNET..)) else { return false };
    d[6] & 1 == 0 && of_type(kind, rest, strict)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A UDP packet over IPv4 of 30 bytes.
    pub fn packet() -> Vec<u8> {
        let mut d = vec![0; 30];
        d[0] = 0x45;
        d[3] = 30;
        d[8] = 64;
        d[9] = 17;
        d
    }

    pub fn frame() -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &packet()].concat()
    }

    #[test]
    fn lengths_agree() {
        let d = packet();
        assert!(ip(&d) && !ip(&d[..29]) && !ip(&[&d[..], &[0]].concat()));
        let mut v6 = vec![0; 48];
        v6[0] = 0x60;
        v6[5] = 8;
        assert!(ip(&v6) && !ip(&v6[..47]));
        assert!(ethernet(&frame(), true));
        let tagged = [&frame()[..12], &[0x81, 0, 0, 5, 0x81, 0, 0, 6], &frame()[12..]].concat();
        assert!(ethernet(&tagged, true));
        let thrice = [&frame()[..12], &[0x81, 0, 0, 5, 0x81, 0, 0, 6, 0x81, 0, 0, 7], &frame()[12..]].concat();
        assert!(!ethernet(&thrice, true));
        let mut padded = frame();
        padded.resize(14 + SHORTEST, 0);
        assert!(ethernet(&padded, true));
        padded.push(0);
        assert!(!ethernet(&padded, true) && ethernet(&padded, false));
    }
}
