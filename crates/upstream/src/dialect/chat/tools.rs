//! The tools of a request as functions, which are all that a chat knows.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use antiphon_protocol::error::ApiError;
use antiphon_protocol::json::{self, Object};

use super::names::{ChatNames, OwnName, flat_name, numbered};
use super::offers::Offer;
use super::stand_in::StandIn;
use super::{ChatSettings, UnsupportedTools, escaped, put, unsupported};

/// The functions that stand in for other tools, by name.
pub type StandIns = HashMap<String, StandIn>;

/// The tools of a request.
#[derive(Debug, Default)]
pub struct Tools {
    functions: Vec<Function>,
    /// Of all functions that the client has given, each with the last number that was added to it.
    names: HashMap<String, u32>,
    pub chat_names: ChatNames,
    /// The names of tools that the client calls otherwise, by their own names without the namespaces, which are as they stand in a
    /// JSON string. The first of a name counts.
    renamed: HashMap<Vec<u8>, String>,
    /// The value of `tool_choice`, if there is one.
    choice: Option<Vec<u8>>,
    pub stand_ins: StandIns,
    /// The types of the tools that were left out, and where they stood in the request's `tools`, if they did.
    omitted: Vec<(Option<usize>, String)>,
}

#[derive(Debug)]
struct Function {
    name: String,
    /// The whole tool.
    json: Vec<u8>,
}

// === impl Tools ===

impl Tools {
    pub fn parse(
        offers: &[Offer<'_>],
        choice: Option<&[u8]>,
        settings: &ChatSettings,
    ) -> Result<Self, ApiError> {
        let outside_namespaces = offers.iter().filter(|offer| offer.namespace.is_none());
        let names = outside_namespaces.filter_map(|offer| Some((offer.name()?.into_owned(), 1))).collect();
        let mut this = Self { names, ..Self::default() };
        for offer in offers {
            this.add(offer, settings)?;
        }
        if let Some(choice) = choice {
            this.choose(choice)?;
        }
        if !settings.is_openai {
            this.enforce_choice();
        }
        Ok(this)
    }

    /// The members of the request: the tools, the choice among them, and whether calls may be parallel.
    pub fn write(&self, parallel: Option<&[u8]>, out: &mut Vec<u8>) {
        if self.functions.is_empty() {
            return;
        }
        let functions =
            antiphon_protocol::response::array(self.functions.iter().map(|function| &function.json));
        put(out, &[br#","tools":"#, &functions]);
        if let Some(choice) = &self.choice {
            put(out, &[br#","tool_choice":"#, choice]);
        }
        if let Some(parallel) = parallel {
            put(out, &[br#","parallel_tool_calls":"#, parallel]);
        }
    }

    /// The types of the tools that were left out.
    pub fn omitted(&self) -> impl Iterator<Item = &str> {
        self.omitted.iter().map(|(_, kind)| kind.as_str())
    }

    fn add(&mut self, offer: &Offer<'_>, settings: &ChatSettings) -> Result<(), ApiError> {
        let Offer { tool, namespace, place, .. } = offer;
        match &*offer.kind {
            "function" => self.add_function(tool, *namespace),
            "custom" => self.add_custom(tool, *namespace),
            "mcp" if tool.get("require_approval") != Some(b"\"never\"") => {
                let message = "The upstream's chat completions have no MCP tools, and this one wants approval: set 'require_approval' to 'never' to have it left out.";
                return Err(unsupported(&param(*place), message.to_owned()));
            }
            kind => match StandIn::of_tool(kind, tool).filter(|_| !self.names.contains_key(kind)) {
                Some(stand_in) => self.add_stand_in(kind.to_owned(), stand_in, b""),
                None if settings.unsupported_tools == UnsupportedTools::Reject => {
                    return Err(rejected(*place, kind));
                }
                None => self.omitted.push((*place, kind.to_owned())),
            },
        }
        Ok(())
    }

    fn push(&mut self, name: String, json: Vec<u8>) {
        self.names.entry(name.clone()).or_insert(1);
        self.functions.push(Function { name, json });
    }

    fn add_function(&mut self, tool: &Object<'_>, namespace: Option<&[u8]>) {
        let Some((flat, own)) = self.chat_name(tool, namespace) else { return };
        let key = json::string(&flat).map(Cow::into_owned).unwrap_or_default();
        if let Some(own) = own {
            self.stand_in_for(&key, StandIn::Renamed(own));
        }
        let mut json = [br#"{"type":"function","function":{"name":"#, &flat[..]].concat();
        for member in ["description", "strict"] {
            if let Some(value) = tool.get(member).filter(|value| *value != b"null") {
                put(&mut json, &[b",\"", member.as_bytes(), b"\":", value]);
            }
        }
        let parameters = tool.get("parameters").filter(|value| *value != b"null");
        put(
            &mut json,
            &[br#","parameters":"#, parameters.unwrap_or(br#"{"type":"object","properties":{}}"#), b"}}"],
        );
        self.push(key, json);
    }

    /// The name of a tool in the chat, a JSON string, and what the client calls it if that is something else. Such a tool gives way
    /// to another one that has the name.
    fn chat_name(
        &mut self,
        tool: &Object<'_>,
        namespace: Option<&[u8]>,
    ) -> Option<(Vec<u8>, Option<OwnName>)> {
        let name = tool.get("name")?;
        let own = OwnName::of(name, namespace)?;
        let flat = own.flat();
        if flat == name {
            return Some((flat, None));
        }
        let free = self.free_name(&flat).unwrap_or(flat);
        self.chat_names.insert(own.clone(), free.clone());
        Some((free, Some(own)))
    }

    /// A name with a number, in place of one that is taken. Both are JSON strings.
    fn free_name(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let key = json::string(name)?;
        let mut number = *self.names.get(&*key)?;
        let free = loop {
            number += 1;
            let name = numbered(name, number);
            if !self.has_name(&name) {
                break name;
            }
        };
        self.names.insert(key.into_owned(), number);
        Some(free)
    }

    /// `name` is a JSON string.
    fn has_name(&self, name: &[u8]) -> bool {
        json::string(name).is_some_and(|name| self.names.contains_key(&*name))
    }

    fn add_custom(&mut self, tool: &Object<'_>, namespace: Option<&[u8]>) {
        let Some((flat, own)) = self.chat_name(tool, namespace) else { return };
        let Some(name) = json::string(&flat) else { return };
        let mut description = tool.get("description").and_then(super::inner).unwrap_or_default().to_vec();
        if let Some(format) = tool.get("format").and_then(|format| Object::scan(format).ok()) {
            let text = |name| format.get(name).and_then(super::inner);
            if let (Some(syntax), Some(definition)) = (text("syntax"), text("definition")) {
                put(
                    &mut description,
                    &[b"\\n\\nThe input must match this ", syntax, b" grammar:\\n", definition],
                );
            }
        }
        self.add_stand_in(name.into_owned(), StandIn::Custom(own), &description);
    }

    /// `description` is as it stands in a JSON string; empty: its own.
    fn add_stand_in(&mut self, name: String, stand_in: StandIn, description: &[u8]) {
        let Some((own, parameters)) = stand_in.function() else { return };
        let description = if description.is_empty() { own.as_bytes() } else { description };
        let mut json = [br#"{"type":"function","function":{"name":""#, &escaped(&name)[..], b"\""].concat();
        if !description.is_empty() {
            put(&mut json, &[br#","description":""#, description, b"\""]);
        }
        put(&mut json, &[br#","parameters":"#, parameters.as_bytes(), b"}}"]);
        self.stand_in_for(&name, stand_in);
        self.push(name, json);
    }

    /// Remembers what a function stands in for.
    fn stand_in_for(&mut self, name: &str, stand_in: StandIn) {
        if let Some(own) = stand_in.own_name() {
            self.renamed.entry(own.name.clone()).or_insert_with(|| name.to_owned());
        }
        self.stand_ins.insert(name.to_owned(), stand_in);
    }

    fn choose(&mut self, choice: &[u8]) -> Result<(), ApiError> {
        if choice.first() == Some(&b'"') {
            return self.set_mode(choice);
        }
        let Ok(choice) = Object::scan(choice) else { return Ok(()) };
        let kind = choice.get("type").and_then(json::string).unwrap_or_default();
        match &*kind {
            "allowed_tools" => return self.allow_only(&choice),
            "function" | "custom" => {
                self.force(&self.chosen_name(&choice).unwrap_or_else(|| b"\"\"".to_vec()));
            }
            kind if self.names.contains_key(kind) => self.force(&[b"\"", kind.as_bytes(), b"\""].concat()),
            kind => {
                let omitted = self.omitted.iter().find(|(_, omitted)| omitted == kind);
                return Err(omitted.map_or_else(
                    || unsupported("tool_choice", unavailable(kind)),
                    |(place, _)| rejected(*place, kind),
                ));
            }
        }
        Ok(())
    }

    /// The name that a chosen tool has in a chat, as a JSON string. Its choice may leave out the namespace.
    fn chosen_name(&self, choice: &Object<'_>) -> Option<Vec<u8>> {
        let name = choice.get("name")?;
        let flat = flat_name(name, choice.get("namespace"), &self.chat_names);
        if self.has_name(&flat) {
            return Some(flat);
        }
        let found = super::inner(name).and_then(|name| self.renamed.get(name));
        Some(found.map_or(flat, |flat| [b"\"", &escaped(flat)[..], b"\""].concat()))
    }

    /// `mode` is a JSON string.
    fn set_mode(&mut self, mode: &[u8]) -> Result<(), ApiError> {
        let is_required = json::string(mode).is_some_and(|mode| mode == "required");
        if let Some((place, kind)) = self.omitted.first().filter(|_| is_required && self.functions.is_empty())
        {
            return Err(rejected(*place, kind));
        }
        self.choice = Some(mode.to_vec());
        Ok(())
    }

    /// `name` is a JSON string.
    fn force(&mut self, name: &[u8]) {
        self.choice = Some([br#"{"type":"function","function":{"name":"#, name, b"}}"].concat());
    }

    /// Leaves out what may not be called. Not every server observes `none`, and some reject or ignore the name of a function.
    fn enforce_choice(&mut self) {
        let name = match self.choice.as_deref() {
            Some(b"\"none\"") => return self.functions.clear(),
            Some(choice) => {
                json::member(choice, "function").and_then(|function| json::string_member(function, "name"))
            }
            None => None,
        };
        if let Some(name) = name.map(Cow::into_owned).filter(|name| self.names.contains_key(name)) {
            self.functions.retain(|function| function.name == name);
            self.choice = Some(b"\"required\"".to_vec());
        }
    }

    /// Keeps the tools that are named, and chooses among them as the mode says.
    fn allow_only(&mut self, choice: &Object<'_>) -> Result<(), ApiError> {
        let allowed = choice.get("tools").filter(|tools| tools.first() == Some(&b'[')).unwrap_or(b"[]");
        let named = json::elements(allowed).map_while(Result::ok).filter_map(|tool| {
            let tool = Object::scan(&allowed[tool]).ok()?;
            let name = self.chosen_name(&tool).or_else(|| tool.get("type").map(<[u8]>::to_vec))?;
            json::string(&name).map(Cow::into_owned)
        });
        let names: HashSet<_> = named.collect();
        self.functions.retain(|function| names.contains(function.name.as_str()));
        let is_omitted = self.omitted.iter().any(|(_, kind)| names.contains(kind));
        let mode = choice.get("mode").filter(|mode| *mode != b"null").unwrap_or(b"\"auto\"");
        match json::string(mode).as_deref() {
            Some("required") if self.functions.is_empty() && !is_omitted => Err(no_allowed_tool()),
            Some("auto" | "required" | "none") => self.set_mode(mode),
            _ => Err(invalid_mode()),
        }
    }
}

/// Where a tool stands, for errors.
fn param(place: Option<usize>) -> String {
    place.map_or_else(|| "input".to_owned(), |place| format!("tools[{place}]"))
}

fn unavailable(kind: &str) -> String {
    format!("The upstream's chat completions have no tool of type '{kind}'.")
}

fn invalid_mode() -> ApiError {
    let message =
        "Invalid 'tool_choice': the 'mode' of allowed tools must be 'auto', 'required' or 'none'.".to_owned();
    ApiError { code: Some("invalid_value".into()), ..unsupported("tool_choice", message) }
}

fn no_allowed_tool() -> ApiError {
    let message = "Invalid 'tool_choice': none of the allowed tools is among 'tools'.".to_owned();
    ApiError { code: Some("invalid_value".into()), ..unsupported("tool_choice", message) }
}

fn rejected(place: Option<usize>, kind: &str) -> ApiError {
    unsupported(&param(place), unavailable(kind))
}
