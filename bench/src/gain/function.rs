//! What is done with a flow's packets, and the policies that do it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use softdpu::config::Policy;

use super::replay::parse;

/// In the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Function {
    /// Forwarded, and known already: what every packet costs at least.
    None,
    /// Forwarded, from the first packet of each flow to its last: opened, recognised, ended.
    Classify,
    /// Known already, and through an ESP tunnel (AES-256-GCM): requests sealed, replies opened.
    Encrypt,
    /// The same, compressed (LZ4) where it pays.
    Compress,
    /// All of it, from first packet to last.
    All,
}

impl Function {
    pub const ALL: [Self; 5] = [Self::None, Self::Classify, Self::Encrypt, Self::Compress, Self::All];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Classify => "classify",
            Self::Encrypt => "encrypt",
            Self::Compress => "compress",
            Self::All => "all",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::None => "none: forwarded, flow known",
            Self::Classify => "classify: forwarded, flow new",
            Self::Encrypt => "encrypt: ESP, AES-256-GCM, flow known",
            Self::Compress => "compress: LZ4 and ESP, flow known",
            Self::All => "all: LZ4 and ESP, flow new",
        }
    }

    /// Flows are new in each pass.
    pub fn is_fresh(self) -> bool {
        matches!(self, Self::Classify | Self::All)
    }

    pub fn has_tunnel(self) -> bool {
        !matches!(self, Self::None | Self::Classify)
    }
}

/// Keys of the bench's tunnel, in files as the policy wants them. They protect nothing.
#[derive(Debug)]
pub struct Keys(tempfile::TempDir);

impl Keys {
    /// # Errors
    /// There is no place for files.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the bench's keys")?;
        for (name, byte) in [("1.key", 0x11), ("2.key", 0x22)] {
            let mut file = std::fs::OpenOptions::new();
            let mut file = file.write(true).create_new(true).mode(0o600).open(folder.path().join(name))?;
            // A key of 32 bytes and a salt of 4 (RFC 4106 §8.1).
            file.write_all(&[byte; 36])?;
        }
        Ok(Self(folder))
    }

    /// Where they are: `1.key` and `2.key`, as long as this lives.
    pub fn folder(&self) -> &std::path::Path {
        self.0.path()
    }
}

const PORTS: &str = r#"
[workers]
count = 1
batch = 64
frames = 8192

[flows]
capacity = 100_000
unproven_percent = 100
[flows.timeouts]
tcp_established = "60s"

[[port]]
name = "inside"
kind = "loopback"
loop_to = "inside"
checksum = "trust"
mtu = 1600

[[port]]
name = "outside"
kind = "loopback"
loop_to = "outside"
checksum = "trust"
mtu = 1700

[[steer]]
name = "all"
action = "worker"
"#;

/// The policy of site 1 (applications in 10.1.0.0/16 and fd00:1::/32) or 2.
///
/// # Errors
/// A mistake here, not a circumstance.
pub fn policy(function: Function, site: u8, keys: &Keys) -> Result<Policy> {
    let mut text = PORTS.to_owned();
    let other = 3 - site;
    let folder = keys.0.path().display();
    if function.has_tunnel() {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"
[[tunnel]]
name = "peer"
local = "192.0.2.{site}"
remote = "192.0.2.{other}"
[tunnel.out]
spi = 0x100{site}
key_file = "{folder}/{site}.key"
[tunnel.in]
spi = 0x100{other}
key_file = "{folder}/{other}.key"

[[rule]]
name = "protect"
from = ["10.{site}.0.0/16", "fd00:{site}::/32"]
to = ["10.{other}.0.0/16", "fd00:{other}::/32"]
encrypt = "peer"
"#
        );
        if matches!(function, Function::Compress | Function::All) {
            text.push_str("compress = \"lz4\"\n");
        }
    } else {
        text.push_str("\n[[rule]]\nname = \"all\"\naction = \"forward\"\n");
    }
    parse(&text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn policies_are_sound() {
        let keys = Keys::new().unwrap();
        for function in Function::ALL {
            for site in [1, 2] {
                let policy = policy(function, site, &keys).unwrap();
                assert_eq!(policy.tunnels.len(), usize::from(function.has_tunnel()));
            }
        }
    }
}
