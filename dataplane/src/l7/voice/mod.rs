//! Calls and media.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
