//! Addresses and routes of the tap to the host's own kernel, and the guards that outlive it.
//!
//! A tap goes with the process that has it, and its routes go with it. What they led into a tunnel would then follow some
//! wider route, in clear. So each route whose loss is to be a drop has a guard: an `unreachable` route to the same prefix with
//! the worst metric, which belongs to no interface and stays until softdpu ends in order.

use crate::config::policy::{LinkAddress, OnLoss, Prefix, TapPort};
use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of the guards: any other route is better.
const LAST: u32 = u32::MAX;
/// Of the tap's routes, IPv6 (for which 0 means 1024): better than what others set up by default.
const FIRST: u32 = 1;

/// Gives the tap its addresses and routes, guards first: from then on nothing to these prefixes leaves in clear.
///
/// # Errors
/// The kernel's refusal: there is another route to one of the prefixes already.
pub async fn configure(index: u32, tap: &TapPort) -> Result<()> {
    let kernel = Kernel::open()?;
    for LinkAddress { addr, prefix_len } in &tap.addresses {
        let add = kernel.handle.address().add(index, *addr, *prefix_len).replace().execute();
        add.await.with_context(|| format!("cannot give {addr}/{prefix_len} to {}", tap.interface))?;
    }
    for prefix in &tap.routes {
        if tap.on_loss == OnLoss::Drop {
            let message = RouteNetlinkMessage::NewRoute(guard(*prefix));
            let guarded = request(&kernel.handle, message, NLM_F_CREATE | NLM_F_REPLACE).await;
            guarded.with_context(|| format!("cannot guard {prefix} by an unreachable route"))?;
        }
        let message = RouteNetlinkMessage::NewRoute(route(*prefix, index));
        request(&kernel.handle, message, NLM_F_CREATE | NLM_F_EXCL).await.with_context(|| {
            format!("cannot route {prefix} by {}: `ip route show {prefix}` tells what is in the way", tap.interface)
        })?;
    }
    Ok(())
}

/// Takes the guards away, at the end of a run that ends in order.
pub async fn release(tap: &TapPort) {
    let Ok(kernel) = Kernel::open() else { return };
    for prefix in tap.routes.iter().filter(|_| tap.on_loss == OnLoss::Drop) {
        if let Err(error) = request(&kernel.handle, RouteNetlinkMessage::DelRoute(guard(*prefix)), 0).await {
            tracing::warn!("the guard of {prefix} stays: {error:#}");
        }
    }
}

struct Kernel {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Kernel {
    fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket for the tap")?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn request(handle: &Handle, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut handle = handle.clone();
    let mut answers = handle.request(request).context("cannot send to netlink")?;
    while let Some(answer) = futures::StreamExt::next(&mut answers).await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io().into());
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
    if prefix.addr().is_ipv6() {
        message.attributes.push(RouteAttribute::Priority(FIRST));
    }
    message
}

fn guard(prefix: Prefix) -> RouteMessage {
    let mut message = to(prefix);
    message.header.kind = RouteType::Unreachable;
    message.attributes.push(RouteAttribute::Priority(LAST));
    message
}
