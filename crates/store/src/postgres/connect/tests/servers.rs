//! The servers of these tests: they differ in their certificates.

use std::path::PathBuf;
use std::sync::OnceLock;

use antiphon_testkit::{Postgres, PostgresOptions};

use super::certificates::{Authority, Issued};

pub(super) const PASSWORD: &str = "hunter2";

/// `cert_user` shows a certificate, `tls_only` may not come without TLS, `outsider` not at all.
const HBA: &str = "
    hostssl all cert_user 127.0.0.1/32 cert
    hostssl all tls_only 127.0.0.1/32 scram-sha-256
    hostnossl all tls_only 127.0.0.1/32 reject
    host all outsider 127.0.0.1/32 reject
    host all all 127.0.0.1/32 scram-sha-256
";
const CONF: &str = "
    ssl = on
    ssl_cert_file = 'server.crt'
    ssl_key_file = 'server.key'
    ssl_ca_file = 'ca.crt'
    log_connections = on
";

/// The name that the certificates of both servers are for.
pub(super) const HOST: &str = "db.example.com";

pub(super) struct Servers {
    pub(super) good: Postgres,
    pub(super) expired: Postgres,
    /// Shows the certificate of an authority as its own.
    pub(super) self_signed: Postgres,
}

/// Those with TLS, made once.
pub(super) fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        // Apart from the runtime of the test that asks first.
        std::thread::scope(|scope| scope.spawn(Servers::start).join()).unwrap()
    })
}

// === impl Servers ===

impl Servers {
    fn start() -> Self {
        let authority = Authority::new("Antiphon tests");
        let good = authority.issue("server", &[HOST, "127.0.0.1"], 2100);
        let expired = authority.issue("server", &[HOST, "127.0.0.1"], 2020);
        let self_signed = authority.itself();
        let client = authority.issue("cert_user", &[], 2100);
        let other = Authority::new("Antiphon tests");
        let servers = Self {
            good: start(&authority, &good),
            expired: start(&authority, &expired),
            self_signed: start(&authority, &self_signed),
        };
        for (name, content) in [
            ("ca.pem", &authority.certificate),
            ("other.pem", &other.certificate),
            ("stranger.pem", &Authority::new("Stranger").certificate),
            ("client.pem", &client.certificate),
            ("client.key", &client.key),
            ("other.key", &good.key),
            ("empty.pem", &String::new()),
        ] {
            std::fs::write(servers.file(name), content).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for sql in [
            "CREATE ROLE cert_user LOGIN",
            "CREATE ROLE tls_only LOGIN PASSWORD 'hunter2'",
            "CREATE ROLE outsider LOGIN PASSWORD 'hunter2'",
            "CREATE ROLE reader LOGIN PASSWORD 'hunter2'",
            "ALTER ROLE reader SET default_transaction_read_only = on",
            "CREATE ROLE crowd LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0",
            "CREATE DATABASE closed",
            "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
        ] {
            runtime.block_on(servers.good.execute("postgres", sql));
        }
        servers
    }

    /// A file of the client's. It lies in a cluster's folder: a static value is never dropped, and so could not remove a
    /// folder of its own.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.good.folder().join(name)
    }
}

fn start(authority: &Authority, server: &Issued) -> Postgres {
    let files = [
        ("server.crt", &server.certificate),
        ("server.key", &server.key),
        ("ca.crt", &authority.certificate),
    ];
    Postgres::start(PostgresOptions {
        fsync: false,
        conf: CONF.into(),
        hba: Some(HBA.into()),
        password: Some(PASSWORD.into()),
        files: files.map(|(name, content)| (name.to_owned(), content.clone().into_bytes())).into(),
        ..PostgresOptions::default()
    })
}
