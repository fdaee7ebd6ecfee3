//! Charts of the turns of accounts.

use antiphon_operations::{AccountTurns, TurnsOfAccount};
use maud::{Markup, html};

use super::chart::{CLASSES, Chart, Kind, Series};
use super::numbers::{compact, percent};
use super::pieces::none;

/// How many accounts have a colour of their own.
const MAX_SERIES: usize = 5;
/// Where the scale of error rates ends at least, so that a few errors do not look like many.
const LEAST_TOP: f64 = 0.05;
/// The units of the image of error rates.
const SPARK_HEIGHT: f64 = 20.0;
const SPARK_COLUMN: f64 = 4.0;

/// Turns and error rates of all accounts.
pub fn charts(report: &AccountTurns) -> Markup {
    let (shown, rest) = report.accounts.split_at(report.accounts.len().min(MAX_SERIES));
    let series = |values: fn(&[&TurnsOfAccount], usize) -> Vec<Option<f64>>| {
        let len = report.starts.len();
        let own = shown.iter().zip(CLASSES).map(|(one, class)| Series {
            name: one.account.clone(),
            class,
            values: values(&[one], len),
        });
        let rest: Vec<&TurnsOfAccount> = rest.iter().collect();
        let others = (!rest.is_empty()).then(|| Series {
            name: format!("{} others", rest.len()),
            class: "other",
            values: values(&rest, len),
        });
        own.chain(others).collect()
    };
    let failed: u64 = report.accounts.iter().map(|one| one.failed_turns).sum();
    let turns = Chart {
        title: "Turns by account",
        note: format!("{} turns", compact(report.turns as f64)),
        kind: Kind::Stacked,
        starts: &report.starts,
        series: series(turns_of),
        format: compact,
    };
    let errors = Chart {
        title: "Error rate by account",
        note: format!("{} of all turns", percent(failed as f64 / report.turns.max(1) as f64)),
        kind: Kind::Lines,
        starts: &report.starts,
        series: series(error_rates),
        format: percent,
    };
    html! { div .charts { section .card { (turns.render()) } section .card { (errors.render()) } } }
}

/// The turns of one account.
pub fn chart_of(report: &AccountTurns, name: &str) -> Markup {
    let found = of(report, name);
    let column = |values: fn(&TurnsOfAccount, usize) -> u64| {
        let value = |at| Some(found.map_or(0.0, |one| values(one, at) as f64));
        (0..report.starts.len()).map(value).collect()
    };
    let note = found.map_or_else(String::new, |one| {
        format!(
            "{} turns, {} of all, {} errors",
            compact(one.turns as f64),
            percent(one.share),
            percent(one.error_rate)
        )
    });
    let chart = Chart {
        title: "Turns",
        note,
        kind: Kind::Stacked,
        starts: &report.starts,
        series: vec![
            Series {
                name: "Served".to_owned(),
                class: "ok",
                values: column(|one, at| one.series.turns[at] - one.series.failed_turns[at]),
            },
            Series {
                name: "Failed".to_owned(),
                class: "failed",
                values: column(|one, at| one.series.failed_turns[at]),
            },
        ],
        format: compact,
    };
    chart.render()
}

pub fn of<'a>(report: &'a AccountTurns, name: &str) -> Option<&'a TurnsOfAccount> {
    report.accounts.iter().find(|one| one.account == name)
}

/// The error rate of an account in a number, and by interval as bars. All accounts of a report have the same scale.
pub fn error_rate(report: &AccountTurns, of: Option<&TurnsOfAccount>) -> Markup {
    let Some(one) = of.filter(|one| one.turns > 0) else { return none() };
    let rates = |one: &TurnsOfAccount| error_rates(&[one], report.starts.len());
    let highest = |one: &TurnsOfAccount| rates(one).into_iter().flatten().fold(0.0, f64::max);
    let top = report.accounts.iter().map(highest).fold(LEAST_TOP, f64::max);
    let width = SPARK_COLUMN * report.starts.len() as f64;
    let label =
        format!("Errors: {}, at most {} in an interval", percent(one.error_rate), percent(highest(one)));
    html! {
        span .number { (percent(one.error_rate)) }
        svg .spark viewBox={ "0 0 " (width) " " (SPARK_HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(label) {
            line x1="0" x2=(width) y1=(SPARK_HEIGHT) y2=(SPARK_HEIGHT) {}
            @for (at, rate) in rates(one).into_iter().enumerate() {
                @if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
                    @let height = SPARK_HEIGHT * rate / top;
                    rect x=(at as f64 * SPARK_COLUMN) y=(format!("{:.1}", SPARK_HEIGHT - height)) width=(SPARK_COLUMN - 1.0)
                        height=(format!("{height:.1}")) {}
                }
            }
        }
    }
}

fn turns_of(accounts: &[&TurnsOfAccount], len: usize) -> Vec<Option<f64>> {
    (0..len).map(|at| Some(sum(accounts, at, |one| &one.series.turns) as f64)).collect()
}

/// `None` in intervals without turns.
fn error_rates(accounts: &[&TurnsOfAccount], len: usize) -> Vec<Option<f64>> {
    let rate = |at| {
        let turns = sum(accounts, at, |one| &one.series.turns);
        let failed = sum(accounts, at, |one| &one.series.failed_turns);
        (turns > 0).then(|| failed as f64 / turns as f64)
    };
    (0..len).map(rate).collect()
}

fn sum(accounts: &[&TurnsOfAccount], at: usize, values: impl Fn(&TurnsOfAccount) -> &Vec<u64>) -> u64 {
    accounts.iter().map(|one| values(one)[at]).sum()
}
