//! What a flow carries, told from its bytes: one file per protocol, registered in [`RECOGNISERS`].
//!
//! A recogniser is a function over the first bytes of one direction (TCP) or over one datagram (UDP). It keeps nothing;
//! the [`Inspector`] collects the bytes, calls it again when there are more, and gives up after [`inspect::MAX_PACKETS`]
//! packets or [`reassembly::CAP`] bytes. Ports alone never make a recognition.

pub mod class;
pub mod dns;
pub mod fuzz;
pub mod hosts;
pub mod http;
pub mod inspect;
pub mod iperf3;
pub mod reassembly;
pub mod ssh;
pub mod tls;

pub use class::{Alpn, By, Class};
pub use hosts::{HostName, Hosts};
pub use inspect::{Inspector, L7Config, Outcome, Reason};

use crate::flow::Direction;

/// What a recogniser gets to see.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// A TCP stream's bytes from its start, or one datagram. Never empty.
    pub data: &'a [u8],
    pub dir: Direction,
    /// Source and destination port of the packet at hand. Where one format is spoken under several names, the port says
    /// which; it never says that the format is there.
    pub ports: (u16, u16),
    /// No more will be collected: say what can be said.
    pub last: bool,
}

impl Look<'_> {
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.0 == port || self.ports.1 == port
    }
}

/// What was recognised. The host name, where there is one, is left in the [`HostName`] beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub class: Class,
    pub by: By,
    pub alpn: Alpn,
}

impl Found {
    pub fn payload(class: Class) -> Self {
        Self { class, by: By::Payload, alpn: Alpn::None }
    }

    pub fn handshake(class: Class, alpn: Alpn) -> Self {
        Self { class, by: By::Handshake, alpn }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not this protocol, whatever follows.
    No,
    /// Could be; more bytes will tell.
    More,
    /// Certainly this protocol; more bytes of this direction may tell the host.
    Class(Found),
    /// Certainly this protocol; only the other direction may tell the host.
    Other(Found),
    /// Nothing more to learn.
    Done(Found),
}

/// One protocol's place in the table.
pub struct Recogniser {
    pub name: &'static str,
    pub tcp: Option<fn(&Look, &mut HostName) -> Verdict>,
    pub udp: Option<fn(&Look, &mut HostName) -> Verdict>,
}

/// In the order in which they are asked. Each rejects a stranger within its first few bytes.
pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser { name: "tls", tcp: Some(tls::look), udp: None },
    Recogniser { name: "http", tcp: Some(http::look), udp: None },
    Recogniser { name: "dns", tcp: Some(dns::look_tcp), udp: Some(dns::look_udp) },
    Recogniser { name: "iperf3", tcp: Some(iperf3::look_tcp), udp: Some(iperf3::look_udp) },
    Recogniser { name: "ssh", tcp: Some(ssh::look), udp: None },
];

/// Asks all recognisers of a transport. The first that is certain wins; else `More` if any could still become so.
pub fn ask(udp: bool, look: &Look, host: &mut HostName) -> Verdict {
    let mut more = false;
    for r in RECOGNISERS {
        let Some(f) = (if udp { r.udp } else { r.tcp }) else { continue };
        host.clear();
        match f(look, host) {
            Verdict::No => {}
            Verdict::More => more = true,
            certain => return certain,
        }
    }
    host.clear();
    if more && !look.last { Verdict::More } else { Verdict::No }
}

#[cfg(test)]
mod inspect_tests;
