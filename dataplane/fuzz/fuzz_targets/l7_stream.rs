//! The reassembly of TCP streams and of handshakes over datagrams: any order, overlaps, take-overs.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| softdpu::l7::fuzz::stream(data));
