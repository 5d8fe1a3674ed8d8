#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| softdpu::l7::fuzz::others(data));
