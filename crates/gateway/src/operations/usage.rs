//! Usage reports.

use antiphon_access::usage::{Report, UsageParameters, UsageRequest};

use super::{OperationError, Operations};

// === impl Operations ===

impl Operations {
    /// One page of the report.
    pub async fn report_usage(&self, parameters: UsageParameters) -> Result<Report, OperationError> {
        Ok(self.usage_request(parameters)?.report(&*self.store).await?)
    }

    /// The whole report.
    pub async fn report_all_usage(&self, parameters: UsageParameters) -> Result<Report, OperationError> {
        let mut request = self.usage_request(parameters)?;
        let mut report = request.report(&*self.store).await?;
        while let Some(last) = report.last().cloned() {
            request.continue_after(last);
            report.append(request.report(&*self.store).await?);
        }
        Ok(report)
    }

    fn usage_request(&self, parameters: UsageParameters) -> Result<UsageRequest, OperationError> {
        Ok(UsageRequest::new(parameters, self.clock.now(), self.hour_retention)?)
    }
}
