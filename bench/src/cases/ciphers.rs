//! AEADs, alone and in the formats of ESP and WireGuard.

use anyhow::Result;
use softdpu::crypto::aead::{BackEnd, Cipher};

use super::Entry;
use crate::aead::{self, Verb};
use crate::esp::{Frames, Memory, Sealed, open_esp, seal_esp};
use crate::micro::Case;
use crate::wg::{open_wg, seal_wg, sessions};

const LENGTHS: [usize; 2] = [64, 1400];
/// Packets: as many as a batch.
const COUNT: usize = 64;

pub fn entries() -> Vec<Entry> {
    let mut all = Vec::new();
    for cipher in Cipher::ALL {
        for length in LENGTHS {
            for (verb, what) in [(Verb::Seal, "seal"), (Verb::Open, "open")] {
                // `ring`'s, which every machine has: valgrind shows programs no AVX-512, so no other would be chosen.
                let title = format!("{cipher} {what}, {length} B, by ring, per packet");
                all.push(Entry::new(format!("aead/{cipher}-{what}-{length}"), title, COUNT, move || {
                    aead::single("", verb, BackEnd::Ring, cipher, length)
                }));
            }
        }
        let title = format!("{cipher} seal, a batch of 64 at once, 64 B, by ring, per packet");
        all.push(Entry::new(format!("aead/{cipher}-seal-batch-64"), title, COUNT, move || {
            aead::batch("", Verb::Seal, BackEnd::Ring, cipher, 64)
        }));
    }
    for length in LENGTHS {
        let each: [(&str, fn(usize) -> Result<Case<'static>>); 4] = [
            ("esp-seal", |length| seal_esp("", Cipher::Aes128Gcm, length, memory())),
            ("esp-open", |length| {
                let sealed: &'static Sealed = Box::leak(Box::new(Sealed::new(Cipher::Aes128Gcm, length)?));
                open_esp("", sealed, memory())
            }),
            ("wg-seal", |length| Ok(seal_wg("", sessions()?.0, length, memory()))),
            ("wg-open", |length| Ok(open_wg("", sessions()?, length, memory()))),
        ];
        for (what, make) in each {
            let title = format!("{what}, {length} B (ESP: AES-128-GCM), per packet");
            all.push(Entry::new(format!("packet/{what}-{length}"), title, COUNT, move || make(length)));
        }
    }
    all
}

/// Frames that stay until the process ends.
fn memory() -> Memory {
    Box::leak(Box::new(Frames::new())).memory()
}
