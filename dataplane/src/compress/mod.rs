//! Compression inside tunnels: IPComp (RFC 3173) with LZ4, per packet, only where it makes the packet smaller.
//!
//! The tunnel form: the whole inner packet is compressed, its IP and transport headers with it, and travels as ESP's
//! next header 108. Packets that do not shrink travel as they are, so either side may send uncompressed at any time.
//!
//! [`ipcomp`] is the wire format, [`lz4`] the two directions, [`governor`] decides cheaply where to try.

pub mod governor;
pub mod ipcomp;
pub mod lz4;

pub use governor::Governor;
pub use lz4::{Compressor, DecompressError, Decompressed, Decompressor, Left, Outcome};
