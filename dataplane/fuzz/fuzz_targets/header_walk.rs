//! The header walk, as the XDP program and the workers do it: what it says is within the frame and in order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softdpu_ebpf_common::walk::{Fragment, L3, walk, walk_ip};

fuzz_target!(|bytes: &[u8]| {
    let Ok(h) = walk(bytes) else { return };
    let (l3, l4) = (usize::from(h.l3_off), usize::from(h.l4_off));
    let (payload, end) = (usize::from(h.payload_off), usize::from(h.end));
    assert!(l3 >= 14 && l3 <= l4 && l4 <= payload);
    if h.l3 == L3::Other {
        return;
    }
    assert!(payload <= end && end <= bytes.len());
    assert!(h.fragment != Fragment::Later || (h.sport, h.dport, h.spi) == (0, 0, 0));
    // From the IP header on it is the same walk.
    let ip = walk_ip(bytes, l3).expect("it was walked before");
    assert_eq!((ip.src, ip.dst, ip.proto, ip.l4_off, ip.end), (h.src, h.dst, h.proto, h.l4_off, h.end));
});
