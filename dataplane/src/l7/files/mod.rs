//! Files, directories and remote procedures.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
