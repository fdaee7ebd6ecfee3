//! Errors of store URLs.

use super::network::Refusal;

/// Why a text is not a store URL. Never contains what could be a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    #[error("a store URL begins with \"sqlite://\" or \"postgres://\", or is \"sqlite::memory:\"")]
    UnknownScheme,

    #[error("an SQLite URL names a file: \"sqlite://path\", or \"sqlite::memory:\" for a database in memory")]
    NoPath,

    #[error("an SQLite path has no \"..\" in it: write the path that it leads to")]
    ParentSegment,

    #[error("a store URL holds no NUL byte")]
    NulByte,

    #[error(
        "an SQLite URL has no user, host or port; begin the path with \"./\" or \"/\" if a file is really named so"
    )]
    Network,

    #[error("an SQLite URL takes no TLS or network option such as {0:?}; it is \"sqlite://path\" alone")]
    NetworkOption(String),

    #[error("an SQLite URL takes no parameters, and {0:?} is one; it is \"sqlite://path\" alone")]
    UnknownParameter(String),

    #[error("\"@\", \"/\", \"?\" and \"#\" in a user or password are written %40, %2F, %3F and %23")]
    NotEscaped,

    #[error("a \"%\" in a PostgreSQL URL is followed by two hexadecimal digits, and the whole is UTF-8")]
    BadEscape,

    #[error("a PostgreSQL URL names a host: \"postgres://user:password@host:5432/database\"")]
    NoHost,

    #[error("a PostgreSQL URL names a user: \"postgres://user:password@host:5432/database\"")]
    NoUser,

    #[error("a PostgreSQL URL names a database: \"postgres://user:password@host:5432/database\"")]
    NoDatabase,

    #[error("a PostgreSQL URL names one host; for several, give a name or proxy that leads to the primary")]
    SeveralHosts,

    #[error(
        "the host of a PostgreSQL URL is a name, an IPv4 address, an IPv6 address in brackets, or a socket"
    )]
    BadHost,

    #[error("the host of a PostgreSQL URL has no zone (\"%\" and an interface)")]
    Zone,

    #[error("the port of a PostgreSQL URL is a number from 1 to 65535")]
    BadPort,

    #[error("a PostgreSQL URL gives its {0} twice")]
    GivenTwice(&'static str),

    #[error("{parameter} {rule}")]
    BadValue { parameter: &'static str, rule: &'static str },

    #[error("a PostgreSQL URL takes no {parameter} here: {reason}")]
    RefusedParameter { parameter: &'static str, reason: &'static str },

    #[error("a PostgreSQL URL takes no parameter {0:?}")]
    UnknownPostgresParameter(String),

    #[error("each parameter of a PostgreSQL URL is given once, and {0:?} is given again")]
    RepeatedParameter(String),

    #[error("{0} has no use: a Unix socket has no TLS")]
    TlsOnSocket(&'static str),

    #[error("{0} has no use with sslmode=disable")]
    TlsDisabled(&'static str),

    #[error("{0} has no use with sslmode=prefer, which takes any certificate and none; write verify-full")]
    TlsNotRequired(&'static str),

    #[error(
        "sslmode=verify-ca needs the file of your own authority in sslrootcert: any host has a certificate of the \
         public ones; write verify-full without it"
    )]
    NoAuthority,

    #[error("sslrootcert=system needs sslmode=verify-full: any host has a certificate of a public authority")]
    PublicAuthorities,

    #[error("sslcert and sslkey are given together")]
    HalfIdentity,

    #[error(transparent)]
    Refused(#[from] Refusal),
}
