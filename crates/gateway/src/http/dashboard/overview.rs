//! The overview: figures, charts, live figures, and what needs attention.

use std::sync::Arc;

use antiphon_operations::{Operations, Overview, Running};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::attention::attention;
use super::chart::{CLASSES, Chart, Kind, Series};
use super::gate::{Query, SignedIn};
use super::numbers::{compact, dollars, percent, seconds};
use super::page::{Page, Problem, Screen};
use super::pieces::empty;
use super::time_choice::TimeQuery;

/// The outcomes of turns as series, in the order in which they are stacked; all others come last.
const OUTCOMES: [(&str, &str); 4] =
    [("completed", "ok"), ("incomplete", "s2"), ("refused", "refused"), ("failed", "failed")];

/// Whether more of something is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    IsBad,
    IsNeither,
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(operations): State<Arc<Operations>>,
    Query(time): Query<TimeQuery>,
) -> Result<Response, Problem> {
    let overview = operations.overview(time.range(operations.clock.now())?).await?;
    let content = html! {
        (figures(&overview))
        @if overview.current.turns == 0 && overview.previous.turns == 0 { (no_turns()) (attention(&overview.attention)) }
        @else {
            div .charts {
                section .card { (turns(&overview)) }
                section .card { (tokens(&overview)) }
                section .card { (latency(&overview)) }
                section .card { (cost(&overview)) }
            }
            (attention(&overview.attention))
        }
    };
    let actions = time.choice("/", overview.window);
    Ok(Page { session: &session, screen: Screen::Overview, title: "Overview", actions, content }
        .into_response())
}

fn no_turns() -> Markup {
    empty(
        "No turns yet",
        &html! {
            p { "Point a client at this gateway, and its turns show up here:" }
            pre { code {
                "curl " span data-origin { "http://HOST:PORT" } "/v1/responses \\\n  -H 'authorization: Bearer apn-…' \
                 -H 'content-type: application/json' \\\n  -d '{\"model\":\"gpt-5.4\",\"input\":\"Hello\"}'"
            } }
            p { a .button href="/keys" { "Create a key" } }
        },
    )
}

fn figures(overview: &Overview) -> Markup {
    let (current, previous) = (&overview.current, &overview.previous);
    let count = |label, now: u64, before: u64| {
        figure(label, &compact(now as f64), Some(now as f64), Some(before as f64), More::IsNeither)
    };
    let time = |label, now: Option<f64>, before| {
        figure(label, &now.map_or_else(|| "–".to_owned(), seconds), now, before, More::IsBad)
    };
    let rate = current.error_rate.map_or_else(|| "–".to_owned(), percent);
    html! {
        section .figures-row aria-label="Figures" {
            (count("Turns", current.turns, previous.turns))
            (figure("Errors", &rate, current.error_rate, previous.error_rate, More::IsBad))
            (count("Input tokens", current.input_tokens, previous.input_tokens))
            (count("Cached input", current.cached_tokens, previous.cached_tokens))
            (count("Output tokens", current.output_tokens, previous.output_tokens))
            (figure("Cost", &dollars(current.cost_usd), Some(current.cost_usd), Some(previous.cost_usd), More::IsNeither))
            (time("First event, median", current.first_event_ms.p50, previous.first_event_ms.p50))
            (time("First event, 95th", current.first_event_ms.p95, previous.first_event_ms.p95))
            (now(&overview.running))
        }
    }
}

fn now(running: &Running) -> Markup {
    let row = |name: &str, label: &str, value: i64| html! { div { dt { (label) } dd data-live=(name) { (value) } } };
    html! {
        div .figure.now {
            div .figure-head { h2 { "Now" } span .live data-live-state="" {} }
            dl .live-figures {
                (row("turns", "turns", running.turns))
                (row("queued_turns", "waiting", i64::try_from(running.queued_turns).unwrap_or(i64::MAX)))
                (row("sockets", "sockets", running.sockets))
                (row("background", "background", running.background))
            }
        }
    }
}

/// A figure with its change against the window before.
fn figure(label: &str, shown: &str, value: Option<f64>, before: Option<f64>, more: More) -> Markup {
    let known = value.zip(before.filter(|before| *before > 0.0));
    let change = known.map_or(0.0, |(value, before)| (value - before) / before);
    let class = match more {
        More::IsBad if change > 0.005 => "worse",
        More::IsBad if change < -0.005 => "better",
        _ => "",
    };
    let arrow = if change > 0.005 {
        "▲"
    } else if change < -0.005 {
        "▼"
    } else {
        ""
    };
    let word = if change > 0.0 { "up" } else { "down" };
    html! {
        div .figure {
            h2 { (label) }
            p .value { (shown) }
            p class={ "delta " (class) } {
                @if known.is_none() { "nothing to compare with" }
                @else if arrow.is_empty() { "as before" }
                @else {
                    span aria-hidden="true" { (arrow) " " } span .hidden-label { (word) " by " }
                    (percent(change.abs())) span .hidden-label { " against the time before" }
                }
            }
        }
    }
}

fn counts(values: &[u64]) -> Vec<Option<f64>> {
    values.iter().map(|value| Some(*value as f64)).collect()
}

fn turns(overview: &Overview) -> Markup {
    let by_outcome = &overview.series.turns;
    let named = OUTCOMES.iter().filter_map(|&(outcome, class)| {
        Some(Series { name: outcome.to_owned(), class, values: counts(by_outcome.get(outcome)?) })
    });
    let is_named = |outcome: &str| OUTCOMES.iter().any(|(named, _)| *named == outcome);
    let others = by_outcome.iter().filter(|(outcome, _)| !is_named(outcome));
    let others = others.map(|(outcome, values)| Series {
        name: outcome.clone(),
        class: "other",
        values: counts(values),
    });
    let chart = Chart {
        title: "Turns by outcome",
        note: format!("{} turns", compact(overview.current.turns as f64)),
        kind: Kind::Stacked,
        starts: &overview.series.starts,
        series: named.chain(others).collect(),
        format: compact,
    };
    chart.render()
}

fn tokens(overview: &Overview) -> Markup {
    let (series, current) = (&overview.series, &overview.current);
    let share = if current.input_tokens > 0 {
        current.cached_tokens as f64 / current.input_tokens as f64
    } else {
        0.0
    };
    let uncached: Vec<u64> = series
        .input_tokens
        .iter()
        .zip(&series.cached_tokens)
        .map(|(all, cached)| all.saturating_sub(*cached))
        .collect();
    let one =
        |name: &str, class, values: &[u64]| Series { name: name.to_owned(), class, values: counts(values) };
    let chart = Chart {
        title: "Tokens",
        note: format!("{} of input from upstreams' caches", percent(share)),
        kind: Kind::Stacked,
        starts: &series.starts,
        series: vec![
            one("Input", "s1", &uncached),
            one("Cached input", "s2", &series.cached_tokens),
            one("Output", "s3", &series.output_tokens),
        ],
        format: compact,
    };
    chart.render()
}

fn latency(overview: &Overview) -> Markup {
    let series = &overview.series;
    let one = |name: &str, class, values: &[Option<f64>]| Series {
        name: name.to_owned(),
        class,
        values: values.to_vec(),
    };
    let chart = Chart {
        title: "Latency",
        note: "of turns that an upstream served".to_owned(),
        kind: Kind::Lines,
        starts: &series.starts,
        series: vec![
            one("First event, median", "s1", &series.first_event_ms.p50),
            one("First event, 95th percentile", "s2", &series.first_event_ms.p95),
            one("Duration, median", "s3", &series.duration_ms.p50),
            one("Duration, 95th percentile", "s4", &series.duration_ms.p95),
        ],
        format: seconds,
    };
    chart.render()
}

fn cost(overview: &Overview) -> Markup {
    let models = overview.series.cost_usd.iter().enumerate();
    let series = models.map(|(at, model)| Series {
        name: model.model.clone(),
        class: CLASSES[at % CLASSES.len()],
        values: model.values.iter().copied().map(Some).collect(),
    });
    let chart = Chart {
        title: "Cost by model",
        note: dollars(overview.current.cost_usd),
        kind: Kind::Stacked,
        starts: &overview.series.starts,
        series: series.collect(),
        format: dollars,
    };
    chart.render()
}
