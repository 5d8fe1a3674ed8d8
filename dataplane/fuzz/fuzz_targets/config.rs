//! A policy file: whatever it says, there is a policy or there are errors, and the errors can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = softdpu::config::parse(text, "fuzz.toml") {
        assert!(!errors.to_string().is_empty());
    }
});
