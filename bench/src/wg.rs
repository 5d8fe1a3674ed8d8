//! WireGuard seal and open against bare `ring` on the same buffers: what the packet format, the counter, the window and the
//! timers cost beside the cipher.
//!
//! Lengths are the inner IP packet's. Bare `ring` gets exactly the text that is encrypted (padding included), no additional
//! data and a fresh nonce each time. Frames as in [`crate::esp`].

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use softdpu::crypto::outer::{Encapsulation, Endpoints, Outer};
use softdpu::crypto::wg::session::{Opened, Plain, padded};
use softdpu::crypto::wg::{Identity, Initiator, Opening, PrivateKey, Psk, Remote, Session, Tai64n};
use softdpu::io::frame::HEADROOM;

use crate::esp::{BATCH, Frames, LINK, Memory};
use crate::micro::{Case, Effort, alternate};
use crate::report::{Bound, Section, Target};

const LENGTHS: [usize; 3] = [64, 512, 1400];
const MTU: usize = 1420;
const TAG: usize = 16;
/// Outer IPv4 and UDP: what is between the link header and the message.
const BEFORE_MESSAGE: usize = 20 + 8;

/// Measures all lengths: a section each for seal and open.
///
/// # Errors
/// Where a session cannot be made: a mistake, not a circumstance.
pub fn run(effort: Effort) -> Result<(Vec<Section>, Vec<Target>)> {
    let mut seal = Section::new("wg-seal", "WireGuard seal against bare ring, per packet, one core", "ns");
    let mut open = Section::new("wg-open", "WireGuard open against bare ring, per packet, one core", "ns");
    let mut targets = Vec::new();
    for length in LENGTHS {
        let (wg, bare) = (format!("wg-{length}"), format!("ring-{length}"));
        let mut frames = Frames::new();
        let memory = frames.memory();
        let (ours, _) = sessions()?;
        let mut cases = [seal_wg(&wg, ours, length, memory), seal_ring(&bare, length, memory)?];
        alternate(&mut seal, &mut cases, effort);
        drop(cases);
        let mut cases = [open_wg(&wg, sessions()?, length, memory), open_ring(&bare, length, memory)?];
        alternate(&mut open, &mut cases, effort);
        drop(cases);
        let bound = match length {
            64 => Some(1.6),
            1400 => Some(1.15),
            _ => None,
        };
        for (what, ratio) in [("seal", seal.ratio(&wg, &bare)), ("open", open.ratio(&wg, &bare))] {
            if let Some(bound) = bound {
                let title = format!("WireGuard {what} at {length} B / bare ring");
                targets.push(Target::new(title, Bound::AtMost, bound, ratio));
            }
        }
    }
    seal.notes.push(format!(
        "Lengths are of the inner packet; ring gets the same text (padding included). {BATCH} frames in turn, a run each."
    ));
    open.notes.push("Sealing the packets that are opened is not in the time of either.".into());
    Ok((vec![seal, open], targets))
}

/// Both ends of one session.
pub(crate) fn sessions() -> Result<(Session, Session)> {
    let of = |byte| PrivateKey::from_bytes(&[byte; 32]);
    let (a, b) = (Identity::new(of(1)), Identity::new(of(2)));
    let to_b = Remote::new(&a, *b.public(), Psk::default());
    let to_a = Remote::new(&b, *a.public(), Psk::default());
    let error = |e: softdpu::crypto::wg::NoiseError| anyhow::anyhow!("handshake: {}", e.reason());
    let (initiator, initiation) = Initiator::start(&a, &to_b, 1, of(3), Tai64n::now()).map_err(error)?;
    let responder = Opening::open(&b, &initiation).and_then(|o| o.finish(&to_a, None)).map_err(error)?;
    let (response, theirs) = responder.respond(&to_a, 2, of(4)).map_err(error)?;
    let ours = initiator.finish(&a, &to_b, &response).map_err(error)?;
    Ok((Session::new(ours, 0, Arc::default()), Session::new(theirs, 0, Arc::default())))
}

fn outer() -> Outer {
    let endpoints = Endpoints::V4 { local: Ipv4Addr::new(192, 0, 2, 1), remote: Ipv4Addr::new(192, 0, 2, 2) };
    Outer::new(endpoints, Encapsulation::Udp { source: 51_820, destination: 51_820 })
}

fn ring_key() -> Result<LessSafeKey> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).ok().context("key length")?;
    Ok(LessSafeKey::new(key))
}

fn nonce(n: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&n.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn plain(length: usize) -> Plain {
    Plain { place: LINK..LINK + length, tos: 0, mtu: MTU }
}

pub(crate) fn seal_wg<'a>(name: &str, session: Session, length: usize, memory: Memory) -> Case<'a> {
    let (plain, outer) = (plain(length), outer());
    let run = move |n: usize| {
        let mut left = n;
        while left > 0 {
            let batch = left.min(BATCH);
            let mut sealer = session.sealer(batch as u64, 1);
            for i in 0..batch {
                let sealed = memory.with_frame(i, HEADROOM, LINK + length, |f| sealer.seal(f, &plain, &outer));
                assert_eq!(sealed, Ok(()));
            }
            left -= batch;
        }
    };
    Case::new(name, format!("WireGuard, {length} B"), run)
}

fn seal_ring<'a>(name: &str, length: usize, memory: Memory) -> Result<Case<'a>> {
    let key = ring_key()?;
    let start = HEADROOM + LINK;
    let end = start + padded(length, MTU) + TAG;
    let mut count = 0u64;
    let run = move |n: usize| {
        for i in 0..n {
            count += 1;
            memory.with_bytes(i % BATCH, start..end, |bytes| {
                let (text, tag_place) = bytes.split_at_mut(bytes.len() - TAG);
                let tag = key
                    .seal_in_place_separate_tag(nonce(count), Aad::empty(), text)
                    .expect("shorter than the cipher's limit");
                tag_place.copy_from_slice(tag.as_ref());
            });
        }
    };
    Ok(Case::new(name, format!("ring, {length} B"), run))
}

pub(crate) fn open_wg<'a>(name: &str, (from, to): (Session, Session), length: usize, memory: Memory) -> Case<'a> {
    let (plain, outer) = (plain(length), outer());
    let start = HEADROOM + LINK - outer.len() - 16;
    let whole = outer.len() + 16 + padded(length, MTU) + TAG;
    let prepare = move |_: &mut Session| {
        // New ones each time: what was opened once would be a replay.
        let mut sealer = from.sealer(BATCH as u64, 1);
        for i in 0..BATCH {
            let sealed = memory.with_frame(i, HEADROOM, LINK + length, |f| {
                let bytes = &mut f.bytes_mut()[LINK..];
                // Enough of an IPv4 header for the receiver, which looks at its version and length.
                bytes.fill(0);
                bytes[..4].copy_from_slice(&[0x45, 0, (length >> 8) as u8, length as u8]);
                sealer.seal(f, &plain, &outer)
            });
            assert_eq!(sealed, Ok(()));
        }
    };
    let run = move |to: &mut Session| {
        let mut opener = to.opener(1);
        for i in 0..BATCH {
            let message = LINK + BEFORE_MESSAGE..whole;
            let opened = memory.with_frame(i, start, whole, |f| opener.open(f, message, 0));
            assert!(matches!(opened, Ok(Opened::Packet { .. })));
        }
    };
    Case::batches(name, format!("WireGuard, {length} B"), BATCH, to, prepare, run)
}

fn open_ring<'a>(name: &str, length: usize, memory: Memory) -> Result<Case<'a>> {
    let (sealing, opening) = (ring_key()?, ring_key()?);
    let start = HEADROOM + LINK;
    let place = start..start + padded(length, MTU) + TAG;
    let theirs = place.clone();
    let prepare = move |_: &mut LessSafeKey| {
        for i in 0..BATCH {
            memory.with_bytes(i, theirs.clone(), |bytes| {
                let (text, tag_place) = bytes.split_at_mut(bytes.len() - TAG);
                let tag = sealing
                    .seal_in_place_separate_tag(nonce(i as u64), Aad::empty(), text)
                    .expect("shorter than the cipher's limit");
                tag_place.copy_from_slice(tag.as_ref());
            });
        }
    };
    let run = move |key: &mut LessSafeKey| {
        for i in 0..BATCH {
            let opened = memory
                .with_bytes(i, place.clone(), |bytes| key.open_in_place(nonce(i as u64), Aad::empty(), bytes).is_ok());
            assert!(opened);
        }
    };
    Ok(Case::batches(name, format!("ring, {length} B"), BATCH, opening, prepare, run))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Both sides work on valid packets: the asserts in the cases would fail otherwise.
    #[test]
    fn every_length_runs() {
        let (sections, targets) = run(Effort::new(1, 1000)).unwrap();
        for s in &sections {
            assert_eq!((s.contenders.len(), s.ratios.len()), (6, 3));
            assert!(s.contenders.iter().all(|c| c.rounds[0] > 0.0));
        }
        assert_eq!(targets.len(), 4);
    }
}
