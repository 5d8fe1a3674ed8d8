//! `mss`: the SYNs of TCP connections that go through a tunnel, in both directions, offer no larger segments than it carries.

use crate::graph::packet::NONE;
use crate::graph::{Batch, Cx, Node, Packet};
use crate::wire::ip::{V4_HEADER, V6_HEADER};
use crate::wire::mss;
use softdpu_ebpf_common::walk::{Fragment, L3};

const SYN: u8 = 2;

#[derive(Debug, Default)]
pub struct Mss;

impl Node for Mss {
    const NAME: &'static str = "mss";

    fn run(&mut self, cx: &mut Cx<'_>, batch: &mut Batch) {
        for packet in &mut batch.packets {
            if packet.headers.tcp_flags & SYN != 0 && (packet.meta.tunnel_out != NONE || packet.meta.tunnel_in != NONE)
            {
                clamp(cx, packet);
            }
        }
    }
}

fn clamp(cx: &Cx<'_>, packet: &mut Packet) {
    let meta = &packet.meta;
    let clamps = |tunnel: u16| cx.plan.tunnels.get(usize::from(tunnel)).is_some_and(|tunnel| tunnel.mss_clamp);
    let mut mtu = usize::MAX;
    if clamps(meta.tunnel_out) {
        mtu = cx.whole_mtu_of(packet);
    }
    // Who hears this offer answers by the tunnel that it came by.
    if clamps(meta.tunnel_in) {
        mtu = mtu.min(cx.mtu_back(packet).unwrap_or(usize::MAX));
    }
    if mtu == usize::MAX || packet.headers.fragment == Fragment::Later {
        return;
    }
    let header = if packet.headers.l3 == L3::V6 { V6_HEADER } else { V4_HEADER };
    let end = packet.frame.len().min(packet.headers.end.into());
    if let Some(segment) = packet.frame.bytes_mut().get_mut(packet.headers.l4_off.into()..end)
        && mss::clamp(segment, mss::of_mtu(mtu, header))
    {
        cx.counters.mss_clamped.inc();
    }
}
