//! The overview: figures, charts, live figures, and what needs attention.

use std::collections::BTreeMap;

use antiphon_access::usage::{Group, UsageParameters};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::attention::attention;
use super::chart::{CLASSES, Chart, Kind, Series};
use super::gate::{Query, SignedIn};
use super::live;
use super::numbers::{compact, dollars, percent};
use super::page::{Page, Problem, Screen};
use super::pieces::empty;
use super::window::Window;
use crate::http::app_state::AppState;
use crate::operations::{OperationError, Operations};

/// Enough for every model of every hour of a week.
const MAX_GROUPS: u32 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverviewQuery {
    #[serde(default)]
    window: Window,
}

/// Sums over a window.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    turns: u64,
    failed: u64,
    input: u64,
    cached: u64,
    output: u64,
    nano_usd: u64,
}

/// Whether more of something is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    IsBad,
    IsNeither,
}

pub async fn show(
    SignedIn(session): SignedIn,
    State(state): State<AppState>,
    Query(OverviewQuery { window }): Query<OverviewQuery>,
) -> Result<Response, Problem> {
    let operations = &*state.operations;
    let now = operations.clock.now();
    let starts = window.starts(now);
    let groups =
        usage(operations, starts.first().cloned(), None, &format!("{},model", window.grouping())).await?;
    let before = usage(operations, Some(window.starts_before(now)), starts.first().cloned(), "model").await?;
    let (sums, before) = (Sums::of(&groups), Sums::of(&before));
    let content = html! {
        (figures(&state, window, sums, before))
        @if sums.turns == 0 && before.turns == 0 { (no_turns()) }
        @else {
            div .charts {
                section .card { (turns(&starts, &groups, sums)) }
                section .card { (tokens(&starts, &groups, sums)) }
                section .card { (cost(&starts, &groups, sums)) }
                (attention(operations).await?)
            }
        }
    };
    let actions = window.choice("/");
    Ok(Page { session: &session, screen: Screen::Overview, title: "Overview", actions, content }
        .into_response())
}

async fn usage(
    operations: &Operations,
    from: Option<String>,
    to: Option<String>,
    group_by: &str,
) -> Result<Vec<Group>, OperationError> {
    let group_by = Some(group_by.to_owned());
    let parameters =
        UsageParameters { from, to, group_by, limit: Some(MAX_GROUPS), ..UsageParameters::default() };
    Ok(operations.report_usage(parameters).await?.groups().to_vec())
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

fn figures(state: &AppState, window: Window, sums: Sums, before: Sums) -> Markup {
    let live = live::figures(state);
    let now = |name: &str, label: &str| html! { div { dt { (label) } dd data-live=(name) { (live[name]) } } };
    html! {
        section .figures-row aria-label={ "The last " (window.name()) } {
            (figure("Turns", &compact(sums.turns as f64), sums.turns as f64, before.turns as f64, More::IsNeither))
            (figure("Failed", &percent(sums.failure_rate()), sums.failure_rate(), before.failure_rate(), More::IsBad))
            (figure("Input tokens", &compact(sums.input as f64), sums.input as f64, before.input as f64, More::IsNeither))
            (figure("Output tokens", &compact(sums.output as f64), sums.output as f64, before.output as f64, More::IsNeither))
            (figure("Cost", &dollars(sums.dollars()), sums.dollars(), before.dollars(), More::IsNeither))
            div .figure.now {
                div .figure-head { h2 { "Now" } span .live data-live-state="" {} }
                dl .live-figures {
                    (now("turns", "turns")) (now("sockets", "sockets")) (now("background", "background")) (now("queued", "queued"))
                }
            }
        }
    }
}

/// A figure with its change against the window before.
fn figure(label: &str, shown: &str, value: f64, before: f64, more: More) -> Markup {
    let change = if before > 0.0 { (value - before) / before } else { 0.0 };
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
            p class={ "change " (class) } {
                @if before == 0.0 { "nothing to compare with" }
                @else if arrow.is_empty() { "as before" }
                @else {
                    span aria-hidden="true" { (arrow) " " } span .hidden-label { (word) " by " }
                    (percent(change.abs())) span .hidden-label { " against the time before" }
                }
            }
        }
    }
}

fn series(
    name: &str,
    class: &'static str,
    starts: &[String],
    groups: &[Group],
    value: impl Fn(&Group) -> u64,
) -> Series {
    let of_interval = |start: &String| {
        let groups = groups.iter().filter(|group| group.start.as_ref() == Some(start));
        Some(groups.map(&value).sum::<u64>() as f64)
    };
    Series { name: name.to_owned(), class, values: starts.iter().map(of_interval).collect() }
}

fn turns(starts: &[String], groups: &[Group], sums: Sums) -> Markup {
    let chart = Chart {
        title: "Turns",
        note: format!(
            "{} served, {} failed",
            compact((sums.turns - sums.failed) as f64),
            compact(sums.failed as f64)
        ),
        kind: Kind::Stacked,
        starts,
        series: vec![
            series("Served", "ok", starts, groups, |group| group.turns - group.failed_turns),
            series("Failed", "failed", starts, groups, |group| group.failed_turns),
        ],
        format: compact,
    };
    chart.render()
}

fn tokens(starts: &[String], groups: &[Group], sums: Sums) -> Markup {
    let share = if sums.input > 0 { sums.cached as f64 / sums.input as f64 } else { 0.0 };
    let chart = Chart {
        title: "Tokens",
        note: format!("{} of input from upstreams' caches", percent(share)),
        kind: Kind::Stacked,
        starts,
        series: vec![
            series("Input", "s1", starts, groups, |group| {
                group.input_tokens.saturating_sub(group.cached_tokens)
            }),
            series("Cached input", "s2", starts, groups, |group| group.cached_tokens),
            series("Output", "s3", starts, groups, |group| group.output_tokens),
        ],
        format: compact,
    };
    chart.render()
}

/// The most expensive models, and all others together.
fn cost(starts: &[String], groups: &[Group], sums: Sums) -> Markup {
    let mut by_model: BTreeMap<&str, u64> = BTreeMap::new();
    for group in groups {
        *by_model.entry(model_of(group)).or_default() += group.cost_nano_usd.unwrap_or_default();
    }
    let mut models: Vec<(&str, u64)> = by_model.into_iter().filter(|(_, cost)| *cost > 0).collect();
    models.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
    let (named, others) = models.split_at(models.len().min(CLASSES.len() - 1));
    let cost_of = |group: &Group| group.cost_nano_usd.unwrap_or_default();
    let mut all: Vec<Series> =
        named
            .iter()
            .zip(CLASSES)
            .map(|((model, _), class)| {
                series(model, class, starts, groups, |group| {
                    if model_of(group) == *model { cost_of(group) } else { 0 }
                })
            })
            .collect();
    if !others.is_empty() {
        let is_other = |group: &Group| others.iter().any(|(model, _)| *model == model_of(group));
        all.push(series(
            "Others",
            "s6",
            starts,
            groups,
            |group| if is_other(group) { cost_of(group) } else { 0 },
        ));
    }
    for value in all.iter_mut().flat_map(|series| &mut series.values).flatten() {
        *value /= 1e9;
    }
    let note = dollars(sums.dollars());
    Chart { title: "Cost by model", note, kind: Kind::Stacked, starts, series: all, format: dollars }.render()
}

fn model_of(group: &Group) -> &str {
    group.model.as_deref().unwrap_or("none")
}

// === impl Sums ===

impl Sums {
    fn of(groups: &[Group]) -> Self {
        groups.iter().fold(Self::default(), |sums, group| Self {
            turns: sums.turns + group.turns,
            failed: sums.failed + group.failed_turns,
            input: sums.input + group.input_tokens,
            cached: sums.cached + group.cached_tokens,
            output: sums.output + group.output_tokens,
            nano_usd: sums.nano_usd + group.cost_nano_usd.unwrap_or_default(),
        })
    }

    fn failure_rate(self) -> f64 {
        if self.turns == 0 { 0.0 } else { self.failed as f64 / self.turns as f64 }
    }

    fn dollars(self) -> f64 {
        self.nano_usd as f64 / 1e9
    }
}
