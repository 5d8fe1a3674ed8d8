#![no_std]
#![no_main]
use aya_ebpf::{macros::xdp, programs::XdpContext, bindings::xdp_action};
#[xdp(frags)]
pub fn softdpu_steer(_c: XdpContext) -> u32 { xdp_action::XDP_PASS }
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
