//! Mail, news and chat.

use super::Recogniser;

pub static RECOGNISERS: &[Recogniser] = &[];
