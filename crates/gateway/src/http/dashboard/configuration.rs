//! The configuration in effect, and the store's size.

use antiphon_operations::{ConfigReport, StoreReport};
use maud::{Markup, html};
use serde_json::Value;

use super::numbers::{bytes, compact, grouped};
use super::pieces::{Tone, badge, none, optional_time};

/// Every value with where it comes from; those that were set come first.
pub fn configuration(report: &ConfigReport) -> Markup {
    let is_default = |source: &str| source == "default";
    let (defaults, set): (Vec<_>, Vec<_>) = report.values.iter().partition(|value| is_default(value.source));
    html! {
        p .hint { "Secrets are redacted. The configuration is changed in its file." }
        @if !report.needs_restart.is_empty() {
            p {
                (badge(Tone::Warning, "restart needed")) " Changes of " (report.needs_restart.join(", ")) " are not in effect yet."
            }
        }
        div .scroll tabindex="0" role="region" aria-label="Values that were set" {
            table .dense {
                thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } th scope="col" { "From" } } }
                tbody {
                    @for value in set {
                        tr {
                            th .mono scope="row" { (value.key) }
                            td .mono { (text(&value.value)) }
                            td { (value.source) @if let Some(origin) = &value.origin { div .hint.mono { (origin) } } }
                        }
                    }
                }
            }
        }
        details .figures {
            summary { (defaults.len()) " defaults" }
            div .scroll tabindex="0" role="region" aria-label="Defaults" {
                table .dense {
                    thead { tr { th scope="col" { "Key" } th scope="col" { "Value" } } }
                    tbody {
                        @for value in defaults {
                            tr { th .mono scope="row" { (value.key) } td .mono { (text(&value.value)) } }
                        }
                    }
                }
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub fn store(report: &StoreReport) -> Markup {
    html! {
        dl .facts {
            dt { "Engine" } dd { (report.engine) }
            dt { "State" } dd {
                @if report.available { (badge(Tone::Good, "available")) } @else { (badge(Tone::Bad, "accepts no writes")) }
            }
            dt { "Size" } dd { (bytes(report.bytes)) ", of which " (bytes(report.free_bytes)) " free" }
            dt { "Growth" } dd {
                (compact(report.turns_per_day as f64)) " turns, about " (bytes(report.bytes_per_day)) " a day"
            }
            dt { "Responses are kept" } dd { @if let Some(time) = &report.retention { (time) } @else { (none()) } }
            dt { "The request log is kept" } dd { @if let Some(time) = &report.log_retention { (time) } @else { (none()) } }
            dt { "Last purge" } dd { (optional_time(report.last_purge_at.as_deref())) }
            @if report.lost_log_rows > 0 { dt { "Lost rows of the log" } dd { (grouped(report.lost_log_rows as f64)) } }
        }
        details .figures {
            summary { (report.tables.len()) " tables" }
            div .scroll tabindex="0" role="region" aria-label="Tables" {
                table .dense {
                    thead {
                        tr { th scope="col" { "Table" } th .number scope="col" { "Rows, about" } th .number scope="col" { "Size" } }
                    }
                    tbody {
                        @for table in &report.tables {
                            tr {
                                th .mono scope="row" { (table.name) }
                                td .number { (grouped(table.rows as f64)) }
                                td .number { @if let Some(size) = table.bytes { (bytes(size)) } @else { (none()) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
