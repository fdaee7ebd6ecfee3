//! The admin API: what an operator can see and change while the gateway runs. Errors are as everywhere else.
//!
//! Each function says what its route is, takes and gives; the table of routes is here, and becomes the OpenAPI document that
//! the server itself serves.

mod accounts;
mod audit;
mod document;
pub mod health;
mod keys;
mod page;
mod usage;

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use antiphon_access::admin;
use antiphon_protocol::error::{ApiError, ErrorKind};

use crate::http::auth::{address, bearer};
use crate::http::doors::Doors;
use crate::http::error::Refused;
use crate::turn::Failure;

/// What a request may bring: nobody names that many models.
const MAX_BODY_BYTES: usize = 64 * 1024;

pub fn router() -> Router<Doors> {
    described_routes().into()
}

fn described_routes() -> OpenApiRouter<Doors> {
    OpenApiRouter::with_openapi(document::frame())
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get, keys::delete))
        .routes(routes!(keys::limits))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::revoke))
        .routes(routes!(accounts::list))
        .routes(routes!(accounts::get))
        .routes(routes!(accounts::pause))
        .routes(routes!(accounts::resume))
        .routes(routes!(accounts::test))
        .routes(routes!(usage::get))
        .routes(routes!(audit::list))
        .routes(routes!(document::get))
}

/// Proof that the caller has the admin token: a door that takes this is open to operators alone.
pub struct Operator;

impl FromRequestParts<Doors> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Self, Refused> {
        let store = &**doors.turns.chains.store();
        let is_token = match bearer(&parts.headers).and_then(|token| str::from_utf8(token).ok()) {
            Some(token) => admin::is_token(store, token).await.map_err(Failure::from)?,
            None => false,
        };
        if is_token {
            return Ok(Self);
        }
        doors.keys.count_failure(address(&parts.extensions)).map_err(Failure::from)?;
        Err(Failure::NotAnOperator.into())
    }
}

/// The members of a JSON object that a request brings, each to be taken once.
#[derive(Debug)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// Reads a request's body; none at all, or null, is an object without members.
    async fn receive(doors: &Doors, headers: &HeaderMap, body: Body) -> Result<Self, Failure> {
        let body = doors.body_limits.receive(headers, body).await?.bytes;
        if body.len() > MAX_BODY_BYTES {
            return Err(Failure::BodyTooLarge { max_bytes: MAX_BODY_BYTES });
        }
        if body.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        let parsed = serde_json::from_slice::<Option<_>>(&body);
        let parsed = parsed.map(|members| Self(members.unwrap_or_default()));
        parsed.map_err(|error| refuse("invalid_json", None, format!("Invalid body: {error}.")))
    }

    /// `None` if it is not there, or null.
    fn take<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, Failure> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|error| {
                refuse("invalid_type", Some(name), format!("Invalid type for '{name}': {error}."))
            }),
        }
    }

    fn need<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<T, Failure> {
        let missing = || {
            let message = format!("Missing required parameter: '{name}'.");
            refuse("missing_required_parameter", Some(name), message)
        };
        self.take(name)?.ok_or_else(missing)
    }

    /// Refuses what nobody has asked for: it may be a name that is spelt wrong.
    fn end(self) -> Result<(), Failure> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => {
                let message = format!("Unknown parameter: '{name}'.");
                Err(refuse("unknown_parameter", Some(&name), message))
            }
        }
    }
}

fn refuse(code: &'static str, param: Option<&str>, message: String) -> Failure {
    let param = param.map(|param| param.to_owned().into());
    Failure::Request(ApiError { kind: ErrorKind::InvalidRequest, code: Some(code.into()), param, message })
}
