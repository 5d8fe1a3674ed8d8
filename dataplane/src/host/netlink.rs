//! The kernel's links, addresses, routes and neighbours, dumped over rtnetlink into a [`Fib`].

use super::fib::{Fib, Link, PortId, Route};
use crate::wire::ethernet::Mac;
use crate::wire::prefix::Prefix;
use anyhow::{Context, Result};
use futures::TryStreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteNextHopFlags, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Only what the kernel itself forwards by without policy routing.
const TABLES: [u32; 2] = [254, 255];

/// Dumps everything and builds the table for the ports with these interface indices (`None`: a port without interface).
/// `host`: which of them is the tap to the kernel itself.
pub async fn dump(handle: &Handle, ports: &[Option<u32>], host: Option<PortId>) -> Result<Fib> {
    let by_index: HashMap<u32, PortId> =
        ports.iter().enumerate().filter_map(|(port, index)| Some(((*index)?, port as PortId))).collect();
    let mut fib = Fib::new(0, links(handle, ports, &by_index).await?);
    host.into_iter().for_each(|port| fib.set_host(port));
    addresses(handle, &by_index, &mut fib).await?;
    for version in [IpVersion::V4, IpVersion::V6] {
        routes(handle, version, &by_index, &mut fib).await?;
    }
    neighbours(handle, &by_index, &mut fib).await?;
    fib.add_neighbourless();
    Ok(fib)
}

async fn links(handle: &Handle, ports: &[Option<u32>], by_index: &HashMap<u32, PortId>) -> Result<Vec<Link>> {
    let virtual_link =
        Link { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, up: true, neighbourless: true, ..Link::default() };
    let mut links: Vec<Link> =
        ports.iter().map(|index| if index.is_some() { Link::default() } else { virtual_link.clone() }).collect();
    let mut dump = handle.link().get().execute();
    while let Some(message) = dump.try_next().await.context("cannot list the links over netlink")? {
        let Some(port) = by_index.get(&message.header.index) else { continue };
        let link = &mut links[usize::from(*port)];
        link.up = message.header.flags.contains(LinkFlags::Up);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => {
                    if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                        link.mac = Mac(mac);
                    }
                }
                LinkAttribute::Mtu(mtu) => link.mtu = mtu.min(u32::from(u16::MAX)) as u16,
                _ => {}
            }
        }
    }
    Ok(links)
}

async fn addresses(handle: &Handle, by_index: &HashMap<u32, PortId>, fib: &mut Fib) -> Result<()> {
    let mut dump = handle.address().get().execute();
    while let Some(message) = dump.try_next().await.context("cannot list the addresses over netlink")? {
        // On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours; elsewhere they are the same.
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(local) => address = Some(*local),
                AddressAttribute::Address(peer_or_local) => address = address.or(Some(*peer_or_local)),
                _ => {}
            }
        }
        let Some(address) = address else { continue };
        fib.add_local(address);
        if let Some(port) = by_index.get(&message.header.index) {
            fib.set_link_address(*port, address);
        }
    }
    Ok(())
}

async fn routes(handle: &Handle, version: IpVersion, by_index: &HashMap<u32, PortId>, fib: &mut Fib) -> Result<()> {
    let request = match version {
        IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    let mut dump = handle.route().get(request).execute();
    while let Some(message) = dump.try_next().await.context("cannot list the routes over netlink")? {
        if let Some((prefix, route, metric)) = route(&message, by_index) {
            fib.add_route(prefix, route, metric);
        }
    }
    Ok(())
}

fn route(message: &RouteMessage, by_index: &HashMap<u32, PortId>) -> Option<(Prefix, Route, u32)> {
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut metric, mut oif, mut gateway) = (u32::from(message.header.table), 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(address) => gateway = via(address),
            // The first of several next hops: spreading over them would need the kernel's own hash to agree with it.
            RouteAttribute::MultiPath(hops) => {
                let first = hops.iter().find(|hop| !hop.flags.contains(RouteNextHopFlags::Dead))?;
                oif = Some(first.interface_index);
                gateway = first.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(address) => ip(address),
                    RouteAttribute::Via(address) => via(address),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if !TABLES.contains(&table) {
        return None;
    }
    let route = match message.header.kind {
        RouteType::Unicast => match oif.and_then(|index| by_index.get(&index)) {
            Some(port) => Route::Port { port: *port, gateway },
            None => Route::Elsewhere,
        },
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast => Route::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Route::Refused,
        _ => return None,
    };
    Some((Prefix::new(destination, message.header.destination_prefix_length)?, route, metric))
}

/// A gateway of the other family (RFC 8950 routes, `ip route add … via inet6 …`).
fn via(address: &RouteVia) -> Option<IpAddr> {
    match address {
        RouteVia::Inet(a) => Some(IpAddr::V4(*a)),
        RouteVia::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

async fn neighbours(handle: &Handle, by_index: &HashMap<u32, PortId>, fib: &mut Fib) -> Result<()> {
    let mut dump = handle.neighbours().get().execute();
    while let Some(message) = dump.try_next().await.context("cannot list the neighbours over netlink")? {
        let Some(port) = by_index.get(&message.header.ifindex) else { continue };
        if matches!(message.header.state, NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::Noarp) {
            continue;
        }
        match neighbour(&message) {
            (Some(address), Some(mac)) if message.header.state == NeighbourState::Stale => {
                fib.add_stale_neighbour(*port, address, mac);
            }
            (Some(address), Some(mac)) => fib.add_neighbour(*port, address, mac),
            _ => {}
        }
    }
    Ok(())
}

fn neighbour(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            _ => {}
        }
    }
    (address, mac)
}

/// Asks the kernel to resolve (or confirm) a neighbour, as if it had a packet for it (`NTF_USE`, rtnetlink(7)). The answer
/// comes as a neighbour event.
pub async fn resolve(handle: &Handle, interface: u32, address: IpAddr) -> Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = interface;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    }));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let mut handle = handle.clone();
    let mut answers = handle.request(request).context("cannot send to netlink")?;
    while let Some(answer) = futures::StreamExt::next(&mut answers).await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io()).with_context(|| format!("the kernel would not resolve {address}"));
        }
    }
    Ok(())
}
