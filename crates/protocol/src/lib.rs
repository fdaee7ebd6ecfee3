//! The Responses API as bytes: ids, requests, responses, items, events, framing and errors.
//!
//! Nothing here does I/O, is async, or knows SQL. JSON is not decoded and re-encoded: [`json`] finds the byte ranges of an
//! object's members, and everything else splices them, so numbers, key order and escapes survive.

pub mod conversation;
pub mod error;
pub mod event;
pub mod frame;
pub mod id;
pub mod images;
pub mod include;
pub mod item;
pub mod json;
pub mod model;
pub mod replay;
pub mod request;
pub mod response;
pub mod socket;
pub mod sse;
pub mod tool;
pub mod usage;
