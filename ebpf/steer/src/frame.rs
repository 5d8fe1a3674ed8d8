//! The frame as the walk reads it: between `data` and `data_end`, each access with the check the verifier asks for.

use core::arch::asm;

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, helpers::bpf_xdp_get_buff_len, programs::XdpContext};
use softdpu_ebpf_common::walk::Bytes;

/// No header starts behind this offset: 22 (two tags) + 40 + six extension headers of 2,048.
const OFFSET_MASK: usize = 0x3fff;

pub struct Frame {
    ctx: *mut xdp_md,
    data: usize,
    end: usize,
}

/// Hides a value from the optimiser, not from the verifier: without it LLVM drops masks it can prove needless (the verifier
/// cannot) and computes a checked address a second time.
#[inline(always)]
pub fn opaque(mut value: usize) -> usize {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Frame {
        Frame { ctx: ctx.as_ptr().cast(), data: ctx.data(), end: ctx.data_end() }
    }

    /// Bytes of the frame that can be read: all of it but the further buffers of a multi-buffer frame.
    #[inline(always)]
    fn linear(&self) -> usize {
        self.end - self.data
    }

    /// Bytes of the whole frame.
    #[inline(always)]
    fn whole(&self) -> usize {
        // SAFETY: `ctx` is the program's context.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    /// Bytes of the whole frame, of which the IP packet is known to end at `ip_end`. Saves the helper call for frames of one
    /// buffer.
    #[inline(always)]
    pub fn len(&self, ip_end: usize) -> u64 {
        let linear = self.linear();
        if ip_end <= linear { linear as u64 } else { self.whole() as u64 }
    }

    #[inline(always)]
    pub fn pointer<const N: usize>(&self, off: usize) -> Option<*mut [u8; N]> {
        let off = opaque(off) & OFFSET_MASK;
        let at = opaque(self.data + off);
        if at + N > self.end { None } else { Some(at as *mut [u8; N]) }
    }
}

impl Bytes for Frame {
    #[inline(always)]
    fn array<const N: usize>(&self, off: usize) -> Option<&[u8; N]> {
        // SAFETY: `N` bytes from there lie inside the frame, just checked, and bytes need no alignment.
        self.pointer(off).map(|p| unsafe { &*p })
    }

    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        len <= self.linear() || len <= self.whole()
    }
}
