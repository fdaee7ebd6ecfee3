//! The memory that is in use, read when the metrics are rendered.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::BodyMemory;

#[derive(Debug)]
pub struct BodyMemoryCollector(pub Arc<BodyMemory>);

impl Collector for BodyMemoryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Memory reserved for request bodies, what they reference, and long replies";
        let metric = encoder.encode_descriptor("body_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(self.0.used_bytes()).unwrap_or(i64::MAX)).encode(metric)
    }
}
