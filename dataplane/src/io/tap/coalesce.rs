//! What a NIC does with segments before the kernel sees them: those of one TCP flow that follow each other become one long
//! packet (LRO, as the kernel's GRO would: only what can be cut again into the very same segments is joined).
//!
//! Payloads are not copied: a group is a list of frames, and the first one's headers become those of all.

use super::offload::{Gso, Vnet};
use crate::io::frame::Frame;
use crate::wire::checksum;
use softdpu_ebpf_common::walk::{ETHERNET_LEN, ETHERTYPE_V4, ETHERTYPE_V6, Fragment, Headers, L3, proto};

/// Flows that may be collected for at the same time. Flows interleave within a batch; beyond this the oldest is let go.
const OPEN: usize = 8;
/// Longest packet, IP header included.
const LONGEST: usize = 65_535;
/// Most segments: a long packet is one `writev`, which takes 1024 pieces.
const MOST: u16 = 512;
/// Frames that one list may have to be looked at; further ones are sent as they are.
const LISTED: usize = 2048;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Packets of one flow in a row, to be one.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    first: u16,
    last: u16,
    count: u16,
    /// Payload bytes of each segment but the last.
    size: u16,
    /// All payload bytes.
    payload: u32,
    next_seq: u32,
    /// Bytes of Ethernet and IP header, and of all headers.
    l4: u8,
    head: u8,
    psh: bool,
}

/// What a packet is to its group.
enum Look {
    /// May be joined with others.
    Segment { l4: usize, head: usize, psh: bool },
    /// TCP that goes as it is, behind what was collected of its flow.
    Single { l4: usize },
    /// In no order with any group: UDP, ICMP.
    Apart,
    /// Not understood: may be of any flow.
    Unknown,
}

/// Something to send: so many frames from `first` on (see [`Groups::next`]) as one packet.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    pub first: usize,
    pub count: usize,
    /// Headers that only the first frame keeps.
    pub head: usize,
    pub vnet: Vnet,
}

/// The groups that are open. Made once; nothing is allocated later.
pub struct Groups {
    open: [Group; OPEN],
    used: usize,
    /// The slot that is let go when another is needed.
    oldest: usize,
    /// Per frame of the list the one behind it in its group.
    follows: Box<[u16]>,
}

impl Groups {
    pub fn new() -> Self {
        Self { open: [Group::default(); OPEN], used: 0, oldest: 0, follows: vec![0; LISTED].into() }
    }

    /// The frame that follows in its group.
    pub fn next(&self, frame: usize) -> usize {
        self.follows.get(frame).map_or(0, |next| usize::from(*next))
    }

    /// Groups `frames`, each from its Ethernet header on, and hands what is to be sent to `send`, in the order of each flow.
    /// The first frame of a group of several has the headers of all when it is handed out.
    pub fn walk(&mut self, frames: &mut [Frame], mut send: impl FnMut(&Self, &mut [Frame], Outgoing)) {
        for at in 0..frames.len() {
            match look(&frames[at]) {
                Look::Segment { l4, head, psh } if at < LISTED => self.join(frames, at, (l4, head, psh), &mut send),
                Look::Segment { l4, .. } | Look::Single { l4 } => {
                    if let Some(slot) = self.find(frames, at, l4) {
                        self.release(slot, frames, &mut send);
                    }
                    send(self, frames, single(at));
                }
                Look::Apart => send(self, frames, single(at)),
                Look::Unknown => {
                    self.release_all(frames, &mut send);
                    send(self, frames, single(at));
                }
            }
        }
        self.release_all(frames, &mut send);
    }

    fn join(
        &mut self,
        frames: &mut [Frame],
        at: usize,
        (l4, head, psh): (usize, usize, bool),
        send: &mut impl FnMut(&Self, &mut [Frame], Outgoing),
    ) {
        let payload = frames[at].len() - head;
        let seq = seq(frames[at].bytes(), l4);
        if let Some(slot) = self.find(frames, at, l4) {
            let group = &self.open[slot];
            let fits = seq == group.next_seq
                && usize::from(group.head) == head
                && payload <= usize::from(group.size)
                && head - ETHERNET_LEN + group.payload as usize + payload <= LONGEST
                && group.count < MOST
                && alike(frames[usize::from(group.first)].bytes(), frames[at].bytes(), l4, head, group.count);
            if fits {
                self.follows[usize::from(group.last)] = at as u16;
                let group = &mut self.open[slot];
                group.last = at as u16;
                group.count += 1;
                group.payload += payload as u32;
                group.next_seq = seq.wrapping_add(payload as u32);
                group.psh = psh;
                if psh || payload < usize::from(group.size) {
                    self.release(slot, frames, send);
                }
                return;
            }
            self.release(slot, frames, send);
        }
        if psh {
            return send(self, frames, single(at));
        }
        if self.used == OPEN {
            self.oldest = (self.oldest + 1) % OPEN;
            self.release(self.oldest, frames, send);
        }
        self.open[self.used] = Group {
            first: at as u16,
            last: at as u16,
            count: 1,
            size: payload as u16,
            payload: payload as u32,
            next_seq: seq.wrapping_add(payload as u32),
            l4: l4 as u8,
            head: head as u8,
            psh: false,
        };
        self.used += 1;
    }

    /// The open group of the flow that the packet at `at` is of.
    fn find(&self, frames: &[Frame], at: usize, l4: usize) -> Option<usize> {
        // Addresses and ports stand together, where there is nothing between the IP and the TCP header.
        let addresses = if l4 == ETHERNET_LEN + 20 { 8 } else { 32 };
        let wanted = frames[at].bytes().get(l4 - addresses..l4 + 4)?;
        (0..self.used).find(|slot| {
            let group = &self.open[*slot];
            let first = frames[usize::from(group.first)].bytes();
            usize::from(group.l4) == l4 && first.get(l4 - addresses..l4 + 4) == Some(wanted)
        })
    }

    fn release_all(&mut self, frames: &mut [Frame], send: &mut impl FnMut(&Self, &mut [Frame], Outgoing)) {
        while self.used > 0 {
            self.release(0, frames, send);
        }
    }

    fn release(&mut self, slot: usize, frames: &mut [Frame], send: &mut impl FnMut(&Self, &mut [Frame], Outgoing)) {
        let group = self.open[slot];
        self.used -= 1;
        self.open[slot] = self.open[self.used];
        let first = usize::from(group.first);
        if group.count == 1 {
            return send(self, frames, single(first));
        }
        let vnet = headers_of_all(frames[first].bytes_mut(), &group);
        send(self, frames, Outgoing { first, count: usize::from(group.count), head: usize::from(group.head), vnet });
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self::new()
    }
}

fn single(first: usize) -> Outgoing {
    Outgoing { first, count: 1, head: 0, vnet: Vnet::PLAIN }
}

fn seq(bytes: &[u8], l4: usize) -> u32 {
    bytes.get(l4 + 4..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |seq| u32::from_be_bytes(*seq))
}

/// Reads a packet as far as it takes to say whether it may be joined. A wrong checksum stays as it is and goes alone, so that
/// its receiver sees it: of a joined packet the kernel believes that it is right.
#[inline]
fn look(frame: &Frame) -> Look {
    let bytes = frame.bytes();
    let (l3, l4) = match bytes.get(12..ETHERNET_LEN).map(|kind| u16::from_be_bytes([kind[0], kind[1]])) {
        Some(ETHERTYPE_V4) => (L3::V4, ETHERNET_LEN + 20),
        Some(ETHERTYPE_V6) => (L3::V6, ETHERNET_LEN + 40),
        _ => return Look::Apart,
    };
    let Some(ip) = bytes.get(ETHERNET_LEN..l4) else { return Look::Unknown };
    let (proto, total) = match l3 {
        L3::V4 if ip[0] != 0x45 || ip[6] & 0x3f != 0 || ip[7] != 0 => return Look::Unknown,
        L3::V4 => (ip[9], usize::from(u16::from_be_bytes([ip[2], ip[3]]))),
        _ => (ip[6], 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]))),
    };
    match proto {
        proto::TCP => {}
        proto::UDP | proto::ICMP | proto::ICMPV6 => return Look::Apart,
        _ => return Look::Unknown,
    }
    let Some(tcp) = bytes.get(l4..l4 + 20) else { return Look::Unknown };
    let head = l4 + usize::from(tcp[12] >> 4) * 4;
    let plain = matches!(tcp[13] & !PSH, ACK) && tcp[12] & 0x0f == 0;
    if !plain || frame.is_chain() || head < l4 + 20 || head >= bytes.len() || total + ETHERNET_LEN != bytes.len() {
        return Look::Single { l4 };
    }
    // Joined, a packet gets sums of its own: a wrong one must not become right by that.
    if l3 == L3::V4 && !checksum::ipv4_header_ok(&bytes[ETHERNET_LEN..l4]) || !checksum_ok(bytes, l3, l4) {
        return Look::Single { l4 };
    }
    Look::Segment { l4, head, psh: tcp[13] & PSH != 0 }
}

fn pseudo(bytes: &[u8], l3: L3, l4: usize, len: usize) -> u64 {
    let addresses = if l3 == L3::V4 { l4 - 8..l4 } else { l4 - 32..l4 };
    let of = Headers { proto: proto::TCP, fragment: Fragment::No, ..Headers::default() };
    checksum::add(checksum::pseudo(&of, len), &bytes[addresses])
}

#[inline]
fn checksum_ok(bytes: &[u8], l3: L3, l4: usize) -> bool {
    checksum::fold(checksum::add(pseudo(bytes, l3, l4, bytes.len() - l4), &bytes[l4..])) == 0xffff
}

/// Whether `next` differs from the group's `first` only in what follows from its place. `count`: segments before it.
fn alike(first: &[u8], next: &[u8], l4: usize, head: usize, count: u16) -> bool {
    let ip = |bytes: &[u8]| -> Option<([u8; 8], u16)> {
        let header = bytes.get(ETHERNET_LEN..)?.first_chunk::<10>()?;
        Some(if l4 == ETHERNET_LEN + 20 {
            // Type of service, flags, TTL; and the identification.
            (
                [header[0], header[1], header[6], header[7], header[8], header[9], 0, 0],
                u16::from_be_bytes([header[4], header[5]]),
            )
        } else {
            // Class, flow label, next header, hop limit.
            ([header[0], header[1], header[2], header[3], header[6], header[7], 0, 0], 0)
        })
    };
    let (Some((a, first_id)), Some((b, id))) = (ip(first), ip(next)) else { return false };
    // Without DF the identification must be what cutting makes of it; with DF it says nothing (RFC 6864 §4.1).
    let v4 = l4 == ETHERNET_LEN + 20;
    let counted = !v4 || a[2] & 0x40 != 0 || id == first_id.wrapping_add(count);
    // Acknowledgement, length, window; urgent pointer and options. Flags are equal but for PSH, which ends a group.
    let same = |from: usize, to: usize| first.get(from..to) == next.get(from..to);
    a == b && counted && same(l4 + 8, l4 + 13) && same(l4 + 14, l4 + 16) && same(l4 + 18, head)
}

/// Makes the first frame's headers those of the whole group, with the checksum left to the kernel.
fn headers_of_all(bytes: &mut [u8], group: &Group) -> Vnet {
    let (l4, head) = (usize::from(group.l4), usize::from(group.head));
    let v4 = l4 == ETHERNET_LEN + 20;
    let segment = head - l4 + group.payload as usize;
    let ip = &mut bytes[ETHERNET_LEN..l4];
    if v4 {
        ip[2..4].copy_from_slice(&((20 + segment) as u16).to_be_bytes());
        ip[10..12].fill(0);
        let sum = checksum::of(ip);
        ip[10..12].copy_from_slice(&sum);
    } else {
        ip[4..6].copy_from_slice(&(segment as u16).to_be_bytes());
    }
    let pseudo = pseudo(bytes, if v4 { L3::V4 } else { L3::V6 }, l4, segment);
    bytes[l4 + 16..l4 + 18].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
    if group.psh {
        bytes[l4 + 13] |= PSH;
    }
    Vnet {
        csum: Some((l4 as u16, 16)),
        gso: if v4 { Gso::Tcp4 } else { Gso::Tcp6 },
        gso_size: group.size,
        hdr_len: head as u16,
    }
}
