//! The same seeds in every process that is counted. Hash tables of the standard library ask the C library for random numbers, and
//! how long their look-ups take depends on them; this program has the function itself, which otherwise asks the kernel.

use std::sync::atomic::{AtomicU64, Ordering};

/// Set in counted processes.
pub const VARIABLE: &str = "SOFTDPU_BENCH_COUNTED";

/// As in the C library, see getrandom(2).
///
/// # Safety
/// `buffer` must be writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // SAFETY: the name ends with a zero; nobody changes the environment of a counted process.
    let counted = unsafe { !libc::getenv(c"SOFTDPU_BENCH_COUNTED".as_ptr()).is_null() };
    if !counted {
        // SAFETY: as the caller promises.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t };
    }
    for at in 0..length {
        let n = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        // SAFETY: within what the caller promises.
        unsafe { buffer.cast::<u8>().add(at).write((n >> 56) as u8) };
    }
    length as libc::ssize_t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_get_the_kernels_numbers() {
        let (mut a, mut b) = ([0_u8; 16], [0_u8; 16]);
        for bytes in [&mut a, &mut b] {
            // SAFETY: sixteen bytes are there.
            assert_eq!(unsafe { getrandom(bytes.as_mut_ptr().cast(), 16, 0) }, 16);
        }
        assert_ne!(a, b);
        assert_eq!(VARIABLE, "SOFTDPU_BENCH_COUNTED");
    }
}
