//! The authenticators of handshake messages, and cookies for when there are too many of them (the paper §5.3, §5.4.4, §5.4.7).
//!
//! `mac1` says that the sender knows whose public key it talks to: without it nothing is answered. `mac2` says that it gets
//! what is sent to its address, since it holds a cookie that was sent there: asked for under load only. A [`Jar`] is the
//! side that is asked (one per peer), a [`Checker`] the side that asks (one per device).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305};
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{Identity, NoRandom, Remote};
use super::message::{CookieReply, MAC_LEN};
use super::symmetric::mac;
use crate::crypto::secret::Secret;

/// How long a cookie is worth something; after that its secret changes (the paper §5.4.7).
pub const COOKIE_LIFE_NS: u64 = 120_000_000_000;
/// A sender stops using a cookie this much earlier, so that it does not run out on the way (as the Linux kernel does).
const COOKIE_LATENCY_NS: u64 = 5_000_000_000;

type Cookie = Zeroizing<[u8; MAC_LEN]>;

/// Both authenticators are at the end of the message; the second covers the first.
fn split_macs(message: &[u8]) -> Option<(&[u8], &[u8; MAC_LEN], &[u8; MAC_LEN])> {
    let (rest, mac2) = message.split_last_chunk()?;
    let (body, mac1) = rest.split_last_chunk()?;
    Some((body, mac1, mac2))
}

/// What a sender keeps of one peer's cookies. Times are the caller's monotonic nanoseconds.
#[derive(Default)]
pub struct Jar {
    cookie: Option<(Cookie, u64)>,
    /// `mac1` of the last message sent: a cookie reply is bound to it.
    last: Option<[u8; MAC_LEN]>,
}

impl Jar {
    /// Writes both authenticators into a handshake message to `remote` (an initiation or a response, all else in place). The
    /// second is zero as long as there is no cookie.
    pub fn stamp(&mut self, remote: &Remote, message: &mut [u8], now: u64) {
        let Some(at) = message.len().checked_sub(2 * MAC_LEN) else { return };
        let (body, macs) = message.split_at_mut(at);
        let mac1 = mac(&remote.labels.mac1, &[body]);
        let mac2 = match &self.cookie {
            Some((cookie, made)) if now.saturating_sub(*made) < COOKIE_LIFE_NS - COOKIE_LATENCY_NS => {
                mac(&**cookie, &[body, &mac1])
            }
            _ => [0; MAC_LEN],
        };
        macs[..MAC_LEN].copy_from_slice(&mac1);
        macs[MAC_LEN..].copy_from_slice(&mac2);
        self.last = Some(mac1);
    }

    /// Takes in the cookie of a reply to the last message stamped. Then that message may be sent again, stamped anew, but
    /// not sooner than its timer says. `false`: the reply is not to that message, or not from its receiver.
    pub fn learn(&mut self, remote: &Remote, reply: &CookieReply, now: u64) -> bool {
        let Some(last) = self.last else { return false };
        let mut cookie = Cookie::default();
        let (text, tag) = reply.sealed_cookie.split_at(MAC_LEN);
        let Ok(tag) = Tag::try_from(tag) else { return false };
        cookie.copy_from_slice(text);
        let cipher = XChaCha20Poly1305::new((&remote.labels.cookie).into());
        if cipher.decrypt_inout_detached((&reply.nonce).into(), &last, (&mut cookie[..]).into(), &tag).is_err() {
            return false;
        }
        self.cookie = Some((cookie, now));
        // One reply per message (as the Linux kernel does).
        self.last = None;
        true
    }
}

impl fmt::Debug for Jar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jar").field("cookie", &self.cookie.is_some()).finish_non_exhaustive()
    }
}

/// What the authenticators of a handshake message are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The first is wrong: to be dropped.
    None,
    /// The first is right: its sender knows this host's public key.
    Key,
    /// The second is, too: its sender gets what is sent to its address. All that is needed under load.
    Address,
}

/// The secret that cookies are made from, and the check. One per device.
pub struct Checker {
    secret: Secret<32>,
    made: u64,
}

impl Checker {
    /// # Errors
    /// Where the system has no random numbers.
    pub fn new(now: u64) -> Result<Self, NoRandom> {
        let mut checker = Self { secret: Secret::zeroed(), made: now };
        checker.renew(now)?;
        Ok(checker)
    }

    fn renew(&mut self, now: u64) -> Result<(), NoRandom> {
        SystemRandom::new().fill(self.secret.expose_mut()).map_err(|_| NoRandom)?;
        self.made = now;
        Ok(())
    }

    /// Looks at the authenticators of a whole handshake message that came from `from`.
    pub fn check(&self, local: &Identity, message: &[u8], from: SocketAddr, now: u64) -> Proof {
        let Some((body, mac1, mac2)) = split_macs(message) else { return Proof::None };
        if !bool::from(mac(&local.labels.mac1, &[body])[..].ct_eq(mac1)) {
            return Proof::None;
        }
        // Zeros say that the sender has no cookie (the paper §5.4.4): most of a flood, and not worth two hashes.
        if *mac2 == [0; MAC_LEN] || now.saturating_sub(self.made) >= COOKIE_LIFE_NS {
            return Proof::Key;
        }
        let want = mac(&*self.cookie(from), &[body, mac1]);
        if bool::from(want[..].ct_eq(mac2)) { Proof::Address } else { Proof::Key }
    }

    /// The answer to a message that proved [`Proof::Key`] where [`Proof::Address`] was wanted. `sender` is that message's.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn reply(
        &mut self,
        local: &Identity,
        message: &[u8],
        sender: u32,
        from: SocketAddr,
        now: u64,
    ) -> Result<CookieReply, NoRandom> {
        if now.saturating_sub(self.made) >= COOKIE_LIFE_NS {
            self.renew(now)?;
        }
        let mut nonce = [0; 24];
        SystemRandom::new().fill(&mut nonce).map_err(|_| NoRandom)?;
        Ok(self.reply_with(local, message, sender, from, nonce))
    }

    fn reply_with(
        &self,
        local: &Identity,
        message: &[u8],
        sender: u32,
        from: SocketAddr,
        nonce: [u8; 24],
    ) -> CookieReply {
        let mac1 = split_macs(message).map_or([0; MAC_LEN], |(_, mac1, _)| *mac1);
        let mut sealed_cookie = [0; 32];
        let (text, tag_place) = sealed_cookie.split_at_mut(MAC_LEN);
        text.copy_from_slice(&*self.cookie(from));
        let tag = XChaCha20Poly1305::new((&local.labels.cookie).into())
            .encrypt_inout_detached((&nonce).into(), &mac1, text.into())
            .expect("a few bytes are within the cipher's limit");
        tag_place.copy_from_slice(&tag);
        CookieReply { receiver: sender, nonce, sealed_cookie }
    }

    /// Of an address and port.
    fn cookie(&self, from: SocketAddr) -> Cookie {
        let port = from.port().to_be_bytes();
        Zeroizing::new(match from.ip() {
            IpAddr::V4(ip) => mac(self.secret.expose(), &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(self.secret.expose(), &[&ip.octets(), &port]),
        })
    }
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checker(…)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::wg::keys::{PrivateKey, Psk};
    use crate::crypto::wg::message::{INITIATION_LEN, RESPONSE_LEN};

    const SECOND: u64 = 1_000_000_000;

    struct Scene {
        here: Identity,
        /// The same host, as a peer sees it.
        there: Remote,
        from: SocketAddr,
    }

    fn scene() -> Scene {
        let here = Identity::new(PrivateKey::from_bytes(&[1; 32]));
        let peer = Identity::new(PrivateKey::from_bytes(&[2; 32]));
        let there = Remote::new(&peer, *here.public(), Psk::default());
        Scene { here, there, from: "192.0.2.1:1000".parse().unwrap() }
    }

    fn stamped<const N: usize>(jar: &mut Jar, s: &Scene, now: u64) -> [u8; N] {
        let mut message = [9; N];
        jar.stamp(&s.there, &mut message, now);
        message
    }

    #[test]
    fn a_cookie_proves_address_and_port_until_it_is_too_old() {
        let s = scene();
        let (mut jar, mut checker) = (Jar::default(), Checker::new(0).unwrap());
        let message: [u8; INITIATION_LEN] = stamped(&mut jar, &s, 0);
        assert_eq!(message[INITIATION_LEN - MAC_LEN..], [0; MAC_LEN], "no cookie, no second authenticator");
        assert_eq!(checker.check(&s.here, &message, s.from, 0), Proof::Key);
        let reply = checker.reply(&s.here, &message, 7, s.from, 0).unwrap();
        assert_eq!(reply.receiver, 7);
        assert!(jar.learn(&s.there, &reply, 10 * SECOND));
        assert!(!jar.learn(&s.there, &reply, 10 * SECOND), "one reply per message");

        let message: [u8; RESPONSE_LEN] = stamped(&mut jar, &s, 20 * SECOND);
        assert_eq!(checker.check(&s.here, &message, s.from, 20 * SECOND), Proof::Address);
        for other in ["192.0.2.2:1000", "192.0.2.1:1001", "[2001:db8::1]:1000"] {
            assert_eq!(checker.check(&s.here, &message, other.parse().unwrap(), 20 * SECOND), Proof::Key);
        }
        assert_eq!(checker.check(&s.here, &message, s.from, 120 * SECOND), Proof::Key, "its secret is too old");
        let message: [u8; RESPONSE_LEN] = stamped(&mut jar, &s, 124 * SECOND);
        assert_ne!(message[RESPONSE_LEN - MAC_LEN..], [0; MAC_LEN]);
        let message: [u8; RESPONSE_LEN] = stamped(&mut jar, &s, 125 * SECOND);
        assert_eq!(message[RESPONSE_LEN - MAC_LEN..], [0; MAC_LEN], "the sender does not use it any more either");
        // The next reply has another secret.
        let reply = checker.reply(&s.here, &message, 7, s.from, 126 * SECOND).unwrap();
        assert!(jar.learn(&s.there, &reply, 126 * SECOND));
        let message: [u8; INITIATION_LEN] = stamped(&mut jar, &s, 127 * SECOND);
        assert_eq!(checker.check(&s.here, &message, s.from, 127 * SECOND), Proof::Address);
    }

    #[test]
    fn a_reply_is_for_one_message_and_from_its_receiver() {
        let s = scene();
        let (mut jar, checker) = (Jar::default(), Checker::new(0).unwrap());
        let message: [u8; INITIATION_LEN] = stamped(&mut jar, &s, 0);
        let reply = checker.reply_with(&s.here, &message, 7, s.from, [3; 24]);
        for bit in 0..256 {
            let mut bad = reply.clone();
            bad.sealed_cookie[bit / 8] ^= 1 << (bit % 8);
            assert!(!jar.learn(&s.there, &bad, 0));
        }
        for bit in 0..192 {
            let mut bad = reply.clone();
            bad.nonce[bit / 8] ^= 1 << (bit % 8);
            assert!(!jar.learn(&s.there, &bad, 0));
        }
        let stranger = Identity::new(PrivateKey::from_bytes(&[5; 32]));
        assert!(!jar.learn(&s.there, &checker.reply_with(&stranger, &message, 7, s.from, [3; 24]), 0));
        assert!(!Jar::default().learn(&s.there, &reply, 0), "nothing was sent");
        let mut other = [8; INITIATION_LEN];
        jar.stamp(&s.there, &mut other, 0);
        assert!(!jar.learn(&s.there, &reply, 0), "to an earlier message");
        let reply = checker.reply_with(&s.here, &other, 7, s.from, [3; 24]);
        assert!(jar.learn(&s.there, &reply, 0));
    }

    #[test]
    fn any_length_is_no_panic() {
        let s = scene();
        let (mut jar, mut checker) = (Jar::default(), Checker::new(0).unwrap());
        for len in 0..40 {
            let mut bytes = vec![0; len];
            jar.stamp(&s.there, &mut bytes, 0);
            let proof = checker.check(&s.here, &bytes, s.from, u64::MAX);
            assert_eq!(proof, if len < 32 { Proof::None } else { Proof::Key });
            checker.reply(&s.here, &bytes, 0, s.from, u64::MAX).unwrap();
        }
    }
}
