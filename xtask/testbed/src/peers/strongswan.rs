//! strongSwan: charon with ESP-in-UDP in user space (plugin kernel-libipsec), one per host, spoken to by `swanctl`.
//!
//! Its ESP passes a TUN device (`ipsec0`) and a socket on UDP 4500, which IKE shares; RFC 3948 tells them apart. On a host where
//! softdpu carries the ESP it only negotiates: it gets no routes, and [`keys`](super::keys) hands on what it agreed on.

use std::{fmt, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    OwnRun, PATIENCE,
    keys::{self, Child},
    wireguard::write_secret,
};
use crate::{
    cleanup::RunDir,
    netns::NetNs,
    policy::Side,
    process::{self, Process},
    topology::{CLIENT_NET, EDGE_A, EDGE_B, SERVER_NET},
};

/// The plugins besides those with ciphers and those for the kernel.
const PLUGINS: &str = "sha1 sha2 hmac kdf curve25519 chapoly socket-default vici";
/// kernel-libipsec comes before kernel-netlink: it takes the ESP, the other routes and addresses.
const USER_SPACE: &str = "kernel-libipsec kernel-netlink";
/// The connection, and its CHILD_SA.
const NAME: &str = "peer";
/// Shared by both: a key of the tests.
const SECRET: &str = "a secret of the tests, of sufficient length";

/// An ESP proposal, as swanctl.conf names it, and what softdpu calls the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposal {
    Aes128Gcm16,
    Aes256Gcm16,
    ChaCha20Poly1305,
    /// Without integrated check: strongSwan beside itself only.
    Aes128Sha256,
}

impl Proposal {
    /// All that softdpu has too.
    pub const SHARED: [Self; 3] = [Self::Aes128Gcm16, Self::Aes256Gcm16, Self::ChaCha20Poly1305];

    /// In swanctl.conf.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm16 => "aes128gcm16",
            Self::Aes256Gcm16 => "aes256gcm16",
            Self::ChaCha20Poly1305 => "chacha20poly1305",
            Self::Aes128Sha256 => "aes128-sha256",
        }
    }

    /// In a policy of softdpu.
    pub fn cipher(self) -> Option<&'static str> {
        match self {
            Self::Aes128Gcm16 => Some("aes-128-gcm"),
            Self::Aes256Gcm16 => Some("aes-256-gcm"),
            Self::ChaCha20Poly1305 => Some("chacha20-poly1305"),
            Self::Aes128Sha256 => None,
        }
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose ciphers strongSwan takes: the plugin that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ciphers {
    /// OpenSSL's. With AES-GCM over ten times faster than its own.
    OpenSsl,
    /// Its own, in portable C (`aes gcm`).
    Own,
}

/// What may differ.
#[derive(Debug, Clone)]
pub struct Options {
    pub proposal: Proposal,
    pub ciphers: Ciphers,
    /// Outer addresses are IPv6.
    pub outer_v6: bool,
    /// Only negotiates; somebody else carries the ESP of this host.
    pub ike_only: bool,
    /// The kernel has the ESP, bare and not in UDP: charon only tells it what to do.
    pub kernel: bool,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl Options {
    /// OpenSSL's ciphers, IPv4 outside, ESP included.
    pub fn new(proposal: Proposal) -> Self {
        Self { proposal, ciphers: Ciphers::OpenSsl, outer_v6: false, ike_only: false, kernel: false, esn: false }
    }
}

/// A running charon. TUN device and routes go with it.
#[derive(Debug)]
pub struct StrongSwan {
    process: Process,
    run: OwnRun,
    log: PathBuf,
}

/// Whether it is installed, and its version.
pub fn version() -> Option<String> {
    super::find("charon")?;
    super::find("swanctl")?;
    super::package_version("strongswan-libcharon").or_else(|| {
        // Where there are no packages: `Linux strongSwan 5.9.8`.
        let said = super::version(&super::find("charon")?, "--version")?;
        said.split_whitespace().last().map(str::to_owned)
    })
}

impl StrongSwan {
    /// Starts charon on an edge and loads the connection to the other edge. Nothing is negotiated yet.
    ///
    /// # Errors
    /// When strongSwan is not installed or does not come up; the message has its last words.
    pub fn start(ns: &NetNs, side: Side, folder: &RunDir, options: &Options) -> Result<Self> {
        let charon = super::find("charon").context("strongSwan's charon is not installed")?;
        ensure!(options.kernel || super::has_tun(), "no /dev/net/tun");
        let run = OwnRun::new(folder, "strongswan")?;
        let (configuration, log) = (run.file("strongswan.conf"), run.file("log"));
        // The log has keys in it; the folder is private, but so are key files.
        write_secret(&log, "")?;
        fs::write(&configuration, daemon(options))?;
        write_secret(&run.file("swanctl.conf"), &connection(side, options))?;
        let mut command = run.command(ns, &charon);
        let mut process = Process::start(command.env("STRONGSWAN_CONF", &configuration), &run.file("said"))?;
        let socket = run.file("charon.vici");
        process.until(PATIENCE, |_| socket.exists())?;
        let this = Self { process, run, log };
        this.swanctl(&["--load-all", "--noprompt", "--file", "/run/swanctl.conf"], ns).with_context(|| this.last())?;
        Ok(this)
    }

    /// Negotiates with the other edge, where a charon must run. Returns when the CHILD_SA is up.
    ///
    /// # Errors
    /// When the two do not come together; the message has its last words.
    pub fn initiate(&self, ns: &NetNs) -> Result<()> {
        self.swanctl(&["--initiate", "--child", NAME, "--timeout", "15"], ns).with_context(|| self.last())?;
        Ok(())
    }

    /// Has the CHILD_SA exchanged for a new one; returns when the request is made.
    ///
    /// # Errors
    /// When there is none.
    pub fn rekey(&self, ns: &NetNs) -> Result<()> {
        self.swanctl(&["--rekey", "--child", NAME], ns).with_context(|| self.last())?;
        Ok(())
    }

    /// Waits until its log tells of `count` CHILD_SAs, which the responder's does a moment after the initiator's.
    ///
    /// # Errors
    /// When it does not within ten seconds.
    pub fn established(&self, count: usize) -> Result<()> {
        let told = || self.said().matches("established with SPIs").count() >= count;
        process::eventually(Duration::from_secs(10), || told().then_some(())).with_context(|| self.last())
    }

    /// SPIs and keys of the newest CHILD_SA, from this side. `initiator`: whether this side called [`StrongSwan::initiate`].
    ///
    /// # Errors
    /// When there is none.
    pub fn child_keys(&self, initiator: bool) -> Result<Child> {
        keys::newest(&self.said(), initiator)
    }

    /// What it logged, with key material: not for printing.
    pub fn said(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of its log without dumps.
    pub fn last(&self) -> String {
        let said = self.said() + &self.process.said();
        let clean: Vec<&str> = said.lines().filter(|line| !line.contains("[CHD]")).collect();
        clean[clean.len().saturating_sub(25)..].join("\n")
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.ended().is_none()
    }

    fn swanctl(&self, words: &[&str], ns: &NetNs) -> Result<String> {
        let program = super::find("swanctl").context("swanctl is not installed")?;
        let mut command: Command = self.run.command(ns, &program);
        command.args(words).env("STRONGSWAN_CONF", self.run.file("strongswan.conf"));
        process::run(&mut command, PATIENCE)?.ok()
    }
}

/// strongswan.conf. Paths are as charon sees them, with a `/run` of its own.
fn daemon(options: &Options) -> String {
    let routes = if options.ike_only || options.kernel { "no" } else { "yes" };
    let kernel = if options.kernel { "kernel-netlink" } else { USER_SPACE };
    let ciphers = if options.ciphers == Ciphers::OpenSsl { "openssl" } else { "aes gcm openssl" };
    format!(
        "charon {{
  load = random nonce {ciphers} {PLUGINS} {kernel}
  load_modular = no
  install_virtual_ip = no
  install_routes = {routes}
  retransmit_timeout = 1.0
  plugins {{
    vici {{ socket = unix:///run/charon.vici }}
  }}
  filelog {{
    log {{
      path = /run/log
      append = yes
      flush_line = yes
      default = 1
      chd = 4
    }}
  }}
}}
swanctl {{
  load = random openssl
}}
"
    )
}

/// swanctl.conf of one edge.
fn connection(side: Side, options: &Options) -> String {
    let family = usize::from(options.outer_v6);
    let (local, remote, ours, theirs) = match side {
        Side::A => (EDGE_A, EDGE_B, CLIENT_NET, SERVER_NET),
        Side::B => (EDGE_B, EDGE_A, SERVER_NET, CLIENT_NET),
    };
    let other = if side == Side::A { Side::B } else { Side::A };
    let (own, peer) = (side.name(), other.name());
    format!(
        "connections {{
  {NAME} {{
    version = 2
    local_addrs = {}
    remote_addrs = {}
    encap = {}
    mobike = no
    dpd_delay = 0
    proposals = aes128-sha256-x25519
    local {{ auth = psk
      id = {own} }}
    remote {{ auth = psk
      id = {peer} }}
    children {{
      {NAME} {{
        local_ts = {}
        remote_ts = {}
        esp_proposals = {}
        mode = tunnel
        start_action = none
        policies = {}
      }}
    }}
  }}
}}
secrets {{
  ike-{NAME} {{
    id-1 = {own}
    id-2 = {peer}
    secret = \"{SECRET}\"
  }}
}}
",
        local[family],
        remote[family],
        if options.kernel { "no" } else { "yes" },
        ours.join(","),
        theirs.join(","),
        if options.esn { format!("{}-esn", options.proposal) } else { options.proposal.to_string() },
        if options.ike_only { "no" } else { "yes" },
    )
}
