//! Throw-away keys: every run makes its own, in memory. The policy's key files are never read: a test seals with a counter of its
//! own, and one key under two counters would break the cipher for the instance that uses it.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::config::policy::{Cipher, Policy, TunnelKind, WireGuardTunnel};
use crate::crypto::outer::{Encapsulation, Outer};
use crate::crypto::wg::{Identity, Initiator, Opening, PrivateKey, Psk, Remote, Session, Tai64n};
use crate::tunnel::esp::endpoints;
use crate::tunnel::keys::{Listen, Seal, Selector, TunnelKeys, Way, WgIn, WgOut};
use crate::tunnel::publisher::Part;
use crate::tunnel::wireguard::allowed::AllowedIps;
use crate::wire::prefix::Prefix;

/// The port of a WireGuard tunnel that would choose one itself.
const WG_PORT: u16 = 51_820;

/// Key files in memory. They are gone with this.
#[derive(Debug, Default)]
pub struct ThrowAway {
    /// By tunnel: out and in. Others than ESP have none.
    pub files: Vec<Option<[PathBuf; 2]>>,
    open: Vec<File>,
}

impl ThrowAway {
    /// Keys for every tunnel of the policy with keys from files.
    ///
    /// # Errors
    /// The system has no memory or no random numbers.
    pub fn new(policy: &Policy) -> Result<Self> {
        let mut keys = Self::default();
        for tunnel in &policy.tunnels {
            let files = match &tunnel.kind {
                TunnelKind::Esp(esp) => Some([keys.file(esp.cipher)?, keys.file(esp.cipher)?]),
                TunnelKind::WireGuard(_) | TunnelKind::Xfrm(_) => None,
            };
            keys.files.push(files);
        }
        Ok(keys)
    }

    fn file(&mut self, cipher: Cipher) -> Result<PathBuf> {
        let length = if cipher == Cipher::Aes128Gcm { 20 } else { 36 };
        let mut key = Zeroizing::new(vec![0; length]);
        SystemRandom::new().fill(&mut key).ok().context("the system has no random numbers")?;
        // SAFETY: the name is a C string; the result is checked below.
        let fd = unsafe { libc::memfd_create(c"softdpu-test-key".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("no memory for a key");
        }
        // SAFETY: a descriptor that nobody else has.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        // SAFETY: a valid descriptor and plain mode bits.
        if unsafe { libc::fchmod(file.as_raw_fd(), 0o600) } != 0 {
            return Err(std::io::Error::last_os_error()).context("the mode of a key");
        }
        file.write_all(&key)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        self.open.push(file);
        Ok(path)
    }
}

/// The two ends of one WireGuard peer: ours, and the peer's.
pub struct WgPair {
    pub allowed: Vec<Prefix>,
    pub remote: SocketAddr,
    pub local: SocketAddr,
    ours: Arc<Session>,
    theirs: Arc<Session>,
}

/// A session with each peer of the policy; where it names none (`wg` adds them at run time), with one that may have any address.
///
/// # Errors
/// The system has no random numbers.
pub fn wireguard(tunnel: &WireGuardTunnel, now: u64) -> Result<Vec<WgPair>> {
    let everything = vec![any(IpAddr::from([0; 4])), any(IpAddr::from([0; 16]))];
    let mut peers: Vec<(Vec<Prefix>, Option<SocketAddr>)> =
        tunnel.peers.iter().map(|peer| (peer.allowed_ips.clone(), peer.endpoint)).collect();
    if peers.is_empty() {
        peers.push((everything, None));
    }
    let pairs = peers.into_iter().enumerate().map(|(at, (allowed, endpoint))| {
        let v6 = tunnel.local.is_some_and(|local| local.is_ipv6());
        let made_up: IpAddr = if v6 {
            [0x2001, 0xdb8, 0, 0xffff, 0, 0, 0, at as u16 + 1].into()
        } else {
            [198, 51, 100, at as u8 + 1].into()
        };
        let remote = endpoint.unwrap_or(SocketAddr::new(made_up, WG_PORT));
        let own: IpAddr =
            if remote.is_ipv4() { [192, 0, 2, 254].into() } else { [0x2001, 0xdb8, 0, 0xffff, 0, 0, 0, 0xfffe].into() };
        let port = if tunnel.listen_port == 0 { WG_PORT } else { tunnel.listen_port };
        let local = SocketAddr::new(tunnel.local.unwrap_or(own), port);
        let (ours, theirs) = sessions(at as u32, now).context("WireGuard keys for the test")?;
        Ok(WgPair { allowed, remote, local, ours: Arc::new(ours), theirs: Arc::new(theirs) })
    });
    pairs.collect()
}

fn any(addr: IpAddr) -> Prefix {
    Prefix::new(addr, 0).unwrap_or(Prefix::host(addr))
}

/// One handshake, without a network between.
fn sessions(at: u32, now: u64) -> Result<(Session, Session)> {
    let key = || PrivateKey::generate().ok().context("the system has no random numbers");
    let (a, b) = (Identity::new(key()?), Identity::new(key()?));
    let (to_b, to_a) = (Remote::new(&a, *b.public(), Psk::default()), Remote::new(&b, *a.public(), Psk::default()));
    let bad = |error: crate::crypto::wg::NoiseError| anyhow::anyhow!("{}", error.reason());
    let (initiator, initiation) = Initiator::start(&a, &to_b, 2 * at + 1, key()?, Tai64n::now()).map_err(bad)?;
    let responder = Opening::open(&b, &initiation).map_err(bad)?.finish(&to_a, None).map_err(bad)?;
    let (response, theirs) = responder.respond(&to_a, 2 * at + 2, key()?).map_err(bad)?;
    let ours = initiator.finish(&a, &to_b, &response).map_err(bad)?;
    Ok((Session::new(ours, now, Arc::default()), Session::new(theirs, now, Arc::default())))
}

/// Our part of the keys.
pub fn our_part(tunnel: u16, pairs: &[WgPair]) -> Part {
    let ends = pairs.iter().map(|pair| (&pair.ours, pair.local, pair.remote, &pair.allowed[..]));
    part(tunnel, ends.collect())
}

/// A peer's part, whose only peer we are.
pub fn their_part(pair: &WgPair) -> Part {
    let everything = [any(IpAddr::from([0; 4])), any(IpAddr::from([0; 16]))];
    part(0, vec![(&pair.theirs, pair.remote, pair.local, &everything[..])])
}

type End<'a> = (&'a Arc<Session>, SocketAddr, SocketAddr, &'a [Prefix]);

fn part(tunnel: u16, ends: Vec<End<'_>>) -> Part {
    let mut table = AllowedIps::default();
    let (mut sessions, mut ways) = (Vec::new(), Vec::new());
    let listen = ends.first().map(|(_, local, ..)| Listen { port: local.port(), tunnel, local: Some(local.ip()) });
    for (way, (session, local, remote, allowed)) in ends.into_iter().enumerate() {
        for prefix in allowed {
            table.insert(*prefix, way as u32);
        }
        sessions.push(WgIn { session: session.clone(), tunnel, way: way as u32 });
        let udp = Encapsulation::Udp { source: local.port(), destination: remote.port() };
        let seal = match endpoints(local.ip(), remote.ip()) {
            Some(ends) => Seal::WireGuard(Box::new(WgOut {
                next: None,
                current: Some(session.clone()),
                outer: Outer::new(ends, udp),
            })),
            None => Seal::Nothing,
        };
        ways.push(Some(Arc::new(Way { remote, seal, state: Arc::default() })));
    }
    let selector = Selector::Allowed(Arc::new(table.table()));
    Part { sessions, listen, keys: TunnelKeys { selector, ways }, ..Part::default() }
}
