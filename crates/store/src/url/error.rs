//! Errors of store URLs.

use super::network::Refusal;

/// Why a text is not a store URL. Never contains what could be a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    #[error("a store URL begins with \"sqlite://\" or \"postgres://\", or is \"sqlite::memory:\"")]
    UnknownScheme,

    #[error(
        "an SQLite URL must name a file: \"sqlite://path\", or \"sqlite::memory:\" for a database in memory"
    )]
    NoPath,

    #[error("an SQLite path can't contain \"..\": write the resolved path")]
    ParentSegment,

    #[error("a store URL can't contain a NUL byte")]
    NulByte,

    #[error(
        "an SQLite URL has no user, host or port; if the file has such a name, begin the path with \"./\" or \"/\""
    )]
    Network,

    #[error("an SQLite URL takes no TLS or network option such as {0:?}; write only \"sqlite://path\"")]
    NetworkOption(String),

    #[error("an SQLite URL takes no parameter such as {0:?}; write only \"sqlite://path\"")]
    UnknownParameter(String),

    #[error("write \"@\", \"/\", \"?\" and \"#\" in a user or password as %40, %2F, %3F and %23")]
    NotEscaped,

    #[error(
        "a \"%\" in a PostgreSQL URL must begin an escape of two hexadecimal digits, and the decoded text must be UTF-8"
    )]
    BadEscape,

    #[error("a PostgreSQL URL must name a host: \"postgres://user:password@host:5432/database\"")]
    NoHost,

    #[error("a PostgreSQL URL must name a user: \"postgres://user:password@host:5432/database\"")]
    NoUser,

    #[error("a PostgreSQL URL must name a database: \"postgres://user:password@host:5432/database\"")]
    NoDatabase,

    #[error(
        "a PostgreSQL URL takes one host; for several servers, name a DNS entry or proxy for the primary"
    )]
    SeveralHosts,

    #[error(
        "the host of a PostgreSQL URL must be a name, an IPv4 address, an IPv6 address in brackets, or a socket"
    )]
    BadHost,

    #[error("the host of a PostgreSQL URL can't have a zone (\"%\" and an interface)")]
    Zone,

    #[error("the port of a PostgreSQL URL must be a number from 1 to 65535")]
    BadPort,

    #[error("a PostgreSQL URL can give its {0} only once")]
    GivenTwice(&'static str),

    #[error("{parameter} {rule}")]
    BadValue { parameter: &'static str, rule: &'static str },

    #[error("a PostgreSQL URL takes no {parameter} here: {reason}")]
    RefusedParameter { parameter: &'static str, reason: &'static str },

    #[error("a PostgreSQL URL takes no parameter {0:?}")]
    UnknownPostgresParameter(String),

    #[error("the parameter {0:?} of a PostgreSQL URL is repeated")]
    RepeatedParameter(String),

    #[error("{0} has no effect: a Unix socket has no TLS")]
    TlsOnSocket(&'static str),

    #[error("{0} has no effect with sslmode=disable")]
    TlsDisabled(&'static str),

    #[error(
        "{0} has no effect with sslmode=prefer, which accepts any certificate and no TLS; use verify-full"
    )]
    TlsNotRequired(&'static str),

    #[error(
        "sslmode=verify-ca needs your own authority in sslrootcert, because any host can get a certificate from a public \
         one; use verify-full instead"
    )]
    NoAuthority,

    #[error(
        "sslrootcert=system needs sslmode=verify-full: any host can get a certificate from a public authority"
    )]
    PublicAuthorities,

    #[error("sslcert and sslkey must be given together")]
    HalfIdentity,

    #[error(transparent)]
    Refused(#[from] Refusal),
}
