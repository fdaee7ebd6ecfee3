//! What operators should look at.

use antiphon_operations::{Attention, AttentionKind};
use maud::{Markup, html};

use super::numbers::{compact, percent};
use super::pieces::{Tone, badge, time};

pub fn attention(list: &[Attention]) -> Markup {
    html! {
        section .card aria-labelledby="attention" {
            h2 #attention { "Needs attention" }
            @if list.is_empty() { p .muted { "Nothing: no account is cooling down, and no key is near a limit." } }
            @else { ul .entries { @for one in list { li { (entry(one)) } } } }
        }
    }
}

fn entry(one: &Attention) -> Markup {
    let subject = one.subject.as_deref().unwrap_or_default();
    let share = one.value.unwrap_or_default();
    let until = html! { @if let Some(until) = &one.until { " until " (time(until)) } };
    let detail = one.detail.as_deref().unwrap_or_default();
    let account = html! { "Account " a href={ "/accounts/" (subject) } { (subject) } };
    match one.kind {
        AttentionKind::StoreUnavailable => html! {
            (badge(Tone::Bad, "store")) span { "The store accepts no writes. Turns that need it are refused." }
        },
        AttentionKind::LogRowsLost => html! {
            (badge(Tone::Bad, "store")) span { (compact(share)) " rows of the request log were lost since the start." }
        },
        AttentionKind::AccountDisabled => html! {
            (badge(Tone::Bad, "disabled")) span { (account) ": its upstream refuses the credential." }
        },
        AttentionKind::AccountCooling => html! {
            (badge(Tone::Warning, "cooling")) span { (account) (until) " (" (detail.replace('_', " ")) ")" }
        },
        AttentionKind::KeyNearLimit => html! {
            (badge(Tone::of_share(share), "limit"))
            span { "Key " a href={ "/keys/" (subject) } { (subject) } ": " (percent(share)) " of " (detail) (until) }
        },
        AttentionKind::ProjectNearLimit => html! {
            (badge(Tone::of_share(share), "limit")) span { "Project " (subject) ": " (percent(share)) " of " (detail) (until) }
        },
        AttentionKind::BackgroundWithoutLease => html! {
            (badge(Tone::Warning, "background")) span { (compact(share)) " background turns that nobody runs." }
        },
    }
}
