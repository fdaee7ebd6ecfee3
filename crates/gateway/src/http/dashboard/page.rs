//! What all pages have in common: frame, navigation, headers, and errors.

use antiphon_access::admin::Role;
use antiphon_access::sessions::Session;
use antiphon_errors::ErrorRow;
use antiphon_operations::OperationError;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, StatusCode, header};
use maud::{DOCTYPE, Markup, html};

use super::assets::Asset;
use super::pieces::alert;
use crate::http::error::RequestError;

/// Nothing from elsewhere, and no scripts or styles inside pages.
const CONTENT_POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// An entry of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Overview,
    Responses,
    Keys,
    Accounts,
    Settings,
}

/// A page of a signed-in operator.
pub struct Page<'a> {
    pub session: &'a Session,
    pub screen: Screen,
    pub title: &'a str,
    /// Links and buttons beside the title.
    pub actions: Markup,
    pub content: Markup,
}

/// Why there is no such page.
pub struct Problem(ErrorRow);

// === impl Screen ===

impl Screen {
    const ALL: [Self; 5] = [Self::Overview, Self::Responses, Self::Keys, Self::Accounts, Self::Settings];

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Responses => "/responses",
            Self::Keys => "/keys",
            Self::Accounts => "/accounts",
            Self::Settings => "/settings",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Responses => "Responses",
            Self::Keys => "Keys",
            Self::Accounts => "Accounts",
            Self::Settings => "Settings",
        }
    }
}

// === impl Page ===

impl Page<'_> {
    pub fn reply(&self, status: StatusCode) -> Response {
        let body = html! {
            a .skip href="#main" { "Skip to the content" }
            header .bar {
                a .brand href="/" { img src=(Asset::Icon.path()) alt="" width="24" height="24"; "Antiphon" }
                nav aria-label="Screens" {
                    ul {
                        @for screen in Screen::ALL {
                            li {
                                a href=(screen.path()) aria-current=[(screen == self.screen).then_some("page")] {
                                    (screen.name())
                                }
                            }
                        }
                    }
                }
                div .session {
                    @if let Some(operator) = &self.session.operator { span .operator { (operator) } }
                    span .role { (self.role()) }
                    button #theme .quiet type="button" hidden { "Theme" }
                    form method="post" action="/logout" { button .quiet type="submit" { "Sign out" } }
                }
            }
            main #main tabindex="-1" {
                div .title { h1 { (self.title) } div .actions { (self.actions) } }
                (self.content)
            }
        };
        document(status, self.title, &[Asset::Page, Asset::Live], &body)
    }

    fn role(&self) -> &'static str {
        match self.session.role {
            Role::Admin => "Admin",
            Role::Viewer => "Viewer",
        }
    }
}

impl IntoResponse for Page<'_> {
    fn into_response(self) -> Response {
        self.reply(StatusCode::OK)
    }
}

/// A page without navigation.
pub fn bare_page(status: StatusCode, title: &str, script: Option<Asset>, content: &Markup) -> Response {
    let body = html! {
        main #main .bare {
            p .brand { img src=(Asset::Icon.path()) alt="" width="28" height="28"; "Antiphon" }
            section .card { (content) }
        }
    };
    document(status, title, script.as_slice(), &body)
}

fn document(status: StatusCode, title: &str, scripts: &[Asset], body: &Markup) -> Response {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Antiphon" }
                link rel="icon" href=(Asset::Icon.path()) type="image/svg+xml";
                link rel="stylesheet" href=(Asset::Style.path());
                script src=(Asset::Theme.path()) {}
                @for script in scripts { script type="module" src=(script.path()) {} }
            }
            body { (body) }
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (status, headers, document.into_string()).into_response()
}

// === impl Problem ===

impl From<OperationError> for Problem {
    fn from(error: OperationError) -> Self {
        if let OperationError::Store(error) = &error {
            tracing::error!(%error, "store error");
        }
        Self(error.row())
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        Self(error.row())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let reason = self.0.status.canonical_reason().unwrap_or("Error");
        let content = html! {
            h1 { (reason) }
            (alert(&self.0.error.message))
            p { a href="/" { "Back to the overview" } }
        };
        let mut reply = bare_page(self.0.status, reason, None, &content);
        if let Some(wait) = self.0.retry_after {
            let seconds = antiphon_runtime::whole_seconds(wait);
            reply.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        reply
    }
}
