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

/// Names of the instances that have a socket, for shells that complete one.
pub fn instances() -> Vec<clap_complete::CompletionCandidate> {
    let sockets = std::fs::read_dir(client::SOCKET_FOLDER).into_iter().flatten().flatten();
    let names = sockets.filter_map(|socket| socket.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned));
    names.map(clap_complete::CompletionCandidate::new).collect()
}
