//! What a SmartNIC runs: drops the packets of flows that a worker has settled as dropped. All others are the host's.
//!
//! Written for what devices take: a hash map and an array, look-ups, plain additions, no loop, no call, a small stack.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[allow(dead_code, reason = "the steer program needs all of it")]
mod atomic;
#[allow(dead_code, reason = "the steer program needs all of it")]
mod frame;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::{map, xdp},
    maps::{Array, HashMap},
    programs::XdpContext,
};
use softdpu_ebpf_common::nic::{Action, Count, Entry, Key, last_word};

use crate::frame::{Frame, load_u16, load_u32, load_u64};

/// The loader makes them as large as the device has room for.
#[map]
static NIC_FLOWS: HashMap<Key, Entry> = HashMap::with_max_entries(1, 0);
#[map]
static NIC_COUNTS: Array<Count> = Array::with_max_entries(1, 0);

#[xdp]
pub fn softdpu_nic(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    if drops(&frame).is_some() { XDP_DROP } else { XDP_PASS }
}

/// `Some`: counted, and to be dropped.
#[inline(always)]
fn drops(frame: &Frame) -> Option<()> {
    let data = frame.start::<42>()?;
    // Ethertype, and of IPv4 version, header length and (not looked at) the DSCP byte.
    let word = load_u32::<12>(data);
    let (key, size) = if word & 0x00ff_ffff == 0x0045_0008 {
        // Fragments are the host's: later ones have no ports.
        if load_u16::<20>(data) & u16::from_be(0x3fff) != 0 {
            return None;
        }
        let protocol = (load_u16::<22>(data) >> 8) as u8;
        let last = last_word(load_u32::<34>(data), protocol, false);
        let size = usize::from(u16::from_be(load_u16::<16>(data)));
        ([load_u64::<26>(data), 0, 0, 0, last], size)
    } else if word & 0x00f0_ffff == 0x0060_dd86 {
        let data = frame.start::<62>()?;
        let last = last_word(load_u32::<54>(data), load_u16::<20>(data) as u8, true);
        let size = 40 + usize::from(u16::from_be(load_u16::<18>(data)));
        let [a, b, c, d] = [load_u64::<22>(data), load_u64::<30>(data), load_u64::<38>(data), load_u64::<46>(data)];
        ([a, b, c, d, last], size)
    } else {
        return None;
    };
    // SAFETY: the map lives as long as the program; user space replaces no entry, it adds and removes them.
    let entry = unsafe { NIC_FLOWS.get(&key) }?;
    let [a, b, c] = entry.station;
    let data = frame.start::<42>()?;
    if load_u32::<0>(data) != (u32::from(a) | u32::from(b) << 16) || load_u16::<4>(data) != c {
        return None;
    }
    // What is cut short the host counts under a name of its own.
    if entry.action != Action::Drop as u16 || frame.linear() < 14 + size {
        return None;
    }
    let count = NIC_COUNTS.get_ptr_mut(entry.counter)?;
    // SAFETY: the map lives as long as the program, and its words are changed by atomic instructions only.
    let count = unsafe { &mut *count };
    atomic::add(&mut count.packets, 1);
    atomic::add(&mut count.bytes, size as u64);
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The crate's MIT, in the form the kernel knows it. No helper in use asks for GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
