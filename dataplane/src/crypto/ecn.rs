//! DSCP and congestion marks across a tunnel (RFC 2983, RFC 6040): set at the entry, merged back in at the exit.

use super::esp::OpenError;

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// The outer DSCP at the entry (RFC 2983 §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dscp {
    /// The inner one ("uniform").
    #[default]
    Copy,
    /// This one (6 bits) for all packets ("pipe"): no class of traffic shows outside.
    Set(u8),
}

/// The outer ECN field at the entry (RFC 6040 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// The inner one, CE included.
    #[default]
    Normal,
    /// Not-ECT: for an exit that does not know RFC 6040, 4301 or 3168, and would lose the marks.
    Compatible,
}

/// Makes the outer DSCP and ECN byte of the inner one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    keep: u8,
    set: u8,
}

impl Entry {
    pub(super) fn new(dscp: Dscp, ecn: Ecn) -> Self {
        let (keep, set) = match dscp {
            Dscp::Copy => (0xfc, 0),
            Dscp::Set(dscp) => (0, dscp << 2),
        };
        Self { keep: keep | if ecn == Ecn::Normal { 3 } else { 0 }, set }
    }

    #[inline]
    pub(super) fn outer(self, inner: u8) -> u8 {
        inner & self.keep | self.set
    }
}

/// What the exit does with the outer DSCP and ECN byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Merge the congestion marks in (RFC 6040 §4.2). Off only where the peer is known to write rubbish there.
    pub ecn: bool,
    /// Give the inner packet the outer DSCP. Off unless the network between is trusted to choose it.
    pub dscp: bool,
}

impl Default for Exit {
    fn default() -> Self {
        Self { ecn: true, dscp: false }
    }
}

/// The inner packet's new ECN field when it leaves the tunnel (RFC 6040 §4.2, figure 4).
///
/// # Errors
/// [`OpenError::EcnNotCapable`]: a router marked congestion, and the inner sender would never hear of it.
fn merge(inner: u8, outer: u8) -> Result<u8, OpenError> {
    match (inner, outer) {
        (NOT_ECT, CE) => Err(OpenError::EcnNotCapable),
        (ECT_0 | ECT_1, CE) => Ok(CE),
        (ECT_0, ECT_1) => Ok(ECT_1),
        _ => Ok(inner),
    }
}

/// Brings the marks of the outer header (`outer_tos`: its DSCP and ECN byte) into the inner `packet` (from its IP
/// header on) and mends its header checksum. The inner DSCP stays.
///
/// # Errors
/// [`OpenError::BadInner`] where `packet` holds no IP header, [`OpenError::EcnNotCapable`] as in RFC 6040 §4.2.
#[inline]
pub fn decapsulate(packet: &mut [u8], outer_tos: u8) -> Result<(), OpenError> {
    decapsulate_as(packet, outer_tos, Exit::default())
}

/// As [`decapsulate`], by the association's own choice.
///
/// # Errors
/// The same; [`OpenError::EcnNotCapable`] only where marks are merged.
#[inline]
pub fn decapsulate_as(packet: &mut [u8], outer_tos: u8, exit: Exit) -> Result<(), OpenError> {
    let new_tos = |inner: u8| {
        let ecn = if exit.ecn { merge(inner & 3, outer_tos & 3)? } else { inner & 3 };
        let dscp = if exit.dscp { outer_tos } else { inner } & 0xfc;
        Ok(dscp | ecn)
    };
    match packet {
        [first, tos, rest @ ..] if *first >> 4 == 4 && rest.len() >= 18 => {
            let new = new_tos(*tos)?;
            if new != *tos {
                let sum = u16::from_be_bytes([rest[8], rest[9]]);
                let (old, new_word) = (u16::from_be_bytes([*first, *tos]), u16::from_be_bytes([*first, new]));
                rest[8..10].copy_from_slice(&mend(sum, old, new_word).to_be_bytes());
                *tos = new;
            }
            Ok(())
        }
        [first, second, rest @ ..] if *first >> 4 == 6 && rest.len() >= 38 => {
            let new = new_tos(*first << 4 | *second >> 4)?;
            *first = 0x60 | new >> 4;
            *second = new << 4 | *second & 0xf;
            Ok(())
        }
        _ => Err(OpenError::BadInner),
    }
}

/// A checksum after one word of what it covers has changed (RFC 1624, equation 3).
pub(super) fn mend(sum: u16, old: u16, new: u16) -> u16 {
    let mut s = u32::from(!sum) + u32::from(!old) + u32::from(new);
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    !(s as u16)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::testing::{checksum, ipv4, ipv6};

    #[test]
    fn the_whole_table_of_rfc_6040() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE. Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let order = [NOT_ECT, ECT_0, ECT_1, CE];
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (inner, row) in order.into_iter().zip(table) {
            for (outer, want) in order.into_iter().zip(row) {
                for dscp in [0, 0xb8] {
                    for mut packet in [ipv4(40, dscp | inner), ipv6(60, dscp | inner)] {
                        let got = decapsulate(&mut packet, 0x28 | outer);
                        let fresh = match (want, packet[0] >> 4) {
                            (None, _) => {
                                assert_eq!(got, Err(OpenError::EcnNotCapable));
                                continue;
                            }
                            (Some(ecn), 4) => ipv4(40, dscp | ecn),
                            (Some(ecn), _) => ipv6(60, dscp | ecn),
                        };
                        got.unwrap();
                        assert_eq!(packet, fresh, "inner {inner} outer {outer}");
                        assert!(packet[0] >> 4 == 6 || checksum(&packet[..20]) == 0);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_ip_packet_is_refused() {
        for mut packet in [vec![], vec![0x45], vec![0x45; 19], vec![0x60; 39], vec![0x15; 60]] {
            assert_eq!(decapsulate(&mut packet, 3), Err(OpenError::BadInner));
        }
    }

    /// RFC 6040 §4.1, figure 3, with RFC 2983's two ways for the DSCP.
    #[test]
    fn the_entry_in_both_modes_and_with_both_dscp_choices() {
        for tos in 0..=255 {
            assert_eq!(Entry::new(Dscp::Copy, Ecn::Normal).outer(tos), tos);
            assert_eq!(Entry::new(Dscp::Copy, Ecn::Compatible).outer(tos), tos & 0xfc);
            assert_eq!(Entry::new(Dscp::Set(46), Ecn::Normal).outer(tos), 46 << 2 | tos & 3);
            assert_eq!(Entry::new(Dscp::Set(46), Ecn::Compatible).outer(tos), 46 << 2);
        }
    }

    #[test]
    fn the_exit_by_choice() {
        for (tos, outer, ecn, dscp, want) in [
            (0x02, 0xb9, true, false, Ok(0x01)),
            (0x02, 0xbb, true, true, Ok(0xbb)),
            (0x28, 0xbb, false, true, Ok(0xb8)),
            (0x28, 0xbb, false, false, Ok(0x28)),
            (0x28, 0xbb, true, true, Err(OpenError::EcnNotCapable)),
        ] {
            for (mut packet, fresh) in
                [(ipv4(40, tos), ipv4(40, want.unwrap_or(tos))), (ipv6(60, tos), ipv6(60, want.unwrap_or(tos)))]
            {
                assert_eq!(decapsulate_as(&mut packet, outer, Exit { ecn, dscp }), want.map(|_| ()));
                assert_eq!(packet, fresh);
            }
        }
    }

    #[test]
    fn the_flow_label_stays() {
        let mut packet = ipv6(60, 2);
        packet[1] |= 0xa;
        decapsulate_as(&mut packet, 0xff, Exit { ecn: true, dscp: true }).unwrap();
        assert_eq!(packet[..4], [0x6f, 0xfa, 0, 0]);
    }
}
