//! Each `sslmode` against servers with each kind of certificate.

use super::*;

const NO_AUTHORITY: &str = "unusable: {}: the server's certificate is not from a trusted authority";
const WRONG_NAME: &str = "unusable: {}: the server's certificate is not for other.example.com";
const EXPIRED: &str = "unusable: {}: the server's certificate has expired";
const AUTHORITY_ITSELF: &str =
    "unusable: {}: the server uses the certificate of an authority (CA:TRUE) as its own";
const NO_TLS: &str = "unusable: {}: the server does not support TLS";
const NO_BINDING: &str = "unusable: {}: the server does not support channel binding";

/// For each host and parameters, expects how the result begins. `{}` stands for the URL without credentials.
async fn expect(server: &Postgres, cases: &[(&str, &str, &str)]) {
    for (host, parameters, expected) in cases {
        let mut parameters = (*parameters).to_owned();
        for name in ["ca.pem", "other.pem", "stranger.pem", "client.pem", "client.key"] {
            parameters = parameters.replace(name, servers().file(name).to_str().unwrap());
        }
        let url = format!("postgres://postgres:{PASSWORD}@{host}:{}/postgres?{parameters}", server.port());
        let shown = target(&url, Network::Any).to_string();
        let answer = answer(&url).await;
        assert!(answer.starts_with(&expected.replace("{}", &shown)), "{host} {parameters}: {answer}");
    }
}

#[tokio::test]
async fn a_server_with_a_good_certificate_is_accepted_in_every_mode_that_trusts_its_authority() {
    expect(
        &servers().good,
        &[
            (HOST, "sslmode=disable", "plain"),
            (HOST, "sslmode=prefer", "encrypted"),
            (HOST, "sslmode=require", "encrypted"),
            (HOST, "sslmode=require&sslrootcert=ca.pem", "encrypted"),
            (HOST, "sslmode=require&sslrootcert=stranger.pem", NO_AUTHORITY),
            (HOST, "sslmode=verify-ca&sslrootcert=ca.pem", "encrypted"),
            (HOST, "sslmode=verify-ca&sslrootcert=stranger.pem", NO_AUTHORITY),
            (HOST, "sslmode=verify-ca&sslrootcert=other.pem", NO_AUTHORITY),
            (HOST, "sslmode=verify-full&sslrootcert=ca.pem", "encrypted"),
            (HOST, "sslmode=verify-full&sslrootcert=stranger.pem", NO_AUTHORITY),
            (HOST, "sslmode=verify-full&sslrootcert=other.pem", NO_AUTHORITY),
            (HOST, "sslmode=verify-full&sslrootcert=system", NO_AUTHORITY),
            (HOST, "sslmode=verify-full", NO_AUTHORITY),
            (HOST, "", NO_AUTHORITY),
            (HOST, "sslrootcert=ca.pem", "encrypted"),
            (HOST, "sslrootcert=ca.pem&ssl_min_protocol_version=TLSv1.3", "encrypted"),
            ("DB.example.com.", "sslrootcert=ca.pem", "encrypted"),
            ("127.0.0.1", "sslrootcert=ca.pem", "encrypted"),
            ("127.0.0.1", "", "encrypted"),
            ("localhost", "", "encrypted"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_where_the_mode_checks_names() {
    let other = "other.example.com";
    expect(
        &servers().good,
        &[
            (other, "sslmode=verify-full&sslrootcert=ca.pem", WRONG_NAME),
            (other, "sslrootcert=ca.pem", WRONG_NAME),
            (other, "sslmode=verify-ca&sslrootcert=ca.pem", "encrypted"),
            (other, "sslmode=verify-ca&sslrootcert=stranger.pem", NO_AUTHORITY),
            (other, "sslmode=require&sslrootcert=ca.pem", "encrypted"),
            (other, "sslmode=require", "encrypted"),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_where_the_mode_checks_certificates() {
    expect(
        &servers().expired,
        &[
            (HOST, "sslmode=verify-full&sslrootcert=ca.pem", EXPIRED),
            (HOST, "sslmode=verify-ca&sslrootcert=ca.pem", EXPIRED),
            (HOST, "sslmode=require&sslrootcert=ca.pem", EXPIRED),
            (HOST, "sslmode=require", "encrypted"),
            (HOST, "sslmode=prefer", "encrypted"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_certificate_of_an_authority_is_no_certificate_of_a_server() {
    expect(
        &servers().self_signed,
        &[
            (HOST, "sslmode=verify-full&sslrootcert=ca.pem", AUTHORITY_ITSELF),
            (HOST, "sslmode=verify-ca&sslrootcert=ca.pem", AUTHORITY_ITSELF),
            (HOST, "sslmode=require", "encrypted"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_unless_the_mode_allows_it() {
    let server = Postgres::shared();
    expect(
        server,
        &[
            (HOST, "sslmode=disable", "plain"),
            (HOST, "sslmode=prefer", "plain"),
            ("127.0.0.1", "", "plain"),
            (HOST, "sslmode=require", NO_TLS),
            (HOST, "sslmode=verify-ca&sslrootcert=ca.pem", NO_TLS),
            (HOST, "sslmode=verify-full&sslrootcert=ca.pem", NO_TLS),
            (HOST, "", NO_TLS),
            (HOST, "sslmode=prefer&channel_binding=require", NO_BINDING),
        ],
    )
    .await;
    assert_eq!(answer(&server.socket_url("postgres")).await, "plain");
}

#[tokio::test]
async fn channel_binding_is_used_and_can_be_required() {
    expect(
        &servers().good,
        &[
            (HOST, "sslmode=require&channel_binding=require", "encrypted"),
            (HOST, "sslrootcert=ca.pem&channel_binding=require", "encrypted"),
            (HOST, "sslmode=require&channel_binding=disable", "encrypted"),
            (HOST, "sslmode=require&channel_binding=require&pgbouncer=true", "encrypted"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_client_certificate_is_sent_when_the_server_asks_for_one() {
    let (servers, port) = (servers(), servers().good.port());
    let file = |name| servers.file(name).display().to_string();
    let url = format!("postgres://cert_user@{HOST}:{port}/postgres?sslrootcert={}", file("ca.pem"));
    let with = format!("{url}&sslcert={}&sslkey={}", file("client.pem"), file("client.key"));
    assert_eq!(answer(&with).await, "encrypted");
    let without = answer(&url).await;
    assert!(without.contains("rejects the login") && without.contains("certificate"), "{without}");
}

#[tokio::test]
async fn unusable_files_are_reported_before_connecting() {
    let file = |name| servers().file(name).display().to_string();
    for (parameters, expected) in [
        (format!("sslrootcert={}", file("missing.pem")), "sslrootcert"),
        (format!("sslrootcert={}", file("empty.pem")), "sslrootcert"),
        (format!("sslrootcert={}", file("client.key")), "sslrootcert"),
        (format!("sslcert={}&sslkey={}", file("missing.pem"), file("client.key")), "sslcert"),
        (format!("sslcert={}&sslkey={}", file("client.pem"), file("client.pem")), "sslkey"),
        (format!("sslcert={}&sslkey={}", file("client.pem"), file("other.key")), "can't be used together"),
    ] {
        let url = format!("postgres://u:{PASSWORD}@{HOST}/d?{parameters}");
        match Connector::new(&target(&url, Network::Any)).err() {
            Some(StoreError::Unusable(text)) => assert!(text.contains(expected), "{parameters}: {text}"),
            other => panic!("{parameters}: {other:?}"),
        }
    }
}
