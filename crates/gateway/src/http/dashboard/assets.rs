//! Static files. Their names contain a hash of their content, so that browsers may keep them for good.

use std::sync::LazyLock;

use antiphon_runtime::hex;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A file that the pages use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asset {
    Style,
    /// Sets the theme before the page is shown.
    Theme,
    /// What every page has.
    Page,
    /// Live figures.
    Live,
    Login,
    Icon,
}

struct File {
    asset: Asset,
    content_type: &'static str,
    content: &'static str,
    /// The name with the hash, as in addresses.
    name: String,
    etag: String,
}

static FILES: LazyLock<[File; 6]> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let style = "text/css; charset=utf-8";
    [
        File::new(Asset::Style, "style.css", style, include_str!("../../../assets/style.css")),
        File::new(Asset::Theme, "theme.js", SCRIPT, include_str!("../../../assets/theme.js")),
        File::new(Asset::Page, "page.js", SCRIPT, include_str!("../../../assets/page.js")),
        File::new(Asset::Live, "live.js", SCRIPT, include_str!("../../../assets/live.js")),
        File::new(Asset::Login, "login.js", SCRIPT, include_str!("../../../assets/login.js")),
        File::new(Asset::Icon, "icon.svg", "image/svg+xml", include_str!("../../../assets/icon.svg")),
    ]
});

/// Needs no session, as the login page uses them.
pub async fn get(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return ErrorReply::from(RequestError::UnknownRoute(format!("GET /assets/{name}"))).into_response();
    };
    let reply_headers = [(header::CACHE_CONTROL, IMMUTABLE), (header::ETAG, &file.etag)];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|etag| etag.trim() == file.etag)) {
        return (StatusCode::NOT_MODIFIED, reply_headers).into_response();
    }
    let about_content =
        [(header::CONTENT_TYPE, file.content_type), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (reply_headers, about_content, file.content).into_response()
}

// === impl Asset ===

impl Asset {
    /// Where it is.
    pub fn path(self) -> String {
        let file = FILES.iter().find(|file| file.asset == self);
        file.map_or_else(String::new, |file| format!("/assets/{}", file.name))
    }
}

// === impl File ===

impl File {
    fn new(asset: Asset, name: &str, content_type: &'static str, content: &'static str) -> Self {
        let hash = hex::encode(&Sha256::digest(content)[..8]);
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let name = format!("{stem}.{hash}.{extension}");
        Self { asset, content_type, content, name, etag: format!("\"{hash}\"") }
    }
}
