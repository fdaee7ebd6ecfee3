//! `/api/usage`.

use std::sync::Arc;

use antiphon_access::usage::{Format, Report, UsageParameters};
use antiphon_operations::Operations;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Operator;
use super::request::Parameters;
use crate::http::error_reply::ErrorReply;

/// The cursor of the next page; a CSV file has no place for it.
const CURSOR_HEADER: HeaderName = HeaderName::from_static("x-antiphon-after");

/// Report usage in groups. `accept: text/csv` also selects CSV; the header `x-antiphon-after` then contains the cursor of the
/// next page.
#[utoipa::path(
    get,
    path = "/api/usage",
    operation_id = "get_usage",
    tag = "usage",
    params(UsageParameters),
    responses((status = OK, content((Report = "application/json"), (String = "text/csv"))))
)]
pub async fn get(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    headers: HeaderMap,
    Parameters(parameters): Parameters<UsageParameters>,
) -> Result<Response, ErrorReply> {
    let format = parameters.format.unwrap_or_else(|| accepted_format(&headers));
    let report = operations.report_usage(parameters).await?;
    Ok(match format {
        Format::Json => axum::Json(report).into_response(),
        Format::Csv => csv_reply(&report),
    })
}

fn accepted_format(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.trim_start().to_ascii_lowercase().starts_with("text/csv") { Format::Csv } else { Format::Json }
}

fn csv_reply(report: &Report) -> Response {
    let mut reply = report.csv().into_response();
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    if let Some(after) = report.after().and_then(|after| after.parse().ok()) {
        headers.insert(CURSOR_HEADER, after);
    }
    reply
}
