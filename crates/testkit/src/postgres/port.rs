//! A port that a server can leave and come back to.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of this machine that nobody else gets, while a server listens on it and while none does: a socket stays bound to it.
#[derive(Debug)]
pub(super) struct Port(TcpSocket);

impl Port {
    pub(super) fn reserve() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Servers set it as well, and so can bind a port that is only reserved.
        socket.set_reuseaddr(true).expect("a TCP socket");
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("loopback has a free port");
        Self(socket)
    }

    pub(super) fn number(&self) -> u16 {
        self.0.local_addr().expect("it is bound").port()
    }
}
