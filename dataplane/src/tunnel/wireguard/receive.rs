//! What comes in: handshake messages that workers pass up, and whatever reaches the UDP socket through the kernel.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::device::{Action, Device, Now, changed, set_endpoint};
use super::peer::Endpoint;
use crate::crypto::wg::cookie::Proof;
use crate::crypto::wg::message::{CookieReply, Initiation, MessageError, Response, Transport};
use crate::crypto::wg::session::{OpenError, Opened, Session};
use crate::crypto::wg::{INITIATION_INTERVAL, Message, NoiseError, Opening, PrivateKey};

/// What became of a message that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Received {
    /// A handshake began and was answered.
    Initiation,
    /// A handshake was completed.
    Response,
    /// A peer, being busy, gave us a cookie.
    Cookie,
    /// We, being busy, gave a cookie.
    CookieSent,
    Keepalive,
    /// A packet for the tunnel from the peer in `slot`, at `start..end` of the message. It is authentic; its source is still to
    /// be held against the allowed IPs.
    Packet {
        slot: u32,
        start: usize,
        end: usize,
    },
}

impl Received {
    /// What it is counted under.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initiation => "initiation",
            Self::Response => "response",
            Self::Cookie => "cookie",
            Self::CookieSent => "cookie_sent",
            Self::Keepalive => "keepalive",
            Self::Packet { .. } => "packet_on_socket",
        }
    }
}

/// Why a message was not. Each has a reason of its own; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    Message(MessageError),
    /// The interface has no private key.
    NoKey,
    /// The first authenticator is wrong: not meant for this key.
    BadMac,
    /// Under load, and no cookie may be sent.
    Busy,
    /// Under load, and this source sends too many.
    SourceTooFast,
    /// Initiations of a peer closer together than 20 ms.
    PeerTooFast,
    /// No peer has this public key.
    UnknownPeer,
    /// No session or initiation has this index.
    UnknownIndex,
    Noise(NoiseError),
    /// Not an answer to the last message sent.
    BadCookie,
    Open(OpenError),
    /// The system has no random numbers.
    NoRandom,
}

impl Refused {
    /// The drop reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Message(e) => e.reason(),
            Self::NoKey => "no_key",
            Self::BadMac => "bad_mac",
            Self::Busy => "busy",
            Self::SourceTooFast => "source_too_fast",
            Self::PeerTooFast => "peer_too_fast",
            Self::UnknownPeer => "unknown_peer",
            Self::UnknownIndex => "unknown_index",
            Self::Noise(e) => e.reason(),
            Self::BadCookie => "bad_cookie",
            Self::Open(e) => e.reason(),
            Self::NoRandom => "no_random",
        }
    }
}

impl Device {
    /// Takes in a UDP payload that came from `from` to our address `local`. A transport message is opened in place.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn receive(
        &mut self,
        now: Now,
        from: SocketAddr,
        local: Option<IpAddr>,
        bytes: &mut [u8],
        out: &mut Vec<Action>,
    ) -> Result<Received, Refused> {
        let endpoint = Endpoint { to: canonical(from), from: local.map(|ip| ip.to_canonical()) };
        match Message::parse(bytes).map_err(Refused::Message)? {
            Message::Initiation(message) => {
                if let Some(cookie) = self.admit(bytes, message.sender, endpoint, now, out)? {
                    return Ok(cookie);
                }
                self.initiation(&message, bytes.len(), endpoint, now, out)
            }
            Message::Response(message) => {
                if let Some(cookie) = self.admit(bytes, message.sender, endpoint, now, out)? {
                    return Ok(cookie);
                }
                self.response(&message, bytes.len(), endpoint, now, out)
            }
            Message::CookieReply(message) => self.cookie(&message, now),
            Message::Transport(header) => self.transport(header, endpoint, now, bytes, out),
        }
    }

    /// Whether a handshake message may cost us anything. `Some`: its sender got a cookie instead.
    fn admit(
        &mut self,
        bytes: &[u8],
        sender: u32,
        from: Endpoint,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Result<Option<Received>, Refused> {
        let identity = self.identity.as_ref().ok_or(Refused::NoKey)?;
        let proof = self.checker.check(identity, bytes, from.to, now.mono);
        if proof == Proof::None {
            return Err(Refused::BadMac);
        }
        if !self.load.message(now.mono) {
            return Ok(None);
        }
        if proof == Proof::Address {
            return if self.load.source(from.to.ip(), now.mono) { Ok(None) } else { Err(Refused::SourceTooFast) };
        }
        if !self.load.cookie(now.mono) {
            return Err(Refused::Busy);
        }
        let reply = self.checker.reply(identity, bytes, sender, from.to, now.mono).map_err(|_| Refused::NoRandom)?;
        out.push(Action::Send { to: from.to, from: from.from, bytes: reply.to_bytes().to_vec() });
        Ok(Some(Received::CookieSent))
    }

    fn initiation(
        &mut self,
        message: &Initiation,
        len: usize,
        from: Endpoint,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Result<Received, Refused> {
        let identity = self.identity.as_ref().ok_or(Refused::NoKey)?;
        let opening = Opening::open(identity, message).map_err(Refused::Noise)?;
        let slot = self.slot_of(opening.claimed()).ok_or(Refused::UnknownPeer)?;
        let index = self.new_index().ok_or(Refused::NoRandom)?;
        let identity = self.identity.as_ref().ok_or(Refused::NoKey)?;
        let peer = self.peers.get_mut(slot as usize).and_then(Option::as_mut).ok_or(Refused::UnknownPeer)?;
        peer.remote(identity);
        let remote = peer.remote.as_ref().ok_or(Refused::UnknownPeer)?;
        let responder = opening.finish(remote, peer.last_timestamp_in).map_err(Refused::Noise)?;
        let ready = peer.last_initiation_in.saturating_add(INITIATION_INTERVAL.as_nanos() as u64);
        if peer.last_initiation_in != 0 && now.mono < ready {
            return Err(Refused::PeerTooFast);
        }
        let ephemeral = PrivateKey::generate().map_err(|_| Refused::NoRandom)?;
        let timestamp = responder.timestamp();
        let (response, keys) = responder.respond(remote, index, ephemeral).map_err(Refused::Noise)?;
        let mut bytes = response.to_bytes().to_vec();
        peer.jar.stamp(remote, &mut bytes, now.mono);

        peer.last_timestamp_in = Some(timestamp);
        peer.last_initiation_in = now.mono;
        peer.shook = now.mono;
        peer.activity.received(now.mono, len as u64, false);
        peer.activity.sent(now.mono, bytes.len() as u64, false);
        set_endpoint(peer, from, out);
        let before = peer.sessions.clone();
        peer.sessions.add_as_responder(Arc::new(Session::new(keys, now.mono, peer.activity.clone())));
        peer.session_made(now.mono);
        self.by_index.insert(index, slot);
        self.forget_indices(slot, &before);
        changed(out);
        out.push(Action::Send { to: from.to, from: from.from, bytes });
        self.reschedule(slot, now.mono);
        Ok(Received::Initiation)
    }

    fn response(
        &mut self,
        message: &Response,
        len: usize,
        from: Endpoint,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Result<Received, Refused> {
        let slot = self.slot_of_index(message.receiver).ok_or(Refused::UnknownIndex)?;
        let identity = self.identity.as_ref().ok_or(Refused::NoKey)?;
        let peer = self.peers.get_mut(slot as usize).and_then(Option::as_mut).ok_or(Refused::UnknownIndex)?;
        let remote = peer.remote.as_ref().ok_or(Refused::UnknownIndex)?;
        let initiator = peer.initiator.as_ref().ok_or(Refused::UnknownIndex)?;
        let keys = initiator.finish(identity, remote, message).map_err(Refused::Noise)?;

        // Its index is the session's now.
        peer.initiator = None;
        peer.activity.received(now.mono, len as u64, false);
        set_endpoint(peer, from, out);
        let before = peer.sessions.clone();
        peer.sessions.add_as_initiator(Arc::new(Session::new(keys, now.mono, peer.activity.clone())));
        peer.session_made(now.mono);
        peer.handshake_done(now.wall);
        self.forget_indices(slot, &before);
        changed(out);
        // The responder may not send before it has heard that we have the keys.
        self.keepalive(slot, now, out);
        self.reschedule(slot, now.mono);
        Ok(Received::Response)
    }

    fn cookie(&mut self, message: &CookieReply, now: Now) -> Result<Received, Refused> {
        let slot = self.slot_of_index(message.receiver).ok_or(Refused::UnknownIndex)?;
        let peer = self.peer_mut(slot).ok_or(Refused::UnknownIndex)?;
        let remote = peer.remote.as_ref().ok_or(Refused::UnknownIndex)?;
        if peer.jar.learn(remote, message, now.mono) { Ok(Received::Cookie) } else { Err(Refused::BadCookie) }
    }

    fn transport(
        &mut self,
        header: Transport,
        from: Endpoint,
        now: Now,
        bytes: &mut [u8],
        out: &mut Vec<Action>,
    ) -> Result<Received, Refused> {
        let slot = self.slot_of_index(header.receiver).ok_or(Refused::UnknownIndex)?;
        let peer = self.peer_mut(slot).ok_or(Refused::UnknownIndex)?;
        let session = peer
            .sessions
            .all()
            .find(|session| session.local_index() == header.receiver)
            .ok_or(Refused::UnknownIndex)?
            .clone();
        let all = 0..bytes.len();
        let opened = session.opener(now.mono).open_slice(bytes, all).map_err(Refused::Open)?;
        set_endpoint(peer, from, out);
        self.promote(slot, now, out);
        self.reschedule(slot, now.mono);
        Ok(match opened {
            Opened::Keepalive => Received::Keepalive,
            Opened::Packet { place, .. } => Received::Packet { slot, start: place.start, end: place.end },
        })
    }
}

/// An IPv4 address in one form only, whichever socket it came by.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}
