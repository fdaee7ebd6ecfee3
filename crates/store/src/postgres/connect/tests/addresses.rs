//! The address that was checked is the one that is connected to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpSocket};

use super::*;

/// A server that only counts connections, on its own port.
async fn counting() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, count)
}

/// Gives each answer once, in their order.
fn in_turn(answers: &[&[&str]]) -> Resolve {
    let answers: Vec<Vec<SocketAddr>> = answers
        .iter()
        .map(|addresses| addresses.iter().map(|address| address.parse().unwrap()).collect())
        .collect();
    let asked = AtomicUsize::new(0);
    Box::new(move |_, _| {
        let answer = answers.get(asked.fetch_add(1, Ordering::SeqCst)).cloned();
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("asked too often")) })
    })
}

fn connector(place: &str, network: Network, resolve: Resolve) -> Connector {
    let url = format!("postgres://postgres:{PASSWORD}@{place}");
    Connector::with_resolver(&target(&url, network), resolve).unwrap()
}

async fn refusal(connector: &Connector) -> String {
    match connector.connect().await.err() {
        Some(ConnectError::Unusable(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_refused_address_is_not_connected_to() {
    let (port, count) = counting().await;
    let loopback = format!("127.0.0.1:{port}");
    let mapped = format!("[::ffff:127.0.0.1]:{port}");
    for (network, addresses, expected) in [
        (
            Network::Public,
            vec![loopback.as_str()],
            "resolves to 127.0.0.1: store.network = \"public\" refuses loopback",
        ),
        (Network::Public, vec![&mapped], "refuses loopback addresses"),
        (Network::Public, vec!["10.0.0.1:1"], "refuses private addresses"),
        (Network::Public, vec!["[64:ff9b::10.0.0.1]:1"], "refuses private addresses"),
        // The first address would be allowed.
        (
            Network::Private,
            vec![&loopback, "1.1.1.1:1"],
            "resolves to 1.1.1.1: store.network = \"private\" refuses public",
        ),
        (Network::Any, vec![&loopback, "169.254.169.254:1"], "metadata"),
        (Network::Any, vec!["[fd00:ec2::254]:1"], "metadata"),
        (Network::Any, vec!["[::ffff:169.254.169.254]:1"], "metadata"),
    ] {
        let connector = connector(&format!("db.example.com:{port}/d"), network, in_turn(&[&addresses]));
        let text = refusal(&connector).await;
        assert!(text.contains(expected), "{network:?} {addresses:?}: {text}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_is_resolved_once_for_a_connect_and_checked_anew_for_the_next() {
    let port = Postgres::shared().port();
    let server = format!("127.0.0.1:{port}");
    // A second question within the first connect would be given the metadata service.
    let answers: [&[&str]; 3] = [&[&server], &["169.254.169.254:80"], &[&server]];
    let connector = connector("db.example.com/postgres?sslmode=disable", Network::Private, in_turn(&answers));
    assert!(connector.connect().await.is_ok());
    assert!(refusal(&connector).await.contains("metadata"));
    assert!(connector.connect().await.is_ok());
    let Err(ConnectError::Unavailable(text)) = connector.connect().await else { panic!("it was resolved") };
    assert!(text.ends_with("its name can't be resolved: asked too often"), "{text}");
}

#[tokio::test]
async fn the_addresses_of_a_name_are_tried_in_their_order() {
    let (silent, count) = counting().await;
    // Nobody else can listen on it.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = bound.local_addr().unwrap().to_string();
    let (silent, server) =
        (format!("127.0.0.1:{silent}"), format!("127.0.0.1:{}", Postgres::shared().port()));
    let place = "db.example.com/postgres?sslmode=disable&connect_timeout=8";
    let first: [&[&str]; 1] = [&[&refused, &silent, &server, "127.0.0.1:1"]];
    assert!(connector(place, Network::Any, in_turn(&first)).connect().await.is_ok());
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_name_without_addresses_is_unavailable() {
    let connector = connector("db.example.com/d", Network::Any, in_turn(&[&[]]));
    let Err(ConnectError::Unavailable(text)) = connector.connect().await else { panic!("nothing is there") };
    assert!(text.ends_with("its name has no address"), "{text}");
}

#[tokio::test]
async fn a_name_of_this_machine_only_resolves_to_loopback() {
    for name in ["localhost", "db.localhost", "ip6-localhost"] {
        let connector = connector(&format!("{name}/d"), Network::Any, in_turn(&[&["10.0.0.1:5432"]]));
        let text = refusal(&connector).await;
        assert!(text.contains("a name of this machine may only resolve to loopback addresses"), "{text}");
    }
}

#[tokio::test]
async fn the_address_of_a_name_can_be_given() {
    let place = format!(
        "{HOST}:{}/postgres?hostaddr=127.0.0.1&sslrootcert={}",
        servers().good.port(),
        servers().file("ca.pem").display()
    );
    let opened = connector(&place, Network::Any, in_turn(&[])).connect().await.unwrap();
    assert_eq!(is_encrypted(opened).await, Ok(true));
}

#[tokio::test]
async fn the_resolver_of_the_system_is_used() {
    let url = Postgres::shared().url("postgres").replace("127.0.0.1", "localhost");
    let connector = Connector::new(&target(&url, Network::Private)).unwrap();
    assert_eq!(is_encrypted(connector.connect().await.unwrap()).await, Ok(false));
}
