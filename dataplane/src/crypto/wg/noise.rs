//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (the paper §5.4.2 to §5.4.5), sans I/O.
//!
//! ```text
//! initiator                                   responder
//! Initiator::start ──── initiation ─────────► Opening::open   → whose static key? (look the peer up)
//!                                             Opening::finish → its preshared key, its timestamp: Responder
//! Initiator::finish ◄── response ──────────── Responder::respond → SessionKeys
//!       → SessionKeys
//! ```
//!
//! The authenticators at the end of both messages are [`cookie`](super::cookie)'s. Ephemeral keys and timestamps come from the
//! caller, so everything here is repeatable. A message that is refused changes nothing: an [`Initiator`] goes on waiting.

use std::fmt;

use super::keys::{Identity, PrivateKey, PublicKey, Remote};
use super::message::{Initiation, MAC_LEN, Response};
use super::symmetric::Transcript;
use super::timestamp::Tai64n;
use crate::crypto::secret::{Secret, scrub_stack};

/// Why a handshake message was refused. Each is a drop reason of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoiseError {
    /// A public key of low order: what would be agreed upon is known to everyone (RFC 7748 §6.1).
    LowOrder,
    /// Does not authenticate: damaged, forged, for another key, or with another preshared key.
    Unauthentic,
    /// The initiation is not later than the last one of this peer: a replay.
    OldTimestamp,
    /// The response answers another initiation.
    WrongIndex,
    /// The peer that was looked up is not the one that the initiation names.
    WrongPeer,
}

impl NoiseError {
    pub const ALL: [NoiseError; 5] =
        [Self::LowOrder, Self::Unauthentic, Self::OldTimestamp, Self::WrongIndex, Self::WrongPeer];

    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::LowOrder => "low_order",
            Self::Unauthentic => "unauthentic",
            Self::OldTimestamp => "old_timestamp",
            Self::WrongIndex => "wrong_index",
            Self::WrongPeer => "wrong_peer",
        }
    }
}

/// What a handshake yields: one [`Session`](super::session::Session), which takes it, so that a key is never in two.
pub struct SessionKeys {
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) send: Secret<32>,
    pub(super) receive: Secret<32>,
    pub(super) initiator: bool,
}

impl SessionKeys {
    /// This host's name for the session: the receiver of what comes in.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The peer's name for it.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Whether this host sent the initiation.
    pub fn initiator(&self) -> bool {
        self.initiator
    }

    /// Of no handshake: both ends of a session at once, the initiator's first. A handshake takes a fuzzer's whole time.
    #[cfg(any(test, fuzzing))]
    pub fn made_up() -> (Self, Self) {
        let of = |local_index, remote_index, send: u8, receive: u8, initiator| {
            let (send, receive) = (Secret::new(&[send; 32]), Secret::new(&[receive; 32]));
            Self { local_index, remote_index, send, receive, initiator }
        };
        (of(10, 20, 1, 2, true), of(20, 10, 2, 1, false))
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKeys")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("initiator", &self.initiator)
            .finish_non_exhaustive()
    }
}

/// An initiation is out; the response is awaited.
pub struct Initiator {
    transcript: Transcript,
    ephemeral: PrivateKey,
    index: u32,
}

impl Initiator {
    /// Makes an initiation; its authenticators are still zero. `index` is what the response is to be addressed to, `ephemeral`
    /// a key that is used for nothing else, `timestamp` later than that of any initiation to this peer before.
    ///
    /// # Errors
    /// [`NoiseError::LowOrder`]: the peer's public key is no good.
    pub fn start(
        local: &Identity,
        remote: &Remote,
        index: u32,
        ephemeral: PrivateKey,
        timestamp: Tai64n,
    ) -> Result<(Self, Initiation), NoiseError> {
        let mut transcript = Transcript::new(remote.public().as_bytes());
        let public = ephemeral.public();
        transcript.mix_ephemeral(public.as_bytes());
        let mut message = Initiation {
            sender: index,
            ephemeral: *public.as_bytes(),
            sealed_static: [0; 48],
            sealed_timestamp: [0; 28],
            mac1: [0; MAC_LEN],
            mac2: [0; MAC_LEN],
        };
        let shared = ephemeral.agree(remote.public()).ok_or(NoiseError::LowOrder)?;
        let key = transcript.mix_key_and_cipher(shared.expose());
        transcript.seal(&key, local.public().as_bytes(), &mut message.sealed_static);
        let static_static = remote.static_static.as_ref().ok_or(NoiseError::LowOrder)?;
        let key = transcript.mix_key_and_cipher(static_static.expose());
        transcript.seal(&key, &timestamp.to_bytes(), &mut message.sealed_timestamp);
        scrub_stack();
        Ok((Self { transcript, ephemeral, index }, message))
    }

    /// What the response is to be addressed to.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Takes the response in, whose first authenticator has been checked. `local` and `remote` as at the start.
    ///
    /// # Errors
    /// [`NoiseError::WrongIndex`], [`NoiseError::LowOrder`], [`NoiseError::Unauthentic`]. The right response may still come.
    pub fn finish(&self, local: &Identity, remote: &Remote, response: &Response) -> Result<SessionKeys, NoiseError> {
        if response.receiver != self.index {
            return Err(NoiseError::WrongIndex);
        }
        let mut transcript = self.transcript.clone();
        transcript.mix_ephemeral(&response.ephemeral);
        let theirs = PublicKey::from_bytes(response.ephemeral);
        transcript.mix_key(self.ephemeral.agree(&theirs).ok_or(NoiseError::LowOrder)?.expose());
        transcript.mix_key(local.secret().agree(&theirs).ok_or(NoiseError::LowOrder)?.expose());
        let key = transcript.mix_psk(remote.psk().expose());
        transcript.open(&key, &response.sealed_empty, &mut []).ok_or(NoiseError::Unauthentic)?;
        let [send, receive] = transcript.split();
        scrub_stack();
        Ok(SessionKeys { local_index: self.index, remote_index: response.sender, send, receive, initiator: true })
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").field("index", &self.index).finish_non_exhaustive()
    }
}

/// The first half of an initiation that came in: it says who sent it. The sender has not proved that yet: anyone who knows
/// this host's public key can name any other.
pub struct Opening {
    transcript: Transcript,
    claimed: PublicKey,
    ephemeral: PublicKey,
    sealed_timestamp: [u8; 28],
    index: u32,
}

impl Opening {
    /// Opens an initiation whose first authenticator has been checked.
    ///
    /// # Errors
    /// [`NoiseError::LowOrder`], [`NoiseError::Unauthentic`].
    pub fn open(local: &Identity, initiation: &Initiation) -> Result<Self, NoiseError> {
        let mut transcript = Transcript::new(local.public().as_bytes());
        transcript.mix_ephemeral(&initiation.ephemeral);
        let ephemeral = PublicKey::from_bytes(initiation.ephemeral);
        let shared = local.secret().agree(&ephemeral).ok_or(NoiseError::LowOrder)?;
        let key = transcript.mix_key_and_cipher(shared.expose());
        let mut claimed = [0; 32];
        transcript.open(&key, &initiation.sealed_static, &mut claimed).ok_or(NoiseError::Unauthentic)?;
        Ok(Self {
            transcript,
            claimed: PublicKey::from_bytes(claimed),
            ephemeral,
            sealed_timestamp: initiation.sealed_timestamp,
            index: initiation.sender,
        })
    }

    /// The static key of who claims to have sent it: the peer to look up.
    pub fn claimed(&self) -> &PublicKey {
        &self.claimed
    }

    /// Lets the peer prove that it is the one, and that it sent this after the initiation with timestamp `last` (`None`:
    /// there was none).
    ///
    /// # Errors
    /// [`NoiseError::WrongPeer`], [`NoiseError::LowOrder`], [`NoiseError::Unauthentic`], [`NoiseError::OldTimestamp`].
    pub fn finish(self, remote: &Remote, last: Option<Tai64n>) -> Result<Responder, NoiseError> {
        if self.claimed != *remote.public() {
            return Err(NoiseError::WrongPeer);
        }
        let mut transcript = self.transcript;
        let key = transcript.mix_key_and_cipher(remote.static_static.as_ref().ok_or(NoiseError::LowOrder)?.expose());
        let mut label = [0; 12];
        transcript.open(&key, &self.sealed_timestamp, &mut label).ok_or(NoiseError::Unauthentic)?;
        let timestamp = Tai64n::from_bytes(label);
        if last.is_some_and(|last| timestamp <= last) {
            return Err(NoiseError::OldTimestamp);
        }
        Ok(Responder {
            transcript,
            timestamp,
            ephemeral: self.ephemeral,
            public: self.claimed,
            remote_index: self.index,
        })
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("claimed", &self.claimed).field("index", &self.index).finish_non_exhaustive()
    }
}

/// An initiation that is its peer's and new.
pub struct Responder {
    transcript: Transcript,
    timestamp: Tai64n,
    ephemeral: PublicKey,
    public: PublicKey,
    remote_index: u32,
}

impl Responder {
    /// To be kept as the peer's last, whether a response is sent or not.
    pub fn timestamp(&self) -> Tai64n {
        self.timestamp
    }

    /// The initiation's sender.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Makes the response, its authenticators still zero, and the keys. `index` is what the initiator is to address, `ephemeral` a
    /// key that is used for nothing else.
    ///
    /// The keys are not to be sent with before something has been opened with them: only that proves that the initiator is
    /// there and has them (the paper §5.4.5).
    ///
    /// # Errors
    /// [`NoiseError::LowOrder`]; [`NoiseError::WrongPeer`] where `remote` is not the peer of the opening.
    #[allow(clippy::needless_pass_by_value)] // taken, so that it cannot be used again
    pub fn respond(
        self,
        remote: &Remote,
        index: u32,
        ephemeral: PrivateKey,
    ) -> Result<(Response, SessionKeys), NoiseError> {
        if self.public != *remote.public() {
            return Err(NoiseError::WrongPeer);
        }
        let mut transcript = self.transcript;
        let public = ephemeral.public();
        transcript.mix_ephemeral(public.as_bytes());
        transcript.mix_key(ephemeral.agree(&self.ephemeral).ok_or(NoiseError::LowOrder)?.expose());
        transcript.mix_key(ephemeral.agree(remote.public()).ok_or(NoiseError::LowOrder)?.expose());
        let key = transcript.mix_psk(remote.psk().expose());
        let mut response = Response {
            sender: index,
            receiver: self.remote_index,
            ephemeral: *public.as_bytes(),
            sealed_empty: [0; 16],
            mac1: [0; MAC_LEN],
            mac2: [0; MAC_LEN],
        };
        transcript.seal(&key, &[], &mut response.sealed_empty);
        let [receive, send] = transcript.split();
        scrub_stack();
        Ok((
            response,
            SessionKeys { local_index: index, remote_index: self.remote_index, send, receive, initiator: false },
        ))
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("remote_index", &self.remote_index).finish_non_exhaustive()
    }
}
