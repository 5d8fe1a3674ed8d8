//! The cross-platform configuration protocol of WireGuard (wireguard.com/xplatform): text, one `key=value` a line, a
//! request ends with an empty line. This file turns lines into a [`Request`] and a [`State`] into lines; it knows no
//! socket and no device.
//!
//! Nothing is applied before the last line has been understood, so a request with a mistake changes nothing.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::secret::Secret;
use crate::wire::prefix::Prefix;

/// Longest line, in bytes. The longest a client has reason to send is a key with its name: 78.
pub const MAX_LINE: usize = 512;
/// Most peers, and most allowed IPs, in one request.
pub const MAX_PEERS: usize = 1 << 17;
pub const MAX_ALLOWED: usize = 1 << 20;

/// Why a request is refused, as the number that the client gets. `wg` shows the system's text for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Errno {
    /// A value or a key that does not exist, or in a place where it means nothing.
    #[error("invalid argument")]
    Invalid,
    /// Not of this protocol at all.
    #[error("protocol error")]
    Protocol,
    /// A line, or the request, beyond its bounds.
    #[error("too large")]
    TooLarge,
    /// The listen port belongs to another socket, or what else the system said.
    #[error("system error {0}")]
    System(i32),
}

impl Errno {
    /// The positive number of the system's `errno.h`.
    pub fn code(self) -> i32 {
        match self {
            Self::Invalid => libc::EINVAL,
            Self::Protocol => libc::EPROTO,
            Self::TooLarge => libc::E2BIG,
            Self::System(code) => code,
        }
    }

    /// The whole answer to a `set`, or the last lines of one to a `get`. Negative, as other implementations answer and as
    /// `wg` expects.
    pub fn answer(result: Result<(), Self>) -> String {
        format!("errno={}\n\n", -result.map_or_else(Self::code, |()| 0))
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Get,
    Set(Box<SetDevice>),
}

/// Changes to a device. `None` leaves as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetDevice {
    /// All zeros take the key away.
    pub private_key: Option<Secret<32>>,
    /// 0: any.
    pub listen_port: Option<u16>,
    /// 0: none.
    pub fwmark: Option<u32>,
    /// All peers there are go first.
    pub replace_peers: bool,
    /// In this order.
    pub peers: Vec<SetPeer>,
}

/// Changes to a peer, which is made where it is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetPeer {
    pub public_key: [u8; 32],
    pub remove: bool,
    /// Not made where it is not there.
    pub update_only: bool,
    /// All zeros: none.
    pub preshared_key: Option<Secret<32>>,
    pub endpoint: Option<SocketAddr>,
    /// Seconds, 0: off.
    pub persistent_keepalive: Option<u16>,
    /// All allowed IPs there are go first.
    pub replace_allowed_ips: bool,
    /// In this order.
    pub allowed_ips: Vec<AllowedIp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedIp {
    pub prefix: Prefix,
    /// Taken away rather than given.
    pub remove: bool,
}

/// A device as `get` shows it.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub private_key: Option<Secret<32>>,
    pub listen_port: u16,
    pub fwmark: u32,
    pub peers: Vec<PeerState>,
}

#[derive(Debug, Clone)]
pub struct PeerState {
    pub public_key: [u8; 32],
    pub preshared_key: Option<Secret<32>>,
    pub endpoint: Option<SocketAddr>,
    /// Wall clock since 1970; zero: none yet.
    pub last_handshake: Duration,
    pub tx_bytes: u64,
    pub rx_bytes: u64,
    pub persistent_keepalive: u16,
    pub allowed_ips: Vec<Prefix>,
}

/// Reads one request, line by line.
#[derive(Debug, Default)]
pub struct Parser {
    verb: Option<Verb>,
    set: Box<SetDevice>,
    allowed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Set,
}

impl Parser {
    /// Takes the next line, without its line feed. `Some` at the empty line that ends the request; the parser is then new.
    ///
    /// # Errors
    /// The request is wrong. The caller skips to its end (the next empty line), answers, and begins with a new parser.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Request>, Errno> {
        if line.len() > MAX_LINE {
            return Err(Errno::TooLarge);
        }
        if line.is_empty() {
            let done = std::mem::take(self);
            return match done.verb {
                Some(Verb::Get) => Ok(Some(Request::Get)),
                Some(Verb::Set) => Ok(Some(Request::Set(done.set))),
                None => Err(Errno::Protocol),
            };
        }
        let line = std::str::from_utf8(line).map_err(|_| Errno::Protocol)?;
        let (key, value) = line.split_once('=').ok_or(Errno::Protocol)?;
        match self.verb {
            None => {
                self.verb = Some(match (key, value) {
                    ("get", "1") => Verb::Get,
                    ("set", "1") => Verb::Set,
                    _ => return Err(Errno::Protocol),
                });
                Ok(())
            }
            // A question has no details.
            Some(Verb::Get) => Err(Errno::Protocol),
            Some(Verb::Set) => self.set(key, value),
        }
        .map(|()| None)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        if key == "public_key" {
            if self.set.peers.len() == MAX_PEERS {
                return Err(Errno::TooLarge);
            }
            let public_key = *hex32(value)?.expose();
            self.set.peers.push(SetPeer { public_key, ..SetPeer::default() });
            return Ok(());
        }
        let Some(peer) = self.set.peers.last_mut() else {
            match key {
                "private_key" => self.set.private_key = Some(hex32(value)?),
                "listen_port" => self.set.listen_port = Some(number(value)?),
                "fwmark" => self.set.fwmark = Some(fwmark(value)?),
                "replace_peers" => self.set.replace_peers = flag(value)?,
                _ => return Err(Errno::Invalid),
            }
            return Ok(());
        };
        match key {
            "remove" => peer.remove = flag(value)?,
            "update_only" => peer.update_only = flag(value)?,
            "preshared_key" => peer.preshared_key = Some(hex32(value)?),
            "endpoint" => peer.endpoint = Some(endpoint(value)?),
            "persistent_keepalive_interval" => peer.persistent_keepalive = Some(number(value)?),
            "replace_allowed_ips" => peer.replace_allowed_ips = flag(value)?,
            "allowed_ip" => {
                if self.allowed == MAX_ALLOWED {
                    return Err(Errno::TooLarge);
                }
                self.allowed += 1;
                peer.allowed_ips.push(allowed_ip(value)?);
            }
            "protocol_version" if value == "1" => {}
            _ => return Err(Errno::Invalid),
        }
        Ok(())
    }
}

fn hex32(text: &str) -> Result<Secret<32>, Errno> {
    let text = text.as_bytes();
    let mut out = Secret::zeroed();
    if text.len() != 64 {
        return Err(Errno::Invalid);
    }
    for (byte, pair) in out.expose_mut().iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(Errno::Invalid);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(out)
}

/// Decimal digits only: `+1` is no number here.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, Errno> {
    if !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Errno::Invalid);
    }
    text.parse().map_err(|_| Errno::Invalid)
}

fn fwmark(text: &str) -> Result<u32, Errno> {
    match text.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|c| c.is_ascii_hexdigit()) => {
            u32::from_str_radix(hex, 16).map_err(|_| Errno::Invalid)
        }
        Some(_) => Err(Errno::Invalid),
        None => number(text),
    }
}

fn flag(text: &str) -> Result<bool, Errno> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Errno::Invalid),
    }
}

fn allowed_ip(text: &str) -> Result<AllowedIp, Errno> {
    let (remove, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = match text.split_once('/') {
        Some((address, len)) => {
            let address: IpAddr = address.parse().map_err(|_| Errno::Invalid)?;
            Prefix::new(address, number(len)?).ok_or(Errno::Invalid)?
        }
        None => Prefix::host(text.parse().map_err(|_| Errno::Invalid)?),
    };
    Ok(AllowedIp { prefix, remove })
}

/// `1.2.3.4:5`, `[2001:db8::1]:5` or `[fe80::1%eth0]:5`; the scope is an interface's name or number.
fn endpoint(text: &str) -> Result<SocketAddr, Errno> {
    let endpoint = match text.strip_prefix('[').and_then(|rest| rest.split_once('%')) {
        Some((address, rest)) => {
            let (scope, port) = rest.rsplit_once("]:").ok_or(Errno::Invalid)?;
            let address = address.parse().map_err(|_| Errno::Invalid)?;
            SocketAddr::V6(SocketAddrV6::new(address, number(port)?, 0, scope_id(scope)?))
        }
        None => text.parse().map_err(|_| Errno::Invalid)?,
    };
    // Nothing can be sent there.
    if endpoint.port() == 0 || endpoint.ip().is_unspecified() || endpoint.ip() == Ipv4Addr::BROADCAST {
        return Err(Errno::Invalid);
    }
    // One form for each address, so that comparing endpoints means something.
    Ok(SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())).map(|plain| match endpoint {
        SocketAddr::V6(v6) if plain.is_ipv6() => {
            SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()))
        }
        _ => plain,
    })
}

fn scope_id(scope: &str) -> Result<u32, Errno> {
    if let Ok(index) = number(scope) {
        return Ok(index);
    }
    let name = std::ffi::CString::new(scope).map_err(|_| Errno::Invalid)?;
    // SAFETY: a NUL-terminated string that lives across the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(Errno::Invalid),
        index => Ok(index),
    }
}

/// The answer to `get`, with secrets: for the socket only.
pub fn show(state: &State) -> Zeroizing<String> {
    // Room for all of it at once: a string that grows leaves copies of keys behind.
    let allowed: usize = state.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let mut out = Zeroizing::new(String::with_capacity(256 + 512 * state.peers.len() + 64 * allowed));
    // Writing to a string does not fail.
    let _ = write_state(&mut out, state);
    out
}

fn write_state(out: &mut String, state: &State) -> fmt::Result {
    if let Some(key) = &state.private_key {
        hex_line(out, "private_key", key.expose())?;
    }
    if state.listen_port != 0 {
        writeln!(out, "listen_port={}", state.listen_port)?;
    }
    if state.fwmark != 0 {
        writeln!(out, "fwmark={}", state.fwmark)?;
    }
    for peer in &state.peers {
        hex_line(out, "public_key", &peer.public_key)?;
        hex_line(out, "preshared_key", peer.preshared_key.as_ref().map_or(&[0; 32], Secret::expose))?;
        writeln!(out, "protocol_version=1")?;
        if let Some(endpoint) = peer.endpoint {
            writeln!(out, "endpoint={endpoint}")?;
        }
        writeln!(out, "last_handshake_time_sec={}", peer.last_handshake.as_secs())?;
        writeln!(out, "last_handshake_time_nsec={}", peer.last_handshake.subsec_nanos())?;
        writeln!(out, "tx_bytes={}\nrx_bytes={}", peer.tx_bytes, peer.rx_bytes)?;
        writeln!(out, "persistent_keepalive_interval={}", peer.persistent_keepalive)?;
        for prefix in &peer.allowed_ips {
            writeln!(out, "allowed_ip={prefix}")?;
        }
    }
    writeln!(out, "errno=0\n")
}

fn hex_line(out: &mut String, key: &str, bytes: &[u8; 32]) -> fmt::Result {
    write!(out, "{key}=")?;
    for byte in bytes {
        write!(out, "{byte:02x}")?;
    }
    out.write_char('\n')
}
