//! Lists, page by page.

use antiphon_access::query;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{InvalidRequest, OperationError};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 100;

/// Which part of a list is asked for.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// How many entries to show.
    #[serde(default, deserialize_with = "query::limit::<_, MAX_LIMIT>")]
    #[param(minimum = 1, maximum = 100, default = 100)]
    limit: Option<u32>,
    /// The entry, as the list names it, behind which to begin: the last one of the page before.
    after: Option<String>,
}

// === impl Page ===

impl Page {
    /// Every entry in one page, for those who need not fear its size.
    pub fn whole() -> Self {
        Self { limit: Some(u32::MAX - 1), after: None }
    }

    pub fn after(&self) -> Option<&str> {
        self.after.as_deref().filter(|after| !after.is_empty())
    }

    /// One more than is shown: then it is known whether there is more.
    pub fn rows(&self) -> u32 {
        self.limit() + 1
    }

    /// What is shown of rows that were asked for so, and whether there are more.
    pub fn cut<T>(&self, mut rows: Vec<T>) -> (Vec<T>, bool) {
        let limit = usize::try_from(self.limit()).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        (rows, has_more)
    }

    /// Nothing in the list has the name that `after` gives.
    pub fn unknown_cursor(&self) -> OperationError {
        let after = self.after().unwrap_or_default();
        InvalidRequest::value("after", format_args!("the list has no entry '{after}'")).into()
    }

    fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT)
    }
}
