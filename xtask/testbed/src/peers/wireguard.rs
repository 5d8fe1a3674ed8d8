//! WireGuard in user space: wireguard-go, boringtun-cli, gotatun. All make a TUN device and listen on the socket that `wg` asks.

use std::{
    fmt,
    fs::OpenOptions,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{OwnRun, PATIENCE};
use crate::{cleanup::RunDir, netns::NetNs, process, process::Process};

/// The link that each of them makes.
pub const LINK: &str = "wg0";
/// The port they listen on.
pub const PORT: u16 = 51820;
/// What fits into 1,500 bytes over IPv6; the default of `wg-quick`.
pub const MTU: u16 = 1420;

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    WireGuardGo,
    BoringTun,
    GotaTun,
}

impl Program {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::WireGuardGo, Self::BoringTun, Self::GotaTun];

    /// Its name as people say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WireGuardGo => "wireguard-go",
            Self::BoringTun => "boringtun-cli",
            Self::GotaTun => "gotatun",
        }
    }

    /// Where it is, `None` where it is not installed.
    pub fn find(self) -> Option<PathBuf> {
        super::find(self.name())
    }

    /// Its version. wireguard-go of distributions does not know its own, so the package is asked.
    pub fn version(self) -> Option<String> {
        if self == Self::WireGuardGo {
            return super::package_version("wireguard-go");
        }
        let said = super::version(&self.find()?, "--version")?;
        said.split_whitespace().last().map(str::to_owned)
    }

    /// The words that start it in the foreground.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::WireGuardGo => &["-f", LINK],
            Self::BoringTun | Self::GotaTun => &["--disable-drop-privileges", "-f", LINK],
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The two keys of one side. Test keys, but not printed all the same.
#[derive(Clone)]
pub struct KeyPair {
    /// base64, as `wg genkey` prints it.
    pub private: String,
    /// base64.
    pub public: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public)
    }
}

impl KeyPair {
    /// Fresh keys by `wg genkey` and `wg pubkey`.
    ///
    /// # Errors
    /// When `wg` cannot be run.
    pub fn new() -> Result<Self> {
        let private = wg_says("genkey")?;
        let mut command = Command::new("wg");
        command.arg("pubkey").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().context("start wg pubkey")?;
        child.stdin.take().context("wg pubkey")?.write_all(private.as_bytes())?;
        let said = child.wait_with_output()?;
        ensure!(said.status.success(), "wg pubkey: {}", said.status);
        Ok(Self { private, public: String::from_utf8(said.stdout)?.trim().to_owned() })
    }
}

/// A fresh preshared key, base64.
///
/// # Errors
/// When `wg` cannot be run.
pub fn preshared() -> Result<String> {
    wg_says("genpsk")
}

fn wg_says(what: &str) -> Result<String> {
    Ok(process::run(Command::new("wg").arg(what), PATIENCE)?.ok()?.trim().to_owned())
}

/// Writes a secret to a file that only we can read.
///
/// # Errors
/// When it cannot be written.
pub fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| path.display().to_string())?;
    writeln!(file, "{secret}").with_context(|| path.display().to_string())
}

/// What one side knows of itself and the other.
#[derive(Debug, Clone)]
pub struct Config {
    pub keys: KeyPair,
    pub listen_port: u16,
    /// The other's public key.
    pub peer: String,
    pub preshared: Option<String>,
    /// Where the other is. A side that does not know can only answer.
    pub endpoint: Option<SocketAddr>,
    /// Networks behind the other: what is routed to it and accepted from it.
    pub allowed: Vec<String>,
    /// Seconds.
    pub keepalive: Option<u16>,
    pub mtu: u16,
}

impl Config {
    /// With port [`PORT`] and MTU [`MTU`], no preshared key, no endpoint, no keepalive.
    pub fn new(keys: &KeyPair, peer: &str, allowed: &[&str]) -> Self {
        Self {
            keys: keys.clone(),
            listen_port: PORT,
            peer: peer.to_owned(),
            preshared: None,
            endpoint: None,
            allowed: allowed.iter().map(|&net| net.to_owned()).collect(),
            keepalive: None,
            mtu: MTU,
        }
    }
}

/// A running peer. Its link and routes go with its process.
#[derive(Debug)]
pub struct WireGuard {
    process: Process,
    run: OwnRun,
    peer: String,
}

/// What `wg show` says of the one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    pub endpoint: String,
    /// Seconds since the epoch; 0: never.
    pub latest_handshake: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl WireGuard {
    /// Starts it on a host, configures it, raises its link and routes the allowed networks to it, in halves: these win over the
    /// routes that are there, which serve again when it is gone.
    ///
    /// # Errors
    /// When it is not installed or does not come up; the message has its last words.
    pub fn start(program: Program, ns: &NetNs, folder: &RunDir, config: &Config) -> Result<Self> {
        let path = program.find().with_context(|| format!("{program} is not installed"))?;
        ensure!(super::has_tun(), "no /dev/net/tun");
        let run = OwnRun::new(folder, program.name())?;
        let mut command = run.command(ns, &path);
        command.args(program.arguments()).env("LOG_LEVEL", "error").env("WG_LOG_LEVEL", "info");
        let mut process = Process::start(&mut command, &run.file("log"))?;
        let socket = run.file(&format!("wireguard/{LINK}.sock"));
        process.until(PATIENCE, |_| socket.exists() && ns.ip(&format!("link show {LINK}")).is_ok())?;
        let this = Self { process, run, peer: config.peer.clone() };
        this.configure(ns, config).with_context(|| format!("configure {program}"))?;
        Ok(this)
    }

    fn configure(&self, ns: &NetNs, config: &Config) -> Result<()> {
        let (key, psk) = (self.run.file("key"), self.run.file("psk"));
        write_secret(&key, &config.keys.private)?;
        let mut words = vec!["set".to_owned(), LINK.into(), "private-key".into(), "/run/key".into()];
        words.extend(["listen-port".into(), config.listen_port.to_string(), "peer".into(), config.peer.clone()]);
        if let Some(preshared) = &config.preshared {
            write_secret(&psk, preshared)?;
            words.extend(["preshared-key".into(), "/run/psk".into()]);
        }
        if let Some(endpoint) = config.endpoint {
            words.extend(["endpoint".into(), endpoint.to_string()]);
        }
        if let Some(seconds) = config.keepalive {
            words.extend(["persistent-keepalive".into(), seconds.to_string()]);
        }
        words.extend(["allowed-ips".into(), config.allowed.join(",")]);
        self.wg(ns, words.iter().map(String::as_str))?;
        ns.ip(&format!("link set {LINK} mtu {} up", config.mtu))?;
        for net in &config.allowed {
            for half in halves(net).with_context(|| format!("{net} is no network"))? {
                ns.ip(&format!("route add {half} dev {LINK}"))?;
            }
        }
        Ok(())
    }

    /// Runs `wg` beside it.
    ///
    /// # Errors
    /// With what `wg` said.
    pub fn wg<'a>(&self, ns: &NetNs, words: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut command = self.run.command(ns, &super::find("wg").context("wg is not installed")?);
        process::run(command.args(words), PATIENCE)?.ok()
    }

    /// What it says of its peer.
    ///
    /// # Errors
    /// When `wg` cannot ask it.
    pub fn shown(&self, ns: &NetNs) -> Result<Shown> {
        let text = self.wg(ns, ["show", LINK, "dump"])?;
        parse_dump(&text, &self.peer).context("the peer is not among those that wg shows")
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// What it logged so far.
    pub fn said(&self) -> String {
        self.process.said()
    }
}

/// A line of `wg show … dump`: key, preshared key, endpoint, allowed networks, handshake, received, sent, keepalive.
fn parse_dump(text: &str, peer: &str) -> Option<Shown> {
    let fields: Vec<&str> = text.lines().find(|line| line.starts_with(peer))?.split('\t').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
    Some(Shown {
        endpoint: (*fields.get(2)?).to_owned(),
        latest_handshake: number(4)?,
        received_bytes: number(5)?,
        sent_bytes: number(6)?,
    })
}

/// The two halves of a network.
pub fn halves(net: &str) -> Option<[String; 2]> {
    let (address, length) = net.split_once('/')?;
    let (address, length): (std::net::IpAddr, u32) = (address.parse().ok()?, length.parse().ok()?);
    let upper: std::net::IpAddr = match address {
        std::net::IpAddr::V4(v4) => {
            (u32::from(v4) | 1u32.checked_shl(31u32.checked_sub(length)?)?).to_be_bytes().into()
        }
        std::net::IpAddr::V6(v6) => {
            (u128::from(v6) | 1u128.checked_shl(127u32.checked_sub(length)?)?).to_be_bytes().into()
        }
    };
    Some([format!("{address}/{}", length + 1), format!("{upper}/{}", length + 1)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_in_halves() {
        assert_eq!(halves("10.2.0.0/24").unwrap(), ["10.2.0.0/25", "10.2.0.128/25"]);
        assert_eq!(halves("fd02::/64").unwrap(), ["fd02::/65", "fd02::8000:0:0:0/65"]);
        assert_eq!(halves("0.0.0.0/0").unwrap(), ["0.0.0.0/1", "128.0.0.0/1"]);
        assert_eq!(halves("10.2.0.1/32"), None);
        assert_eq!(halves("ten"), None);
    }

    #[test]
    fn the_dump_of_wg() {
        let text =
            "priv\tpub\t51820\toff\nPEER=\t(none)\t192.0.2.1:51820\t10.1.0.0/24,fd01::/64\t1700000000\t12\t34\toff\n";
        let shown = parse_dump(text, "PEER=").unwrap();
        assert_eq!(shown.endpoint, "192.0.2.1:51820");
        assert_eq!((shown.latest_handshake, shown.received_bytes, shown.sent_bytes), (1_700_000_000, 12, 34));
        assert_eq!(parse_dump(text, "OTHER"), None);
    }
}
