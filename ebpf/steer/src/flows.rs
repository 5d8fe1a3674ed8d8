//! The flow table: flows that somebody has decided on already, acted on in the driver.
//!
//! Before the header walk, not behind it: a packet of an offloaded flow is plain (no tag, no option, no fragment), so it is
//! recognised at fixed offsets with a handful of loads. Whatever looks different goes to the walk and the rules, as does
//! what the worker has to see: SYN, FIN and RST of what is not dropped, a TTL that ends here, what is larger than the way out takes.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    helpers::bpf_ktime_get_ns,
};
use softdpu_ebpf_common::{
    flows::{Entry4, Entry6, Extra, FlowAction, Options, Tail, WINDOW, hash4, hash6, last_word, numbers_on, packed},
    maps::Reason,
    walk::proto,
};

use crate::{
    atomic,
    frame::{Frame, load_u8, load_u16, load_u32, load_u64, store_u8, store_u16, store_u32, store_u64},
    maps::{DEVICES, EXTRAS, FLOWS4, FLOWS6, MIRRORS, count},
    watch::Note,
};

/// Places less one, the same for both families; the loader's.
#[unsafe(no_mangle)]
static FLOW_MASK: u32 = 0;
#[unsafe(no_mangle)]
static FLOW_SEED_A: u64 = 0;
#[unsafe(no_mangle)]
static FLOW_SEED_B: u64 = 0;

/// FIN, SYN and RST: the worker keeps the state of connections.
const FOR_THE_WORKER: u16 = 0x07;

/// Headers of a packet that may be in the table.
#[derive(Clone, Copy)]
struct Plain {
    v6: bool,
    ttl: u16,
    /// The IP packet, bytes.
    size: u64,
    tcp: Option<Segment>,
}

/// What is looked at of a TCP header.
#[derive(Clone, Copy)]
struct Segment {
    flags: u8,
    /// The sequence number behind it, and what it acknowledges.
    next: u32,
    ack: u32,
}

/// The action, why, and the frame's bytes; or `None` where the rules have to decide.
#[inline(always)]
pub fn act(frame: &Frame, note: &mut impl Note) -> Option<(u32, Reason, u64)> {
    let data = frame.start::<42>()?;
    // Ethertype, and of IPv4 version, header length and (not looked at) the DSCP byte.
    let word = load_u32::<12>(data);
    if word & 0x00ff_ffff == 0x0045_0008 {
        v4(frame, data, note)
    } else if word & 0x00f0_ffff == 0x0060_dd86 {
        v6(frame, note)
    } else {
        None
    }
}

#[inline(always)]
fn v4(frame: &Frame, data: usize, note: &mut impl Note) -> Option<(u32, Reason, u64)> {
    // No fragment; whether it may be one (DF) and the reserved bit say nothing here.
    if load_u16::<20>(data) & u16::from_be(0x3fff) != 0 {
        return None;
    }
    let size = u64::from(u16::from_be(load_u16::<16>(data)));
    let ttl_proto = load_u16::<22>(data);
    let protocol = (ttl_proto >> 8) as u8;
    let key = [load_u64::<26>(data), last_word(load_u32::<34>(data), protocol)];
    // SAFETY (all three): plain reads of statics that only the loader writes.
    let seed =
        unsafe { [core::ptr::read_volatile(&raw const FLOW_SEED_A), core::ptr::read_volatile(&raw const FLOW_SEED_B)] };
    let mask = unsafe { core::ptr::read_volatile(&raw const FLOW_MASK) };
    let home = hash4(&key, seed) & mask;
    let tail = find4(home, &key)?;
    note.entry(tail);
    let tcp = transport::<34>(frame, data, protocol, size, 20, tail.action)?;
    let h = Plain { v6: false, ttl: ttl_proto & 0xff, size, tcp };
    apply(frame, data, h, tail)
}

#[inline(always)]
fn v6(frame: &Frame, note: &mut impl Note) -> Option<(u32, Reason, u64)> {
    let data = frame.start::<62>()?;
    let size = 40 + u64::from(u16::from_be(load_u16::<18>(data)));
    let proto_ttl = load_u16::<20>(data);
    let protocol = proto_ttl as u8;
    if protocol != proto::TCP && protocol != proto::UDP {
        return None;
    }
    let key = [
        load_u64::<22>(data),
        load_u64::<30>(data),
        load_u64::<38>(data),
        load_u64::<46>(data),
        last_word(load_u32::<54>(data), protocol),
    ];
    // SAFETY (all three): plain reads of statics that only the loader writes.
    let seed =
        unsafe { [core::ptr::read_volatile(&raw const FLOW_SEED_A), core::ptr::read_volatile(&raw const FLOW_SEED_B)] };
    let mask = unsafe { core::ptr::read_volatile(&raw const FLOW_MASK) };
    let home = hash6(&key, seed) & mask;
    let tail = find6(home, &key)?;
    note.entry(tail);
    let tcp = transport::<54>(frame, data, protocol, size, 40, tail.action)?;
    let h = Plain { v6: true, ttl: proto_ttl >> 8, size, tcp };
    apply(frame, data, h, tail)
}

/// The entry of a key, from its home on.
#[inline(always)]
fn find4(home: u32, key: &[u64; 2]) -> Option<&'static mut Tail> {
    let entry = place4(home)?;
    if entry.key[1] == key[1] && entry.key[0] == key[0] {
        return Some(&mut entry.tail);
    }
    let mut near = volatile64(&entry.tail.near) >> 1;
    for i in 1..WINDOW as u32 {
        if near == 0 {
            break;
        }
        if near & 1 != 0 {
            let entry = place4(home + i)?;
            if entry.key[1] == key[1] && entry.key[0] == key[0] {
                return Some(&mut entry.tail);
            }
        }
        near >>= 1;
    }
    None
}

#[inline(always)]
fn find6(home: u32, key: &[u64; 5]) -> Option<&'static mut Tail> {
    let entry = place6(home)?;
    if same6(&entry.key, key) {
        return Some(&mut entry.tail);
    }
    let mut near = volatile64(&entry.tail.near) >> 1;
    for i in 1..WINDOW as u32 {
        if near == 0 {
            break;
        }
        if near & 1 != 0 {
            let entry = place6(home + i)?;
            if same6(&entry.key, key) {
                return Some(&mut entry.tail);
            }
        }
        near >>= 1;
    }
    None
}

#[inline(always)]
fn same6(a: &[u64; 5], b: &[u64; 5]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) == 0
}

#[inline(always)]
fn place4(at: u32) -> Option<&'static mut Entry4> {
    // SAFETY: the map lives as long as the program. User space writes an entry only while it is not live; a counter is
    // changed by atomic instructions alone, the rest of a live entry by nobody but `seen`, where losing a bit does no harm.
    FLOWS4.get_ptr_mut(at).map(|entry| unsafe { &mut *entry })
}

#[inline(always)]
fn place6(at: u32) -> Option<&'static mut Entry6> {
    // SAFETY: as above.
    FLOWS6.get_ptr_mut(at).map(|entry| unsafe { &mut *entry })
}

#[inline(always)]
fn volatile64(word: &u64) -> u64 {
    // SAFETY: a reference is readable.
    unsafe { core::ptr::read_volatile(word) }
}

/// The TCP segment (none for UDP); `None` where the walk would not take the transport header as it is. `header`: the IP header's
/// bytes.
#[inline(always)]
fn transport<const AT: usize>(
    frame: &Frame,
    data: usize,
    protocol: u8,
    size: u64,
    header: u64,
    action: u8,
) -> Option<Option<Segment>> {
    if protocol == proto::TCP {
        let data = if AT == 34 { frame.start::<54>()? } else { frame.start::<74>()? };
        let offset_flags = if AT == 34 { load_u16::<46>(data) } else { load_u16::<66>(data) };
        let length = u64::from(offset_flags >> 4 & 0x0f) * 4;
        // Of a connection that is dropped whole nobody keeps a state.
        let kept = action != FlowAction::Drop as u8 && (offset_flags >> 8) & FOR_THE_WORKER != 0;
        if kept || length < 20 || header + length > size {
            return None;
        }
        let (seq, ack) = if AT == 34 {
            (load_u32::<38>(data), load_u32::<42>(data))
        } else {
            (load_u32::<58>(data), load_u32::<62>(data))
        };
        let next = u32::from_be(seq).wrapping_add((size - header - length) as u32);
        Some(Some(Segment { flags: (offset_flags >> 8) as u8, next, ack: u32::from_be(ack) }))
    } else {
        let length = if AT == 34 { load_u16::<38>(data) } else { load_u16::<58>(data) };
        let length = u64::from(u16::from_be(length));
        if length < 8 || header + length > size { None } else { Some(None) }
    }
}

#[inline(always)]
fn apply(frame: &Frame, data: usize, h: Plain, tail: &mut Tail) -> Option<(u32, Reason, u64)> {
    let [a, b, c] = tail.station;
    if load_u32::<0>(data) != (u32::from(a) | u32::from(b) << 16) || load_u16::<4>(data) != c {
        return None;
    }
    let forward = tail.action == FlowAction::Forward as u8;
    // The worker or the kernel answers these with an ICMP error.
    if forward && (h.ttl <= 1 || h.size > u64::from(tail.mtu)) {
        return None;
    }
    // Truncated packets are the walk's to refuse.
    let bytes = frame.len(14 + h.size as usize);
    if bytes < 14 + h.size {
        return None;
    }
    let mut over = false;
    if tail.options != 0 {
        over = options(frame, data, &h, tail)?;
    }
    atomic::add(&mut tail.counter, packed(h.size));
    if over {
        return Some((XDP_DROP, Reason::FlowMeter, bytes));
    }
    if let Some(segment) = h.tcp {
        if segment.flags & !tail.seen != 0 {
            tail.seen |= segment.flags;
        }
        // Two CPUs at once may undo each other's step of 64 KiB: the next segment makes it again.
        let numbers = numbers_on(tail.numbers, segment.next, segment.ack);
        if numbers != tail.numbers {
            tail.numbers = numbers;
        }
    }
    if !forward {
        return Some(if tail.action == FlowAction::Drop as u8 {
            (XDP_DROP, Reason::FlowDrop, bytes)
        } else {
            (XDP_PASS, Reason::FlowPass, bytes)
        });
    }
    if h.v6 {
        store_u8::<21>(data, (h.ttl - 1) as u8);
    } else {
        // RFC 1624, eqn. 3, with the carry that never leaves 0xffff. One's complement sums do not mind the byte order
        // (RFC 1071 §2): the TTL is the lower byte of its word in memory, so its sum goes up by one.
        let sum = u32::from(load_u16::<24>(data)) + 1;
        store_u16::<24>(data, (sum + u32::from(sum >= 0xffff)) as u16);
        store_u8::<22>(data, (h.ttl - 1) as u8);
    }
    store_u64::<0>(data, u64::from(tail.macs[0]) | u64::from(tail.macs[1]) << 32);
    store_u32::<8>(data, tail.macs[2]);
    match DEVICES.redirect(u32::from(tail.device), u64::from(XDP_DROP)) {
        Ok(action) if action != XDP_DROP => Some((action, Reason::FlowForward, bytes)),
        _ => Some((XDP_DROP, Reason::FlowNoDevice, bytes)),
    }
}

/// What few entries have. `None`: this packet goes to the rules. Else whether it is over the meter, which comes first: what
/// is sampled has been metered too.
#[inline(always)]
fn options(frame: &Frame, data: usize, h: &Plain, tail: &Tail) -> Option<bool> {
    if tail.options & Options::LINEAR != 0 && !frame.is_linear(14 + h.size as usize) {
        return None;
    }
    if tail.options & (Options::SAMPLE | Options::METER | Options::MIRROR) != 0 {
        let extra = EXTRAS.get_ptr_mut(u32::from(tail.extra))?;
        // SAFETY: the map lives as long as the program; words that change are changed by atomic instructions only.
        let extra = unsafe { &mut *extra };
        if tail.options & Options::METER != 0 && !conforms(extra, h.size) {
            return Some(true);
        }
        if tail.options & Options::SAMPLE != 0 && sampled(extra) {
            return None;
        }
        if tail.options & Options::MIRROR != 0 {
            count(&MIRRORS, extra.mirror, h.size);
        }
    }
    if tail.options & Options::MARK != 0 {
        mark(data, h.v6, tail.tos);
    }
    Some(false)
}

#[inline(always)]
fn sampled(extra: &mut Extra) -> bool {
    let met = atomic::fetch_add(&mut extra.met, 1);
    extra.every != 0 && met % u64::from(extra.every) == u64::from(extra.every) - 1
}

/// The token bucket as one word: when it will be full again. Two CPUs at once may both let a packet by for the last token;
/// what they take is counted all the same.
#[inline(always)]
fn conforms(extra: &mut Extra, size: u64) -> bool {
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    let before = volatile64(&extra.full_at);
    let cost = (size * extra.per_byte) >> 16;
    let from = if before > now { before } else { now };
    if from - now + cost > extra.burst {
        atomic::add(&mut extra.over, 1);
        return false;
    }
    if !atomic::exchange(&mut extra.full_at, before, from + cost) {
        atomic::add(&mut extra.full_at, cost);
    }
    true
}

/// Sets the DSCP; the ECN bits stay (RFC 3168 §5).
#[inline(always)]
fn mark(data: usize, v6: bool, tos: u8) {
    if v6 {
        let (first, second) = (load_u8::<14>(data), load_u8::<15>(data));
        let class = (second >> 4 & 0x03) | tos;
        store_u8::<14>(data, (first & 0xf0) | class >> 4);
        store_u8::<15>(data, class << 4 | (second & 0x0f));
    } else {
        let before = load_u16::<14>(data);
        let after = (before & 0x03ff) | u16::from(tos) << 8;
        // RFC 1624, eqn. 3.
        let sum = u32::from(!load_u16::<24>(data)) + u32::from(!before) + u32::from(after);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        store_u16::<14>(data, after);
        store_u16::<24>(data, !(sum as u16));
    }
}
