//! WebSocket mode: a GET of …/responses with an upgrade, and the turns on that socket.
//!
//! A socket has lanes. The turns of one lane run one after another, those of different lanes concurrently. Everything runs
//! in the task of the connection, and ends with it.

mod connection;
mod frame;
mod handshake;
mod lane;
mod recent;
mod record;

pub(super) use handshake::{Accepted, asks, open};
pub use record::{ReceivedSocket, SocketEnd};
