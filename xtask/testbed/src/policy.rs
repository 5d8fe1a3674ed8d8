//! Policies and keys for the two edges of a [`Topology`](crate::topology::Topology).

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{Read, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    cleanup::RunDir,
    topology::{CLIENT_NET, EDGE_A, EDGE_B, SERVER_NET},
};

/// Which edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

impl Side {
    /// Name of the instance.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "edge-a",
            Self::B => "edge-b",
        }
    }
}

/// What an edge's two ports are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The veths `apps` and `uplink` of the topology.
    Xdp,
    /// Capture files named to `softdpu replay`.
    Pcap,
}

/// What may differ between policies. Both edges get the same options.
#[derive(Debug, Clone)]
pub struct Options {
    pub ports: Ports,
    /// Outer addresses of the tunnel: IPv6 instead of IPv4.
    pub outer_v6: bool,
    /// ESP in UDP port 4500.
    pub udp: bool,
    /// One of the ciphers of the policy.
    pub cipher: &'static str,
    /// LZ4 inside the tunnel.
    pub compress: bool,
    /// What becomes of the applications' packets while nothing runs: `drop` or `pass`.
    pub on_loss: &'static str,
    /// Queues of each port, and so workers.
    pub queues: u8,
    /// `auto`, `never` or `require`, for both ports.
    pub zero_copy: &'static str,
    /// Lines put at the head of the file: other keys of the top level.
    pub head: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: Ports::Xdp,
            outer_v6: false,
            udp: false,
            cipher: "aes-256-gcm",
            compress: true,
            on_loss: "drop",
            queues: 1,
            zero_copy: "auto",
            head: String::new(),
        }
    }
}

/// Where an edge's policy and socket are.
#[derive(Debug, Clone)]
pub struct EdgeFiles {
    pub side: Side,
    pub policy: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
}

/// Writes both policies and their key files (mode 0600, fresh from the kernel's random source) into `folder`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &RunDir, options: &Options) -> Result<[EdgeFiles; 2]> {
    let length = if options.cipher == "aes-128-gcm" { 20 } else { 36 };
    let (there, back) = (folder.file("a-to-b.key"), folder.file("b-to-a.key"));
    for key in [&there, &back] {
        write_key(key, length)?;
    }
    let edge = |side: Side| -> Result<EdgeFiles> {
        let file = |end: &str| folder.file(format!("{}.{end}", side.name()));
        let files = EdgeFiles { side, policy: file("toml"), socket: file("sock"), log: file("log") };
        let text = policy(&files, options, &there, &back);
        std::fs::write(&files.policy, text).with_context(|| files.policy.display().to_string())?;
        Ok(files)
    };
    Ok([edge(Side::A)?, edge(Side::B)?])
}

/// Writes a key of `length` bytes from the kernel's random source, readable to its owner alone.
///
/// # Errors
/// When the file cannot be written.
pub fn write_key(path: &Path, length: usize) -> Result<()> {
    let mut bytes = vec![0u8; length];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| path.display().to_string())?;
    writeln!(file, "{text}")?;
    Ok(())
}

/// The policy of one edge, as TOML. `there` and `back` are the keys of the directions a → b and b → a.
fn policy(files: &EdgeFiles, options: &Options, there: &Path, back: &Path) -> String {
    let Options { cipher, on_loss, queues, head, .. } = options;
    let family = usize::from(options.outer_v6);
    let (name, socket) = (files.side.name(), files.socket.display());
    let (local, remote, ours, theirs, out, inward) = match files.side {
        Side::A => (EDGE_A, EDGE_B, CLIENT_NET, SERVER_NET, (0x1001, there), (0x1002, back)),
        Side::B => (EDGE_B, EDGE_A, SERVER_NET, CLIENT_NET, (0x1002, back), (0x1001, there)),
    };
    let (local, remote) = (local[family], remote[family]);
    let ports: String = ["apps", "uplink"].map(|port| port_table(port, options)).concat();
    // Each edge on cores of its own where there are enough.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let first = if files.side == Side::A { 0 } else { usize::from(*queues) };
    let cores: Vec<String> = (first..first + usize::from(*queues)).map(|core| (core % cpus).to_string()).collect();
    let cores = cores.join(", ");
    let carrier = if options.udp { "protocol = \"udp\"\nports = [\"4500\"]" } else { "protocol = \"esp\"" };
    let encapsulation = if options.udp { "udp" } else { "none" };
    let compress = if options.compress { "lz4" } else { "never" };
    let mut text = format!(
        r#"{head}
name = "{name}"

[control]
socket = "{socket}"

[workers]
cores = [{cores}]
{ports}
[[steer]]
name = "from-apps"
port = "apps"
to = ["{}", "{}"]
on_loss = "{on_loss}"

[[steer]]
name = "from-peer"
port = "uplink"
from = ["{remote}"]
to = ["{local}"]
{carrier}
on_loss = "{on_loss}"

[[tunnel]]
name = "peer"
local = "{local}"
remote = "{remote}"
encapsulation = "{encapsulation}"
cipher = "{cipher}"
out = {{ spi = {}, key_file = "{}" }}
in = {{ spi = {}, key_file = "{}" }}
"#,
        theirs[0],
        theirs[1],
        out.0,
        out.1.display(),
        inward.0,
        inward.1.display(),
    );
    // A flow belongs to whoever opened it, so both ways are named.
    for (rule, from, to) in [("outward", ours, theirs), ("inward", theirs, ours)] {
        let _ = write!(
            text,
            r#"
[[rule]]
name = "{rule}"
from = ["{}", "{}"]
to = ["{}", "{}"]
encrypt = "peer"
compress = "{compress}"
"#,
            from[0], from[1], to[0], to[1]
        );
    }
    text
}

fn port_table(name: &str, options: &Options) -> String {
    match options.ports {
        Ports::Xdp => {
            let Options { queues, zero_copy, .. } = options;
            format!(
                "\n[[port]]\nname = \"{name}\"\ninterface = \"{name}\"\nqueues = {queues}\nzero_copy = \"{zero_copy}\"\n"
            )
        }
        Ports::Pcap => format!("\n[[port]]\nname = \"{name}\"\nkind = \"pcap\"\n"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_two_edges_agree_and_keys_are_private() {
        let folder = RunDir::new("unit").unwrap();
        let [a, b] = write(&folder, &Options::default()).unwrap();
        let (a, b) = (std::fs::read_to_string(a.policy).unwrap(), std::fs::read_to_string(b.policy).unwrap());
        let line =
            |text: &str, key: &str| text.lines().find(|line| line.starts_with(key)).unwrap()[key.len()..].to_owned();
        assert_eq!(line(&a, "out = "), line(&b, "in = "));
        assert_eq!(line(&a, "in = "), line(&b, "out = "));
        assert_eq!(line(&a, "local = "), line(&b, "remote = "));
        let key = folder.file("a-to-b.key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&key).unwrap().trim().len(), 72);
        assert_ne!(std::fs::read(&key).unwrap(), std::fs::read(folder.file("b-to-a.key")).unwrap());
    }
}
