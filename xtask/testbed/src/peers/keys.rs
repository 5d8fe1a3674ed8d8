//! What two IKE daemons agreed on for ESP, read out of the log of one of them.
//!
//! strongSwan at log level `chd = 4` writes the keys of each CHILD_SA it derives (`man 5 strongswan.conf`: level 4 "also
//! includes sensitive material in dumps"), first the initiator's, then the responder's, and then the SPIs:
//!
//! ```text
//! 05[CHD] <peer|1> encryption initiator key => 20 bytes @ 0x7f6d8c001540
//! 05[CHD] <peer|1>    0: F2 5B 3B 22 81 2A 1E 5F 6C F9 E0 5C 8B 15 4A F1  .[;".*._l..\..J.
//! 05[CHD] <peer|1>   16: 07 30 6B 5C                                      .0k\
//! 05[CHD] <peer|1> encryption responder key => 20 bytes @ 0x7f6d8c0020f0
//! …
//! 05[IKE] <peer|1> CHILD_SA peer{1} established with SPIs c1a2b3c4_i cd5e6f70_o and TS 10.1.0.0/24 === 10.2.0.0/24
//! ```
//!
//! For the ciphers with integrated check (RFC 4106, RFC 7634) the salt is the last four bytes, which is the form of softdpu's
//! key files.

use std::{fmt, fs::File, io::Read, path::Path};

use anyhow::{Context, Result};

/// One direction.
#[derive(Clone, PartialEq, Eq)]
pub struct ChildSa {
    pub spi: u32,
    /// Key and salt.
    pub key: Vec<u8>,
}

impl fmt::Debug for ChildSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildSa({:08x}, {} bytes)", self.spi, self.key.len())
    }
}

impl ChildSa {
    /// A fresh key with salt from the kernel's random source, for two ends that have no IKE.
    ///
    /// # Errors
    /// When there is no such source.
    pub fn random(spi: u32, length: usize) -> Result<Self> {
        let mut key = vec![0u8; length];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self { spi, key })
    }

    /// Writes key and salt as softdpu reads them: hexadecimal, mode 0600.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text: String = self.key.iter().map(|byte| format!("{byte:02x}")).collect();
        super::wireguard::write_secret(path, &text)
    }
}

/// Both directions, as the daemon whose log it is sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    pub inbound: ChildSa,
    pub outbound: ChildSa,
}

impl Child {
    /// The same pair as the other side sees it.
    #[must_use]
    pub fn flipped(&self) -> Self {
        Self { inbound: self.outbound.clone(), outbound: self.inbound.clone() }
    }
}

/// All CHILD_SAs of a log, oldest first. `initiator`: whether the daemon whose log it is initiated the exchanges; a rekeying that
/// the other side began has the roles the other way round, which [`children`] tells from the log itself.
pub fn children(log: &str, initiator: bool) -> Vec<Child> {
    let mut children = Vec::new();
    let (mut keys, mut dump): ([Vec<u8>; 2], Option<usize>) = Default::default();
    let mut ours = initiator;
    for line in log.lines() {
        if line.contains("parsed CREATE_CHILD_SA request") {
            ours = false;
        } else if line.contains("generating CREATE_CHILD_SA request") {
            ours = true;
        }
        let role = ["encryption initiator key =>", "encryption responder key =>"];
        if let Some(which) = role.iter().position(|role| line.contains(role)) {
            keys[which].clear();
            dump = Some(which);
            continue;
        }
        if let Some(which) = dump {
            match dump_line(line) {
                Some(bytes) => {
                    keys[which].extend(bytes);
                    continue;
                }
                None => dump = None,
            }
        }
        let Some((inbound, outbound)) = spis(line) else { continue };
        let [initiators, responders] = keys.each_mut().map(std::mem::take);
        if initiators.is_empty() || responders.is_empty() {
            continue;
        }
        let (out, back) = if ours { (initiators, responders) } else { (responders, initiators) };
        children.push(Child {
            inbound: ChildSa { spi: inbound, key: back },
            outbound: ChildSa { spi: outbound, key: out },
        });
    }
    children
}

/// The newest CHILD_SA of a log.
///
/// # Errors
/// When there is none, or the log level leaves the keys out.
pub fn newest(log: &str, initiator: bool) -> Result<Child> {
    children(log, initiator).pop().context("no CHILD_SA with its keys in the log (is it at chd = 4?)")
}

/// The bytes of a line of a dump: behind the offset, up to sixteen pairs of digits.
fn dump_line(line: &str) -> Option<Vec<u8>> {
    // The offset is the last word with a colon in front of the bytes; a thread and a name come before it.
    let rest = line.split_once("] ").map_or(line, |(_, rest)| rest).trim_start();
    let rest = if rest.starts_with('<') { rest.split_once('>')?.1.trim_start() } else { rest };
    let (offset, rest) = rest.split_once(": ")?;
    offset.trim().parse::<usize>().ok()?;
    // Sixteen columns of three characters, then the text.
    let columns = rest.as_bytes().chunks(3).take(16);
    let bytes = columns.map_while(|column| {
        let pair = std::str::from_utf8(column.get(..2)?).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    Some(bytes.collect())
}

/// The SPIs of a line that tells of a new CHILD_SA: (inbound, outbound).
fn spis(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once("established with SPIs ")?;
    let mut words = rest.split_whitespace();
    let mut spi = |end: &str| u32::from_str_radix(words.next()?.strip_suffix(end)?, 16).ok();
    Some((spi("_i")?, spi("_o")?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOG: &str = "\
05[CHD] <peer|1> encryption initiator key => 20 bytes @ 0x7f6d8c001540
05[CHD] <peer|1>    0: F2 5B 3B 22 81 2A 1E 5F 6C F9 E0 5C 8B 15 4A F1  .[;\".*._l..\\..J.
05[CHD] <peer|1>   16: 07 30 6B 5C                                      .0k\\
05[CHD] <peer|1> encryption responder key => 20 bytes @ 0x7f6d8c0020f0
05[CHD] <peer|1>    0: 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10  ................
05[CHD] <peer|1>   16: 11 12 13 14                                      ....
05[CHD] <peer|1>   using AES_GCM_16 for encryption
05[IKE] <peer|1> CHILD_SA peer{1} established with SPIs c1a2b3c4_i cd5e6f70_o and TS 10.1.0.0/24 === 10.2.0.0/24
";

    #[test]
    fn keys_and_spis_of_the_initiator() {
        let child = newest(LOG, true).unwrap();
        assert_eq!((child.inbound.spi, child.outbound.spi), (0xc1a2_b3c4, 0xcd5e_6f70));
        assert_eq!(child.outbound.key[..2], [0xf2, 0x5b]);
        assert_eq!(child.outbound.key[16..], [0x07, 0x30, 0x6b, 0x5c]);
        assert_eq!(child.inbound.key, (1..=20).collect::<Vec<u8>>());
    }

    #[test]
    fn the_responder_has_them_the_other_way_round() {
        let child = newest(LOG, false).unwrap();
        assert_eq!(child.inbound.key[..2], [0xf2, 0x5b]);
        assert_eq!(child.inbound.spi, 0xc1a2_b3c4);
    }

    #[test]
    fn a_rekeying_by_the_other_side_swaps_the_roles() {
        let log = format!("{LOG}06[ENC] <peer|1> parsed CREATE_CHILD_SA request 2 [ SA No TSi TSr ]\n{LOG}");
        let all = children(&log, true);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].inbound.key, all[1].outbound.key);
    }

    #[test]
    fn a_log_without_keys_has_none() {
        let quiet: String = LOG.lines().filter(|line| line.contains("[IKE]")).collect();
        assert!(newest(&quiet, true).is_err());
        assert!(newest("", true).is_err());
        assert!(!format!("{:?}", newest(LOG, true).unwrap()).contains("242"));
    }
}
