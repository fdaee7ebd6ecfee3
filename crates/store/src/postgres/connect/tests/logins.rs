//! The errors of failed logins, and whether a login may succeed later.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use super::*;

#[tokio::test]
async fn each_failed_login_has_its_own_error() {
    let port = servers().good.port();
    let parameters = "sslmode=require";
    for (login, database, parameters, expected) in [
        ("postgres:hunter2", "postgres", parameters, "encrypted"),
        (
            "postgres:wrong",
            "postgres",
            parameters,
            "unusable: {}: the server rejects the user or the password",
        ),
        (
            "nobody:hunter2",
            "postgres",
            parameters,
            "unusable: {}: the server rejects the user or the password",
        ),
        (
            "postgres",
            "postgres",
            parameters,
            "unusable: {}: the server wants a password, and the URL has none",
        ),
        ("postgres:hunter2", "missing", parameters, "unusable: {}: the server has no database \"missing\""),
        ("reader:hunter2", "closed", parameters, "unusable: {}: the user may not connect: permission denied"),
        ("outsider:hunter2", "postgres", parameters, "unusable: {}: the server rejects the login: pg_hba"),
        ("tls_only:hunter2", "postgres", parameters, "encrypted"),
        ("tls_only:hunter2", "postgres", "sslmode=disable", "unusable: {}: the server rejects the login"),
        ("crowd:hunter2", "postgres", parameters, "unavailable: {}: too many connections for role"),
        ("reader:hunter2", "postgres", "sslmode=require&target_session_attrs=any", "encrypted"),
        (
            "reader:hunter2",
            "postgres",
            "sslmode=require&target_session_attrs=read-write",
            "unavailable: {}: it can't write now",
        ),
        ("postgres:hunter2", "postgres", "sslmode=require&target_session_attrs=read-write", "encrypted"),
    ] {
        let url = format!("postgres://{login}@{HOST}:{port}/{database}?{parameters}");
        let expected = expected.replace("{}", &target(&url, Network::Any).to_string());
        let answer = answer(&url).await;
        assert!(answer.starts_with(&expected), "{login} {database} {parameters}: {answer}");
    }
    let url = format!("postgres://tls_only:hunter2@{HOST}:{port}/postgres?sslmode=disable");
    assert!(answer(&url).await.ends_with("the server may require TLS, which sslmode=disable forbids"));
}

#[tokio::test]
async fn errors_do_not_contain_user_names() {
    let port = servers().good.port();
    for (user, parameters) in
        [("outsider", "sslmode=require"), ("tls_only", "sslmode=disable"), ("crowd", "")]
    {
        let url = format!("postgres://{user}:hunter2@127.0.0.1:{port}/postgres?{parameters}");
        let answer = answer(&url).await;
        assert!(answer.contains("<redacted>") && !answer.contains(user), "{answer}");
    }
}

#[tokio::test]
async fn the_server_sees_the_application_name() {
    let url = Postgres::shared().url("postgres");
    for (url, expected) in [(url.clone(), "antiphon"), (format!("{url}?application_name=mine"), "mine")] {
        let connector = Connector::new(&target(&url, Network::Any)).unwrap();
        let opened = connector.connect().await.unwrap();
        let driven = tokio::spawn(opened.driver);
        let name: String = opened.client.query_one("SHOW application_name", &[]).await.unwrap().get(0);
        assert_eq!(name, expected);
        drop(opened.client);
        driven.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_missing_server_is_unavailable() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Nobody else can listen on it.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = bound.local_addr().unwrap().port();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (silent_port, closing_port) = (port(&silent), port(&closing));
    tokio::spawn(async move {
        while let Ok((stream, _)) = closing.accept().await {
            drop(stream);
        }
    });
    for (place, expected) in [
        (format!("127.0.0.1:{free}/d"), "can't be reached: Connection refused"),
        (format!("127.0.0.1:{silent_port}/d?connect_timeout=1"), "no connection within 1s"),
        (format!("127.0.0.1:{closing_port}/d"), "error communicating with the server"),
        ("%2Fnowhere/d".to_owned(), "can't be reached: No such file"),
    ] {
        let answer = answer(&format!("postgres://u:hunter2@{place}")).await;
        assert!(answer.starts_with("unavailable: ") && answer.contains(expected), "{place}: {answer}");
    }
}

/// A server that replies to every login with one error.
async fn refusing(code: &str, message: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    let mut answer = vec![b'E'];
    answer.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
    answer.extend_from_slice(fields.as_bytes());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(&answer).await;
        }
    });
    port
}

#[tokio::test]
async fn passing_failures_are_unavailable_and_lasting_ones_unusable() {
    for (code, message, expected) in [
        (
            "57P03",
            "the database system is starting up",
            "unavailable: {}: the database system is starting up",
        ),
        ("57P01", "terminating connection", "unavailable: {}: terminating connection (57P01)"),
        (
            "53300",
            "sorry, too many clients already",
            "unavailable: {}: sorry, too many clients already (53300)",
        ),
        ("08P01", "no more connections allowed", "unavailable: {}: no more connections allowed (08P01)"),
        ("08P01", "no such database: d", "unusable: {}: the pooler rejects the login: no such database: d"),
        ("08P01", "SASL authentication failed", "unusable: {}: the pooler rejects the login: SASL"),
        ("XX000", "for \"me\" with hunter2", "unavailable: {}: for <redacted> with <redacted> (XX000)"),
        ("28000", "for \"me\" with hunter2", "unusable: {}: the server rejects the login: for <redacted>"),
        ("3D000", "no hunter2", "unusable: {}: the server has no database \"d\""),
    ] {
        let url =
            format!("postgres://me:hunter2@127.0.0.1:{}/d?sslmode=disable", refusing(code, message).await);
        let expected = expected.replace("{}", &target(&url, Network::Any).to_string());
        let answer = answer(&url).await;
        assert!(answer.starts_with(&expected), "{code} {message}: {answer}");
    }
}
