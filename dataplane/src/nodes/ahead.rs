//! Asks ahead for the memory of what opens a batch's packets, where it is too much for the cache. A packet leads to it in four
//! steps, each a look at what the one before has asked for; they are taken some packets apart, so that the memory comes while
//! the packets between are opened.

use super::open_wg;
use crate::graph::Packet;
use crate::tunnel::keys::{EspIn, Keys, WgIn};
use softdpu_ebpf_common::walk::proto;

/// Packets from one step to the next.
const STEP: usize = 2;
/// How many packets the first step is ahead of the opening.
pub(super) const AHEAD: usize = 4 * STEP;
/// Packets under way between the first step and the last.
const RING: usize = AHEAD.next_power_of_two();

/// How far a packet's steps have got.
#[derive(Clone, Copy, Default)]
enum Way<'k> {
    #[default]
    None,
    Spi(u32),
    Receiver(u32),
    Esp(&'k EspIn),
    WireGuard(&'k WgIn),
}

#[derive(Default)]
pub(super) struct Ahead<'k>([Way<'k>; RING]);

impl<'k> Ahead<'k> {
    /// Takes the first step of packet `t`, and the later ones of those before it. Packet `t` − [`AHEAD`] is ready then.
    #[inline]
    pub(super) fn step(&mut self, keys: &'k Keys, packets: &[Packet], t: usize) {
        self.0[t % RING] = packets.get(t).map_or(Way::None, |packet| begin(keys, packet));
        if let Some(at) = t.checked_sub(STEP) {
            let way = &mut self.0[at % RING];
            *way = find(keys, *way);
        }
        if let Some(at) = t.checked_sub(2 * STEP) {
            match self.0[at % RING] {
                Way::Esp(esp) => esp.sa.prefetch(),
                Way::WireGuard(wg) => {
                    wg.session.prefetch_opening();
                    keys.prefetch_way(wg.tunnel, wg.way);
                }
                _ => {}
            }
        }
        if let Some(at) = t.checked_sub(3 * STEP) {
            match self.0[at % RING] {
                Way::Esp(esp) => esp.sa.prefetch_deep(),
                Way::WireGuard(wg) => {
                    wg.session.prefetch_opening_deep();
                    keys.prefetch_source(wg);
                }
                _ => {}
            }
        }
    }
}

#[inline]
fn begin<'k>(keys: &Keys, packet: &Packet) -> Way<'k> {
    let headers = &packet.headers;
    if headers.spi != 0 {
        keys.prefetch_esp(headers.spi);
        return Way::Spi(headers.spi);
    }
    if headers.proto == proto::UDP
        && keys.listen(headers.dport).is_some()
        && let Some(receiver) = open_wg::receiver(packet)
    {
        keys.prefetch_session(receiver);
        return Way::Receiver(receiver);
    }
    Way::None
}

#[inline]
fn find<'k>(keys: &'k Keys, way: Way<'k>) -> Way<'k> {
    match way {
        Way::Spi(spi) => keys.esp(spi).map_or(Way::None, |esp| {
            crate::crypto::prefetch(esp);
            Way::Esp(esp)
        }),
        Way::Receiver(receiver) => keys.session(receiver).map_or(Way::None, |wg| {
            crate::crypto::prefetch(wg);
            Way::WireGuard(wg)
        }),
        other => other,
    }
}
