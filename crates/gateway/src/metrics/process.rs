//! Metrics of the process, which are read when the page is rendered, and of its build.

use std::fmt;

use antiphon_runtime::process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug)]
pub struct ProcessCollector;

/// Adds what this build is, and what its process takes.
pub fn register(registry: &mut Registry) {
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of Antiphon", build);
    registry.register_collector(Box::new(ProcessCollector));
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Only Linux says.
        let Ok(figures) = process::figures() else { return Ok(()) };
        let gauges = [
            ("process_resident_memory", "Resident memory", Some(&Unit::Bytes), figures.resident_bytes),
            ("process_open_fds", "Open file descriptors", None, figures.open_fds),
        ];
        for (name, help, unit, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        let help = "CPU time, in user and system mode";
        let metric =
            encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(figures.cpu_seconds).encode(metric)
    }
}
