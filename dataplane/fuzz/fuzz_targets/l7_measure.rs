#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| softdpu::l7::fuzz::family(softdpu::l7::measure::RECOGNISERS, data));
