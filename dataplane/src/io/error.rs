//! Why a port could not be opened, in words that say what to do.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum IoError {
    #[error("UMEM: {0}")]
    Umem(String),
    #[error("cannot map {bytes} bytes for frames: {source}{hint}")]
    Map { bytes: usize, source: io::Error, hint: &'static str },
    #[error("no interface `{0}` in this network namespace")]
    NoInterface(String),
    #[error("{interface} queue {queue}: {step}: {source}{hint}")]
    Socket { interface: String, queue: u32, step: &'static str, source: io::Error, hint: String },
    #[error("tap {interface}: {step}: {source}{hint}")]
    Tap { interface: String, step: &'static str, source: io::Error, hint: &'static str },
    #[error("{interface} queue {queue}: zero-copy required, but the kernel bound the socket in copy mode")]
    NotZeroCopy { interface: String, queue: u32 },
    #[error("{interface} queue {queue}: ring of {size} descriptors: must be a power of two from 64 to 32768")]
    RingSize { interface: String, queue: u32, size: u32 },
    #[error("more than {} ports on one worker", super::pool::MAX_PORTS)]
    TooManyPorts,
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: byte {offset}: {reason}")]
    Capture { path: PathBuf, offset: u64, reason: String },
}

impl IoError {
    /// The system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Map { source, .. }
            | Self::Socket { source, .. }
            | Self::Tap { source, .. }
            | Self::File { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
