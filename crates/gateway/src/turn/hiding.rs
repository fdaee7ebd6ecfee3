//! Hiding: leaves out of an event what its client does not get of items.

use std::borrow::Cow;

use antiphon_protocol::event::{Event, EventKind};
use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::json::{Object, Set};

/// The data of an event of an item, or of the response, without these parts; `None` if it has none of them.
pub fn hide_in_event(event: &Event, hidden: HiddenParts) -> Option<Vec<u8>> {
    let name = match event.kind() {
        EventKind::ItemAdded | EventKind::ItemDone => "item",
        EventKind::Snapshot | EventKind::Terminal => "response",
        EventKind::Error | EventKind::Other => return None,
    };
    let data = event.data()?;
    if !hidden.may_be_in(&data) {
        return None;
    }
    let object = Object::scan(&data).ok()?;
    let whole = object.get(name)?;
    let shown = match name {
        "response" => hidden.hide_in_response(whole)?,
        _ => match hidden.hide(whole) {
            Cow::Owned(shown) => shown,
            Cow::Borrowed(_) => return None,
        },
    };
    let mut out = Vec::with_capacity(data.len());
    object.set(&[Set { name, value: &shown, add: false }], &mut out);
    Some(out)
}
