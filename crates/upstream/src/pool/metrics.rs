//! Metrics of account states and the queue. They are read at each scrape, so accounts that were removed leave no series behind.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{AccountView, Pool};

const STATES: [&str; 4] = ["ready", "cooling", "disabled", "paused"];

#[derive(Debug)]
struct PoolCollector(Arc<Pool>);

impl Pool {
    pub fn register_metrics(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(PoolCollector(Arc::clone(self))));
    }
}

impl Collector for PoolCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (accounts, now) = (self.0.view(), self.0.now());
        let queued = i64::try_from(self.0.queued()).unwrap_or(i64::MAX);
        let help = "Turns that wait for an account";
        let gauge = encoder.encode_descriptor("turns_queued", help, None, MetricType::Gauge)?;
        ConstGauge::new(queued).encode(gauge)?;

        let help = "Turns that hold an account";
        let mut gauge = encoder.encode_descriptor("account_in_flight", help, None, MetricType::Gauge)?;
        for AccountView { account, state } in &accounts {
            let labels = [("account", account.name.as_str())];
            ConstGauge::new(i64::from(state.in_flight)).encode(gauge.encode_family(&labels)?)?;
        }

        let help = "1 for the state that an account is in: ready, cooling, disabled or paused";
        let mut gauge = encoder.encode_descriptor("account_state", help, None, MetricType::Gauge)?;
        for AccountView { account, state } in &accounts {
            let current = state.label(now);
            for state in STATES {
                let labels = [("account", account.name.as_str()), ("state", state)];
                ConstGauge::new(i64::from(state == current)).encode(gauge.encode_family(&labels)?)?;
            }
        }

        let help = "Time until the account's cooldown ends";
        let unit = Some(&Unit::Seconds);
        let mut gauge = encoder.encode_descriptor("account_cooling", help, unit, MetricType::Gauge)?;
        for AccountView { account, state } in &accounts {
            let rest = state.cooldown_at(now).map_or(Duration::ZERO, |cooldown| cooldown.until.since(now));
            let labels = [("account", account.name.as_str())];
            ConstGauge::new(rest.as_secs_f64()).encode(gauge.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
