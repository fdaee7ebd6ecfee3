//! In which order writers of PostgreSQL lock rows.

use antiphon_store::{ConversationLock, StoreOptions};
use antiphon_testkit::{Postgres, eventually};
use tokio_postgres::Client;

use crate::conversations::begin;
use crate::fixture::{NOW, after, id, patient, project};
use crate::postgres::{connect, open_with};

pub(crate) async fn is_a_writer_waiting(client: &Client) -> bool {
    let waiting =
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    !client.query(waiting, &[]).await.unwrap().is_empty()
}

/// The statement that locks the row of the n-th conversation.
fn lock_row(n: usize) -> String {
    format!(
        "SELECT id FROM conversations WHERE id = (SELECT id FROM conversations ORDER BY id LIMIT 1 OFFSET {n}) FOR UPDATE"
    )
}

/// If they took them as they come, two of them would deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_locks_conversations_in_the_order_of_their_ids() {
    let url = Postgres::shared_database().await;
    let store = open_with(&url, StoreOptions { write_connections: 1, ..patient() }).await.unwrap();
    let conversations = [begin(&store, 1).await, begin(&store, 2).await, begin(&store, 3).await];
    let (of_first, of_third, watching) = (connect(&url).await, connect(&url).await, connect(&url).await);
    of_first.batch_execute(&format!("BEGIN; {}", lock_row(0))).await.unwrap();
    of_third.batch_execute(&format!("BEGIN; {}", lock_row(2))).await.unwrap();
    let lock = |n: usize| {
        let (store, conversation) = (store.clone(), conversations[n].id);
        let lock = ConversationLock { project: project("p"), conversation, holder: id(n as u64).uuid() };
        async move { store.lock_conversation(&lock, 0, NOW, after(1)).await.unwrap() }
    };
    let third = tokio::spawn(lock(2));
    eventually("the writer waits for the third", async || is_a_writer_waiting(&watching).await).await;
    // What is queued meanwhile is one batch.
    let (second, first, ()) = tokio::join!(lock(1), lock(0), async {
        of_third.batch_execute("ROLLBACK").await.unwrap();
        assert!(third.await.unwrap());
        eventually("the writer waits for the first", async || is_a_writer_waiting(&watching).await).await;
        watching.batch_execute(&format!("{} NOWAIT", lock_row(1))).await.unwrap();
        of_first.batch_execute("ROLLBACK").await.unwrap();
    });
    assert!(first && second);
    store.close().await;
}
