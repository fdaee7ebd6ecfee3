//! Pages of lists.

use antiphon_access::query;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{InvalidRequest, OperationError};

pub(super) const DEFAULT_LIMIT: u32 = 100;
pub(super) const MAX_LIMIT: u32 = 100;

/// Which part of a list to return.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Maximum number of entries.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 100)]
    limit: Option<u32>,
    /// Cursor: the last entry of the previous page.
    after: Option<String>,
}

// === impl Page ===

impl Page {
    pub fn new(limit: u32, after: Option<String>) -> Self {
        Self { limit: Some(limit), after }
    }

    /// All entries in one page, for the command line.
    pub fn whole() -> Self {
        Self { limit: Some(u32::MAX - 1), after: None }
    }

    pub fn after(&self) -> Option<&str> {
        self.after.as_deref().filter(|after| !after.is_empty())
    }

    /// How many rows to read: one more than is shown, to know whether there are more.
    pub fn rows(&self) -> u32 {
        self.limit().saturating_add(1)
    }

    /// Cuts the rows that were read down to the page; `true` if there are more.
    pub fn cut<T>(&self, mut rows: Vec<T>) -> (Vec<T>, bool) {
        let limit = usize::try_from(self.limit()).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        (rows, has_more)
    }

    /// The error for an `after` that is not in the list.
    pub fn unknown_cursor(&self) -> OperationError {
        let after = self.after().unwrap_or_default();
        InvalidRequest::value("after", format_args!("the list has no entry '{after}'")).into()
    }

    fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT)
    }
}
