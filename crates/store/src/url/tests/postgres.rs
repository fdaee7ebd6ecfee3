//! What else is in a PostgreSQL URL: login, database, and each parameter.

use std::time::Duration;

use super::super::host::Host;
use super::super::tls::{ChannelBinding, Roots, SslMode};
use super::*;

/// A URL with these parameters whose host is on the internet.
fn with(parameters: &str) -> String {
    format!("postgres://u:p@db.example.com/d?{parameters}")
}

#[test]
fn the_parts_are_decoded() {
    let target = target("postgresql://me%40work:p%3Aw%2F%25%20+@db:6432/my%20db");
    assert_eq!(target.user, "me@work");
    assert_eq!(target.password.as_deref(), Some("p:w/% +"));
    assert_eq!(target.database, "my db");
    assert_eq!(target.port, 6432);
    assert_eq!(target.host, Host::Name("db".into()));
    assert_eq!(target.to_string(), "postgres://db:6432/my%20db");
    assert_eq!(target.application_name, "antiphon");
    assert_eq!(target.connect_timeout, Duration::from_secs(10));
    assert!(!target.must_write);
    assert_eq!(format!("{target:?}"), "PostgresTarget(postgres://db:6432/my%20db)");
}

#[test]
fn a_part_may_be_given_once_as_a_parameter() {
    let all = target("postgres://?host=/run/pg&port=5433&user=u&password=p&dbname=d&application_name=a");
    assert_eq!(all.to_string(), "postgres://%2Frun%2Fpg:5433/d");
    assert_eq!(
        (all.user.as_str(), all.password.as_deref(), all.application_name.as_str()),
        ("u", Some("p"), "a")
    );
    for (text, expected) in [
        ("postgres://u:p@h:1/d?port=1", StoreUrlError::GivenTwice("port")),
        ("postgres://u:p@h/d?user=u", StoreUrlError::GivenTwice("user")),
        ("postgres://u:p@h/d?password=p", StoreUrlError::GivenTwice("password")),
        ("postgres://u:p@h/d?dbname=d", StoreUrlError::GivenTwice("database")),
        ("postgres://u:p@h/d?host=h", StoreUrlError::GivenTwice("host")),
        ("postgres://u@h/d?port=1,2", StoreUrlError::SeveralHosts),
        (
            "postgres://u@h/d?sslmode=require&sslmode=require",
            StoreUrlError::RepeatedParameter("sslmode".into()),
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn missing_and_unescaped_parts_are_errors() {
    for (text, expected) in [
        ("postgres://", StoreUrlError::NoHost),
        ("postgres://u@/d", StoreUrlError::NoHost),
        ("postgres://h/d", StoreUrlError::NoUser),
        ("postgres://:p@h/d", StoreUrlError::NoUser),
        ("postgres://u@h", StoreUrlError::NoDatabase),
        ("postgres://u@h/", StoreUrlError::NoDatabase),
        ("postgres://u@h?sslmode=require", StoreUrlError::NoDatabase),
        ("postgres://u:a@b@h/d", StoreUrlError::NotEscaped),
        ("postgres://u:a/b@h/d", StoreUrlError::NotEscaped),
        ("postgres://u:a?b@h/d", StoreUrlError::NotEscaped),
        ("postgres://u:a#b@h/d", StoreUrlError::NotEscaped),
        ("postgres://u@h/d#f", StoreUrlError::NotEscaped),
        ("postgres://u@h/d/e", StoreUrlError::NotEscaped),
        ("postgres://u:a%b@h/d", StoreUrlError::BadEscape),
        ("postgres://u:a\0@h/d", StoreUrlError::NulByte),
        ("postgres://u:a%00@h/d", StoreUrlError::NulByte),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn tls_is_verified_in_full_unless_the_server_is_on_this_machine() {
    for (place, mode) in [
        ("db.example.com/d", SslMode::VerifyFull),
        ("db/d", SslMode::VerifyFull),
        ("10.0.0.1/d", SslMode::VerifyFull),
        ("[::ffff:10.0.0.1]/d", SslMode::VerifyFull),
        ("localhost.example.com/d", SslMode::VerifyFull),
        ("localhost/d", SslMode::Prefer),
        ("db.localhost/d", SslMode::Prefer),
        ("127.1/d", SslMode::Prefer),
        ("[::1]/d", SslMode::Prefer),
        ("[::ffff:127.0.0.1]/d", SslMode::Prefer),
        ("localhost/d?sslrootcert=ca.pem", SslMode::VerifyFull),
        ("localhost/d?sslnegotiation=direct", SslMode::VerifyFull),
        ("localhost/d?hostaddr=10.0.0.1", SslMode::VerifyFull),
        ("%2Frun/d", SslMode::Disable),
        ("%2Frun/d?sslmode=prefer", SslMode::Disable),
        ("/d?host=/run", SslMode::Disable),
        ("db/d?sslmode=disable", SslMode::Disable),
        ("db/d?sslmode=prefer", SslMode::Prefer),
        ("db/d?sslmode=require", SslMode::Require),
        ("db/d?sslmode=verify-ca&sslrootcert=ca.pem", SslMode::VerifyCa),
        ("db/d?sslmode=verify-full", SslMode::VerifyFull),
    ] {
        assert_eq!(target(&format!("postgres://u:p@{place}")).tls.mode, mode, "{place}");
    }
}

#[test]
fn parameters_that_matter_are_honoured() {
    let tls = |parameters: &str| target(&with(parameters)).tls;
    assert_eq!(tls("sslrootcert=/etc/my%20ca.pem").roots, Roots::File("/etc/my ca.pem".into()));
    assert_eq!(tls("sslrootcert=system").roots, Roots::System);
    assert!(tls("sslmode=require&sslrootcert=ca.pem").verifies());
    assert!(!tls("sslmode=require").verifies());
    let identity = tls("sslcert=c.pem&sslkey=k.pem").identity.unwrap();
    assert_eq!((identity.certificate, identity.key), ("c.pem".into(), "k.pem".into()));
    assert_eq!(tls("").channel_binding, ChannelBinding::Prefer);
    assert_eq!(tls("sslmode=require&channel_binding=require").channel_binding, ChannelBinding::Require);
    assert_eq!(tls("channel_binding=disable").channel_binding, ChannelBinding::Disable);
    assert!(tls("sslnegotiation=direct").is_direct && !tls("sslnegotiation=postgres").is_direct);
    assert!(
        tls("ssl_min_protocol_version=TLSv1.3").is_1_3 && !tls("ssl_min_protocol_version=TLSv1.2").is_1_3
    );
    assert_eq!(target(&with("connect_timeout=3")).connect_timeout, Duration::from_secs(3));
    assert!(target(&with("target_session_attrs=read-write")).must_write);
    assert!(!target(&with("target_session_attrs=any")).must_write);
    assert_eq!(target(&with("keepalives=0")).keepalive, None);
    let parameters = "keepalives=1&keepalives_idle=5&keepalives_interval=6&keepalives_count=7";
    let keepalive = target(&with(parameters)).keepalive.unwrap();
    let seconds = (keepalive.idle.as_secs(), keepalive.interval.as_secs(), keepalive.count);
    assert_eq!(seconds, (5, 6, 7));
    assert_eq!(target(&with("hostaddr=1.1.1.1")).address, Some("1.1.1.1".parse().unwrap()));
}

#[test]
fn parameters_without_effect_are_accepted() {
    for parameters in [
        "",
        "&",
        "pgbouncer=true",
        "pgbouncer=false",
        "prepared_statements=false",
        "statement_cache_size=0",
        "gssencmode=disable",
        "gssencmode=prefer",
        "sslcompression=0",
        "sslsni=1",
        "load_balance_hosts=disable",
        "client_encoding=UTF8",
        "supa=base-pooler.x",
        "uselibpqcompat=true&sslmode=require",
        "sslmode=require&channel_binding=require",
        "sslmode=require&pgbouncer=true&connect_timeout=15",
    ] {
        assert!(parse(&with(parameters)).is_ok(), "{parameters}");
    }
}

#[test]
fn parameters_that_cannot_be_honoured_are_refused_by_name() {
    for name in [
        "options",
        "ssl",
        "sslaccept",
        "sslcrl",
        "sslcrldir",
        "sslpassword",
        "sslcertmode",
        "ssl_max_protocol_version",
        "passfile",
        "service",
        "servicefile",
        "require_auth",
        "requirepeer",
        "replication",
        "schema",
        "search_path",
        "connection_limit",
        "pool_timeout",
        "krbsrvname",
        "gsslib",
        "tcp_user_timeout",
        "statement_timeout",
    ] {
        match error(&with(&format!("{name}=1"))) {
            StoreUrlError::RefusedParameter { parameter, .. } => assert_eq!(parameter, name),
            other => panic!("{name}: {other}"),
        }
    }
    for (parameters, name) in [("nonsense=1", "nonsense"), ("SSLMODE=require", "SSLMODE"), ("a%3Cb", "…")] {
        let expected = StoreUrlError::UnknownPostgresParameter(name.into());
        assert_eq!(error(&with(parameters)), expected, "{parameters}");
    }
    for (parameters, name) in [
        ("sslmode=allow", "sslmode"),
        ("sslmode=", "sslmode"),
        ("sslmode=VERIFY-FULL", "sslmode"),
        ("sslrootcert=", "sslrootcert"),
        ("channel_binding=yes", "channel_binding"),
        ("sslnegotiation=maybe", "sslnegotiation"),
        ("ssl_min_protocol_version=TLSv2", "ssl_min_protocol_version"),
        ("pgbouncer=yes", "pgbouncer"),
        ("prepared_statements=1", "prepared_statements"),
        ("statement_cache_size=x", "statement_cache_size"),
        ("gssencmode=require", "gssencmode"),
        ("sslcompression=1", "sslcompression"),
        ("sslsni=0", "sslsni"),
        ("load_balance_hosts=random", "load_balance_hosts"),
        ("client_encoding=latin1", "client_encoding"),
        ("connect_timeout=0", "connect_timeout"),
        ("connect_timeout=-1", "connect_timeout"),
        ("connect_timeout=3601", "connect_timeout"),
        ("target_session_attrs=standby", "target_session_attrs"),
        ("target_session_attrs=read-only", "target_session_attrs"),
        ("keepalives=2", "keepalives"),
        ("keepalives_idle=0", "keepalives_idle"),
        ("keepalives_interval=x", "keepalives_interval"),
        ("keepalives_count=1000", "keepalives_count"),
        ("hostaddr=other.example.com", "hostaddr"),
    ] {
        match error(&with(parameters)) {
            StoreUrlError::BadValue { parameter, .. } => assert_eq!(parameter, name, "{parameters}"),
            other => panic!("{parameters}: {other}"),
        }
    }
}

#[test]
fn parameters_that_contradict_each_other_are_refused() {
    for (rest, expected) in [
        ("db/d?sslmode=disable&sslrootcert=ca.pem", StoreUrlError::TlsDisabled("sslrootcert")),
        ("db/d?sslmode=disable&sslcert=c&sslkey=k", StoreUrlError::TlsDisabled("sslcert")),
        (
            "db/d?sslmode=disable&channel_binding=require",
            StoreUrlError::TlsDisabled("channel_binding=require"),
        ),
        ("db/d?sslmode=disable&sslnegotiation=direct", StoreUrlError::TlsDisabled("sslnegotiation=direct")),
        ("db/d?sslmode=prefer&sslrootcert=ca.pem", StoreUrlError::TlsNotRequired("sslrootcert")),
        ("db/d?sslmode=prefer&sslnegotiation=direct", StoreUrlError::TlsNotRequired("sslnegotiation=direct")),
        ("%2Frun/d?sslmode=require", StoreUrlError::TlsOnSocket("sslmode")),
        ("%2Frun/d?sslmode=verify-full", StoreUrlError::TlsOnSocket("sslmode")),
        ("%2Frun/d?sslrootcert=ca.pem", StoreUrlError::TlsOnSocket("sslrootcert")),
        ("%2Frun/d?sslmode=prefer&sslkey=k", StoreUrlError::TlsOnSocket("sslkey")),
        ("db/d?sslmode=verify-ca", StoreUrlError::NoAuthority),
        ("db/d?sslmode=verify-ca&sslrootcert=system", StoreUrlError::PublicAuthorities),
        ("db/d?sslmode=require&sslrootcert=system", StoreUrlError::PublicAuthorities),
        ("db/d?sslcert=c.pem", StoreUrlError::HalfIdentity),
        ("db/d?sslkey=k.pem", StoreUrlError::HalfIdentity),
        ("db/d?sslcert=&sslkey=k.pem", StoreUrlError::HalfIdentity),
    ] {
        assert_eq!(error(&format!("postgres://u:p@{rest}")), expected, "{rest}");
    }
}
