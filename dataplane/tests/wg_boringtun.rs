//! WireGuard against another implementation, in memory: Cloudflare's boringtun, each as initiator and as responder.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use softdpu::crypto::wg::cookie::{Checker, Jar, Proof};
use softdpu::crypto::wg::session::{OpenError, Opened};
use softdpu::crypto::wg::{
    Identity, Initiator, Message, NoiseError, Opening, PrivateKey, Psk, Remote, Session, Tai64n,
};

const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1000);

/// Our side of the pair, and the other.
struct Pair {
    local: Identity,
    remote: Remote,
    jar: Jar,
    peer: Tunn,
}

/// `load`: boringtun answers with cookies after this many handshake messages.
fn pair(psk: Option<[u8; 32]>, load: Option<u64>) -> Pair {
    let local = Identity::new(PrivateKey::generate().unwrap());
    let theirs = PrivateKey::generate().unwrap();
    let public = theirs.public();
    let our_psk = psk.map(|p| Psk::from_bytes(&p)).unwrap_or_default();
    let remote = Remote::new(&local, public, our_psk);
    let limiter = load.map(|n| Arc::new(RateLimiter::new(&x25519::PublicKey::from(*public.as_bytes()), n)));
    let secret = x25519::StaticSecret::from(*theirs.expose());
    let peer = Tunn::new(secret, x25519::PublicKey::from(*local.public().as_bytes()), psk, None, 77, limiter);
    Pair { local, remote, jar: Jar::default(), peer }
}

fn packet(len: usize) -> Vec<u8> {
    let mut p = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2];
    p.extend((20..len).map(|i| (i * 7) as u8));
    p
}

impl Pair {
    /// What boringtun answers to a datagram.
    fn tell(&mut self, message: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = vec![0; 2048];
        match self.peer.decapsulate(Some(FROM.ip()), message, &mut out) {
            TunnResult::WriteToNetwork(bytes) | TunnResult::WriteToTunnelV4(bytes, _) => Ok(bytes.to_vec()),
            TunnResult::Done => Ok(Vec::new()),
            TunnResult::Err(e) => Err(format!("{e:?}")),
            TunnResult::WriteToTunnelV6(..) => panic!("nobody sends IPv6 here"),
        }
    }

    /// What boringtun makes of a packet, or of its wish for a handshake where it has no session.
    fn encapsulate(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 2048];
        match self.peer.encapsulate(packet, &mut out) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn initiate(&mut self) -> (Initiator, Vec<u8>) {
        let ephemeral = PrivateKey::generate().unwrap();
        let (initiator, message) =
            Initiator::start(&self.local, &self.remote, 0xabcd, ephemeral, Tai64n::now()).unwrap();
        let mut bytes = message.to_bytes();
        self.jar.stamp(&self.remote, &mut bytes, 0);
        (initiator, bytes.to_vec())
    }

    fn finish(&self, initiator: &Initiator, response: &[u8]) -> Result<Session, NoiseError> {
        assert_eq!(Checker::new(0).unwrap().check(&self.local, response, FROM, 0), Proof::Key);
        let Ok(Message::Response(response)) = Message::parse(response) else { panic!("not a response") };
        Ok(Session::new(initiator.finish(&self.local, &self.remote, &response)?, 0, Arc::default()))
    }

    /// Our response to boringtun's initiation.
    fn respond(&mut self, initiation: &[u8]) -> Result<(Vec<u8>, Session), NoiseError> {
        assert_eq!(Checker::new(0).unwrap().check(&self.local, initiation, FROM, 0), Proof::Key);
        let Ok(Message::Initiation(initiation)) = Message::parse(initiation) else { panic!("not an initiation") };
        let opening = Opening::open(&self.local, &initiation)?;
        assert_eq!(opening.claimed(), self.remote.public());
        let responder = opening.finish(&self.remote, None)?;
        let (response, keys) = responder.respond(&self.remote, 0xdcba, PrivateKey::generate().unwrap())?;
        let mut bytes = response.to_bytes();
        self.jar.stamp(&self.remote, &mut bytes, 0);
        Ok((bytes.to_vec(), Session::new(keys, 0, Arc::default())))
    }

    /// Packets of many lengths in both directions, and a keepalive.
    fn talk(&mut self, session: &Session) {
        for len in [20, 21, 35, 36, 64, 512, 1400] {
            let packet = packet(len);
            assert_eq!(self.tell(&seal(session, &packet)), Ok(packet.clone()));
            let sealed = self.encapsulate(&packet);
            assert_eq!(open(session, &sealed), Ok(packet));
            assert_eq!(open(session, &sealed), Err(OpenError::Replay));
        }
        assert_eq!(self.tell(&seal(session, b"")), Ok(Vec::new()));
    }
}

fn seal(session: &Session, packet: &[u8]) -> Vec<u8> {
    let mut buf = [&[0; 16], packet, &[0; 40]].concat();
    let place = session.sealer(1, 1).seal_message(&mut buf, 16..16 + packet.len(), 1420).unwrap();
    buf[place].to_vec()
}

fn open(session: &Session, message: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut buf = message.to_vec();
    match session.opener(1).open_slice(&mut buf, 0..message.len())? {
        Opened::Packet { place, .. } => Ok(buf[place].to_vec()),
        Opened::Keepalive => Ok(Vec::new()),
    }
}

#[test]
fn either_initiates_with_and_without_a_preshared_key() {
    for psk in [None, Some([0x5a; 32])] {
        let mut pair = pair(psk, None);
        let (initiator, initiation) = pair.initiate();
        let response = pair.tell(&initiation).unwrap();
        let session = pair.finish(&initiator, &response).unwrap();
        pair.talk(&session);

        let mut pair = self::pair(psk, None);
        let initiation = pair.encapsulate(&packet(40));
        let (response, session) = pair.respond(&initiation).unwrap();
        // boringtun confirms the session with a keepalive.
        let keepalive = pair.tell(&response).unwrap();
        assert!(!session.confirmed());
        assert_eq!(open(&session, &keepalive), Ok(Vec::new()));
        assert!(session.confirmed());
        pair.talk(&session);
    }
}

#[test]
fn a_second_handshake_replaces_the_first() {
    let mut pair = pair(None, None);
    let (initiator, initiation) = pair.initiate();
    let response = pair.tell(&initiation).unwrap();
    let first = pair.finish(&initiator, &response).unwrap();
    pair.talk(&first);
    // Its timestamp must be later by a step of the clock that is sent.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let (initiator, initiation) = pair.initiate();
    let response = pair.tell(&initiation).unwrap();
    let second = pair.finish(&initiator, &response).unwrap();
    pair.talk(&second);
    assert_eq!(pair.tell(&seal(&first, &packet(50))), Ok(packet(50)), "what was still under way arrives");
}

#[test]
fn both_refuse_other_keys_and_replays() {
    let mut pair = pair(Some([1; 32]), None);
    let (initiator, initiation) = pair.initiate();
    let response = pair.tell(&initiation).unwrap();
    assert!(pair.tell(&initiation).is_err(), "a replayed initiation");
    pair.remote.set_psk(Psk::from_bytes(&[2; 32]));
    assert_eq!(pair.finish(&initiator, &response).map(|_| ()), Err(NoiseError::Unauthentic));
    pair.remote.set_psk(Psk::from_bytes(&[1; 32]));
    let session = pair.finish(&initiator, &response).unwrap();
    let sealed = seal(&session, &packet(60));
    pair.tell(&sealed).unwrap();
    assert!(pair.tell(&sealed).is_err(), "a replayed packet");
    let mut forged = seal(&session, &packet(60));
    forged[30] ^= 1;
    assert!(pair.tell(&forged).is_err());

    // A stranger's handshake.
    let stranger = self::pair(None, None);
    let ephemeral = PrivateKey::generate().unwrap();
    let to_peer = Remote::new(&stranger.local, *pair.remote.public(), Psk::default());
    let (_, message) = Initiator::start(&stranger.local, &to_peer, 1, ephemeral, Tai64n::now()).unwrap();
    let mut bytes = message.to_bytes();
    Jar::default().stamp(&to_peer, &mut bytes, 0);
    assert!(pair.tell(&bytes).is_err());
    // And one of boringtun's that is for somebody else.
    let initiation = self::pair(None, None).encapsulate(&packet(30));
    let Ok(Message::Initiation(initiation)) = Message::parse(&initiation) else { panic!() };
    assert_eq!(Opening::open(&pair.local, &initiation).map(|_| ()), Err(NoiseError::Unauthentic));
}

#[test]
fn under_load_boringtun_asks_us_for_a_cookie() {
    let mut pair = pair(None, Some(0));
    let (_, initiation) = pair.initiate();
    let reply = pair.tell(&initiation).unwrap();
    let Ok(Message::CookieReply(reply)) = Message::parse(&reply) else { panic!("not a cookie") };
    assert_eq!(reply.receiver, 0xabcd);
    assert!(pair.jar.learn(&pair.remote, &reply, 0));
    let (initiator, initiation) = pair.initiate();
    let response = pair.tell(&initiation).unwrap();
    let session = pair.finish(&initiator, &response).unwrap();
    pair.talk(&session);
}

#[test]
fn under_load_we_ask_boringtun_for_a_cookie() {
    let mut pair = pair(None, None);
    let mut checker = Checker::new(0).unwrap();
    let initiation = pair.encapsulate(&packet(40));
    assert_eq!(checker.check(&pair.local, &initiation, FROM, 0), Proof::Key);
    let Ok(Message::Initiation(parsed)) = Message::parse(&initiation) else { panic!() };
    let reply = checker.reply(&pair.local, &initiation, parsed.sender, FROM, 0).unwrap();
    assert_eq!(pair.tell(&reply.to_bytes()), Ok(Vec::new()));
    let mut out = [0; 2048];
    let TunnResult::WriteToNetwork(again) = pair.peer.format_handshake_initiation(&mut out, true) else { panic!() };
    let again = again.to_vec();
    assert_eq!(checker.check(&pair.local, &again, FROM, 1), Proof::Address);
    let elsewhere = SocketAddr::new(FROM.ip(), 1001);
    assert_eq!(checker.check(&pair.local, &again, elsewhere, 1), Proof::Key);
}
