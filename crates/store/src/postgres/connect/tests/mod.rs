//! Connections to real servers, and to some that only pretend.

mod addresses;
mod certificates;
mod logins;
mod servers;
mod tls;

use std::net::{Ipv4Addr, SocketAddr};

use antiphon_testkit::Postgres;

use self::servers::{HOST, PASSWORD, servers};
use super::*;
use crate::url::{Network, StoreUrl};

fn target(url: &str, network: Network) -> PostgresTarget {
    match StoreUrl::parse(url, network) {
        Ok(StoreUrl::Postgres(target)) => *target,
        other => panic!("{url}: {other:?}"),
    }
}

/// Resolves every name to this machine.
fn to_loopback() -> Resolve {
    Box::new(|_, port| Box::pin(async move { Ok(vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)]) }))
}

/// Connects. Returns whether TLS was used.
async fn attempt(url: &str) -> Result<bool, ConnectError> {
    let connector = Connector::with_resolver(&target(url, Network::Any), to_loopback())
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    is_encrypted(connector.connect().await?).await
}

async fn is_encrypted(opened: Opened) -> Result<bool, ConnectError> {
    let driven = tokio::spawn(opened.driver);
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let is_encrypted = opened.client.query_one(sql, &[]).await.unwrap().get(0);
    drop(opened.client);
    driven.await.unwrap().unwrap();
    Ok(is_encrypted)
}

/// The result of [`attempt`] as one text, which never contains credentials.
async fn answer(url: &str) -> String {
    let answer = match attempt(url).await {
        Ok(true) => "encrypted".to_owned(),
        Ok(false) => "plain".to_owned(),
        Err(ConnectError::Unusable(text)) => format!("unusable: {text}"),
        Err(ConnectError::Unavailable(text)) => format!("unavailable: {text}"),
    };
    assert!(!answer.contains(PASSWORD), "{url}: {answer}");
    answer
}
