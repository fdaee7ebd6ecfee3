//! WebSocket mode: a GET of …/responses that asks for an upgrade, and the turns that come over it.
//!
//! A socket has lanes. The turns of one lane come one after the other, those of different lanes at once. Everything of
//! a socket runs in the task of its connection, so that it ends with it.

mod connection;
mod frame;
mod handshake;
mod lane;
mod recent;
mod record;

pub(super) use handshake::{Accepted, asks, open};
pub use record::{ReceivedSocket, SocketEnd};
