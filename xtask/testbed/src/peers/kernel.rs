//! The kernel's own WireGuard and ESP on a host, where it has them. What is made goes with the host.

use std::{net::UdpSocket, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};

use super::{
    PATIENCE,
    keys::Child,
    wireguard::{Config, LINK, halves, write_secret},
};
use crate::{
    cleanup::RunDir,
    netns::NetNs,
    policy::Side,
    process,
    topology::{CLIENT_NET, EDGE_A, EDGE_B, SERVER_NET},
};

/// A link of type wireguard, with the allowed networks routed to it in halves.
///
/// # Errors
/// The kernel has no WireGuard, `wg` is not installed, or the two do not agree.
pub fn wireguard(ns: &NetNs, side: Side, folder: &RunDir, config: &Config) -> Result<()> {
    ns.ip(&format!("link add {LINK} type wireguard")).context("the kernel has no WireGuard")?;
    let key = folder.file(format!("{}.kernel.key", side.name()));
    write_secret(&key, &config.keys.private)?;
    let mut command = ns.command(super::find("wg").context("wg is not installed")?);
    command.args(["set", LINK, "listen-port", &config.listen_port.to_string(), "private-key"]).arg(&key);
    command.args(["peer", &config.peer, "allowed-ips", &config.allowed.join(",")]);
    if let Some(preshared) = &config.preshared {
        let file = folder.file(format!("{}.kernel.psk", side.name()));
        write_secret(&file, preshared)?;
        command.arg("preshared-key").arg(file);
    }
    if let Some(endpoint) = config.endpoint {
        command.args(["endpoint", &endpoint.to_string()]);
    }
    if let Some(seconds) = config.keepalive {
        command.args(["persistent-keepalive", &seconds.to_string()]);
    }
    process::run(&mut command, PATIENCE)?.ok().context("wg set")?;
    ns.ip(&format!("link set {LINK} mtu {} up", config.mtu))?;
    for net in &config.allowed {
        for half in halves(net).with_context(|| format!("{net} is no network"))? {
            ns.ip(&format!("route add {half} dev {LINK}"))?;
        }
    }
    Ok(())
}

/// Associations and policies of a host; ESP comes out of UDP while this lives.
#[derive(Debug)]
pub struct Esp {
    _encap: UdpSocket,
}

/// ESP in UDP between the edges, IPv4 outside, with a cipher as `ip xfrm` names it (`rfc4106(gcm(aes))`).
///
/// # Errors
/// The kernel has no ESP, or not the cipher.
pub fn esp(ns: &NetNs, side: Side, cipher: &str, child: &Child) -> Result<Esp> {
    let (ours, theirs, here, there) = match side {
        Side::A => (EDGE_A[0], EDGE_B[0], CLIENT_NET, SERVER_NET),
        Side::B => (EDGE_B[0], EDGE_A[0], SERVER_NET, CLIENT_NET),
    };
    for (src, dst, sa) in [(ours, theirs, &child.outbound), (theirs, ours, &child.inbound)] {
        let key: String = sa.key.iter().map(|byte| format!("{byte:02x}")).collect();
        // The error must not have the key in it.
        ns.ip(&format!(
            "xfrm state add src {src} dst {dst} proto esp spi {:#x} reqid 1 mode tunnel flag af-unspec replay-window 64 aead {cipher} \
             0x{key} 128 encap espinudp 4500 4500 0.0.0.0",
            sa.spi
        ))
        .map_err(|e| anyhow::anyhow!(format!("{e:#}").replace(&key, "…")))
        .with_context(|| format!("the kernel has no ESP with {cipher}"))?;
    }
    for (here, there) in here.into_iter().zip(there) {
        for direction in ["in", "fwd", "out"] {
            let (from, to, src, dst) =
                if direction == "out" { (here, there, ours, theirs) } else { (there, here, theirs, ours) };
            ns.ip(&format!(
                "xfrm policy add src {from} dst {to} dir {direction} tmpl src {src} dst {dst} proto esp reqid 1 mode tunnel"
            ))?;
        }
    }
    Ok(Esp { _encap: encapsulating(ns, ours)? })
}

/// A socket that hands ESP in UDP to the kernel, as a key daemon's does (udp(7), RFC 3948).
fn encapsulating(ns: &NetNs, address: &str) -> Result<UdpSocket> {
    const UDP_ENCAP: libc::c_int = 100;
    const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
    let socket = ns.within(|| Ok(UdpSocket::bind((address, 4500))?))?;
    let kind = UDP_ENCAP_ESPINUDP;
    // SAFETY: the value outlives the call and its size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_ENCAP,
            (&raw const kind).cast(),
            size_of_val(&kind) as libc::socklen_t,
        )
    };
    ensure!(set == 0, "UDP_ENCAP: {}", std::io::Error::last_os_error());
    Ok(socket)
}
