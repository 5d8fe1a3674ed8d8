//! Congestion marks across a tunnel (RFC 6040): copied out at the entry, merged back in at the exit.

use super::esp::OpenError;

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

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
    let outer = outer_tos & 3;
    match packet {
        [first, tos, rest @ ..] if *first >> 4 == 4 && rest.len() >= 18 => {
            let new = merge(*tos & 3, outer)?;
            let delta = new ^ (*tos & 3);
            if delta != 0 {
                let old_word = u16::from_be_bytes([*first, *tos]);
                *tos ^= delta;
                let new_word = u16::from_be_bytes([*first, *tos]);
                let sum = u16::from_be_bytes([rest[8], rest[9]]);
                rest[8..10].copy_from_slice(&mend(sum, old_word, new_word).to_be_bytes());
            }
            Ok(())
        }
        [first, second, rest @ ..] if *first >> 4 == 6 && rest.len() >= 38 => {
            let old = *second >> 4 & 3;
            *second ^= (merge(old, outer)? ^ old) << 4;
            Ok(())
        }
        _ => Err(OpenError::BadInner),
    }
}

/// A checksum after one word of what it covers has changed (RFC 1624, equation 3).
fn mend(sum: u16, old: u16, new: u16) -> u16 {
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
}
