//! URLs of both engines, accepted and refused.

mod addresses;
mod hosts;
mod postgres;
mod secrets;

use super::*;

fn parse(text: &str) -> Result<StoreUrl, StoreUrlError> {
    text.parse()
}

fn error(text: &str) -> StoreUrlError {
    parse(text).expect_err(text)
}

fn target(text: &str) -> PostgresTarget {
    match parse(text) {
        Ok(StoreUrl::Postgres(target)) => *target,
        other => panic!("{text}: {other:?}"),
    }
}

fn file(path: &str) -> Result<StoreUrl, StoreUrlError> {
    Ok(StoreUrl::Sqlite(SqliteTarget::File(path.into())))
}

#[test]
fn a_path_is_literal() {
    assert_eq!(parse("sqlite://a.db"), file("a.db"));
    assert_eq!(parse("sqlite:///var/lib/a%20b.db"), file("/var/lib/a%20b.db"));
    assert_eq!(parse("sqlite://./me@host:1/a..db?"), file("./me@host:1/a..db"));
    assert_eq!(parse("sqlite::memory:"), Ok(StoreUrl::Sqlite(SqliteTarget::Memory)));
}

#[test]
fn each_mistake_in_an_sqlite_url_has_its_own_error() {
    for text in ["sqlite://../a.db", "sqlite:///a/../b.db", "sqlite://a/.."] {
        assert_eq!(error(text), StoreUrlError::ParentSegment, "{text}");
    }
    for text in ["sqlite://", "sqlite:a.db", "sqlite:", "sqlite://:memory:"] {
        assert_eq!(error(text), StoreUrlError::NoPath, "{text}");
    }
    for text in ["sqlite://me:pw@host/a.db", "sqlite://host:5432/a", "sqlite://file:a.db"] {
        assert_eq!(error(text), StoreUrlError::Network, "{text}");
    }
    for text in ["", "a.db", "mysql://a", "SQLITE://a", "postgres:a", "postgres//u@h/d", "host=h user=u"] {
        assert_eq!(error(text), StoreUrlError::UnknownScheme, "{text}");
    }
    assert_eq!(error("sqlite://a\0b"), StoreUrlError::NulByte);
}

#[test]
fn tls_and_network_options_are_errors_on_a_sqlite_url() {
    for name in
        ["sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "host", "hostaddr", "pgbouncer"]
    {
        let text = format!("sqlite://a?{name}=x");
        assert_eq!(error(&text), StoreUrlError::NetworkOption(name.into()), "{text}");
        let text = format!("sqlite::memory:?{name}=x");
        assert_eq!(error(&text), StoreUrlError::NetworkOption(name.into()), "{text}");
    }
    assert_eq!(error("sqlite://a?mode=ro"), StoreUrlError::UnknownParameter("mode".into()));
    assert_eq!(error("sqlite://?mode=rwc&"), StoreUrlError::UnknownParameter("mode".into()));
}
