pub mod allowed;
pub mod uapi;
#[cfg(test)]
mod uapi_tests;
