//! The effective configuration, and the store's size.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use antiphon_access::usage::UsageParameters;
use antiphon_runtime::rfc3339;
use antiphon_store::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{OperationError, Operations};

/// How many days the growth is an average of.
const GROWTH_DAYS: i64 = 7;

#[derive(Debug, Serialize, ToSchema)]
pub struct ConfigReport {
    pub version: &'static str,
    /// Every value that applies, secrets redacted.
    pub values: Vec<ConfigValue>,
    /// The sections that have changed since the gateway started and that only a restart applies: `values` has the old ones.
    pub needs_restart: Vec<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ConfigValue {
    #[schema(example = "limits.max_body")]
    pub key: String,
    pub value: Value,
    /// `default`, `file`, `environment` or `flag`.
    pub source: &'static str,
    /// The file, the variable or the flag; `null` for a default.
    pub origin: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct StoreReport {
    /// `sqlite` or `postgres`.
    pub engine: &'static str,
    pub available: bool,
    pub bytes: u64,
    /// Of `bytes`, those that nothing uses.
    pub free_bytes: u64,
    /// Numbers of rows are estimates.
    pub tables: Vec<TableReport>,
    /// Average of the last seven days.
    pub turns_per_day: u64,
    /// By the average size of a turn so far.
    pub bytes_per_day: u64,
    /// How long responses are kept, in the configuration's words.
    pub retention: Option<String>,
    pub log_retention: Option<String>,
    /// When this process last purged the store, in RFC 3339.
    pub last_purge_at: Option<String>,
    /// Request-log rows that this process lost.
    pub lost_log_rows: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct TableReport {
    pub name: String,
    pub rows: u64,
    /// With indexes; `null` in SQLite.
    pub bytes: Option<u64>,
}

// === impl Operations ===

impl Operations {
    /// The configuration in effect, and what of the last one that was loaded is not.
    pub fn config(&self) -> ConfigReport {
        let current = self.process.config.read().unwrap_or_else(PoisonError::into_inner);
        let config = &current.in_effect;
        let mut values = Vec::new();
        let shown = serde_json::from_str(&config.show_json()).unwrap_or_default();
        flatten(String::new(), shown, &mut values);
        let values = values.into_iter().map(|(key, value)| {
            let origin = config.sources.of(&key);
            ConfigValue { source: origin.kind(), origin: origin.name(), key, value }
        });
        let (values, needs_restart) = (values.collect(), current.needs_restart.clone());
        ConfigReport { version: env!("CARGO_PKG_VERSION"), values, needs_restart }
    }

    /// How large the store is, and how it grows.
    pub async fn store_report(&self) -> Result<StoreReport, OperationError> {
        let permit = self.report_permit().await?;
        let size = self.store.size().await?;
        drop(permit);
        let now = self.clock.now();
        let from = Timestamp::from_unix_ms(now.unix_ms() - GROWTH_DAYS * antiphon_store::DAY_MS);
        let parameters = UsageParameters { from: Some(rfc3339(from)), ..UsageParameters::default() };
        let usage = self.report_usage(parameters).await?;
        let turns_per_day = usage.turns() / GROWTH_DAYS.unsigned_abs();
        let rows = |name: &str| size.tables.iter().find(|table| table.name == name).map_or(0, |t| t.rows);
        let bytes_per_turn = size.bytes / rows("request_log").max(rows("responses")).max(1);
        let (retention, log_retention) = {
            let current = self.process.config.read().unwrap_or_else(PoisonError::into_inner);
            let shown: Value = serde_json::from_str(&current.in_effect.show_json()).unwrap_or_default();
            let text = |path: &str| shown.pointer(path).and_then(Value::as_str).map(str::to_owned);
            (text("/store/retention"), text("/usage/raw_retention"))
        };
        let purged_at = self.process.purged_at.load(Ordering::Relaxed);
        let table = |table: antiphon_store::TableSize| TableReport {
            name: table.name,
            rows: table.rows,
            bytes: table.bytes,
        };
        Ok(StoreReport {
            engine: size.engine,
            available: self.store.is_available(),
            bytes: size.bytes,
            free_bytes: size.free_bytes,
            tables: size.tables.into_iter().map(table).collect(),
            turns_per_day,
            bytes_per_day: turns_per_day * bytes_per_turn,
            retention,
            log_retention,
            last_purge_at: (purged_at > 0).then(|| rfc3339(Timestamp::from_unix_ms(purged_at))),
            lost_log_rows: self.store.lost_rows(),
        })
    }
}

/// The values of a tree with their keys. Lists of plain values are one value.
fn flatten(key: String, value: Value, values: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(key, value, values);
            }
        }
        Value::Array(elements) if elements.iter().any(Value::is_object) => {
            for (index, value) in elements.into_iter().enumerate() {
                flatten(format!("{key}[{index}]"), value, values);
            }
        }
        value => values.push((key, value)),
    }
}
