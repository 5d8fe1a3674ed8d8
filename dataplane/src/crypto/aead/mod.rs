//! Authenticated encryption: one key type over several back ends, and the keying material it starts from.
//!
//! ESP and WireGuard need nothing but "seal and open in place, tag apart", so that is the trait [`Aead`]. [`AeadKey`] is
//! one key in the back end that [`choose`] found fastest for its cipher on this machine; `ring` is always there. The
//! expanded keys live in secret pages ([`crate::crypto::secret`]).

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(feature = "aws-lc-rs")]
mod aws;
pub mod choose;
#[cfg(feature = "ipsec-mb")]
mod ipsec_mb;
mod material;
mod ring;

use std::fmt;

pub use choose::chosen;
pub(crate) use material::Salt;
pub use material::{KeyId, KeyMaterial, SALT_LEN};

use super::secret::scrub_stack;

/// Bytes of the authentication tag. All three ciphers are used with the full 16 (RFC 4106 §6, RFC 7634 §2).
pub const TAG_LEN: usize = 16;
/// Bytes of the AEAD nonce: 4 of salt, 8 of IV (RFC 4106 §4, RFC 7634 §2); 4 zeros, 8 of counter in WireGuard.
pub const NONCE_LEN: usize = 12;
/// Most bytes of additional data in a [`Job`]: SPI and extended sequence number (RFC 4106 §5).
pub const JOB_AAD: usize = 12;
/// Bytes of the longest key.
const MAX_KEY: usize = 32;

/// The ciphers a tunnel may be configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    pub const ALL: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    /// As in the policy file.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "aes-128-gcm",
            Cipher::Aes256Gcm => "aes-256-gcm",
            Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Bytes of the cipher key.
    pub fn key_len(self) -> usize {
        match self {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of the whole keying material: key, then salt.
    pub fn material_len(self) -> usize {
        self.key_len() + SALT_LEN
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Sealing: the text is too long for the cipher. Opening: the tag does not fit the text, the AAD or the nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AeadError;

/// One packet of a batch: its text is sealed or opened in place.
pub struct Job<'a> {
    pub nonce: [u8; NONCE_LEN],
    aad: [u8; JOB_AAD],
    aad_len: u8,
    pub text: &'a mut [u8],
    /// Sealing: the result. Opening: what came with the packet.
    pub tag: [u8; TAG_LEN],
    /// Set by [`Aead::seal_many`] and [`Aead::open_many`] where the packet was sealed, or its tag was right.
    pub ok: bool,
}

impl<'a> Job<'a> {
    /// `None` where `aad` is longer than [`JOB_AAD`].
    #[inline]
    pub fn new(nonce: [u8; NONCE_LEN], aad: &[u8], text: &'a mut [u8], tag: [u8; TAG_LEN]) -> Option<Self> {
        let mut job = Self::bare(nonce, text, tag);
        job.aad.get_mut(..aad.len())?.copy_from_slice(aad);
        job.aad_len = aad.len() as u8;
        Some(job)
    }

    /// Without additional data.
    #[inline]
    pub fn bare(nonce: [u8; NONCE_LEN], text: &'a mut [u8], tag: [u8; TAG_LEN]) -> Self {
        Self { nonce, aad: [0; JOB_AAD], aad_len: 0, text, tag, ok: false }
    }

    #[inline]
    pub fn aad(&self) -> &[u8] {
        &self.aad[..usize::from(self.aad_len).min(JOB_AAD)]
    }
}

/// One key of one cipher. Calls are independent, so one key serves all workers.
pub trait Aead: Send + Sync + fmt::Debug {
    /// Encrypts `text` in place and returns the tag. The caller never uses a nonce twice.
    ///
    /// # Errors
    /// Only for texts beyond the cipher's limit (64 GiB).
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError>;

    /// Decrypts `text` in place.
    ///
    /// # Errors
    /// Where the tag is wrong; `text` then holds nothing of the plaintext.
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError>;

    /// [`Self::seal`] for each job; back ends that can, work on several at once. See [`Job::ok`].
    fn seal_many(&self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            let sealed = self.seal(job.nonce, &job.aad[..usize::from(job.aad_len)], job.text);
            job.ok = sealed.is_ok();
            job.tag = sealed.unwrap_or([0; TAG_LEN]);
        }
    }

    /// [`Self::open`] for each job; back ends that can, work on several at once. See [`Job::ok`].
    fn open_many(&self, jobs: &mut [Job<'_>]) {
        for job in jobs {
            job.ok = self.open(job.nonce, &job.aad[..usize::from(job.aad_len)], job.text, job.tag).is_ok();
        }
    }
}

/// The implementations compiled in, and those the CPU lets run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackEnd {
    /// `ring`: hand-written assembly, chosen by what the CPU offers. All ciphers, everywhere.
    Ring,
    /// Our own ChaCha20-Poly1305, for CPUs with AVX-512 and IFMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AWS-LC: all ciphers.
    #[cfg(feature = "aws-lc-rs")]
    AwsLc,
    /// Intel's multi-buffer library: AES-GCM.
    #[cfg(feature = "ipsec-mb")]
    IpsecMb,
}

impl BackEnd {
    const ALL: &[BackEnd] = &[
        BackEnd::Ring,
        #[cfg(target_arch = "x86_64")]
        BackEnd::Avx512,
        #[cfg(feature = "aws-lc-rs")]
        BackEnd::AwsLc,
        #[cfg(feature = "ipsec-mb")]
        BackEnd::IpsecMb,
    ];

    /// Those that know `cipher` and run on this CPU; `ring` first.
    pub fn all(cipher: Cipher) -> impl Iterator<Item = BackEnd> {
        Self::ALL.iter().copied().filter(move |b| b.runs(cipher))
    }

    pub fn name(self) -> &'static str {
        match self {
            BackEnd::Ring => "ring",
            #[cfg(target_arch = "x86_64")]
            BackEnd::Avx512 => "avx512",
            #[cfg(feature = "aws-lc-rs")]
            BackEnd::AwsLc => "aws-lc",
            #[cfg(feature = "ipsec-mb")]
            BackEnd::IpsecMb => "ipsec-mb",
        }
    }

    fn runs(self, cipher: Cipher) -> bool {
        match self {
            BackEnd::Ring => true,
            #[cfg(target_arch = "x86_64")]
            BackEnd::Avx512 => cipher == Cipher::ChaCha20Poly1305 && avx512::runs(),
            #[cfg(feature = "aws-lc-rs")]
            BackEnd::AwsLc => true,
            #[cfg(feature = "ipsec-mb")]
            BackEnd::IpsecMb => ipsec_mb::runs(cipher),
        }
    }
}

impl fmt::Display for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key, expanded, in the back end chosen for its cipher. A match instead of a `Box<dyn Aead>`: one pointer less to
/// follow, and calls the compiler sees through. 16 bytes with the common back ends: thousands of associations have one or two.
pub struct AeadKey(Expanded);

/// Each with its cipher, which goes where the variant's mark is.
enum Expanded {
    Ring(Cipher, ring::Key),
    #[cfg(target_arch = "x86_64")]
    Avx512(Cipher, avx512::Key),
    #[cfg(feature = "aws-lc-rs")]
    AwsLc(Cipher, aws::Key),
    #[cfg(feature = "ipsec-mb")]
    IpsecMb(Cipher, ipsec_mb::Key),
}

/// `$call` on whatever back end `$self` has.
macro_rules! on_key {
    ($self:expr, $key:ident => $call:expr) => {
        match &$self.0 {
            Expanded::Ring(_, $key) => $call,
            #[cfg(target_arch = "x86_64")]
            Expanded::Avx512(_, $key) => $call,
            #[cfg(feature = "aws-lc-rs")]
            Expanded::AwsLc(_, $key) => $call,
            #[cfg(feature = "ipsec-mb")]
            Expanded::IpsecMb(_, $key) => $call,
        }
    };
}

impl AeadKey {
    /// Asks for the cache lines of the expanded key.
    #[inline]
    pub fn prefetch(&self) {
        match &self.0 {
            Expanded::Ring(_, key) => key.prefetch(),
            #[cfg(target_arch = "x86_64")]
            Expanded::Avx512(_, key) => key.prefetch(),
            #[cfg(any(feature = "aws-lc-rs", feature = "ipsec-mb"))]
            _ => {}
        }
    }

    pub fn new(material: &KeyMaterial) -> Self {
        Self::expand(choose::best(material.cipher()), material.cipher(), material.key())
    }

    /// For WireGuard, whose nonces have no salt (the protocol's paper, §5.4.6).
    pub fn new_chacha(key: &[u8; 32]) -> Self {
        Self::expand(choose::best(Cipher::ChaCha20Poly1305), Cipher::ChaCha20Poly1305, key)
    }

    /// In a back end of the caller's choice; for tests and benches. `None` where it does not have the cipher, or the key
    /// is not of its length.
    pub fn with(back_end: BackEnd, cipher: Cipher, key: &[u8]) -> Option<Self> {
        (back_end.runs(cipher) && key.len() == cipher.key_len()).then(|| Self::expand(back_end, cipher, key))
    }

    /// `back_end` runs here and has `cipher`; `key` is of its length.
    fn expand(back_end: BackEnd, cipher: Cipher, key: &[u8]) -> Self {
        let key = match back_end {
            BackEnd::Ring => Expanded::Ring(cipher, ring::Key::new(cipher, key)),
            #[cfg(target_arch = "x86_64")]
            BackEnd::Avx512 => Expanded::Avx512(cipher, avx512::Key::new(key).expect("it runs here")),
            #[cfg(feature = "aws-lc-rs")]
            BackEnd::AwsLc => Expanded::AwsLc(cipher, aws::Key::new(cipher, key)),
            #[cfg(feature = "ipsec-mb")]
            BackEnd::IpsecMb => Expanded::IpsecMb(cipher, ipsec_mb::Key::new(cipher, key).expect("it runs here")),
        };
        scrub_stack();
        Self(key)
    }

    pub fn cipher(&self) -> Cipher {
        match &self.0 {
            Expanded::Ring(cipher, _) => *cipher,
            #[cfg(target_arch = "x86_64")]
            Expanded::Avx512(cipher, _) => *cipher,
            #[cfg(feature = "aws-lc-rs")]
            Expanded::AwsLc(cipher, _) => *cipher,
            #[cfg(feature = "ipsec-mb")]
            Expanded::IpsecMb(cipher, _) => *cipher,
        }
    }

    pub fn back_end(&self) -> BackEnd {
        match &self.0 {
            Expanded::Ring(..) => BackEnd::Ring,
            #[cfg(target_arch = "x86_64")]
            Expanded::Avx512(..) => BackEnd::Avx512,
            #[cfg(feature = "aws-lc-rs")]
            Expanded::AwsLc(..) => BackEnd::AwsLc,
            #[cfg(feature = "ipsec-mb")]
            Expanded::IpsecMb(..) => BackEnd::IpsecMb,
        }
    }
}

impl Aead for AeadKey {
    #[inline]
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> Result<[u8; TAG_LEN], AeadError> {
        on_key!(self, key => key.seal(nonce, aad, text))
    }

    #[inline]
    fn open(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8], tag: [u8; TAG_LEN]) -> Result<(), AeadError> {
        on_key!(self, key => key.open(nonce, aad, text, tag))
    }

    #[inline]
    fn seal_many(&self, jobs: &mut [Job<'_>]) {
        on_key!(self, key => key.seal_many(jobs));
    }

    #[inline]
    fn open_many(&self, jobs: &mut [Job<'_>]) {
        on_key!(self, key => key.open_many(jobs));
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AeadKey({}, {})", self.cipher(), self.back_end())
    }
}

/// [`AeadKey::new`] for callers that hold any [`Aead`].
pub fn new_aead(material: &KeyMaterial) -> Box<dyn Aead> {
    Box::new(AeadKey::new(material))
}

#[cfg(test)]
mod vectors;
