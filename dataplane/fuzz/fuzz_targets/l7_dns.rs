//! DNS and its relatives: one message over UDP, length-prefixed ones over TCP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softdpu_fuzz::{Seen, recognise};

fuzz_target!(|seen: Seen| {
    recognise(&seen, softdpu::l7::dns::look_tcp);
    // A datagram arrives whole.
    let whole = Seen { first: u16::MAX, ..seen };
    recognise(&whole, softdpu::l7::dns::look_udp);
});
