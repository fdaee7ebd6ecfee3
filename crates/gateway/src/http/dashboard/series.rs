//! The usage of a key as charts.

use antiphon_access::usage::UsageParameters;
use antiphon_operations::{OperationError, Operations};
use antiphon_runtime::{Timestamp, rfc3339};
use antiphon_store::DAY_MS;
use maud::{Markup, html};

use super::chart::{Chart, Kind, Series};
use super::numbers::{compact, dollars};

const DAYS: i64 = 30;

/// Turns and tokens of a key by day.
pub async fn usage_of_key(operations: &Operations, key_id: &str) -> Result<Markup, OperationError> {
    let today = operations.clock.now().unix_ms() / DAY_MS;
    let starts: Vec<String> =
        (today - DAYS + 1..=today).map(|day| rfc3339(Timestamp::from_unix_ms(day * DAY_MS))).collect();
    let parameters = UsageParameters {
        from: starts.first().cloned(),
        group_by: Some("day".to_owned()),
        key: Some(key_id.to_owned()),
        ..UsageParameters::default()
    };
    let report = operations.report_usage(parameters).await?;
    let column = |value: fn(&antiphon_access::usage::Group) -> u64| -> Vec<Option<f64>> {
        let of_day =
            |start: &String| report.groups().iter().find(|group| group.start.as_ref() == Some(start));
        starts.iter().map(|start| Some(of_day(start).map_or(0.0, |group| value(group) as f64))).collect()
    };
    let series = |name: &str, class, values| Series { name: name.to_owned(), class, values };
    let turns: u64 = report.groups().iter().map(|group| group.turns).sum();
    let cost: u64 = report.groups().iter().filter_map(|group| group.cost_nano_usd).sum();
    let turns = Chart {
        title: "Turns",
        note: format!("{} turns, {}", compact(turns as f64), dollars(cost as f64 / 1e9)),
        kind: Kind::Stacked,
        starts: &starts,
        series: vec![
            series("Served", "ok", column(|group| group.turns - group.failed_turns)),
            series("Failed", "failed", column(|group| group.failed_turns)),
        ],
        format: compact,
    };
    let tokens = Chart {
        title: "Tokens",
        note: String::new(),
        kind: Kind::Stacked,
        starts: &starts,
        series: vec![
            series("Input", "s1", column(|group| group.input_tokens.saturating_sub(group.cached_tokens))),
            series("Cached input", "s2", column(|group| group.cached_tokens)),
            series("Output", "s3", column(|group| group.output_tokens)),
        ],
        format: compact,
    };
    Ok(html! { div .charts { (turns.render()) (tokens.render()) } })
}
