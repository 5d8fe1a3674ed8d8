//! What several targets need.

use std::ptr::NonNull;

use arbitrary::Arbitrary;
use softdpu::flow::Direction;
use softdpu::io::frame::{Frame, HEADROOM, TAILROOM};
use softdpu::l7::{HostName, Look, Verdict};

/// Runs `f` on a frame with `bytes` in it, in a chunk with the usual room in front and behind.
pub fn with_frame<T>(bytes: &[u8], f: impl FnOnce(&mut Frame) -> T) -> T {
    let size = HEADROOM + bytes.len() + TAILROOM;
    let mut memory = vec![0; size];
    memory[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
    let chunk = NonNull::new(memory.as_mut_ptr()).expect("a vector of some bytes");
    // SAFETY: `memory` outlives the token, which ends below; while it lives nothing else touches the memory.
    let mut frame = unsafe { Frame::from_raw(chunk, 0, size as u32, HEADROOM as u32, bytes.len() as u32) };
    let out = f(&mut frame);
    assert!(frame.headroom() + frame.len() + frame.tailroom() == size, "the packet left its chunk");
    frame.into_index();
    out
}

/// What a recogniser is shown.
#[derive(Arbitrary, Debug)]
pub struct Seen<'a> {
    pub from_responder: bool,
    pub ports: (u16, u16),
    pub last: bool,
    /// How much of `data` has arrived at the first look.
    pub first: u16,
    pub data: &'a [u8],
}

/// Shows a recogniser the start of the data, then all of it, and checks that it keeps its word.
pub fn recognise(seen: &Seen, look: fn(&Look, &mut HostName) -> Verdict) {
    if seen.data.is_empty() {
        return; // never shown
    }
    let dir = if seen.from_responder { Direction::FromResponder } else { Direction::FromInitiator };
    let show = |data, last| {
        let mut host = HostName::default();
        let verdict = look(&Look { data, dir, ports: seen.ports, last }, &mut host);
        (verdict, host.get().map(str::to_owned))
    };
    let first = usize::from(seen.first).clamp(1, seen.data.len());
    let (early, _) = show(&seen.data[..first], false);
    let (verdict, host) = show(seen.data, seen.last);
    if early == Verdict::No && !seen.last {
        assert_eq!(verdict, Verdict::No, "`No` holds whatever follows");
    }
    if let Some(host) = host {
        assert!(host.len() <= 253 && host.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()), "{host:?}");
    }
}
