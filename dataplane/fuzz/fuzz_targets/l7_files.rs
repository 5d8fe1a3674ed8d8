//! The recognisers of the family `files` take any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| softdpu::l7::fuzz::family(softdpu::l7::files::RECOGNISERS, data));
