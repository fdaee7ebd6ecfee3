//! The replies of the other endpoints: a compacted context, and the number of its tokens.

use super::glance::Glance;
use super::json::{Object, array};
use super::mint::Family;
use super::reply::Reply;
use super::request::Items;
use super::script::Script;

/// Keeps the user's messages, and replaces everything else by one compaction item.
pub(super) fn render(reply: &Reply<'_>, items: &Items, family: &Family<'_>, sealed: &str) -> String {
    let glances = items.iter().filter_map(|item| Glance::at(item));
    let messages = glances.filter(Glance::is_user_message).map(|glance| message(&glance.text(), family));
    let compaction = Object::new()
        .value("id", &family.id("cmp"))
        .value("type", "compaction")
        .value("encrypted_content", sealed)
        .finish();
    Object::new()
        .value("id", &reply.id)
        .value("object", "response.compaction")
        .value("created_at", &reply.created_at)
        .raw("output", &array(messages.chain([compaction])))
        .raw("usage", &reply.usage())
        .finish()
}

/// About four characters per token.
pub(super) fn count(items: &Items, script: &Script) -> String {
    let estimated = items.iter().map(|item| 1 + item.get().len() as u64 / 4).sum();
    let tokens: u64 = script.usage.map_or(estimated, |(input, _)| input);
    Object::new().value("object", "response.input_tokens").value("input_tokens", &tokens).finish()
}

fn message(text: &str, family: &Family<'_>) -> String {
    let part = Object::new().value("type", "input_text").value("text", text).finish();
    Object::new()
        .value("id", &family.id("msg"))
        .value("type", "message")
        .value("status", "completed")
        .value("role", "user")
        .raw("content", &array([part]))
        .finish()
}
