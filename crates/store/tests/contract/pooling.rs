//! A pooler gives a server's connection to another client between two transactions. Some, such as PgBouncer 1.18, do it even if
//! the first half of the next query is on it by then, and so mix the queries of two clients up. No query may follow another before
//! the reply to that is complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use antiphon_testkit::Postgres;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::fixture::{NOW, id, patient, project, record};
use crate::postgres::open_with;

/// How long the end of a reply takes.
const DELAY: Duration = Duration::from_millis(2);

/// What a pooler sees.
#[derive(Default)]
struct Seen {
    queries: AtomicU32,
    /// Queries that came outside of a transaction while the reply to another was not complete.
    overlapping: AtomicU32,
}

/// One connection through the pooler.
#[derive(Default)]
struct Passed {
    /// Queries whose replies are not complete.
    unanswered: AtomicU32,
    is_in_transaction: AtomicBool,
}

/// Passes a database on. Returns its URL, and what is seen.
async fn watched(url: &str) -> (String, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let server = format!("127.0.0.1:{}", Postgres::shared().port());
    let watched = format!("{}?sslmode=disable", url.replace(&server, &own));
    let seen = Arc::<Seen>::default();
    let sees = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, seen) = (TcpStream::connect(&server).await.unwrap(), Arc::clone(&sees));
            tokio::spawn(pass(client, server, seen));
        }
    });
    (watched, seen)
}

async fn pass(client: TcpStream, server: TcpStream, seen: Arc<Seen>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let passed = Arc::new(Passed::default());
    let passing = Arc::clone(&passed);
    let replies = tokio::spawn(async move {
        let mut is_started = false;
        while let Some((kind, message)) = message(&mut from_server).await {
            if kind == b'Z' {
                sleep(DELAY).await;
                passing.is_in_transaction.store(message[5] != b'I', Ordering::SeqCst);
                passing.unanswered.fetch_sub(u32::from(is_started), Ordering::SeqCst);
                is_started = true;
            }
            if to_client.write_all(&message).await.is_err() {
                break;
            }
        }
    });
    let mut start = vec![0; 4];
    from_client.read_exact(&mut start).await.unwrap();
    start.resize(u32::from_be_bytes(start[..4].try_into().unwrap()) as usize, 0);
    from_client.read_exact(&mut start[4..]).await.unwrap();
    to_server.write_all(&start).await.unwrap();
    while let Some((kind, message)) = message(&mut from_client).await {
        // A simple query that does nothing comes whole.
        let is_empty = kind == b'Q' && message.len() == 6;
        let is_between = !passed.is_in_transaction.load(Ordering::SeqCst);
        if passed.unanswered.load(Ordering::SeqCst) > 0 && is_between && !is_empty && kind != b'X' {
            seen.overlapping.fetch_add(1, Ordering::SeqCst);
        }
        if matches!(kind, b'Q' | b'S') {
            passed.unanswered.fetch_add(1, Ordering::SeqCst);
            seen.queries.fetch_add(1, Ordering::SeqCst);
        }
        if to_server.write_all(&message).await.is_err() {
            break;
        }
    }
    drop(to_server);
    replies.await.unwrap();
}

/// A message of the protocol, and its type.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await.ok()?;
    message.resize(1 + u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize, 0);
    from.read_exact(&mut message[5..]).await.ok()?;
    Some((message[0], message))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_follows_another_before_its_reply_is_complete() {
    let (url, seen) = watched(&Postgres::shared_database().await).await;
    let store = open_with(&url, patient()).await.unwrap();
    store.record(record(0, None)).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..100 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let (project, load_id) = (project("p"), id(0));
            // Some are refused, as their id is taken.
            let written = store.record(record(if n % 10 == 0 { 0 } else { n }, None)).await;
            assert_eq!(written.is_err(), n % 10 == 0);
            // The callers of some are gone before the reply.
            let patience = if n % 3 == 0 { DELAY / 2 } else { Duration::MAX };
            if let Ok(loaded) = timeout(patience, store.load(&project, load_id, NOW)).await {
                assert!(loaded.unwrap().is_some());
            }
        });
    }
    tasks.join_all().await;
    assert!(seen.queries.load(Ordering::SeqCst) > 100);
    assert_eq!(seen.overlapping.load(Ordering::SeqCst), 0);
    store.close().await;
}
