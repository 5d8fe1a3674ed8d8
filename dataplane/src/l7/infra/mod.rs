//! What networks run themselves by: addresses, time, management, flow export, routing.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
