//! `/api/openapi.json`: the OpenAPI document of the admin API.

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
        let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete]
            .into_iter()
            .filter_map(Option::as_mut);
        for operation in operations {
            let error = ResponseBuilder::new()
                .description("Error")
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
        description = "Inspect and manage a running gateway. Times are RFC 3339 in UTC.",
        license(name = "MIT OR Apache-2.0")
    ),
    components(schemas(Error)),
    security(("admin_token" = []))
)]
struct ApiDocument;

/// Error reply; all four members are always present.
#[derive(Serialize, ToSchema)]
struct Error {
    error: ErrorBody,
}

#[derive(Serialize, ToSchema)]
struct ErrorBody {
    /// Human-readable message.
    message: String,
    #[schema(example = "invalid_request_error")]
    r#type: String,
    /// The parameter that caused the error.
    #[schema(required = true)]
    param: Option<String>,
    /// Machine-readable code.
    #[schema(required = true)]
    code: Option<String>,
}

/// The document without routes.
pub fn base_document() -> utoipa::openapi::OpenApi {
    let mut base_document = ApiDocument::openapi();
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "Admin token: apn-admin-…, printed on the first start in a terminal, or apn-viewer-…, which is read-only. \
         `antiphon admin token` creates new ones.",
    ));
    let components = base_document.components.get_or_insert_default();
    components.add_security_scheme("admin_token", SecurityScheme::Http(token.build()));
    base_document
}

/// This document. It requires no token.
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
