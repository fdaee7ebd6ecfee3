//! A replica that falls silent in a transaction, as when its machine or the network to it stands still.

use std::time::Duration;

use antiphon_store::{StoreError, StoreOptions};
use antiphon_testkit::{Postgres, eventually};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::fixture::{NOW, id, patient, project, record};
use crate::locking::is_a_writer_waiting;
use crate::postgres::{connect, open_with, recovered};

/// Passes a database on, unless the sender says that it is silent. Returns its URL.
async fn passed_on(url: &str) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let server = format!("127.0.0.1:{}", Postgres::shared().port());
    let passed = format!("{}?sslmode=disable", url.replace(&server, &own));
    let (silence, is_silent) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (from_server, to_server) = TcpStream::connect(&server).await.unwrap().into_split();
            let (from_client, to_client) = client.into_split();
            tokio::spawn(pass(from_client, to_server, is_silent.clone()));
            tokio::spawn(pass(from_server, to_client, is_silent.clone()));
        }
    });
    (passed, silence)
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_silent: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        let goes_on = is_silent.wait_for(|is_silent| !is_silent).await.is_ok();
        if !goes_on || read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_write_soon_what_a_silent_replica_has_locked() {
    let url = Postgres::shared_database().await;
    let (passed, silence) = passed_on(&url).await;
    let options = StoreOptions { commit_timeout: Duration::from_secs(12), ..patient() };
    let (silent, other) =
        (open_with(&passed, options).await.unwrap(), open_with(&url, patient()).await.unwrap());
    other.record(record(1, None)).await.unwrap();
    let (locking, watching) = (connect(&url).await, connect(&url).await);
    locking.batch_execute("BEGIN; SELECT id FROM responses FOR UPDATE").await.unwrap();
    let deleting = {
        let silent = silent.clone();
        tokio::spawn(async move { silent.delete(&project("p"), id(1), NOW).await })
    };
    eventually("the replica waits for the response", async || is_a_writer_waiting(&watching).await).await;
    silence.send_replace(true);
    locking.batch_execute("COMMIT").await.unwrap();
    let deleted = timeout(Duration::from_secs(90), other.delete(&project("p"), id(1), NOW)).await;
    assert!(deleted.expect("the server ends the transaction of the silent replica").unwrap());
    silence.send_replace(false);
    // It gives up, or does it again on another connection.
    let outcome = deleting.await.unwrap();
    let is_in_vain = matches!(outcome, Ok(false) | Err(StoreError::Unavailable(_) | StoreError::Deadline(_)));
    assert!(is_in_vain, "{outcome:?}");
    recovered(&silent).await;
}
