//! Tunnels and proxies.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
