//! The default back end. Its keys are plain structs without pointers, so the whole of them is in secret pages.

use std::fmt;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::{Aead, AeadError, Cipher, NONCE_LEN, TAG_LEN};
use crate::crypto::secret::SecretBox;

pub(super) struct Key(SecretBox<LessSafeKey>);

impl Key {
    #[inline]
    pub(super) fn prefetch(&self) {
        crate::crypto::prefetch(&*self.0);
    }
}

impl Key {
    /// `key` is of the cipher's length.
    pub(super) fn new(cipher: Cipher, key: &[u8]) -> Self {
        let algorithm = match cipher {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, key).expect("the caller checked the length");
        Self(SecretBox::new(LessSafeKey::new(key)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ring::Key({:?})", self.0.algorithm())
    }
}

impl Aead for Key {
    #[inline]
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), text).map_err(|_| AeadError)?;
        let mut out = [0; TAG_LEN];
        out.copy_from_slice(tag.as_ref());
        Ok(out)
    }

    #[inline]
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(tag), text, 0..)
            .map(|_| ())
            .map_err(|_| AeadError)
    }
}
