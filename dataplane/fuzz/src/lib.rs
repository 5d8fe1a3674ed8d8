//! What several targets need.

use std::ptr::NonNull;

use softdpu::io::frame::{Frame, HEADROOM, TAILROOM};

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
