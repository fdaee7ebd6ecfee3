//! Tokens, and the request that refreshes them (RFC 6749 section 6).

use std::time::Duration;

use antiphon_store::Timestamp;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::NoToken;
use crate::config::OAuthConfig;
use crate::upstream::client::{Clients, PartsBody};

/// For the whole exchange. A server that is slower has failed; its answer, if it comes, is lost.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Where the server does not say how long a token lives.
const DEFAULT_LIFE: Duration = Duration::from_hours(1);
/// A token is refreshed this long before it expires, or when a fifth of its life is left, if that is sooner.
const LONGEST_MARGIN: Duration = Duration::from_mins(5);

/// What the server has issued, as it is kept in the store.
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
    pub fn are_due(&self, now: Timestamp) -> bool {
        now.unix_ms() >= self.refresh_at
    }

    pub fn have_expired(&self, now: Timestamp) -> bool {
        now.unix_ms() >= self.expires_at
    }

    pub fn bearer(&self) -> Result<HeaderValue, NoToken> {
        let value = HeaderValue::try_from(format!("Bearer {}", self.access));
        let mut value = value.map_err(|_| NoToken::failed("its token can't stand in a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The server's answer. What is not named here does not matter.
#[derive(Deserialize)]
struct Issued {
    access_token: String,
    /// Another one, where the server rotates them.
    refresh_token: Option<String>,
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Option<serde_json::Value>,
}

/// Trades a refresh token for an access token.
pub async fn exchange(
    clients: &Clients,
    config: &OAuthConfig,
    refresh_token: &str,
    now: Timestamp,
) -> Result<Tokens, NoToken> {
    let answer = async {
        let reply = clients.send(request(config, refresh_token)?).await;
        let reply = reply.map_err(|error| NoToken::failed(&error.to_string()))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| NoToken::failed("its answer broke off, or is too large"))?.to_bytes();
        Ok((status, body))
    };
    let answer = tokio::time::timeout(EXCHANGE_TIMEOUT, answer).await;
    let (status, body) = answer.map_err(|_| NoToken::failed("it did not answer in time"))??;
    if !status.is_success() {
        return Err(refused(status, &body));
    }
    let issued: Issued = serde_json::from_slice(&body)
        .map_err(|_| NoToken::failed("its answer is no JSON object with an access_token"))?;
    let life = issued.expires_in.filter(|seconds| *seconds > 0.0);
    let life = life.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(DEFAULT_LIFE);
    let expires_at = now.plus(life);
    let tokens = Tokens {
        access: issued.access_token,
        refresh: issued.refresh_token.unwrap_or_else(|| refresh_token.to_owned()),
        expires_at: expires_at.unix_ms(),
        refresh_at: expires_at.minus(LONGEST_MARGIN.min(life / 5)).unix_ms(),
    };
    tokens.bearer()?;
    Ok(tokens)
}

fn request(config: &OAuthConfig, refresh_token: &str) -> Result<Request<PartsBody>, NoToken> {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", refresh_token)
        .append_pair("client_id", &config.client_id);
    if let Some(secret) = &config.client_secret {
        form.append_pair("client_secret", secret.secret().expose_secret());
    }
    if let Some(scope) = &config.scope {
        form.append_pair("scope", scope);
    }
    let mut request = Request::new(PartsBody::new(vec![Bytes::from(form.finish())]));
    *request.method_mut() = Method::POST;
    let uri = config.token_url.as_str().parse();
    *request.uri_mut() = uri.map_err(|_| NoToken::failed("the token_url is no valid address"))?;
    let headers = request.headers_mut();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.extend(config.headers.iter());
    Ok(request)
}

/// A refusal is the server's last word; anything else may be over by the next time.
fn refused(status: StatusCode, body: &[u8]) -> NoToken {
    let error = serde_json::from_slice::<Refusal>(body).ok().and_then(|refusal| refusal.error);
    // Some servers put an object there. Nothing else of the answer is shown: it may quote what was sent.
    let code = match &error {
        Some(serde_json::Value::String(code)) => Some(code.as_str()),
        Some(error) => error["code"].as_str(),
        None => None,
    };
    let code = code.filter(|code| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_graphic()));
    let told =
        format!("it answered {}{}", status.as_u16(), code.map_or(String::new(), |code| format!(" {code}")));
    match status.as_u16() {
        400 | 401 | 403 if code != Some("temporarily_unavailable") => NoToken::Refused(told),
        _ => NoToken::Failed(told),
    }
}
