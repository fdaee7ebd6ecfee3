//! Usage reports for operators.

mod report;
mod request;

pub use self::report::{Group, Report};
pub use self::request::{Format, InvalidParameter, UsageParameters, UsageRequest, parse_time};

use antiphon_store::{Store, StoreError, UsageQuery};

impl UsageRequest {
    /// Reads one page.
    pub async fn report(&self, store: &dyn Store) -> Result<Report, StoreError> {
        // One more than is shown, to learn whether there is another page.
        let query = self.query();
        let max_groups = query.max_groups.saturating_add(1);
        Ok(Report::new(self, store.list_usage(UsageQuery { max_groups, ..query }).await?))
    }
}
