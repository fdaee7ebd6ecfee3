//! The attempts of a turn as a waterfall: waiting, asking, and reading.

use std::time::Duration;

use antiphon_store::LogRow;
use maud::{Markup, html};
use serde::Deserialize;

use super::chart::swatch;
use super::numbers::duration;

/// An attempt, as the request log keeps it.
#[derive(Debug, Deserialize)]
struct Attempt {
    account: String,
    outcome: String,
    began_us: u64,
    ended_us: u64,
}

/// One bar, with what it stands for.
struct Step {
    class: &'static str,
    label: String,
    from: Duration,
    to: Duration,
}

pub fn timeline(row: &LogRow) -> Markup {
    let steps = steps(row);
    let whole = row.duration.max(Duration::from_micros(1)).as_secs_f64();
    html! {
        @if !steps.is_empty() {
            div .timeline {
                h3 { "Timeline" }
                ol {
                    @for step in &steps {
                        @let (x, width) = (step.from.as_secs_f64() / whole, (step.to - step.from).as_secs_f64() / whole);
                        li {
                            span .step-label { (swatch(step.class)) (step.label) }
                            svg .waterfall viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true" {
                                rect .track width="1000" height="8" {}
                                rect class={ "area " (step.class) } x=(format!("{:.1}", x * 1000.0))
                                    width=(format!("{:.1}", (width * 1000.0).max(3.0))) height="8" {}
                            }
                            span .number.hint { (duration(step.to - step.from)) }
                        }
                    }
                }
            }
        }
    }
}

fn steps(row: &LogRow) -> Vec<Step> {
    let Some(sent) = row.sent else { return Vec::new() };
    let attempts: Vec<Attempt> =
        row.attempt_log.as_deref().and_then(|log| serde_json::from_str(log).ok()).unwrap_or_default();
    let begins =
        attempts.first().map_or(sent, |first| Duration::from_micros(first.began_us)).min(row.duration);
    let mut steps = vec![Step {
        class: "s6",
        label: "waiting for an account".to_owned(),
        from: Duration::ZERO,
        to: begins,
    }];
    for Attempt { account, outcome, began_us, ended_us } in attempts {
        let (from, to) = (Duration::from_micros(began_us), Duration::from_micros(ended_us));
        steps.push(Step {
            class: class_of(&outcome),
            label: format!("{account}: {outcome}"),
            from,
            to: to.max(from),
        });
    }
    if let Some(first) = row.first_event {
        if row.attempt_log.is_none() {
            let account = row.account.as_deref().unwrap_or("upstream");
            let label = format!("{account}: until the first event");
            steps.push(Step { class: "s3", label, from: sent.min(first), to: first });
        }
        let label = "events until the end".to_owned();
        steps.push(Step { class: "s1", label, from: first, to: row.duration.max(first) });
    }
    steps
}

fn class_of(outcome: &str) -> &'static str {
    if outcome == "answered" { "s3" } else { "failed" }
}
