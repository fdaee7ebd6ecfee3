//! Finding out which API an account's upstream speaks, without a request that costs anything.

use std::time::Duration;

use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::json;
use antiphon_protocol::request::Operation;
use antiphon_store::Timestamp;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};

use super::{CatalogError, Upstream};
use crate::account::{Account, Server};
use crate::client::PartsBody;
use crate::dialect::Dialect;

/// For all requests of a search together, because a turn waits for it; for an empty turn of a test as well.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);

/// What an upstream has.
type Found = (Option<Server>, bool);

impl Upstream {
    /// Finds out which API the account's upstream speaks, unless that is known. Concurrent callers wait for the first.
    pub async fn find_api(&self, account: &Account, now: Timestamp) {
        let Some(search) = account.api.begin_search(now).await else { return };
        let found = tokio::time::timeout(SEARCH_TIMEOUT, self.search(account)).await;
        match found.unwrap_or(Err(CatalogError::Timeout)) {
            Ok((server, has_responses)) => {
                let found = search.finish(server, has_responses);
                let (api, server) = (found.dialect.as_str(), server.map_or("unknown", Server::as_str));
                tracing::info!(account.id = %account.name, api, server, "found out the upstream's API");
            }
            Err(error) => {
                search.fail(now);
                let account = &account.name;
                tracing::warn!(account.id = %account, %error, "could not find out the upstream's API; assuming responses");
            }
        }
    }

    /// Recognizes the server by what it lists, or else asks for a response to an empty request.
    async fn search(&self, account: &Account) -> Result<Found, CatalogError> {
        let server = match self.list_models(account).await {
            Ok(list) => server_of(&list),
            Err(error) if error.has_no_list() => None,
            Err(error) => return Err(error),
        };
        let server = match server {
            None if self.says_its_version(account).await? => Some(Server::Ollama),
            server => server,
        };
        match server.and_then(Server::has_responses) {
            Some(has_responses) => Ok((server, has_responses)),
            None => Ok((server, self.has_endpoint(account, Dialect::Responses).await?)),
        }
    }

    /// Whether the upstream has the path that only Ollama has. LM Studio answers every path with status 200.
    async fn says_its_version(&self, account: &Account) -> Result<bool, CatalogError> {
        let mut request = Request::new(PartsBody::new(Vec::new()));
        *request.uri_mut() = account.version_uri.clone();
        let said = self.fetch(account, request).await?;
        let body = &said.body;
        let has_version = || json::validate(body).is_ok() && json::string_member(body, "version").is_some();
        Ok(said.status.is_success() && has_version())
    }

    /// Why the upstream refuses the account's credential, if it does: for its list of models, and for an empty turn as well.
    pub async fn refusal_of(&self, account: &Account) -> Option<CatalogError> {
        let tested = match self.list_models(account).await {
            Err(CatalogError::Status { status: 401, .. }) => self.send_empty_turn(account).await,
            listed => listed.map(|_| ()),
        };
        tested.err().filter(CatalogError::is_credential_refused)
    }

    /// Tests an account with requests that contain nothing from a client: its list of models, and an empty turn. A key may be valid
    /// for turns only, and a list may be there for everybody.
    ///
    /// # Errors
    ///
    /// [`CatalogError`] if the upstream can't be reached or refuses the account.
    pub async fn test(&self, account: &Account) -> Result<(), CatalogError> {
        let listed = self.list_models(account).await;
        match &listed {
            Ok(_) | Err(CatalogError::Status { status: 401 | 403, .. }) => {}
            Err(error) if error.has_no_list() => {}
            Err(_) => return listed.map(|_| ()),
        }
        let sent = self.send_empty_turn(account).await;
        // Beside a list, only a refusal of the credential says more.
        let is_refused = sent.as_ref().is_err_and(CatalogError::is_credential_refused);
        if listed.is_ok() && !is_refused { Ok(()) } else { sent }
    }

    /// Whether an empty turn is accepted, which costs nothing.
    async fn send_empty_turn(&self, account: &Account) -> Result<(), CatalogError> {
        let dialect = account.api.dialect();
        let asked = tokio::time::timeout(SEARCH_TIMEOUT, self.has_endpoint(account, dialect)).await;
        match asked.map_err(|_| CatalogError::Timeout)?? {
            true => Ok(()),
            false => {
                let message = format!("it has no {}", dialect.path());
                Err(CatalogError::Status { status: 404, message })
            }
        }
    }

    /// Whether the upstream has the endpoint that turns go to in a dialect.
    async fn has_endpoint(&self, account: &Account, dialect: Dialect) -> Result<bool, CatalogError> {
        let mut request = Request::new(PartsBody::new(vec![Bytes::from_static(b"{}")]));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = account.uri(Operation::Create, dialect).clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.fetch(account, request).await?;
        let error = answer.error(account);
        if error.is_credential_refused() {
            return Err(error);
        }
        has_endpoint(answer.status, &answer.body).ok_or(error)
    }
}

/// Whether an upstream has the endpoint that answered an empty request so; `None` if the answer does not tell.
fn has_endpoint(status: StatusCode, body: &[u8]) -> Option<bool> {
    let error = UpstreamError::parse(body);
    match status.as_u16() {
        // The model is missing, not the endpoint.
        404 if error.param.as_deref() == Some("model")
            || error.code.as_deref() == Some("model_not_found") =>
        {
            Some(true)
        }
        404 | 405 | 501 => Some(false),
        // How LM Studio says 404.
        200 if memchr::memmem::find(body, b"Unexpected endpoint").is_some() => Some(false),
        200..=299 | 400 | 415 | 422 => Some(true),
        _ => None,
    }
}

/// The server that lists models so.
fn server_of(list: &[u8]) -> Option<Server> {
    let models = json::member(list, "data").filter(|models| models.first() == Some(&b'['))?;
    let first = json::elements(models).next()?.ok()?;
    let owner = json::string_member(&models[first], "owned_by")?;
    match &*owner {
        "llamacpp" => Some(Server::LlamaCpp),
        "organization_owner" => Some(Server::LmStudio),
        "vllm" => Some(Server::Vllm),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_known_by_what_they_list() {
        let server_of_owner =
            |owner: &str| server_of(format!(r#"{{"data":[{{"id":"m","owned_by":"{owner}"}}]}}"#).as_bytes());
        assert_eq!(server_of_owner("llamacpp"), Some(Server::LlamaCpp));
        assert_eq!(server_of_owner("vllm"), Some(Server::Vllm));
        assert_eq!(server_of_owner("organization_owner"), Some(Server::LmStudio));
        assert_eq!(server_of_owner("library"), None);
        for list in [r#"{"data":null}"#, r#"{"data":[]}"#, r#"{"data":[{}]}"#, "[]"] {
            assert_eq!(server_of(list.as_bytes()), None);
        }
    }

    #[test]
    fn the_answer_to_an_empty_request_tells_whether_there_is_an_endpoint() {
        for (status, body, expected) in [
            (400, r#"{"error":{"message":"'input' is required"}}"#, Some(true)),
            (422, r#"{"detail":[]}"#, Some(true)),
            (404, "404 page not found", Some(false)),
            (
                404,
                r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#,
                Some(false),
            ),
            (404, r#"{"error":{"message":"no such model","code":"model_not_found"}}"#, Some(true)),
            (405, "", Some(false)),
            (200, r#"{"error":"Unexpected endpoint or method. (POST /v1/responses)"}"#, Some(false)),
            (200, r#"{"object":"response"}"#, Some(true)),
            (401, "", None),
            (403, "", None),
            (429, "", None),
            (503, "", None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(has_endpoint(status, body.as_bytes()), expected, "{status} {body}");
        }
    }
}
