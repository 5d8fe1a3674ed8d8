//! Message queues, brokers and coordination.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
