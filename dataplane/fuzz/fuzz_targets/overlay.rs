//! Packets within packets, two deep, as the flow node walks them: what is found lies within.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softdpu::wire::overlay::{DEPTH, inner};
use softdpu_ebpf_common::walk::{L3, walk};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut outer) = walk(bytes) else { return };
    if outer.l3 == L3::Other {
        return;
    }
    for _ in 0..DEPTH {
        // As of a packet in several parts too.
        for seen in [&bytes[..bytes.len() / 2], bytes] {
            if let Some(found) = inner(seen, &outer) {
                let h = found.headers;
                assert!(found.id < 1 << 24 && h.l3 != L3::Other);
                assert!(outer.l3_off < h.l3_off && h.l3_off < h.end && h.l4_off <= h.payload_off);
                assert!(h.payload_off <= h.end && h.end <= outer.end);
            }
        }
        let Some(found) = inner(bytes, &outer) else { return };
        outer = found.headers;
    }
});
