//! The dashboard in a real Chromium.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod responses;
mod rig;
mod roles;
mod screens;
mod signing_in;
