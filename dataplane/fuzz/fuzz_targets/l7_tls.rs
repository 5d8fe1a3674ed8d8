//! TLS: records, a ClientHello over several segments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use softdpu_fuzz::{Seen, recognise};

fuzz_target!(|seen: Seen| recognise(&seen, softdpu::l7::tls::look));
