//! The attempts of a turn as a waterfall: waiting, connecting, asking, and reading.

use std::time::Duration;

use antiphon_operations::{AttemptView, LoggedTurn};
use maud::{Markup, html};

use super::chart::swatch;
use super::numbers::duration;

/// One bar, with what it stands for. Times are milliseconds after the start of the turn.
struct Step {
    class: &'static str,
    label: String,
    from: f64,
    to: f64,
}

pub fn timeline(turn: &LoggedTurn, attempts: &[AttemptView]) -> Markup {
    let steps = steps(turn, attempts);
    let whole = turn.duration_ms.max(0.001);
    html! {
        @if !steps.is_empty() {
            div .timeline {
                h2 .minor { "Timeline" }
                ol {
                    @for step in &steps {
                        @let (x, width) = (step.from / whole * 1000.0, (step.to - step.from) / whole * 1000.0);
                        li {
                            span .step-label { (swatch(step.class)) (step.label) }
                            svg .waterfall viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true" {
                                rect .track width="1000" height="8" {}
                                rect class={ "area " (step.class) } x=(format!("{x:.1}"))
                                    width=(format!("{:.1}", width.max(3.0))) height="8" {}
                            }
                            span .number.hint { (duration(Duration::from_secs_f64((step.to - step.from) / 1e3))) }
                        }
                    }
                }
            }
        }
    }
}

fn steps(turn: &LoggedTurn, attempts: &[AttemptView]) -> Vec<Step> {
    let Some(first) = attempts.first() else { return Vec::new() };
    let mut steps =
        vec![Step { class: "s6", label: "waiting for an account".to_owned(), from: 0.0, to: first.began_ms }];
    for attempt in attempts {
        let is_answered = attempt.outcome == "answered";
        let label = if is_answered { "until the first event" } else { attempt.outcome.as_str() };
        let mut from = attempt.began_ms;
        if let Some(connect) = attempt.connect_ms {
            let label = format!("{}: connecting", attempt.account);
            steps.push(Step { class: "s4", label, from, to: from + connect });
            from += connect;
        }
        steps.push(Step {
            class: if is_answered { "s3" } else { "failed" },
            label: format!("{}: {label}", attempt.account),
            from,
            to: attempt.ended_ms.max(from),
        });
    }
    if let Some(first_event) = turn.first_event_ms {
        let label = "events until the end".to_owned();
        steps.push(Step { class: "s1", label, from: first_event, to: turn.duration_ms.max(first_event) });
    }
    steps
}
