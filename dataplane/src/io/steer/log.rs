//! The steer program's debug log.

use std::io;

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Steer,
    error::{Result, SteerError},
};

/// Log records of the steer program. They come out where the `log` crate's records go.
pub struct DebugLog {
    logger: EbpfLogger<&'static dyn ::log::Log>,
}

impl Steer {
    /// The debug log, once. Only a program loaded with `debug` writes to it.
    ///
    /// # Errors
    /// It was taken before, or the object has none.
    pub fn take_debug_log(&mut self) -> Result<DebugLog> {
        EbpfLogger::init(&mut self.ebpf).map(|logger| DebugLog { logger }).map_err(|e| SteerError::Log(e.to_string()))
    }
}

impl DebugLog {
    /// Writes out what is there, without waiting.
    pub fn flush(&mut self) {
        self.logger.flush();
    }

    /// Writes out records as they come. Needs a tokio runtime; ends only with an error.
    ///
    /// # Errors
    /// The map's descriptor cannot be waited for.
    pub async fn run(self) -> io::Result<()> {
        // SAFETY: the logger owns its descriptor and answers with the same one for as long as it lives.
        let mut logger = unsafe { AsyncFd::register_with_interest(self.logger, Interest::READABLE) }
            .map_err(|e| io::Error::other(e.to_string()))?;
        loop {
            let mut guard = logger.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
