//! Static keys: this host's, a peer's, the one they may share beforehand.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::symmetric::hash;
use crate::crypto::secret::{Secret, scrub_stack};

/// An X25519 private key (RFC 7748 §5), clamped. In secret pages, zeroed when dropped; never printed.
pub struct PrivateKey(Secret<32>);

impl PrivateKey {
    /// Clamps `bytes`: three low bits and the highest clear, the second highest set (RFC 7748 §5).
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut key = Secret::new(bytes);
        let own = key.expose_mut();
        own[0] &= 0xf8;
        own[31] = own[31] & 0x7f | 0x40;
        Self(key)
    }

    /// A new one, of the system's random numbers.
    ///
    /// # Errors
    /// Where the system has none.
    pub fn generate() -> Result<Self, NoRandom> {
        let mut bytes = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| NoRandom)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// The clamped key, for those who configured it and ask for it again.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    pub fn public(&self) -> PublicKey {
        let public = x25519_dalek::PublicKey::from(&StaticSecret::from(*self.0.expose()));
        scrub_stack();
        PublicKey(public.to_bytes())
    }

    /// The shared secret with `other`. `None` where that is all zeros: `other` is one of the points of low order, and the
    /// result is known to everyone (RFC 7748 §6.1).
    pub(super) fn agree(&self, other: &PublicKey) -> Option<Secret<32>> {
        let shared = StaticSecret::from(*self.0.expose()).diffie_hellman(&other.0.into());
        shared.was_contributory().then(|| Secret::new(shared.as_bytes()))
    }
}

impl Clone for PrivateKey {
    /// For a device that makes its [`Identity`] anew; an ephemeral key is moved instead, so that it is used once.
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// In constant time.
impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// The system gave no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random numbers")]
pub struct NoRandom;

/// An X25519 public key. Not a secret: `Display` and `Debug` are its base64, as `wg` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = [b'='; 44];
        for (three, four) in self.0.chunks(3).zip(text.chunks_mut(4)) {
            let bits = three.iter().chain(&[0; 3]).take(3).fold(0, |bits, b| bits << 8 | usize::from(*b));
            for (i, digit) in four.iter_mut().enumerate().take(three.len() + 1) {
                *digit = DIGITS[bits >> (18 - 6 * i) & 63];
            }
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A preshared key; all zeros where there is none (the paper §5.4). In secret pages, zeroed when dropped; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Secret<32>);

impl Psk {
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// For those who configured it and ask for it again.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

impl Default for Psk {
    /// None.
    fn default() -> Self {
        Self(Secret::zeroed())
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(…)")
    }
}

/// The two keys that follow from a static public key and that anyone who knows it can make: they prove no identity, only
/// that the sender knows whom it talks to.
#[derive(Clone)]
pub(super) struct Labels {
    pub(super) mac1: [u8; 32],
    pub(super) cookie: [u8; 32],
}

impl Labels {
    fn new(public: &PublicKey) -> Self {
        Self { mac1: hash(&[b"mac1----", &public.0]), cookie: hash(&[b"cookie--", &public.0]) }
    }
}

/// This host: its static key and what follows from it.
pub struct Identity {
    secret: PrivateKey,
    public: PublicKey,
    pub(super) labels: Labels,
}

impl Identity {
    pub fn new(secret: PrivateKey) -> Self {
        let public = secret.public();
        Self { secret, public, labels: Labels::new(&public) }
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn secret(&self) -> &PrivateKey {
        &self.secret
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public)
    }
}

/// A peer, as this host sees it: its static key, the key shared beforehand, the product of both static keys.
///
/// To be made anew when this host's [`Identity`] changes.
pub struct Remote {
    public: PublicKey,
    psk: Psk,
    /// Made once: two of the four products of a handshake depend on nothing that changes. `None` for a public key of low
    /// order, with which no handshake succeeds.
    pub(super) static_static: Option<Secret<32>>,
    pub(super) labels: Labels,
}

impl Remote {
    pub fn new(local: &Identity, public: PublicKey, psk: Psk) -> Self {
        Self { public, psk, static_static: local.secret.agree(&public), labels: Labels::new(&public) }
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn psk(&self) -> &Psk {
        &self.psk
    }

    /// Counts from the next handshake on.
    pub fn set_psk(&mut self, psk: Psk) {
        self.psk = psk;
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.public)
    }
}
