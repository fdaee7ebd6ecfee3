//! What a failed login means for the operator.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};
use tokio_postgres::error::DbError;

use super::ConnectError;
use crate::url::PostgresTarget;
use crate::url::tls::SslMode;

/// What poolers say with a code that says nothing, when waiting won't help.
const POOLER_REFUSALS: [&str; 5] = [
    "authentication failed",
    "no such database",
    "no such user",
    "unsupported startup parameter",
    "password",
];

/// Tells what goes away by itself from what someone must change.
pub(super) fn explain(error: &tokio_postgres::Error, target: &PostgresTarget) -> ConnectError {
    if let Some(error) = error.as_db_error() {
        return explain_answer(error, target);
    }
    if let Some(error) = tls_error(error) {
        return explain_tls(error, target);
    }
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    let unusable = |why: &str| ConnectError::Unusable(format!("{target}: {why}"));
    match (error.to_string().as_str(), cause.as_str()) {
        (_, "server does not support TLS") => {
            unusable("the server has no TLS; sslmode=disable or prefer do without it")
        }
        (_, "password missing") => unusable("the server asks for a password, and the URL has none"),
        ("authentication error", "server did not use channel binding") => {
            unusable("the server has no channel binding, which channel_binding=require asks for")
        }
        ("authentication error", _) => {
            unusable(&format!("logging in is not possible: {}", scrub(&cause, target)))
        }
        (what, "") => ConnectError::Unavailable(format!("{target}: {what}")),
        (what, _) => ConnectError::Unavailable(format!("{target}: {what}: {}", scrub(&cause, target))),
    }
}

/// The server's own words are left out where they name the user and say nothing more.
fn explain_answer(error: &DbError, target: &PostgresTarget) -> ConnectError {
    let code = error.code().code();
    let message = scrub(error.message(), target);
    let hint = match target.tls.mode {
        SslMode::Disable if code == "28000" => "; it may want TLS, which sslmode=disable forbids",
        _ => "",
    };
    match code {
        "28P01" => ConnectError::Unusable(format!("{target}: the server refuses the user or the password")),
        "3D000" => ConnectError::Unusable(format!(
            "{target}: the server has no database {:?}",
            scrub(&target.database, target)
        )),
        "42501" => ConnectError::Unusable(format!("{target}: the user may not connect: {message}")),
        _ if code.starts_with("28") => {
            ConnectError::Unusable(format!("{target}: the server lets nobody in like this: {message}{hint}"))
        }
        "08P01" if POOLER_REFUSALS.iter().any(|words| message.contains(words)) => {
            ConnectError::Unusable(format!("{target}: the pooler refuses the login: {message}"))
        }
        _ => ConnectError::Unavailable(format!("{target}: {message} ({code})")),
    }
}

fn explain_tls(error: &rustls::Error, target: &PostgresTarget) -> ConnectError {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    let why = match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            // A second authority of the same name gives the latter.
            UnknownIssuer | BadSignature => {
                "the server's certificate is from no trusted authority; sslrootcert names another".to_owned()
            }
            Expired | ExpiredContext { .. } => "the server's certificate has expired".to_owned(),
            NotValidYet | NotValidYetContext { .. } => "the server's certificate is not valid yet".to_owned(),
            NotValidForName | NotValidForNameContext { .. } => {
                format!("the server's certificate is not for {}", target.host)
            }
            other if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server shows the certificate of an authority (CA:TRUE) as its own; issue one to the server"
                    .to_owned()
            }
            other => format!("the server's certificate can't be trusted: {other}"),
        },
        rustls::Error::AlertReceived(AlertDescription::InternalError | AlertDescription::CloseNotify) => {
            return ConnectError::Unavailable(format!("{target}: the server ends TLS: {error}"));
        }
        rustls::Error::AlertReceived(_) => format!("the server ends TLS: {error}"),
        other => format!("TLS with the server is not possible: {other}"),
    };
    ConnectError::Unusable(format!("{target}: {why}"))
}

/// The error of TLS among the causes of another.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or(error.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}

/// A text of the server's without the credentials that it knows.
fn scrub(text: &str, target: &PostgresTarget) -> String {
    const REDACTED: &str = "<redacted>";
    let text = text.replace(&format!("{:?}", target.user), REDACTED);
    match &target.password {
        Some(password) => text.replace(password.as_str(), REDACTED),
        None => text,
    }
}
