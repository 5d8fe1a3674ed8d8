//! Where secrets live: pages of their own that no core dump, swap or child process gets to see, zeroed on drop.
//!
//! [`SecretBox`] is a `Box` in those pages, [`Secret`] a byte array in one. Both print as nothing. They are made and
//! dropped on the control side only (a lock, sometimes a system call); reading one is reading a pointer.
//!
//! What this does not do: a value that is *moved* into a [`SecretBox`] was on the stack before. Whoever makes keys calls
//! [`scrub_stack`] afterwards.

mod arena;
mod harden;

use std::fmt;
use std::mem::{MaybeUninit, align_of, size_of};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use zeroize::Zeroize;

pub use arena::{Usage, usage};
pub use harden::{Hardened, harden_process};

/// A value in pages of the secret arena. Its bytes are zeroed when it is dropped.
pub struct SecretBox<T> {
    at: NonNull<T>,
}

// SAFETY: a `SecretBox` owns its value alone, as a `Box` does.
unsafe impl<T: Send> Send for SecretBox<T> {}
// SAFETY: `&SecretBox<T>` gives out `&T` and nothing else.
unsafe impl<T: Sync> Sync for SecretBox<T> {}

impl<T> SecretBox<T> {
    /// Moves `value` in. What it was moved from is not zeroed: see [`scrub_stack`].
    pub fn new(value: T) -> Self {
        Self::init(|slot| {
            slot.write(value);
        })
    }

    /// Lets `write` make the value in its place.
    fn init(write: impl FnOnce(&mut MaybeUninit<T>)) -> Self {
        let at = arena::take(size_of::<T>(), align_of::<T>()).cast::<T>();
        // SAFETY: the arena gave a slot of this size and alignment to us alone; `MaybeUninit` may hold anything.
        write(unsafe { &mut *at.as_ptr().cast::<MaybeUninit<T>>() });
        Self { at }
    }
}

impl<T> SecretBox<T> {
    /// A value that is made in place from zeros, so that it never was anywhere else.
    ///
    /// # Safety
    /// All zeros are a valid `T`.
    pub unsafe fn zeroed() -> Self {
        // The arena's slots are zero when they are given out.
        Self::init(|_| {})
    }
}

impl<T> Deref for SecretBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: `at` is an initialised `T` of ours until `drop`.
        unsafe { self.at.as_ref() }
    }
}

impl<T> DerefMut for SecretBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` is the only way in.
        unsafe { self.at.as_mut() }
    }
}

impl<T> Drop for SecretBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value is initialised and dropped here only; then the slot, which is ours, is zeroed and given back.
        unsafe {
            self.at.drop_in_place();
            arena::give_back(self.at.cast(), size_of::<T>(), align_of::<T>());
        }
    }
}

impl<T> fmt::Debug for SecretBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `N` secret bytes.
pub struct Secret<const N: usize>(SecretBox<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Zeros, to be written in place.
    pub fn zeroed() -> Self {
        // SAFETY: zeros are bytes.
        Self(unsafe { SecretBox::zeroed() })
    }

    /// A copy of `bytes`; zeroing the original is its owner's business.
    pub fn new(bytes: &[u8; N]) -> Self {
        let mut own = Self::zeroed();
        own.0.copy_from_slice(bytes);
        own
    }

    /// The bytes. Named so that a reader sees where a secret leaves its box.
    #[inline]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    #[inline]
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> Clone for Secret<N> {
    fn clone(&self) -> Self {
        Self::new(self.expose())
    }
}

/// In constant time.
impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        let differ = self.expose().iter().zip(other.expose()).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differ) == 0
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({N} bytes)")
    }
}

/// Zeroes the stack below the caller and the vector registers, where functions that just returned may have left key bytes.
#[inline(never)]
pub fn scrub_stack() {
    let mut below = [0xFF_u8; 8192];
    std::hint::black_box(&mut below).zeroize();
    #[cfg(target_arch = "x86_64")]
    scrub_registers();
}

/// A core dump has the registers, and copying 32 bytes goes through one.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn scrub_registers() {
    use std::arch::{asm, is_x86_feature_detected};
    if is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has AVX; every vector register is the caller's to save in this ABI.
        unsafe { asm!("vzeroall", clobber_abi("sysv64"), options(nomem, nostack)) };
    }
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512, whose upper sixteen registers VZEROALL leaves; as above.
        unsafe {
            asm!(
                "vpxord zmm16, zmm16, zmm16",
                "vpxord zmm17, zmm17, zmm17",
                "vpxord zmm18, zmm18, zmm18",
                "vpxord zmm19, zmm19, zmm19",
                "vpxord zmm20, zmm20, zmm20",
                "vpxord zmm21, zmm21, zmm21",
                "vpxord zmm22, zmm22, zmm22",
                "vpxord zmm23, zmm23, zmm23",
                "vpxord zmm24, zmm24, zmm24",
                "vpxord zmm25, zmm25, zmm25",
                "vpxord zmm26, zmm26, zmm26",
                "vpxord zmm27, zmm27, zmm27",
                "vpxord zmm28, zmm28, zmm28",
                "vpxord zmm29, zmm29, zmm29",
                "vpxord zmm30, zmm30, zmm30",
                "vpxord zmm31, zmm31, zmm31",
                clobber_abi("sysv64"),
                options(nomem, nostack)
            );
        }
    }
}

#[cfg(test)]
mod tests;
