//! Tokens, and the request that refreshes them (RFC 6749 section 6).

use std::time::Duration;

use antiphon_store::Timestamp;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};

use super::NoToken;
use crate::client::{Clients, PartsBody};
use crate::settings::OAuthSettings;

/// For the whole exchange. The reply of a slower server is lost.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// If the server does not give a token's lifetime.
const DEFAULT_LIFETIME: Duration = Duration::from_hours(1);
/// A token is refreshed this long before it expires, or when a fifth of its lifetime is left, whichever is later.
const MAX_REFRESH_MARGIN: Duration = Duration::from_mins(5);

/// Issued tokens, as they are stored.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    expires_at: i64,
    refresh_at: i64,
}

// === impl Tokens ===

impl Tokens {
    /// Whether it is time to refresh them.
    pub fn need_refresh(&self, now: Timestamp) -> bool {
        now.unix_ms() >= self.refresh_at
    }

    pub fn are_expired(&self, now: Timestamp) -> bool {
        now.unix_ms() >= self.expires_at
    }

    pub fn bearer(&self) -> Result<HeaderValue, NoToken> {
        let value = HeaderValue::try_from(format!("Bearer {}", self.access));
        let mut value = value.map_err(|_| {
            NoToken::failed("the access token contains characters that are not allowed in a header")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The server's reply. Other members are ignored.
#[derive(Deserialize)]
struct TokenReply {
    access_token: String,
    /// A new one, if the server rotates them.
    refresh_token: Option<String>,
    /// A number of seconds. Some servers send it as text.
    expires_in: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ErrorReply {
    error: Option<serde_json::Value>,
}

/// Exchanges a refresh token for an access token.
pub async fn refresh_tokens(
    clients: &Clients,
    settings: &OAuthSettings,
    refresh_token: &str,
    now: Timestamp,
) -> Result<Tokens, NoToken> {
    let exchange = async {
        let reply = clients.send(request(settings, refresh_token)?, &settings.route).await;
        let reply = reply.map_err(|error| NoToken::failed(&error.to_string()))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), MAX_REPLY_BYTES).collect().await;
        let body = body.map_err(|_| NoToken::failed("the reply was cut off or is too large"))?.to_bytes();
        Ok((status, body))
    };
    let exchange = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await;
    let (status, body) = exchange.map_err(|_| NoToken::failed("no reply in time"))??;
    if !status.is_success() {
        return Err(error_from_reply(status, &body));
    }
    let issued: TokenReply = serde_json::from_slice(&body)
        .map_err(|_| NoToken::failed("the reply is not a JSON object with an access_token"))?;
    let lifetime = issued.expires_in.as_ref().and_then(duration).unwrap_or(DEFAULT_LIFETIME);
    let expires_at = now.plus(lifetime);
    let tokens = Tokens {
        access: issued.access_token,
        refresh: issued.refresh_token.unwrap_or_else(|| refresh_token.to_owned()),
        expires_at: expires_at.unix_ms(),
        refresh_at: expires_at.minus(MAX_REFRESH_MARGIN.min(lifetime / 5)).unix_ms(),
    };
    tokens.bearer()?;
    Ok(tokens)
}

/// A number of seconds, or its text.
fn duration(value: &serde_json::Value) -> Option<Duration> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

fn request(settings: &OAuthSettings, refresh_token: &str) -> Result<Request<PartsBody>, NoToken> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", refresh_token)
        .append_pair("client_id", &settings.client_id);
    if let Some(secret) = &settings.client_secret {
        form.append_pair("client_secret", secret.expose());
    }
    if let Some(scope) = &settings.scope {
        form.append_pair("scope", scope);
    }
    let mut request = Request::new(PartsBody::new(vec![Bytes::from(form.finish())]));
    *request.method_mut() = Method::POST;
    let uri = settings.token_url.as_str().parse();
    *request.uri_mut() = uri.map_err(|_| NoToken::failed("token_url is not a valid URL"))?;
    let headers = request.headers_mut();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.extend(settings.headers.clone());
    Ok(request)
}

/// A refusal is final. Any other failure may be over at the next attempt.
fn error_from_reply(status: StatusCode, body: &[u8]) -> NoToken {
    let error = serde_json::from_slice::<ErrorReply>(body).ok().and_then(|reply| reply.error);
    // Some servers put an object there. Nothing else of the reply is shown, because it may quote the request.
    let code = match &error {
        Some(serde_json::Value::String(code)) => Some(code.as_str()),
        Some(error) => error["code"].as_str(),
        None => None,
    };
    let code = code.filter(|code| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_graphic()));
    let reason =
        format!("status {}{}", status.as_u16(), code.map_or(String::new(), |code| format!(" {code}")));
    match status.as_u16() {
        400 | 401 | 403 if code != Some("temporarily_unavailable") => NoToken::Refused(reason),
        _ => NoToken::Failed(reason),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lifetime_is_a_number_or_its_text() {
        for (value, seconds) in [
            (json!(3600), Some(3600)),
            (json!(60.0), Some(60)),
            (json!("3600"), Some(3600)),
            (json!(0), None),
            (json!(-1), None),
            (json!("soon"), None),
            (json!([1]), None),
        ] {
            assert_eq!(duration(&value), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
