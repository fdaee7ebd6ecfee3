//! `/api/openapi.json`: the admin API's description of itself.

use std::sync::LazyLock;

use axum::response::IntoResponse;
use bytes::Bytes;
use http::header;
use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use super::described_routes;

/// The same for every caller.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut document = described_routes().into_openapi();
    for item in document.paths.paths.values_mut() {
        let operations =
            [&mut item.get, &mut item.post, &mut item.delete].into_iter().filter_map(Option::as_mut);
        for operation in operations {
            let error = ResponseBuilder::new()
                .description("What is wrong")
                .content("application/json", Content::new(Some(Ref::from_schema_name("Error"))));
            operation.responses.responses.insert("default".to_owned(), RefOr::T(error.build()));
        }
    }
    document.to_json().unwrap_or_default().into()
});

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Antiphon admin API",
        description = "What an operator can see and change while the gateway runs. Times are in RFC 3339, in UTC.",
        license(name = "MIT OR Apache-2.0")
    ),
    components(schemas(Error)),
    security(("admin_token" = []))
)]
struct Frame;

/// Every error has this shape, with all four keys.
#[derive(Serialize, ToSchema)]
struct Error {
    error: ErrorBody,
}

#[derive(Serialize, ToSchema)]
struct ErrorBody {
    /// For people.
    message: String,
    #[schema(example = "invalid_request_error")]
    r#type: String,
    /// The parameter that is to blame.
    #[schema(required = true)]
    param: Option<String>,
    /// For programs.
    #[schema(required = true)]
    code: Option<String>,
}

/// The document before there are routes in it.
pub fn frame() -> utoipa::openapi::OpenApi {
    let mut frame = Frame::openapi();
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The admin token, which the first start shows: apn-admin-…"));
    let components = frame.components.get_or_insert_default();
    components.add_security_scheme("admin_token", SecurityScheme::Http(token.build()));
    frame
}

/// This document. It needs no token, as it holds nothing that would not be in the source code.
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    operation_id = "get_document",
    tag = "document",
    security(()),
    responses((status = OK, description = "An OpenAPI 3.1 document", body = Object))
)]
pub async fn get() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}
