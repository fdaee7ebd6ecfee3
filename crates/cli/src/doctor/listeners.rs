//! Whether the addresses to listen on are free, or served by a gateway already, and the certificate can be used.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use antiphon_config::Config;
use antiphon_gateway::tls::Tls;
use antiphon_store::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{DEADLINE, Finding};

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
/// Antiphon's answers, to plain HTTP and to plain HTTP where it serves HTTPS.
const ANSWERS: [&str; 2] = [r#"{"status":"ok","version":"#, "https_required"];
const MAX_REPLY_BYTES: u64 = 4096;

pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![check_address("listen", config.listen).await];
    if let Some(address) = config.admin_listen {
        findings.push(check_address("admin_listen", address).await);
    }
    findings.extend(check_tls(config));
    findings
}

fn check_tls(config: &Config) -> Option<Finding> {
    let loaded = Tls::load(config.tls.clone()?, Arc::new(SystemClock));
    Some(match loaded {
        Ok(_) => Finding::ok("tls", "the certificate and its key can be used"),
        Err(error) => {
            Finding::problem("tls", error.to_string(), "a gateway refuses to start until this works")
        }
    })
}

async fn check_address(key: &str, address: SocketAddr) -> Finding {
    let Err(error) = TcpListener::bind(address).await else {
        return Finding::ok(key, format!("{address} is free"));
    };
    match error.kind() {
        ErrorKind::AddrInUse if is_gateway(address).await => {
            Finding::ok(key, format!("a gateway serves {address}"))
        }
        ErrorKind::AddrInUse => Finding::problem(
            key,
            format!("another program listens on {address}"),
            format!("stop it, or set {key} to a free address"),
        ),
        ErrorKind::AddrNotAvailable => Finding::problem(
            key,
            format!("{} is no address of this machine", address.ip()),
            format!("set {key} to one of its addresses, or to 0.0.0.0 for all of them"),
        ),
        ErrorKind::PermissionDenied => Finding::problem(
            key,
            format!("this user may not listen on port {}", address.port()),
            format!("set {key} to a port above 1023, or grant CAP_NET_BIND_SERVICE"),
        ),
        _ => Finding::problem(key, format!("cannot listen on {address}: {error}"), ""),
    }
}

async fn is_gateway(address: SocketAddr) -> bool {
    let asking = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(REQUEST).await?;
        let mut reply = Vec::new();
        connection.take(MAX_REPLY_BYTES).read_to_end(&mut reply).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&reply).into_owned())
    };
    let reply = timeout(DEADLINE, asking).await;
    reply.is_ok_and(|reply| reply.is_ok_and(|text| ANSWERS.iter().any(|answer| text.contains(answer))))
}
