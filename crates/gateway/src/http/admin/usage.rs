//! `/api/usage`: who used what.

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Operator;
use crate::http::Doors;
use crate::http::error::Refused;
use crate::turn::Failure;
use crate::usage::{Format, InvalidParameter, Report, UsageRequest};

/// Where the next page of a CSV file begins, which has no place for it.
const AFTER: HeaderName = HeaderName::from_static("x-antiphon-after");

pub async fn get(
    _: Operator,
    State(doors): State<Doors>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let turns = &doors.turns;
    let parameters = url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let hours_kept = turns.rules.usage.hour_retention.limit();
    let request = UsageRequest::parse(parameters.into_owned(), turns.clock.now(), hours_kept)?;
    let report = request.report(&**turns.chains.store()).await.map_err(Failure::from)?;
    Ok(match request.format().unwrap_or_else(|| accepted(&headers)) {
        Format::Json => axum::Json(report).into_response(),
        Format::Csv => csv(&report),
    })
}

fn accepted(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.trim_start().to_ascii_lowercase().starts_with("text/csv") { Format::Csv } else { Format::Json }
}

fn csv(report: &Report) -> Response {
    let mut reply = report.csv().into_response();
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    if let Some(after) = report.after().and_then(|after| after.parse().ok()) {
        headers.insert(AFTER, after);
    }
    reply
}

impl From<InvalidParameter> for Refused {
    fn from(InvalidParameter { name, message }: InvalidParameter) -> Self {
        Failure::InvalidQuery { param: name, message }.into()
    }
}
