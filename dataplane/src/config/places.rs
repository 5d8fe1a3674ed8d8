//! Values that name something on the host: instances, interfaces, addresses, sockets, files and their modes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::values::Bad;

/// Permission bits of the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for FileMode {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o777 && !text.starts_with('+'));
        match mode {
            Some(m) if m & 0o600 != 0o600 => {
                Err(Bad::new(format!("mode `{text}` shuts the owner out"), "write \"0600\" or \"0660\""))
            }
            Some(m) if m & 0o007 != 0 => Err(Bad::new(
                format!("mode `{text}` lets every user of the host in"),
                "write \"0660\" and put those who may into the socket's group",
            )),
            Some(m) => Ok(Self(m)),
            None => Err(Bad::new(format!("`{text}` is not a file mode"), "write octal digits, for example \"0660\"")),
        }
    }
}

/// A group of the host that may use the control socket. Whether there is one is seen when the socket is made: a policy may be
/// checked on another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(pub String);

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Group {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
        let number = text.bytes().all(|digit| digit.is_ascii_digit());
        // 2^32 - 1 means "leave it" to the kernel.
        if text.is_empty()
            || text.len() > 32
            || !text.chars().all(plain)
            || text.starts_with('-')
            || number && text.parse::<u32>().is_ok_and(|gid| gid == u32::MAX)
            || number && text.parse::<u32>().is_err()
        {
            let help = "write the name of a group, as in \"softdpu\", or its number";
            return Err(Bad::new(format!("`{text}` is not the name of a group"), help));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Name of an instance, port, rule or tunnel: it appears in metrics, file names and on command lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let help = "1 to 32 letters, digits, `-`, `_` or `.`, the first a letter or digit";
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if (1..=32).contains(&text.len()) && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Bad::new(format!("`{text}` cannot be a name"), help))
        }
    }
}

/// Name of a network interface, as the kernel takes it (`dev_valid_name`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface(pub String);

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Interface {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(odd) {
            return Err(Bad::new(
                format!("`{text}` cannot be an interface name"),
                "1 to 15 bytes, no space, `/` or `:`; `ip link` lists the names",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// An address of an interface, with the length of the prefix that is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    pub addr: IpAddr,
    pub prefix_len: u8,
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

impl FromStr for LinkAddress {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let (addr, length) = text.split_once('/').map_or((text, None), |(addr, length)| (addr, Some(length)));
        let Address(addr) = addr.parse()?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), |length| length.parse::<u8>().map_err(|_| ()));
        match length {
            Ok(prefix_len) if (1..=most).contains(&prefix_len) => Ok(Self { addr, prefix_len }),
            _ => Err(Bad::new(format!("`{text}` has an impossible prefix length"), format!("1 to {most}"))),
        }
    }
}

/// One host's address, fit to be a tunnel's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub IpAddr);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Address {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let addr: IpAddr = text.parse().map_err(|_| {
            let help = match text.split_once('/') {
                Some((a, _)) if a.parse::<IpAddr>().is_ok() => format!("one address, not a prefix: \"{a}\""),
                _ => "write an address, for example \"192.0.2.1\" or \"2001:db8::1\"".to_owned(),
            };
            Bad::new(format!("`{text}` is not an address"), help)
        })?;
        of_one_host(addr)?;
        if addr.is_loopback() {
            let help = "write one that is reached by a port: nothing on the wire has a loopback address";
            return Err(Bad::new(format!("`{text}` never leaves this host"), help));
        }
        Ok(Self(addr))
    }
}

fn of_one_host(addr: IpAddr) -> Result<(), Bad> {
    let broadcast = matches!(addr, IpAddr::V4(a) if a.is_broadcast());
    if addr.is_unspecified() || addr.is_multicast() || broadcast {
        return Err(Bad::new(format!("`{addr}` is not the address of one host"), "write a unicast address"));
    }
    Ok(())
}

/// Where a WireGuard peer or a collector is: a unicast address and a port. A collector may be on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint(pub SocketAddr);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Endpoint {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let at: SocketAddr = text.parse().map_err(|_| {
            let help = "write an address and a port, for example \"192.0.2.2:51820\" or \"[2001:db8::2]:51820\"";
            Bad::new(format!("`{text}` is not an address and port"), help)
        })?;
        if at.port() == 0 {
            return Err(Bad::new("port 0 cannot be sent to", "WireGuard's usual port is 51820"));
        }
        of_one_host(at.ip())?;
        Ok(Self(at))
    }
}

/// A WireGuard public key: 32 bytes in base64, 44 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireGuardKey(pub [u8; 32]);

impl fmt::Display for WireGuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl FromStr for WireGuardKey {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let bytes = BASE64.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        // The text may be a private key in the wrong place: it is not repeated.
        bytes.map(Self).ok_or_else(|| {
            Bad::new("not a WireGuard public key", "write the 44 characters that `wg pubkey` prints for the peer")
        })
    }
}

/// Where the metrics listen: a loopback address and a port, for they tell about everyone's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub SocketAddr);

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MetricsAddress {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        let at: SocketAddr = text.parse().map_err(|_| {
            Bad::new(
                format!("`{text}` is not an address and port"),
                "write for example \"127.0.0.1:9464\" or \"[::1]:9464\"",
            )
        })?;
        if !at.ip().is_loopback() {
            return Err(Bad::new(
                format!("metrics would be open to the network at {at}"),
                format!(
                    "listen on loopback, \"127.0.0.1:{}\", or leave it out and scrape the control socket",
                    at.port()
                ),
            ));
        }
        Ok(Self(at))
    }
}

/// A path. A relative one starts at the folder of the policy file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilePath(pub PathBuf);

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl FromStr for FilePath {
    type Err = Bad;
    fn from_str(text: &str) -> Result<Self, Bad> {
        if text.is_empty() || text.contains('\0') {
            return Err(Bad::new("an empty path", "write the path of a file"));
        }
        Ok(Self(PathBuf::from(text)))
    }
}
