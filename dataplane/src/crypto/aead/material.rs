//! Keying material of one security association, and what may be known of it.

use std::fmt;

use ring::digest::{SHA256, digest};

use super::Cipher;
use crate::crypto::secret::Secret;

/// Bytes of salt behind the cipher key in the keying material (RFC 4106 §8.1, RFC 7634 §2).
pub const SALT_LEN: usize = 4;
/// Keying material of the largest cipher.
const MAX_MATERIAL: usize = super::MAX_KEY + SALT_LEN;

/// Cipher key and salt of one security association. Lives in secret pages, zeroed when dropped; prints as its cipher's name.
pub struct KeyMaterial {
    cipher: Cipher,
    bytes: Secret<MAX_MATERIAL>,
}

impl KeyMaterial {
    /// `bytes` is key then salt. `None` where the length is not [`Cipher::material_len`].
    pub fn new(cipher: Cipher, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != cipher.material_len() {
            return None;
        }
        let mut own = Secret::zeroed();
        own.expose_mut()[..bytes.len()].copy_from_slice(bytes);
        Some(Self { cipher, bytes: own })
    }

    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes.expose()[..self.cipher.key_len()]
    }

    pub(crate) fn salt(&self) -> [u8; SALT_LEN] {
        let at = self.cipher.key_len();
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(&self.bytes.expose()[at..at + SALT_LEN]);
        salt
    }

    /// Says whether two keys are the same without keeping either.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, &self.bytes.expose()[..self.cipher.material_len()]).as_ref());
        KeyId(id)
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({})", self.cipher)
    }
}

/// The part of the nonce that is keying material (RFC 4106 §4). It is never printed.
#[derive(Clone, Copy)]
pub(crate) struct Salt(pub [u8; SALT_LEN]);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}

/// A digest of keying material, to compare only: it is never printed.
///
/// The same key must never serve both directions of a tunnel, or two tunnels: their nonces would meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 32]);

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyId(…)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_length_is_keying_material() {
        for cipher in Cipher::ALL {
            assert_eq!(Cipher::from_name(cipher.name()), Some(cipher));
            for n in 0..64 {
                assert_eq!(KeyMaterial::new(cipher, &vec![1; n]).is_some(), n == cipher.material_len());
            }
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let material = KeyMaterial::new(Cipher::Aes128Gcm, &[0xAB; 20]).unwrap();
        let key = super::super::AeadKey::new(&material);
        for shown in [format!("{material:?}"), format!("{key:?}"), format!("{:?}", material.id())] {
            let lower = shown.to_lowercase();
            assert!(!lower.contains("ab, ab") && !lower.contains("abab") && !lower.contains("171"), "{shown}");
        }
        assert_eq!(format!("{material:?}"), "KeyMaterial(aes-128-gcm)");
    }
}
