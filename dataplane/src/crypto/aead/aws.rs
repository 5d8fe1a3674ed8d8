//! AWS-LC, with the feature `aws-lc-rs`: AES-GCM with AVX-512 and VAES where the CPU has them.
//!
//! Its C interface is used as it is, because there a key is expanded into memory that the caller names: our secret pages.

use std::fmt;
use std::ptr::{null, null_mut};

use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open_gather, EVP_AEAD_CTX_seal_scatter,
    EVP_aead_aes_128_gcm, EVP_aead_aes_256_gcm, EVP_aead_chacha20_poly1305,
};

use super::{Aead, AeadError, Cipher, NONCE_LEN, TAG_LEN};
use crate::crypto::secret::SecretBox;

pub(super) struct Key(SecretBox<Context>);

/// Not moved after it was made: AWS-LC aligns the key inside by its address.
struct Context(EVP_AEAD_CTX);

// SAFETY: a context is only read after it was made; AWS-LC documents seal and open as safe from several threads.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Key {
    /// `key` is of the cipher's length.
    pub(super) fn new(cipher: Cipher, key: &[u8]) -> Self {
        // SAFETY: EVP_AEAD_CTX_zero is defined as writing zeros.
        let mut context = unsafe { SecretBox::<Context>::zeroed() };
        // SAFETY: the algorithm is a static of the library, the key is as long as said, the context is zeroed.
        let made = unsafe {
            let algorithm = match cipher {
                Cipher::Aes128Gcm => EVP_aead_aes_128_gcm(),
                Cipher::Aes256Gcm => EVP_aead_aes_256_gcm(),
                Cipher::ChaCha20Poly1305 => EVP_aead_chacha20_poly1305(),
            };
            EVP_AEAD_CTX_init(&mut context.0, algorithm, key.as_ptr(), key.len(), TAG_LEN, null_mut())
        };
        assert_eq!(made, 1, "the caller checked the length");
        Self(context)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by EVP_AEAD_CTX_init, and used no more.
        unsafe { EVP_AEAD_CTX_cleanup(&mut self.0) };
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("aws::Key(…)")
    }
}

impl Aead for Key {
    #[inline]
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        let (mut tag, mut tag_len) = ([0; TAG_LEN], 0);
        // SAFETY: every pointer comes with its length; output may be the input (the header of EVP_AEAD says so).
        let done = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                &self.0.0,
                text.as_mut_ptr(),
                tag.as_mut_ptr(),
                &mut tag_len,
                TAG_LEN,
                nonce.as_ptr(),
                NONCE_LEN,
                text.as_ptr(),
                text.len(),
                null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done == 1 && tag_len == TAG_LEN { Ok(tag) } else { Err(AeadError) }
    }

    #[inline]
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError> {
        // SAFETY: as in `seal`. Where the tag is wrong the library zeroes the text.
        let done = unsafe {
            EVP_AEAD_CTX_open_gather(
                &self.0.0,
                text.as_mut_ptr(),
                nonce.as_ptr(),
                NONCE_LEN,
                text.as_ptr(),
                text.len(),
                tag.as_ptr(),
                TAG_LEN,
                aad.as_ptr(),
                aad.len(),
            )
        };
        if done == 1 { Ok(()) } else { Err(AeadError) }
    }
}
