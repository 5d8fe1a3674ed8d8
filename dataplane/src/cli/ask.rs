//! Asking a running instance from a verb, which is not asynchronous.

use std::future::Future;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::args::Instance;
use crate::control::client;

impl Instance {
    /// The control socket meant.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        client::find_socket(self.socket.as_deref(), self.name.as_deref(), Path::new(client::SOCKET_FOLDER))
    }
}

/// Runs `question` to its end.
pub fn ask<T>(question: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the client")?;
    runtime.block_on(question)
}
