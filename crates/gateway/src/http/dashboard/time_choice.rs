//! Which time a page shows: links to windows, and a form for any other time. Both are in the page's address.

use antiphon_operations::{OperationError, TimeRange, Window};
use antiphon_runtime::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::pieces::time_field;

/// The time in the query of a page.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeQuery {
    window: Option<Window>,
    from: Option<String>,
    to: Option<String>,
}

// === impl TimeQuery ===

impl TimeQuery {
    pub fn range(&self, now: Timestamp) -> Result<TimeRange, OperationError> {
        Ok(TimeRange::parse(self.window, self.from.as_deref(), self.to.as_deref(), now)?)
    }

    /// The choice on the page with this path.
    pub fn choice(&self, path: &str, shown: Option<Window>) -> Markup {
        html! { (windows(path, shown)) (self.form(path)) }
    }

    /// Any other time, in UTC.
    fn form(&self, path: &str) -> Markup {
        html! {
            form .range method="get" action=(path) aria-label="Another time" {
                (time_field("from", "From (UTC)", self.from.as_deref().unwrap_or_default()))
                (time_field("to", "To (UTC)", self.to.as_deref().unwrap_or_default()))
                button type="submit" { "Show" }
            }
        }
    }
}

/// Links to the same page with each window.
pub fn windows(path: &str, shown: Option<Window>) -> Markup {
    let windows = [(Window::Day, "24h"), (Window::Week, "7d"), (Window::Month, "30d")];
    html! {
        nav .choice aria-label="Time" {
            @for (window, name) in windows {
                a href={ (path) "?window=" (name) } aria-current=[(Some(window) == shown).then_some("true")] { (name) }
            }
        }
    }
}
