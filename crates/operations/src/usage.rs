//! Usage reports.

use antiphon_access::usage::{Report, UsageParameters, UsageRequest};

use super::{OperationError, Operations};

// === impl Operations ===

impl Operations {
    /// One page of the report.
    pub async fn report_usage(&self, parameters: UsageParameters) -> Result<Report, OperationError> {
        let request = self.usage_request(parameters).await?;
        let _permit = self.report_permit().await?;
        Ok(request.report(&*self.store).await?)
    }

    /// The whole report.
    pub async fn report_all_usage(&self, parameters: UsageParameters) -> Result<Report, OperationError> {
        let mut request = self.usage_request(parameters).await?;
        let mut report = request.report(&*self.store).await?;
        while let Some(last) = report.last().cloned() {
            request.continue_after(last);
            report.append(request.report(&*self.store).await?);
        }
        Ok(report)
    }

    /// `key` may be a name. A key that is deleted is known by its id only.
    async fn usage_request(&self, mut parameters: UsageParameters) -> Result<UsageRequest, OperationError> {
        if let Some(key) = parameters.key.as_deref().filter(|key| !key.is_empty()) {
            parameters.key = Some(self.key_id(key).await?);
        }
        Ok(UsageRequest::new(parameters, self.clock.now(), self.hour_retention)?)
    }
}
