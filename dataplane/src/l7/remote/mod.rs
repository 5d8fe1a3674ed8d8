//! Remote access to hosts.

pub mod ssh;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[Recogniser::tcp("ssh", Starts::With(b"S"), ssh::look)];
