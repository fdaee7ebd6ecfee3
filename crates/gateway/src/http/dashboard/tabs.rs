//! The parts of the Responses screen.

use maud::{Markup, html};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Turns,
    Conversations,
    Background,
}

const TABS: [(Tab, &str, &str); 3] = [
    (Tab::Turns, "/responses", "Turns"),
    (Tab::Conversations, "/responses/conversations", "Conversations"),
    (Tab::Background, "/responses/background", "Background"),
];

/// Links to all parts, for the place beside the title.
pub fn tabs(current: Tab) -> Markup {
    html! {
        nav .choice aria-label="Parts" {
            @for (tab, path, name) in TABS {
                a href=(path) aria-current=[(tab == current).then_some("page")] { (name) }
            }
        }
    }
}
