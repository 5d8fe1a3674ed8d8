//! Keeps the forwarding table true: listens to the kernel's changes, dumps again, and hands workers a new table. Resolves
//! the neighbours that workers miss.

use super::fib::{Fib, PortId};
use super::netlink;
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use futures::StreamExt;
use rtnetlink::MulticastGroup;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Changes come in bursts (a link going up is a dozen messages): one dump for all that come within this time.
const SETTLE: Duration = Duration::from_millis(10);
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Workers' requests to resolve a neighbour. Bounded: what does not fit is asked again with the next packet.
#[derive(Debug)]
pub struct AskQueue {
    queue: ArrayQueue<(PortId, IpAddr)>,
    wake: Notify,
}

impl AskQueue {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { queue: ArrayQueue::new(1024), wake: Notify::new() })
    }

    /// Never blocks, never allocates.
    pub fn ask(&self, port: PortId, address: IpAddr) {
        if self.queue.push((port, address)).is_ok() {
            self.wake.notify_one();
        }
    }

    pub fn pop(&self) -> Option<(PortId, IpAddr)> {
        self.queue.pop()
    }
}

/// The watcher's view of the world outside.
pub struct Watch {
    /// Interface index per port; `None` for ports without one.
    pub ports: Vec<Option<u32>>,
    /// Peers whose link address should be known before the first packet needs it.
    pub peers: Vec<IpAddr>,
    pub fib: Arc<ArcSwap<Fib>>,
    pub asks: Arc<AskQueue>,
    /// Called after every new table: wakes sleeping workers.
    pub changed: Box<dyn Fn() + Send + Sync>,
}

impl Watch {
    /// Dumps once, publishes the table, and returns the task that keeps it true.
    pub async fn start(self) -> Result<impl Future<Output = ()>> {
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .context("cannot open a netlink socket for routes and neighbours")?;
        let connection = tokio::spawn(connection);
        self.publish(netlink::dump(&handle, &self.ports).await?);
        self.resolve_peers(&handle).await;
        Ok(async move {
            loop {
                tokio::select! {
                    message = messages.next() => {
                        if message.is_none() {
                            tracing::error!("the netlink connection ended; routes and neighbours are no longer followed");
                            break;
                        }
                        tokio::time::sleep(SETTLE).await;
                        while messages.next().now_or_never_ready() {}
                        match netlink::dump(&handle, &self.ports).await {
                            Ok(fib) => self.publish(fib),
                            Err(error) => tracing::warn!("keeping the old routes: {error:#}"),
                        }
                    }
                    () = self.asks.wake.notified() => self.answer(&handle).await,
                }
            }
            connection.abort();
        })
    }

    fn publish(&self, mut fib: Fib) {
        let old = self.fib.load();
        fib.set_generation(old.generation());
        if fib == **old && old.generation() != 0 {
            return;
        }
        fib.set_generation(old.generation().wrapping_add(1).max(1));
        self.fib.store(Arc::new(fib));
        (self.changed)();
    }

    async fn resolve_peers(&self, handle: &rtnetlink::Handle) {
        let fib = self.fib.load_full();
        for peer in &self.peers {
            if let super::fib::Hop::Unresolved { port } = fib.look_up(*peer, 0)
                && let Some(address) = fib.next_address(*peer, 0)
            {
                self.resolve(handle, port, address).await;
            }
        }
    }

    async fn answer(&self, handle: &rtnetlink::Handle) {
        while let Some((port, address)) = self.asks.pop() {
            self.resolve(handle, port, address).await;
        }
    }

    async fn resolve(&self, handle: &rtnetlink::Handle, port: PortId, address: IpAddr) {
        let Some(Some(interface)) = self.ports.get(usize::from(port)) else { return };
        if let Err(error) = netlink::resolve(handle, *interface, address).await {
            tracing::debug!("{error:#}");
        }
    }
}

/// Takes what is there without waiting.
trait Ready {
    fn now_or_never_ready(self) -> bool;
}

impl<F, T> Ready for F
where
    F: Future<Output = Option<T>> + Unpin,
{
    fn now_or_never_ready(self) -> bool {
        futures::FutureExt::now_or_never(self).flatten().is_some()
    }
}
