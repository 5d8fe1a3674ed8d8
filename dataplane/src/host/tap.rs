//! Addresses and routes of the tap to the host's own kernel, and the guards that outlive it.
//!
//! A tap goes with the process that has it, and its routes go with it. What they led into a tunnel would then follow some
//! wider route, in clear. So each route whose loss is to be a drop has a guard: an `unreachable` route to the same prefix that
//! comes next to it, belongs to no interface, and stays until softdpu ends in order.

use crate::config::policy::{LinkAddress, OnLoss, Prefix, TapPort};
use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metric of the tap's routes: better than any other, so that a second route to such a prefix is no way round the tunnel.
fn first(prefix: Prefix) -> u32 {
    // For IPv6 0 means 1024.
    u32::from(prefix.addr().is_ipv6())
}

/// The guards of a run.
#[derive(Debug, Default)]
pub struct Guards {
    /// Made by this run.
    fresh: Vec<Prefix>,
    /// Left by one that had died.
    found: Vec<Prefix>,
}

impl Guards {
    /// Gives the tap its addresses and routes, guards first: from then on nothing to these prefixes leaves in clear.
    ///
    /// # Errors
    /// The kernel's refusal: there is another route to one of the prefixes already.
    pub async fn configure(&mut self, index: u32, tap: &TapPort) -> Result<()> {
        let kernel = Kernel::open()?;
        for LinkAddress { addr, prefix_len } in &tap.addresses {
            let add = kernel.handle.address().add(index, *addr, *prefix_len).replace().execute();
            add.await.with_context(|| format!("cannot give {addr}/{prefix_len} to {}", tap.interface))?;
        }
        for prefix in &tap.routes {
            if tap.on_loss == OnLoss::Drop {
                match new_route(&kernel.handle, guard(*prefix)).await {
                    Ok(()) => self.fresh.push(*prefix),
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self.found.push(*prefix),
                    Err(error) => {
                        return Err(error).with_context(|| format!("cannot guard {prefix} by an unreachable route"));
                    }
                }
            }
            // A tap that is persistent still has the route of the run before.
            let _ = delete_route(&kernel.handle, route(*prefix, index)).await;
            new_route(&kernel.handle, route(*prefix, index)).await.with_context(|| {
                format!("cannot route {prefix} by {}: `ip route show {prefix}` tells what is in the way", tap.interface)
            })?;
        }
        Ok(())
    }

    /// Takes the guards away at the end. A start that failed leaves those that it had found.
    pub async fn release(&mut self, started: bool) {
        let mut guards = std::mem::take(&mut self.fresh);
        if started {
            guards.append(&mut self.found);
        }
        if guards.is_empty() {
            return;
        }
        let Ok(kernel) = Kernel::open() else { return };
        for prefix in guards {
            if let Err(error) = delete_route(&kernel.handle, guard(prefix)).await {
                tracing::warn!("the guard of {prefix} stays: {error}");
            }
        }
    }
}

struct Kernel {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Kernel {
    fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket for the tap")?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn new_route(handle: &Handle, message: RouteMessage) -> io::Result<()> {
    let message = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
    request(handle, message, NLM_F_CREATE | NLM_F_EXCL).await
}

async fn delete_route(handle: &Handle, message: RouteMessage) -> io::Result<()> {
    request(handle, NetlinkMessage::from(RouteNetlinkMessage::DelRoute(message)), 0).await
}

async fn request(handle: &Handle, mut message: NetlinkMessage<RouteNetlinkMessage>, flags: u16) -> io::Result<()> {
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut handle = handle.clone();
    let mut answers = handle.request(message).map_err(io::Error::other)?;
    while let Some(answer) = futures::StreamExt::next(&mut answers).await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
    }
    Ok(())
}

fn to(prefix: Prefix) -> RouteMessage {
    match prefix.addr() {
        IpAddr::V4(addr) => {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(addr, prefix.prefix_len()).build()
        }
        IpAddr::V6(addr) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(addr, prefix.prefix_len()).build()
        }
    }
}

fn route(prefix: Prefix, index: u32) -> RouteMessage {
    let mut message = to(prefix);
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.push(RouteAttribute::Priority(first(prefix)));
    message
}

fn guard(prefix: Prefix) -> RouteMessage {
    let mut message = to(prefix);
    message.header.kind = RouteType::Unreachable;
    message.attributes.push(RouteAttribute::Priority(first(prefix) + 1));
    message
}
