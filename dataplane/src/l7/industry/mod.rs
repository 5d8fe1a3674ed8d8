//! Machines, buildings and vehicles.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
