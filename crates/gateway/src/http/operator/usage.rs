//! `/api/usage`: who used what.

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use utoipa::IntoParams;

use super::{Operator, refuse};
use crate::http::doors::Doors;
use crate::http::error::Refused;
use crate::turn::Failure;
use antiphon_access::usage::{Format, InvalidParameter, Report, UsageRequest};

/// For the document; [`UsageRequest`] reads them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "they are described, and read elsewhere")]
struct Parameters {
    /// From when on, in whole hours: a time in RFC 3339, or a day, which begins at midnight UTC. 30 days before `to` if it is
    /// left out.
    #[param(example = "2026-11-01T00:00:00+01:00")]
    from: Option<String>,
    /// Up to when. Now if it is left out.
    #[param(example = "2026-12-01")]
    to: Option<String>,
    /// Some of `project`, `key`, `account`, `model`, and `day` or `hour`, separated by commas.
    #[param(example = "project,day")]
    group_by: Option<String>,
    /// Only turns of this one; with an empty text, those that have none.
    project: Option<String>,
    key: Option<String>,
    account: Option<String>,
    model: Option<String>,
    /// How many groups to show.
    #[param(minimum = 1, maximum = 10000, default = 1000)]
    limit: Option<u32>,
    /// What the page before gave as `after`.
    after: Option<String>,
    /// `json` or `csv`.
    format: Option<String>,
}

/// Where the next page of a CSV file begins, which has no place for it.
const AFTER: HeaderName = HeaderName::from_static("x-antiphon-after");

/// Who used what, in groups. `text/csv` in `accept` asks for CSV as well; the header `x-antiphon-after` then says where the next
/// page begins.
#[utoipa::path(
    get,
    path = "/api/usage",
    operation_id = "get_usage",
    tag = "usage",
    params(Parameters),
    responses((status = OK, content((Report = "application/json"), (String = "text/csv"))))
)]
pub async fn get(
    _: Operator,
    State(doors): State<Doors>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let turns = &doors.turns;
    let parameters = url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    let hours_kept = doors.hour_retention;
    let request = UsageRequest::parse(parameters.into_owned(), turns.env.clock.now(), hours_kept)?;
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
    fn from(InvalidParameter { name, is_known, message }: InvalidParameter) -> Self {
        let code = if is_known { "invalid_value" } else { "unknown_parameter" };
        refuse(code, Some(&name), message).into()
    }
}
