//! `softdpu tune`.
