//! Small pieces that pages are made of.

use antiphon_access::limits::LimitView;
use antiphon_access::sessions::Session;
use antiphon_operations::parse_time;
use antiphon_runtime::rfc3339;
use maud::{Markup, html};

use super::numbers::{compact, dollars, percent};
use antiphon_access::admin::Role;

/// From which share of a limit a bar warns, and from which it alarms.
const NEARLY_FULL: f64 = 0.8;
const FULL: f64 = 1.0;

/// How good or bad something is; decides on its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Warning,
    Bad,
    Neutral,
}

// === impl Tone ===

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Neutral => "neutral",
        }
    }

    /// The tone of a limit of which this share is used.
    pub fn of_share(share: f64) -> Self {
        match share {
            share if share >= FULL => Self::Bad,
            share if share >= NEARLY_FULL => Self::Warning,
            _ => Self::Good,
        }
    }
}

pub fn is_admin(session: &Session) -> bool {
    session.role == Role::Admin
}

/// A state in a word.
pub fn badge(tone: Tone, text: &str) -> Markup {
    html! { span class={ "badge " (tone.class()) } { (text) } }
}

/// A message about something that failed.
pub fn alert(message: &str) -> Markup {
    html! { p .alert.bad role="alert" { (message) } }
}

/// A message about something that worked.
pub fn notice(content: &Markup) -> Markup {
    html! { div .alert.good role="status" { (content) } }
}

/// A time in UTC, which a script shows in the reader's zone.
pub fn time(rfc3339: &str) -> Markup {
    let (date, time) = rfc3339.split_at_checked(10).unwrap_or((rfc3339, ""));
    let minutes = time.get(1..6).unwrap_or_default();
    html! { time datetime=(rfc3339) title=(rfc3339) { (date) " " (minutes) " UTC" } }
}

/// A field for a time in UTC.
pub fn time_field(name: &str, label: &str, value: &str) -> Markup {
    let written = parse_time(name, value).map(rfc3339).unwrap_or_default();
    let value = written.get(.."2026-11-22T10:00".len()).unwrap_or_default();
    html! { label .field { span { (label) } input type="datetime-local" name=(name) value=(value); } }
}

/// A time, or a dash for none.
pub fn optional_time(rfc3339: Option<&str>) -> Markup {
    html! { @if let Some(at) = rfc3339 { (time(at)) } @else { (none()) } }
}

pub fn none() -> Markup {
    html! { span .none title="none" { "–" } }
}

/// What a page without content says: what to do first.
pub fn empty(title: &str, content: &Markup) -> Markup {
    html! { div .empty { h2 { (title) } (content) } }
}

/// A button that sends a form without fields.
pub fn button(action: &str, label: &str, confirm: Option<&str>) -> Markup {
    html! {
        form .inline method="post" action=(action) data-confirm=[confirm] {
            button class=[confirm.map(|_| "danger")] type="submit" { (label) }
        }
    }
}

/// A link to the next page of a list.
pub fn next_page(href: &str) -> Markup {
    html! { nav .pages aria-label="Pages" { a .button href=(href) rel="next" { "Next page" } } }
}

/// A link to the page before, above a list that does not begin with its first page.
pub fn earlier_page(href: &str) -> Markup {
    html! { nav .pages aria-label="Earlier pages" { a .button href=(href) rel="prev" { "Earlier turns" } } }
}

/// A secret that is shown only now.
pub fn secret(id: &str, secret: &str) -> Markup {
    html! {
        div .secret {
            code #(id) { (secret) }
            button type="button" data-copy=(id) hidden { "Copy" }
        }
    }
}

/// A part of a whole as a bar. Styles may not be given inline, so it is an image.
pub fn bar(share: f64, tone: Tone, label: &str) -> Markup {
    let width = (share.clamp(0.0, 1.0) * 100.0).max(if share > 0.0 { 1.0 } else { 0.0 });
    html! {
        svg class={ "meter " (tone.class()) } viewBox="0 0 100 4" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect .track width="100" height="4" {}
            rect .fill width=(format!("{width:.1}")) height="4" {}
        }
    }
}

/// A limit with how much of it is used.
pub fn limit(limit: &LimitView) -> Markup {
    let amount = |amount| if limit.name.starts_with("cost") { dollars(amount) } else { compact(amount) };
    let (taken, share) = (limit.used + limit.held, limit.share());
    let label = format!("{}: {} of {} used", limit.name, amount(taken), amount(limit.limit));
    html! {
        div .limit {
            div .limit-text {
                span { (limit.name) @if limit.is_of_project() { " (project)" } }
                span .number { (amount(taken)) " / " (amount(limit.limit)) }
            }
            (bar(share, Tone::of_share(share), &label))
            @if let Some(at) = &limit.resets_at {
                div .hint { (percent(share)) " used, resets " (time(at)) }
            }
        }
    }
}

/// Patterns of models, or that all are allowed.
pub fn models(models: &[String]) -> Markup {
    html! {
        @if models.is_empty() { span .muted { "all models" } }
        @else { span .tags { @for model in models { span .tag { (model) } } } }
    }
}
