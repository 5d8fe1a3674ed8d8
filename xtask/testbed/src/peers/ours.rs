//! Policies that make softdpu one end of a tunnel to a real peer.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};

use super::{
    keys::Child,
    wireguard::{Config, halves, write_secret},
};
use crate::{
    cleanup::RunDir,
    policy::{EdgeFiles, Side},
    topology::{CLIENT_NET, EDGE_A, EDGE_B, SERVER_NET},
};

/// Name of the tunnel in the policies made here.
pub const TUNNEL: &str = "peer";

/// Name of the tap in the policies made here.
pub const TAP: &str = "dpu0";

/// What the applications of an edge are behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apps {
    /// The interface `apps`, by XDP.
    Xdp,
    /// The edge's own kernel, which has the interface `apps`, and routes by a tap what is for the other side: in halves, which
    /// win over the routes that are there.
    Tap,
}

/// ESP in UDP with keys that somebody else agreed on. `sequence` is how the peer counts: `short` or `extended`.
///
/// # Errors
/// When a file cannot be written.
pub fn esp(
    folder: &RunDir,
    side: Side,
    cipher: &str,
    sequence: &str,
    outer_v6: bool,
    child: &Child,
) -> Result<EdgeFiles> {
    esp_of(folder, side, cipher, sequence, outer_v6, child, Apps::Xdp)
}

/// The same with the applications' side of one's choice.
///
/// # Errors
/// When a file cannot be written.
pub fn esp_of(
    folder: &RunDir,
    side: Side,
    cipher: &str,
    sequence: &str,
    outer_v6: bool,
    child: &Child,
    apps: Apps,
) -> Result<EdgeFiles> {
    let (out, inward) =
        (folder.file(format!("{}.out.key", side.name())), folder.file(format!("{}.in.key", side.name())));
    child.outbound.write(&out)?;
    child.inbound.write(&inward)?;
    let (local, remote) = ends(side, outer_v6);
    let tunnel = format!(
        r#"[[tunnel]]
name = "{TUNNEL}"
local = "{local}"
remote = "{remote}"
encapsulation = "udp"
cipher = "{cipher}"
sequence = "{sequence}"
out = {{ spi = {}, key_file = "{}" }}
in = {{ spi = {}, key_file = "{}" }}
"#,
        child.outbound.spi,
        out.display(),
        child.inbound.spi,
        inward.display(),
    );
    write(folder, side, &tunnel, apps)
}

/// WireGuard, with what a peer of [`WireGuard`](super::wireguard::WireGuard) would be told. `name`, at most 15 characters, is
/// also that of the socket in `/var/run/wireguard`, so it must be no other's.
///
/// # Errors
/// When a file cannot be written.
pub fn wireguard(folder: &RunDir, side: Side, name: &str, config: &Config) -> Result<EdgeFiles> {
    wireguard_of(folder, side, name, config, Apps::Xdp)
}

/// The same with the applications' side of one's choice.
///
/// # Errors
/// When a file cannot be written.
pub fn wireguard_of(folder: &RunDir, side: Side, name: &str, config: &Config, apps: Apps) -> Result<EdgeFiles> {
    let key = folder.file(format!("{}.wg.key", side.name()));
    write_secret(&key, &config.keys.private)?;
    let mut tunnel = format!(
        r#"[[tunnel]]
name = "{name}"
type = "wireguard"
listen_port = {}
private_key_file = "{}"

[[tunnel.peer]]
public_key = "{}"
allowed_ips = [{}]
"#,
        config.listen_port,
        key.display(),
        config.peer,
        config.allowed.iter().map(|net| format!("\"{net}\"")).collect::<Vec<_>>().join(", "),
    );
    // Writing to a string cannot fail.
    if let Some(preshared) = &config.preshared {
        let file = folder.file(format!("{}.wg.psk", side.name()));
        write_secret(&file, preshared)?;
        let _ = writeln!(tunnel, "preshared_key_file = \"{}\"", file.display());
    }
    if let Some(endpoint) = config.endpoint {
        let _ = writeln!(tunnel, "endpoint = \"{endpoint}\"");
    }
    if let Some(seconds) = config.keepalive {
        let _ = writeln!(tunnel, "persistent_keepalive = {seconds}");
    }
    write(folder, side, &tunnel, apps)
}

fn ends(side: Side, outer_v6: bool) -> (&'static str, &'static str) {
    let family = usize::from(outer_v6);
    match side {
        Side::A => (EDGE_A[family], EDGE_B[family]),
        Side::B => (EDGE_B[family], EDGE_A[family]),
    }
}

/// The port that applications are behind, and the steering rules it needs.
fn apps_port(apps: Apps, theirs: [&str; 2]) -> Result<String> {
    Ok(match apps {
        Apps::Xdp => format!(
            r#"[[port]]
name = "apps"
interface = "apps"
queues = 1

[[steer]]
name = "from-apps"
port = "apps"
to = ["{}", "{}"]
on_loss = "drop"
"#,
            theirs[0], theirs[1]
        ),
        Apps::Tap => {
            let halves: Vec<String> = theirs.iter().filter_map(|net| halves(net)).flatten().collect();
            format!(
                r#"[[port]]
name = "host"
kind = "tap"
interface = "{TAP}"
mtu = 1420
routes = {halves:?}
"#
            )
        }
    })
}

fn write(folder: &RunDir, side: Side, tunnel: &str, apps: Apps) -> Result<EdgeFiles> {
    let file = |end: &str| folder.file(format!("{}.{end}", side.name()));
    let files = EdgeFiles { side, policy: file("toml"), socket: file("sock"), log: file("log") };
    let (ours, theirs) = match side {
        Side::A => (CLIENT_NET, SERVER_NET),
        Side::B => (SERVER_NET, CLIENT_NET),
    };
    let name = tunnel_name(tunnel);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = if side == Side::A { 0 } else { 1 % cores };
    let mut text = format!(
        r#"name = "{}"

[control]
socket = "{}"

[workers]
cores = [{core}]

[[port]]
name = "uplink"
interface = "uplink"
queues = 1

{}
{tunnel}"#,
        side.name(),
        files.socket.display(),
        apps_port(apps, theirs)?,
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
encrypt = "{name}"
"#,
            from[0], from[1], to[0], to[1]
        );
    }
    fs::write(&files.policy, text).with_context(|| files.policy.display().to_string())?;
    Ok(files)
}

fn tunnel_name(tunnel: &str) -> &str {
    tunnel.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).unwrap_or(TUNNEL)
}
