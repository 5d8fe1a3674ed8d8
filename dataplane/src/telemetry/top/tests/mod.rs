//! `softdpu top` on instances made up for it.

mod keys;
mod made_up;
mod rates;
mod screens;
