//! `softdpu top`: a running instance, seen as it goes. What is shown (`sample`, `pages`, `table`, `history`), what keys do (`app`) and
//! how it looks (`draw`, `plain`) know nothing of terminals or sockets; those are in `screen` and `asker`.

mod app;
mod asker;
mod draw;
mod history;
mod pages;
mod plain;
mod sample;
mod screen;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use asker::Asker;
pub use pages::Tab;
pub use plain::once;
pub use screen::run;

/// Finds the control socket. Asked again whenever the instance is away, because the next one may have another.
pub type Find = Box<dyn Fn() -> anyhow::Result<PathBuf> + Send>;

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time between two looks.
    pub interval: Duration,
    /// What is shown first, or alone with [`once`].
    pub tab: Option<Tab>,
    /// Only rows that have this somewhere.
    pub filter: String,
    /// Flows that are asked for; the largest of them are shown.
    pub flows: usize,
    /// Whether colour is welcome.
    pub colour: bool,
}
