//! The memory that frames live in, and the account of where each one is.
