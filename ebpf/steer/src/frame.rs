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

/// `value & MASK`, which the verifier sees and LLVM cannot prove needless and drop: often the verifier has lost the bound
/// that LLVM still knows (a byte swap is enough).
#[inline(always)]
pub fn masked<const MASK: usize>(mut value: usize) -> usize {
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} &= {1}", inout(reg) value, const MASK, options(pure, nomem, nostack)) };
    value
}

/// `table[index % N]`; `N` is a power of two.
#[inline(always)]
pub fn at<T, const N: usize>(table: &[T; N], index: usize) -> &T {
    const { assert!(N.is_power_of_two()) };
    let mut index = index;
    // SAFETY: one instruction on one register; it leaves an index below `N`.
    unsafe {
        asm!("{0} &= {1}", inout(reg) index, const N - 1, options(pure, nomem, nostack));
        table.get_unchecked(index)
    }
}

/// `base + off`, computed once: what LLVM does not see it cannot compute again, so the address that is checked is the one
/// that is read.
#[inline(always)]
fn plus(mut base: usize, off: usize) -> usize {
    // SAFETY: one instruction on two registers.
    unsafe { asm!("{0} += {1}", inout(reg) base, in(reg) off, options(pure, nomem, nostack)) };
    base
}

macro_rules! access {
    ($($load:ident $store:ident $t:ty, $size:literal;)*) => {$(
        /// At a constant offset, in memory order. LLVM would read what it cannot prove aligned byte by byte; the machines
        /// that matter read it at once, and the verifier knows which.
        #[inline(always)]
        pub fn $load<const OFFSET: usize>(at: usize) -> $t {
            let word: u64;
            // SAFETY: one load, which the verifier admits only within the bytes that `start` has checked.
            unsafe {
                asm!(concat!("{0} = *(", $size, " *)({1} + {2})"), out(reg) word, in(reg) at, const OFFSET,
                     options(readonly, nostack))
            };
            word as $t
        }

        /// At a constant offset, in memory order.
        #[inline(always)]
        pub fn $store<const OFFSET: usize>(at: usize, value: $t) {
            // SAFETY: one store, which the verifier admits only within the bytes that `start` has checked.
            unsafe {
                asm!(concat!("*(", $size, " *)({0} + {2}) = {1}"), in(reg) at, in(reg) value as u64, const OFFSET,
                     options(nostack))
            };
        }
    )*};
}

access! {
    load_u8 store_u8 u8, "u8";
    load_u16 store_u16 u16, "u16";
    load_u32 store_u32 u32, "u32";
    load_u64 store_u64 u64, "u64";
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Frame {
        Frame { ctx: ctx.as_ptr().cast(), data: ctx.data(), end: ctx.data_end() }
    }

    /// The frame's first byte, with `N` bytes there to be read by [`load_u16`] and the like at constant offsets.
    #[inline(always)]
    pub fn start<const N: usize>(&self) -> Option<usize> {
        if self.data + N > self.end { None } else { Some(self.data) }
    }

    /// Bytes of the frame that can be read: all of it but the further buffers of a multi-buffer frame.
    #[inline(always)]
    pub fn linear(&self) -> usize {
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

    /// Whether so many bytes from the start on are in the first buffer.
    #[inline(always)]
    pub fn is_linear(&self, bytes: usize) -> bool {
        bytes <= self.linear()
    }

    #[inline(always)]
    pub fn pointer<const N: usize>(&self, off: usize) -> Option<*mut [u8; N]> {
        let at = plus(self.data, masked::<OFFSET_MASK>(off));
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
