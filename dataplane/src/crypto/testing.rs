//! Helpers of the unit tests in this folder and in `compress`.
#![allow(clippy::unwrap_used)]

use std::ptr::NonNull;

use crate::io::frame::{Frame, HEADROOM};

/// Bytes of hex digits; white space is skipped.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// A chunk of memory of its own with one frame in it.
pub(crate) struct TestFrame {
    chunk: *mut [u8],
    frame: Option<Frame>,
}

impl TestFrame {
    /// `bytes` behind the usual headroom in a chunk of `size`.
    pub(crate) fn new(size: usize, bytes: &[u8]) -> Self {
        Self::at(size, HEADROOM, bytes)
    }

    pub(crate) fn at(size: usize, off: usize, bytes: &[u8]) -> Self {
        let mut memory = vec![0xEE; size];
        memory[off..off + bytes.len()].copy_from_slice(bytes);
        let chunk = Box::into_raw(memory.into_boxed_slice());
        let first = NonNull::new(chunk.cast::<u8>()).unwrap();
        // SAFETY: the chunk is ours alone and lives until `drop`, which ends the token first.
        let frame = unsafe { Frame::from_raw(first, 0, size as u32, off as u32, bytes.len() as u32) };
        Self { chunk, frame: Some(frame) }
    }

    pub(crate) fn frame(&mut self) -> &mut Frame {
        self.frame.as_mut().unwrap()
    }
}

impl Drop for TestFrame {
    fn drop(&mut self) {
        let _ = self.frame.take().map(Frame::into_index);
        // SAFETY: `chunk` came from `Box::into_raw`, and the only token to it has just ended.
        drop(unsafe { Box::from_raw(self.chunk) });
    }
}

/// An IPv4 packet (UDP to port 9) of `len` bytes, at least 28, with a right header checksum.
pub(crate) fn ipv4(len: usize, tos: u8) -> Vec<u8> {
    let mut p = vec![0x45, tos, (len >> 8) as u8, len as u8, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2];
    let sum = checksum(&p);
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p.extend([0x30, 0x39, 0, 9, ((len - 20) >> 8) as u8, (len - 20) as u8, 0, 0]);
    p.extend((28..len).map(|i| (i * 7) as u8));
    p
}

/// An IPv6 packet (UDP to port 9) of `len` bytes, at least 48.
pub(crate) fn ipv6(len: usize, tos: u8) -> Vec<u8> {
    let mut p = vec![0x60 | tos >> 4, tos << 4, 0, 0, ((len - 40) >> 8) as u8, (len - 40) as u8, 17, 64];
    p.extend([0xfd; 32]);
    p.extend([0x30, 0x39, 0, 9, ((len - 40) >> 8) as u8, (len - 40) as u8, 0xab, 0xcd]);
    p.extend((48..len).map(|i| (i * 5) as u8));
    p
}

/// The Internet checksum (RFC 1071) by the book. 0 over data that already holds its right checksum.
pub(crate) fn checksum(data: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in data.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
