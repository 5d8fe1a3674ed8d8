//! AES-GCM of Intel's multi-buffer library, with the feature `ipsec-mb` (Debian: `libipsec-mb-dev`): about twice as fast
//! as `ring` on CPUs with VAES and AVX-512.
//!
//! Its direct interface is used, one packet a call, which keeps no state. ChaCha20-Poly1305 is left to our own
//! [`avx512`](super::avx512): the library has that fast only through a job manager per thread.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;

use zeroize::Zeroize;

use super::{Aead, AeadError, Cipher, NONCE_LEN, TAG_LEN};
use crate::crypto::secret::SecretBox;

unsafe extern "C" {
    fn softdpu_mb_key_size() -> usize;
    fn softdpu_mb_new() -> *mut c_void;
    fn softdpu_mb_expand(manager: *mut c_void, is_256: c_int, key: *const u8, out: *mut c_void);
    fn softdpu_mb_seal(
        manager: *mut c_void,
        is_256: c_int,
        key: *const c_void,
        nonce: *const u8,
        aad: *const u8,
        aad_len: u64,
        text: *mut u8,
        len: u64,
        tag: *mut u8,
    );
    fn softdpu_mb_open(
        manager: *mut c_void,
        is_256: c_int,
        key: *const c_void,
        nonce: *const u8,
        aad: *const u8,
        aad_len: u64,
        text: *mut u8,
        len: u64,
        tag: *mut u8,
    );
}

/// Room for an expanded key: 1008 bytes in 1.3. Where a release needs more, the back end is not used.
const ROOM: usize = 1536;
/// The library counts blocks in 32 bits, from 2 on (SP 800-38D §5.2.1.1).
const LONGEST: u64 = (1 << 36) - 32;

/// Which functions of the library suit this CPU.
#[derive(Clone, Copy)]
struct Manager(NonNull<c_void>);

// SAFETY: nothing writes to a manager after it was made, as long as only the direct interface is used.
unsafe impl Send for Manager {}
// SAFETY: as above.
unsafe impl Sync for Manager {}

fn manager() -> Option<Manager> {
    static MANAGER: OnceLock<Option<Manager>> = OnceLock::new();
    *MANAGER.get_or_init(|| {
        // SAFETY: both take nothing; the first says a size, the second allocates.
        unsafe { if softdpu_mb_key_size() > ROOM { None } else { NonNull::new(softdpu_mb_new()).map(Manager) } }
    })
}

pub(super) fn runs(cipher: Cipher) -> bool {
    cipher != Cipher::ChaCha20Poly1305 && manager().is_some()
}

#[repr(align(64))]
struct Expanded([u8; ROOM]);

pub(super) struct Key {
    manager: Manager,
    is_256: c_int,
    key: SecretBox<Expanded>,
}

impl Key {
    /// `None` where the library does not run, or not this cipher. `key` is of the cipher's length.
    pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Self> {
        let manager = manager().filter(|_| runs(cipher) && key.len() == cipher.key_len())?;
        let is_256 = c_int::from(cipher == Cipher::Aes256Gcm);
        // SAFETY: zeros are bytes.
        let mut own = unsafe { SecretBox::<Expanded>::zeroed() };
        // SAFETY: the key has the 16 or 32 bytes, the result has the room and alignment that the header asks for.
        unsafe { softdpu_mb_expand(manager.0.as_ptr(), is_256, key.as_ptr(), own.0.as_mut_ptr().cast()) };
        Some(Self { manager, is_256, key: own })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ipsec_mb::Key(…)")
    }
}

impl Aead for Key {
    #[inline]
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        if text.len() as u64 > LONGEST {
            return Err(AeadError);
        }
        let mut tag = [0; TAG_LEN];
        // SAFETY: every pointer comes with its length or has the fixed one; input and output may be the same.
        unsafe {
            softdpu_mb_seal(
                self.manager.0.as_ptr(),
                self.is_256,
                self.key.0.as_ptr().cast(),
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len() as u64,
                text.as_mut_ptr(),
                text.len() as u64,
                tag.as_mut_ptr(),
            );
        }
        Ok(tag)
    }

    #[inline]
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError> {
        if text.len() as u64 > LONGEST {
            return Err(AeadError);
        }
        let mut right = [0; TAG_LEN];
        // SAFETY: as in `seal`.
        unsafe {
            softdpu_mb_open(
                self.manager.0.as_ptr(),
                self.is_256,
                self.key.0.as_ptr().cast(),
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len() as u64,
                text.as_mut_ptr(),
                text.len() as u64,
                right.as_mut_ptr(),
            );
        }
        let differ = std::hint::black_box(u128::from_le_bytes(right) ^ u128::from_le_bytes(tag));
        right.zeroize();
        if differ == 0 {
            Ok(())
        } else {
            // It was decrypted before the tag was known.
            text.zeroize();
            Err(AeadError)
        }
    }
}
