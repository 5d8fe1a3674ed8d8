//! Databases and storage.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
