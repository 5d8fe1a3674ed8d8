//! Keeps the forwarding table true: listens to the kernel's changes, dumps again, and hands workers a new table. Resolves
//! the neighbours that workers miss.

use super::fib::{Fib, Link, PortId};
use super::netlink;
use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use futures::StreamExt;
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::SocketAddr;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Changes come in bursts (a link going up is a dozen messages): one dump for all that come within this time.
const SETTLE: Duration = Duration::from_millis(10);
/// After a dump that failed, or the end of a connection.
const AGAIN: Duration = Duration::from_secs(1);
/// The kernel answers at once; what takes longer was lost (an acknowledgement that met a full socket buffer).
const ANSWER: Duration = Duration::from_secs(5);
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

/// What is called with the table before and the new one.
pub type Changed = Box<dyn Fn(&Fib, &Fib) + Send + Sync>;

/// The watcher's view of the world outside.
pub struct Watch {
    /// Interface index per port; `None` for ports without one.
    pub ports: Vec<Option<u32>>,
    /// Which of them is the tap to the kernel itself.
    pub host: Option<PortId>,
    /// Peers whose link address should be known before the first packet needs it.
    pub peers: Vec<IpAddr>,
    pub fib: Arc<ArcSwap<Fib>>,
    pub asks: Arc<AskQueue>,
    /// Called after every new table, with the one before and the new one: wakes sleeping workers.
    pub changed: Changed,
}

impl Watch {
    /// Dumps once, publishes the table, and returns the task that keeps it true.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub async fn start(self) -> Result<impl Future<Output = ()>> {
        let mut kernel = Kernel::open()?;
        self.publish(self.dump(&kernel.handle).await?);
        self.resolve_peers(&kernel.handle).await;
        Ok(async move {
            loop {
                self.follow(&mut kernel).await;
                tracing::error!("the netlink connection ended; opening another");
                kernel = loop {
                    tokio::time::sleep(AGAIN).await;
                    match Kernel::open() {
                        Ok(kernel) => break kernel,
                        Err(error) => tracing::error!("routes and neighbours are not followed: {error:#}"),
                    }
                };
            }
        })
    }

    /// Dumps, and again whenever something has changed, until the connection ends. A message lost to a full socket buffer is
    /// a message here too.
    async fn follow(&self, kernel: &mut Kernel) {
        // Whatever happened while nobody listened.
        let mut due = Some(Instant::now());
        let mut took = Duration::ZERO;
        loop {
            tokio::select! {
                message = kernel.messages.next() => match message {
                    // However many changes there are, dumps take no more than half of this thread, which answers the API too.
                    Some(_) => due = due.or_else(|| Some(Instant::now() + SETTLE.max(took))),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let began = Instant::now();
                    due = match self.dump(&kernel.handle).await {
                        Ok(fib) => {
                            self.publish(fib);
                            None
                        }
                        Err(error) => {
                            tracing::warn!("keeping the old routes: {error:#}");
                            Some(Instant::now() + AGAIN)
                        }
                    };
                    took = began.elapsed();
                }
                () = self.asks.wake.notified() => self.answer(&kernel.handle).await,
            }
        }
    }

    async fn dump(&self, handle: &rtnetlink::Handle) -> Result<Fib> {
        let dump = tokio::time::timeout(ANSWER, netlink::dump(handle, &self.ports, self.host));
        dump.await.context("the kernel does not answer over netlink")?
    }

    fn publish(&self, mut fib: Fib) {
        let old = self.fib.load();
        fib.set_generation(old.generation());
        if fib == **old && old.generation() != 0 {
            return;
        }
        self.report_lost(&old, &fib);
        fib.set_generation(old.generation().wrapping_add(1).max(1));
        let new = Arc::new(fib);
        self.fib.store(new.clone());
        (self.changed)(&old, &new);
    }

    /// An interface that was deleted took its XDP program and sockets along; one of the same name is another one.
    fn report_lost(&self, old: &Fib, new: &Fib) {
        for ((index, old), new) in self.ports.iter().zip(old.links()).zip(new.links()) {
            if let (Some(index), true, true) = (index, *old != Link::default(), *new == Link::default()) {
                tracing::error!(
                    "interface {index} is gone: its port carries nothing, and what replaces it is not protected, until softdpu is restarted"
                );
            }
        }
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
        match tokio::time::timeout(ANSWER, netlink::resolve(handle, *interface, address)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("{error:#}"),
            Err(_) => tracing::debug!("the kernel does not answer for {address}"),
        }
    }
}

/// A netlink connection that hears of changes.
struct Kernel {
    connection: JoinHandle<()>,
    handle: rtnetlink::Handle,
    messages: Messages,
}

type Messages = futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

impl Kernel {
    fn open() -> Result<Self> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .context("cannot open a netlink socket for routes and neighbours")?;
        Ok(Self { connection: tokio::spawn(connection), handle, messages })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::nic::Nic;

    #[tokio::test]
    async fn the_end_of_the_connection_is_noticed_and_survived() {
        let lo = Nic::look_up("lo").unwrap().index;
        let fib = Arc::new(ArcSwap::from_pointee(Fib::default()));
        let watch = Watch {
            ports: vec![Some(lo)],
            host: None,
            peers: Vec::new(),
            fib: fib.clone(),
            asks: AskQueue::new(),
            changed: Box::new(|_, _| {}),
        };
        let mut kernel = Kernel::open().unwrap();
        kernel.connection.abort();
        tokio::time::timeout(ANSWER, watch.follow(&mut kernel)).await.expect("the end is noticed");
        let mut kernel = Kernel::open().unwrap();
        let follow = tokio::time::timeout(Duration::from_millis(500), watch.follow(&mut kernel));
        assert!(follow.await.is_err(), "a connection that lives is followed");
        assert!(fib.load().generation() > 0 && fib.load().links()[0].mtu > 0, "and read first");
    }
}
