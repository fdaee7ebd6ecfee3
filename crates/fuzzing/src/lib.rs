//! What must hold for any input.
//!
//! Each module is a target: its `check` takes any bytes, and panics if a property does not hold for them. The fuzz targets in
//! `fuzz/` call it with inputs that libFuzzer makes up, and the tests with every seed in `fuzz/corpus`.

pub mod chat;
pub mod config;
pub mod json;
pub mod replay;
pub mod request;
pub mod socket;
mod spacing;
pub mod sse;
pub mod store_url;
