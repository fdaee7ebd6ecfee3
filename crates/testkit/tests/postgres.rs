//! The throw-away cluster itself.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use antiphon_testkit::{Postgres, PostgresOptions, SharedDatabase, eventually};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

async fn count(url: &str) -> i64 {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_killed_cluster_comes_back_with_what_was_committed_and_leaves_nothing() {
    let mut cluster = Postgres::start(PostgresOptions::default());
    let url = cluster.create_database("a").await;
    cluster.execute("a", "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)").await;
    assert_eq!(count(&url).await, 2);
    cluster.kill9();
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
    cluster.restart();
    assert_eq!(count(&url).await, 2);
    cluster.stop();
    cluster.restart();
    assert_eq!(count(&cluster.socket_url("a")).await, 2);
    let folder = cluster.socket_folder();
    assert!(folder.exists());
    drop(cluster);
    assert!(!folder.exists());
    assert!(tokio_postgres::connect(&url, NoTls).await.is_err());
}

#[tokio::test]
async fn a_password_is_asked_for_where_the_options_say_so() {
    let cluster = Postgres::start(PostgresOptions {
        fsync: false,
        hba: Some("host all all 127.0.0.1/32 scram-sha-256".into()),
        password: Some("hunter2".into()),
        ..PostgresOptions::default()
    });
    let url = cluster.create_database("a").await;
    assert!(tokio_postgres::connect(&url, NoTls).await.is_ok());
    assert!(tokio_postgres::connect(&url.replace("hunter2", "wrong"), NoTls).await.is_err());
}

#[tokio::test]
async fn shared_databases_are_apart() {
    let (one, other) = tokio::join!(Postgres::shared_database(), Postgres::shared_database());
    assert_ne!(one, other);
    let (client, connection) = tokio_postgres::connect(&one, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let (client, connection) = tokio_postgres::connect(&other, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
}

#[tokio::test]
async fn the_database_of_a_test_is_removed_after_it() {
    let database = SharedDatabase::create().await;
    let url = database.url().to_owned();
    let (client, _connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    drop(database);
    eventually("the database is removed", async || {
        let refused = tokio_postgres::connect(&url, NoTls).await.err();
        refused.is_some_and(|error| error.code() == Some(&SqlState::UNDEFINED_DATABASE))
    })
    .await;
    drop(client);
}
