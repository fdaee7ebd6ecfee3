//! Explains a failed login to the operator.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};
use tokio_postgres::error::DbError;

use super::ConnectError;
use crate::url::PostgresTarget;
use crate::url::tls::SslMode;

/// Messages of poolers that waiting won't fix, and whose code tells nothing.
const POOLER_REFUSALS: [&str; 5] = [
    "authentication failed",
    "no such database",
    "no such user",
    "unsupported startup parameter",
    "password",
];

/// Separates what passes by itself from what an operator must change.
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
            unusable("the server does not support TLS; sslmode=disable or prefer works without it")
        }
        (_, "password missing") => unusable("the server wants a password, and the URL has none"),
        ("authentication error", "server did not use channel binding") => {
            unusable("the server does not support channel binding, which channel_binding=require asks for")
        }
        ("authentication error", _) => unusable(&format!("the login failed: {}", scrub(&cause, target))),
        (what, "") => ConnectError::Unavailable(format!("{target}: {what}")),
        (what, _) => ConnectError::Unavailable(format!("{target}: {what}: {}", scrub(&cause, target))),
    }
}

/// Omits the server's message where it would only name the user.
fn explain_answer(error: &DbError, target: &PostgresTarget) -> ConnectError {
    let code = error.code().code();
    let message = scrub(error.message(), target);
    let hint = match target.tls.mode {
        SslMode::Disable if code == "28000" => "; the server may require TLS, which sslmode=disable forbids",
        _ => "",
    };
    match code {
        "28P01" => ConnectError::Unusable(format!(
            "{target}: the server rejects the user or the password; correct them in the URL"
        )),
        "3D000" => ConnectError::Unusable(format!(
            "{target}: the server has no database {:?}; create it, or correct the URL",
            scrub(&target.database, target)
        )),
        "42501" => ConnectError::Unusable(format!("{target}: the user may not connect: {message}")),
        _ if code.starts_with("28") => {
            ConnectError::Unusable(format!("{target}: the server rejects the login: {message}{hint}"))
        }
        "08P01" if POOLER_REFUSALS.iter().any(|words| message.contains(words)) => {
            ConnectError::Unusable(format!("{target}: the pooler rejects the login: {message}"))
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
            // Another authority with the same name causes the latter.
            UnknownIssuer | BadSignature => {
                "the server's certificate is not from a trusted authority; name its authority with sslrootcert".to_owned()
            }
            Expired | ExpiredContext { .. } => "the server's certificate has expired".to_owned(),
            NotValidYet | NotValidYetContext { .. } => "the server's certificate is not valid yet".to_owned(),
            NotValidForName | NotValidForNameContext { .. } => {
                format!("the server's certificate is not for {}", target.host)
            }
            other if other.to_string().contains("CaUsedAsEndEntity") => {
                "the server uses the certificate of an authority (CA:TRUE) as its own; issue one for the server"
                    .to_owned()
            }
            other => format!("the server's certificate can't be trusted: {other}"),
        },
        rustls::Error::AlertReceived(AlertDescription::InternalError | AlertDescription::CloseNotify) => {
            return ConnectError::Unavailable(format!("{target}: the server aborted TLS: {error}"));
        }
        rustls::Error::AlertReceived(_) => format!("the server aborted TLS: {error}"),
        other => format!("TLS with the server failed: {other}"),
    };
    ConnectError::Unusable(format!("{target}: {why}"))
}

/// The TLS error among the causes of an error.
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

/// Redacts the credentials that a message of the server could contain.
fn scrub(text: &str, target: &PostgresTarget) -> String {
    const REDACTED: &str = "<redacted>";
    let text = text.replace(&format!("{:?}", target.user), REDACTED);
    match &target.password {
        Some(password) => text.replace(password.as_str(), REDACTED),
        None => text,
    }
}
