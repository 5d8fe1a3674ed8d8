//! The steer program's object, embedded by the build script where it was built.

use super::error::{Result, SteerError};

/// The ELF reader casts into it.
#[repr(C, align(8))]
#[allow(dead_code, reason = "unused where there is no object")]
struct Aligned<T: ?Sized>(T);

/// The object's bytes.
///
/// # Errors
/// The crate was built before the object was.
pub fn object() -> Result<&'static [u8]> {
    const OBJECT: Option<&'static [u8]> = include!(concat!(env!("OUT_DIR"), "/steer_object.rs"));
    OBJECT.ok_or(SteerError::NoObject)
}
