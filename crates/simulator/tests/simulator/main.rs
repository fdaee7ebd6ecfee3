//! The simulator over real sockets.

#![cfg(test)]

mod directive;
mod lifecycle;
mod load;
mod script;
mod shapes;
mod stateful;
mod strict;
mod support;
