//! The simulator over real sockets.

#![cfg(test)]

mod chat;
mod compaction;
mod directive;
mod lifecycle;
mod script;
mod shapes;
mod socket;
mod socket_script;
mod stateful;
mod strict;
mod support;
mod wire;
