//! Addresses and routes of the tap to the host's own kernel, and the guards that outlive it.
//!
//! A tap goes with the process that has it, and its routes go with it. What they led into a tunnel would then follow some
//! wider route, in clear. So each route whose loss is to be a drop has a guard: an `unreachable` route to the same prefix that
//! comes next to it, belongs to no interface, and stays until softdpu ends in order. The prefixes of the tap's own addresses,
//! to which the kernel itself makes routes, have guards too.

use crate::config::policy::{LinkAddress, OnLoss, Prefix, TapPort};
use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metric of the tap's routes: better than any other, so that a second route to such a prefix is no way round the tunnel.
fn first(prefix: Prefix) -> u32 {
    // For IPv6 0 means 1024.
    u32::from(prefix.addr().is_ipv6())
}

/// Metric of the kernel's own routes to the prefixes of the tap's addresses.
fn connected(prefix: Prefix) -> u32 {
    // `IP6_RT_PRIO_ADDRCONF`.
    if prefix.addr().is_ipv6() { 256 } else { 0 }
}

/// An unreachable route that comes next to one of the tap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    prefix: Prefix,
    metric: u32,
}

/// The guards that a tap needs: of its routes, and of its addresses' prefixes where these are more than the host itself.
fn guards_of(tap: &TapPort) -> Vec<Guard> {
    if tap.on_loss != OnLoss::Drop {
        return Vec::new();
    }
    let nets = tap.nets().map(|prefix| Guard { prefix, metric: connected(prefix) + 1 });
    let mut guards: Vec<Guard> = nets.collect();
    guards.extend(tap.routes.iter().map(|prefix| Guard { prefix: *prefix, metric: first(*prefix) + 1 }));
    guards.sort_by_key(|guard| (guard.prefix, guard.metric));
    guards.dedup();
    guards
}

/// The guards of a run.
#[derive(Debug, Default)]
pub struct Guards {
    /// Made by this run.
    fresh: Vec<Guard>,
    /// Left by one that had died.
    found: Vec<Guard>,
}

impl Guards {
    /// Gives the tap its addresses and routes, guards first: from then on nothing to these prefixes leaves in clear.
    ///
    /// # Errors
    /// The kernel's refusal: there is another route to one of the prefixes already.
    pub async fn configure(&mut self, index: u32, tap: &TapPort) -> Result<()> {
        let kernel = Kernel::open()?;
        for guard in guards_of(tap) {
            self.put(&kernel.handle, guard, &tap.interface).await?;
        }
        for LinkAddress { addr, prefix_len } in &tap.addresses {
            let add = kernel.handle.address().add(index, *addr, *prefix_len).replace().execute();
            add.await.with_context(|| format!("cannot give {addr}/{prefix_len} to {}", tap.interface))?;
        }
        for prefix in &tap.routes {
            // A tap that is persistent still has the route of the run before.
            let _ = delete_route(&kernel.handle, route(*prefix, index)).await;
            new_route(&kernel.handle, route(*prefix, index)).await.with_context(|| {
                format!("cannot route {prefix} by {}: `ip route show {prefix}` tells what is in the way", tap.interface)
            })?;
        }
        Ok(())
    }

    /// Puts a guard where there is none. What is there already is one only if it is unreachable: any other route of this
    /// metric would carry in clear what the tap does not take any more.
    async fn put(&mut self, handle: &Handle, guard: Guard, interface: &str) -> Result<()> {
        let Guard { prefix, metric } = guard;
        match new_route(handle, message(guard)).await {
            Ok(()) => self.fresh.push(guard),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                let there = in_the_way(handle, guard).await?;
                if let Some(route) = there.iter().find(|route| route.header.kind != RouteType::Unreachable) {
                    bail!(
                        "cannot guard {prefix} by an unreachable route of metric {metric}: there is {} already, which \
                         would have what tap {interface} protects leave in clear when softdpu is gone. Delete it, or \
                         give it another metric: `ip route show {prefix}` shows it",
                        described(route, guard)
                    );
                }
                if there.is_empty() {
                    bail!(
                        "cannot guard {prefix} by an unreachable route of metric {metric}: the kernel has something \
                         there already that it does not list. `ip route show table all {prefix}` may"
                    );
                }
                self.found.push(guard);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot guard {prefix} by an unreachable route"));
            }
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
        for guard in guards {
            if let Err(error) = delete_route(&kernel.handle, message(guard)).await {
                tracing::warn!("the guard of {} stays: {error}", guard.prefix);
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

fn message(guard: Guard) -> RouteMessage {
    let mut message = to(guard.prefix);
    message.header.kind = RouteType::Unreachable;
    message.attributes.push(RouteAttribute::Priority(guard.metric));
    message
}

/// The routes that have a guard's place: its prefix and metric, in table main.
async fn in_the_way(handle: &Handle, guard: Guard) -> Result<Vec<RouteMessage>> {
    let all = match guard.prefix.addr() {
        IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
    };
    let mut dump = handle.route().get(all).execute();
    let mut found = Vec::new();
    while let Some(route) = dump.try_next().await.context("cannot list the routes over netlink")? {
        if has_place(&route, guard) {
            found.push(route);
        }
    }
    Ok(found)
}

fn has_place(route: &RouteMessage, guard: Guard) -> bool {
    let mut destination: IpAddr = match route.header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let (mut table, mut metric) = (u32::from(route.header.table), 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let to = (destination, route.header.destination_prefix_length);
    to == (guard.prefix.addr(), guard.prefix.prefix_len())
        && (table, metric, route.header.tos) == (u32::from(libc::RT_TABLE_MAIN), guard.metric, 0)
}

/// A route as `ip route` would have it, more or less.
fn described(route: &RouteMessage, guard: Guard) -> String {
    let kind = format!("{:?}", route.header.kind).to_lowercase();
    let by = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(format!(" by interface {index}")),
        _ => None,
    });
    format!("a {kind} route to {} of metric {}{}", guard.prefix, guard.metric, by.unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    fn tap(addresses: &[(&str, u8)], routes: &[&str]) -> TapPort {
        let address =
            |(addr, prefix_len): &(&str, u8)| LinkAddress { addr: addr.parse().unwrap(), prefix_len: *prefix_len };
        TapPort {
            interface: "dpu0".into(),
            mtu: 1400,
            addresses: addresses.iter().map(address).collect(),
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            on_loss: OnLoss::Drop,
        }
    }

    #[test]
    fn what_the_kernel_routes_by_the_taps_addresses_is_guarded_too() {
        let tap = tap(&[("10.9.0.1", 16), ("10.8.0.1", 32), ("fd00:9::1", 64)], &["10.2.0.0/24"]);
        let said: Vec<_> = guards_of(&tap).iter().map(|g| (g.prefix.to_string(), g.metric)).collect();
        let guards = [("10.2.0.0/24", 1), ("10.9.0.0/16", 1), ("fd00:9::/64", 257)];
        assert_eq!(said, guards.map(|(prefix, metric)| (prefix.to_owned(), metric)));
        assert!(guards_of(&TapPort { on_loss: OnLoss::Pass, ..tap }).is_empty());
    }

    fn ip(arguments: &str) {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    }

    /// In a network namespace of this thread's own.
    #[test]
    fn only_an_unreachable_route_is_taken_for_a_guard() {
        // SAFETY: no memory is involved.
        if unsafe { libc::geteuid() } != 0 {
            return eprintln!("skipped: needs root");
        }
        let run = || {
            // SAFETY: changes this thread's namespace alone, which ends with it.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            ip("link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for (net, metric) in [("10.2.0.0/24", 1), ("fd00:2::/64", 2)] {
                    let kernel = Kernel::open().unwrap();
                    let guard = Guard { prefix: net.parse().unwrap(), metric };
                    let mut guards = Guards::default();
                    ip(&format!("route add {net} dev lo metric {metric}"));
                    let refused = guards.put(&kernel.handle, guard, "dpu0").await.unwrap_err().to_string();
                    assert!(
                        refused.contains(net) && refused.contains("unicast") && refused.contains("Delete it"),
                        "{refused}"
                    );
                    assert!(guards.found.is_empty() && guards.fresh.is_empty());
                    ip(&format!("route del {net} dev lo metric {metric}"));
                    ip(&format!("route add unreachable {net} metric {metric}"));
                    guards.put(&kernel.handle, guard, "dpu0").await.unwrap();
                    assert_eq!((&guards.found, guards.fresh.len()), (&vec![guard], 0));
                    guards.release(true).await;
                    ip(&format!("route del unreachable {net} metric {metric}"));
                    // One that softdpu itself had left goes in order.
                    Guards::default().put(&kernel.handle, guard, "dpu0").await.unwrap();
                    guards.put(&kernel.handle, guard, "dpu0").await.unwrap();
                    assert_eq!((&guards.found, guards.fresh.len()), (&vec![guard], 0));
                    guards.release(true).await;
                    assert!(in_the_way(&kernel.handle, guard).await.unwrap().is_empty());
                }
            });
        };
        std::thread::spawn(run).join().unwrap();
    }
}
