//! The tools that a turn offers to the model: those of the request, and those that items of its context add.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use antiphon_protocol::json::{self, Object};

/// The type of items that add tools.
pub const ADDITIONAL_TOOLS: &str = "additional_tools";

/// A tool that the model may get.
#[derive(Debug)]
pub struct Offer<'a> {
    pub tool: Object<'a>,
    /// Its type. In a namespace all tools but custom ones are functions.
    pub kind: Cow<'a, str>,
    /// The name of its namespace, a JSON string.
    pub namespace: Option<&'a [u8]>,
    /// Its place in the request's `tools`; `None` if an item adds it.
    pub place: Option<usize>,
}

#[derive(Default)]
struct Offers<'a> {
    all: Vec<Offer<'a>>,
    /// Where the tool of each identity is.
    places: HashMap<Identity<'a>, usize>,
}

/// Type, namespace and name. A chat cannot tell a custom tool from a function of the same name.
type Identity<'a> = (Cow<'a, str>, Cow<'a, str>, Cow<'a, str>);

/// All tools, each once, in its latest definition. `items` is an array of which the part up to `history_end` is older than the
/// request's own `tools`.
pub fn offers<'a>(tools: Option<&'a [u8]>, items: &'a [u8], history_end: usize) -> Vec<Offer<'a>> {
    let (older, newer): (Vec<_>, Vec<_>) =
        additional_tools(items).into_iter().partition(|(start, _)| *start < history_end);
    let mut offers = Offers::default();
    older.into_iter().for_each(|(_, tools)| offers.add_all(tools, false));
    offers.add_all(tools.unwrap_or_default(), true);
    newer.into_iter().for_each(|(_, tools)| offers.add_all(tools, false));
    // The next turn of a chain has what is new here in its history: the order is the same there.
    offers.all.sort_by_key(|offer| offer.place.is_none());
    offers.all
}

/// The tools of each item that adds some, and where the item begins.
fn additional_tools(items: &[u8]) -> Vec<(usize, &[u8])> {
    let (mut elements, mut found) = (json::elements(items), Vec::new());
    loop {
        let (mut adds_tools, mut tools) = (false, None);
        let element = elements.next_showing(|member| {
            if member.is(items, "type") {
                let kind = json::string(&items[member.value.clone()]);
                // What a search for tools has found can be called from then on.
                adds_tools =
                    kind.is_some_and(|kind| kind == ADDITIONAL_TOOLS || kind == "tool_search_output");
            } else if member.is(items, "tools") {
                tools = Some(member.value.clone());
            }
        });
        let Some(Ok(element)) = element else { return found };
        found.extend(tools.filter(|_| adds_tools).map(|tools| (element.start, &items[tools])));
    }
}

/// The elements of an array that are objects, with their places.
fn objects(array: &[u8]) -> impl Iterator<Item = (usize, Object<'_>)> {
    let elements = json::elements(array).map_while(Result::ok).enumerate();
    elements.filter_map(|(place, range)| Some((place, Object::scan(&array[range]).ok()?)))
}

// === impl Offer ===

impl<'a> Offer<'a> {
    /// A function or a custom tool that has this name, whatever its namespace.
    pub fn name(&self) -> Option<Cow<'a, str>> {
        let is_named = matches!(&*self.kind, "function" | "custom");
        self.tool.get("name").filter(|_| is_named).and_then(json::string)
    }

    /// `None` for a function without a name, which nobody could call.
    fn identity(&self) -> Option<Identity<'a>> {
        let namespace = self.namespace.and_then(json::string).unwrap_or_default();
        match &*self.kind {
            "function" | "custom" => Some(("function".into(), namespace, self.name()?)),
            "mcp" => {
                let server = self.tool.get("server_label").and_then(json::string);
                Some(("mcp".into(), namespace, server.unwrap_or_default()))
            }
            _ => Some((self.kind.clone(), namespace, "".into())),
        }
    }
}

// === impl Offers ===

impl<'a> Offers<'a> {
    /// Adds an array of tools. `are_own`: the request's `tools`.
    fn add_all(&mut self, tools: &'a [u8], are_own: bool) {
        for (place, tool) in objects(tools) {
            let place = Some(place).filter(|_| are_own);
            let kind = tool.get("type").and_then(json::string).unwrap_or_default();
            if kind != "namespace" {
                self.add(Offer { tool, kind, namespace: None, place });
                continue;
            }
            let namespace = tool.get("name");
            for (_, tool) in objects(tool.get("tools").unwrap_or_default()) {
                let is_custom = tool.get("type").and_then(json::string).is_some_and(|kind| kind == "custom");
                let kind = if is_custom { "custom" } else { "function" }.into();
                self.add(Offer { tool, kind, namespace, place });
            }
        }
    }

    fn add(&mut self, offer: Offer<'a>) {
        let Some(identity) = offer.identity() else { return };
        match self.places.entry(identity) {
            Entry::Occupied(place) => self.all[*place.get()] = offer,
            Entry::Vacant(place) => {
                place.insert(self.all.len());
                self.all.push(offer);
            }
        }
    }
}
