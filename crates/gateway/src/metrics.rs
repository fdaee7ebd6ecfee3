//! The metrics page. Each component owns its metrics and registers them here.

mod process;
mod store;

use std::fmt;
use std::sync::Arc;

use antiphon_store::chain::Chains;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use self::store::StoreCollector;
use crate::telemetry;

/// All metrics of a gateway. The registry is a value, so that parallel tests do not share one.
pub struct Metrics(Registry);

// === impl Metrics ===

impl Metrics {
    /// `register` adds the metrics of the components.
    pub fn gather(chains: Arc<Chains>, register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::with_prefix("antiphon");
        register(&mut registry);
        registry.register(
            "log_lines_dropped",
            "Log lines that could not be written",
            telemetry::dropped_lines(),
        );
        process::register(&mut registry);
        chains.store().register_metrics(&mut registry);
        registry.register_collector(Box::new(StoreCollector(chains)));
        Self(registry)
    }

    /// The page, in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        encode(&mut text, &self.0).expect("writing to a String does not fail");
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
