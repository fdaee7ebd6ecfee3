//! The admin API: what an operator can see and change while the gateway runs. Errors are as everywhere else.

pub mod accounts;

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;

use super::Doors;
use super::error::Refused;
use crate::admin;
use crate::turn::Failure;

/// Proof that the caller has the admin token: a door that takes this is open to operators alone.
pub struct Operator;

impl FromRequestParts<Doors> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Self, Refused> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, token)) = token else { return Err(Failure::NotAnOperator.into()) };
        let is_token = admin::is_token(&**doors.turns.chains.store(), token.trim()).await;
        if is_token.map_err(Failure::from)? { Ok(Self) } else { Err(Failure::NotAnOperator.into()) }
    }
}
