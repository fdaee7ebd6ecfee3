//! Lists, page by page.

use axum::extract::FromRequestParts;
use http::request::Parts;
use utoipa::IntoParams;

use super::refuse;
use crate::http::error::Refused;
use crate::http::query::{pairs, parse_limit};
use crate::turn::Failure;

const DEFAULT_LIMIT: usize = 100;

/// Which part of a list is asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// How many entries to show.
    #[param(required = false, minimum = 1, maximum = 100, default = 100)]
    pub limit: usize,
    /// The entry, as the list names it, behind which to begin: the last one of the page before.
    pub after: Option<String>,
}

impl Page {
    fn parse(query: Option<&str>) -> Result<Self, Failure> {
        let mut page = Self { limit: DEFAULT_LIMIT, after: None };
        for (name, value) in pairs(query) {
            match name.as_str() {
                "limit" => page.limit = parse_limit(&value)?,
                "after" => page.after = Some(value).filter(|after| !after.is_empty()),
                _ => {
                    let message = format!("Unknown parameter: '{name}'.");
                    return Err(refuse("unknown_parameter", Some(&name), message));
                }
            }
        }
        Ok(page)
    }

    /// One more than is shown: then it is known whether there is more.
    pub fn rows(&self) -> u32 {
        u32::try_from(self.limit + 1).unwrap_or(u32::MAX)
    }

    /// What is shown of rows that were asked for so, and whether there are more.
    pub fn cut<T>(&self, mut rows: Vec<T>) -> (Vec<T>, bool) {
        let has_more = rows.len() > self.limit;
        rows.truncate(self.limit);
        (rows, has_more)
    }

    /// Nothing in the list has the name that `after` gives.
    pub fn unknown_cursor(&self) -> Failure {
        let after = self.after.as_deref().unwrap_or_default();
        let message = format!("Invalid 'after': the list has no entry '{after}'.");
        Failure::InvalidQuery { param: "after", message }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self::parse(parts.uri.query())?)
    }
}
