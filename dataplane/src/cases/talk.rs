//! Packets that belong to one conversation, with the numbers that follow from those before.

use std::net::SocketAddr;

use super::frame::{self, Described, FIN, SYN};

/// What a conversation begins with, where that is given.
pub fn first_bytes(sni: Option<&str>, http_host: Option<&str>, payload: Option<&str>) -> Option<Vec<u8>> {
    let given = sni.map(frame::tls_hello).or_else(|| http_host.map(frame::http_request));
    given.or_else(|| payload.map(|payload| payload.as_bytes().to_vec()))
}

/// Two ends and how far they have come.
#[derive(Debug)]
pub struct Talk {
    ends: [SocketAddr; 2],
    protocol: u8,
    /// What each sends next.
    next: [u32; 2],
    vlan: Vec<u16>,
    dscp: u8,
    pub begun: bool,
}

impl Talk {
    pub fn new(from: SocketAddr, to: SocketAddr, protocol: u8, vlan: Vec<u16>, dscp: u8) -> Self {
        Self { ends: [from, to], protocol, next: [1000, 5000], vlan, dscp, begun: false }
    }

    pub fn is(&self, from: SocketAddr, to: SocketAddr, protocol: u8, answer: bool) -> bool {
        let ends = if answer { [to, from] } else { [from, to] };
        self.ends == ends && self.protocol == protocol
    }

    pub fn headers(&self) -> usize {
        self.packet(false, 0, 64, &[]).headers()
    }

    fn packet(&self, answer: bool, flags: u8, ttl: u8, payload: &[u8]) -> Described {
        let (me, other) = if answer { (1, 0) } else { (0, 1) };
        Described {
            from: self.ends[me],
            to: self.ends[other],
            protocol: self.protocol,
            flags,
            sequence: [self.next[me], self.next[other]],
            answer,
            vlan: self.vlan.clone(),
            dscp: self.dscp,
            ttl,
            payload: payload.to_vec(),
        }
    }

    pub fn say(&mut self, answer: bool, flags: u8, ttl: u8, payload: &[u8]) -> Described {
        let packet = self.packet(answer, flags, ttl, payload);
        let length = payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        self.next[usize::from(answer)] = self.next[usize::from(answer)].wrapping_add(length);
        self.begun = true;
        packet
    }
}
