//! Metrics of the store and the cache of chains, which are read when the page is rendered.

use std::fmt;
use std::sync::Arc;

use antiphon_store::chain::Chains;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

pub struct StoreCollector(pub Arc<Chains>);

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let chains = &self.0;
        let cache = chains.cache_stats();
        let missing_connections = chains.store().missing_connections();
        let gauges = [
            (
                "store_missing_connections",
                "Configured connections to PostgreSQL that are not open",
                None,
                missing_connections,
            ),
            ("store_available", "1 if the store accepts writes", None, u64::from(chains.is_available())),
            ("chain_cache", "Memory used by cached turns", Some(&Unit::Bytes), cache.live_bytes as u64),
            ("chain_cache_hits", "Chain lookups answered from memory", None, cache.hits),
            ("chain_cache_misses", "Chain lookups that read the store", None, cache.misses),
        ];
        for (name, help, unit, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        let help = "Request-log rows lost because the store was unavailable or rejected them";
        let metric = encoder.encode_descriptor("request_log_lost", help, None, MetricType::Counter)?;
        ConstCounter::new(chains.store().lost_rows()).encode(metric)
    }
}

impl fmt::Debug for StoreCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreCollector").finish_non_exhaustive()
    }
}
