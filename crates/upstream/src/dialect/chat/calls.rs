//! One call of a tool, put together from its fragments.

use std::borrow::Cow;

use antiphon_protocol::json::{self, Object};

use super::echo::Echo;
use super::stand_in::StandIn;
use super::whole::Progress;
use super::{escaped, inner, put};

/// A character as a pair of escapes: `\ud83d\ude00`.
const LONGEST_ESCAPE: usize = 12;

/// A part of a call in a chunk. Names, ids and arguments are as they stand in a JSON string.
#[derive(Debug)]
pub struct Fragment<'a> {
    pub index: Option<u64>,
    pub id: Option<&'a [u8]>,
    pub name: Option<&'a [u8]>,
    arguments: Vec<u8>,
    /// What the upstream wants back with the call, an object: Gemini's signature of its thoughts.
    pub extra: Option<&'a [u8]>,
    /// Whether it is a call of its own, whatever its index and its id.
    pub is_whole: bool,
}

/// The upstream went back to a call that it had ended.
#[derive(Debug)]
pub struct Interleaved;

/// An open call.
#[derive(Debug)]
pub struct Call {
    index: Option<u64>,
    /// The upstream's id, if it gave one.
    id: Option<Vec<u8>>,
    /// That id, or a minted one.
    call_id: Vec<u8>,
    name: Option<Vec<u8>>,
    /// What the function stands in for.
    stand_in: Option<StandIn>,
    arguments: Vec<u8>,
    progress: Progress,
    /// How many bytes of the arguments the client has got.
    passed: usize,
    pub is_announced: bool,
    /// Whether the arguments do not fit the call that the function stands in for, so that the client gets a function call.
    is_plain: bool,
    /// That of its item in the output.
    pub place: usize,
    item_id: String,
}

// === impl Fragment ===

impl<'a> Fragment<'a> {
    /// From an element of `tool_calls`, of a delta or of a whole message.
    pub fn parse(fragment: &'a [u8], is_whole: bool) -> Option<Self> {
        let fragment = Object::scan(fragment).ok()?;
        let function = fragment.get("function").and_then(|function| Object::scan(function).ok());
        let index = fragment.get("index").and_then(|index| std::str::from_utf8(index).ok()?.parse().ok());
        let extra = fragment.get("extra_content").filter(|extra| extra.first() == Some(&b'{'));
        let fragment =
            Self { index, id: text(fragment.get("id")), extra, ..Self::of_function(function.as_ref()) };
        Some(Self { is_whole: is_whole && fragment.name.is_some(), ..fragment })
    }

    /// From its function alone, as from `function_call`, which was there before `tool_calls`.
    pub fn of_function(function: Option<&Object<'a>>) -> Self {
        let member = |name| function.and_then(|function| function.get(name));
        let arguments = match member("arguments") {
            None | Some(b"null") => Vec::new(),
            // Some servers send the arguments as the object that they are.
            Some(value) => {
                inner(value).map_or_else(|| escaped(&String::from_utf8_lossy(value)), <[u8]>::to_vec)
            }
        };
        Self { index: None, id: None, name: text(member("name")), arguments, extra: None, is_whole: false }
    }

    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.arguments.is_empty()
    }
}

// === impl Call ===

impl Call {
    /// The call that this fragment begins. `call_id` is `None` if it has no id, or one that another call has.
    pub fn new(fragment: &Fragment<'_>, call_id: Option<&[u8]>, echo: &Echo, place: usize) -> Self {
        let call_id = call_id.map_or_else(|| echo.call_id(place).into_bytes(), <[u8]>::to_vec);
        Self {
            index: fragment.index,
            id: fragment.id.map(<[u8]>::to_vec),
            call_id,
            name: None,
            stand_in: None,
            arguments: Vec::new(),
            progress: Progress::default(),
            passed: 0,
            is_announced: false,
            is_plain: false,
            place,
            item_id: echo.item_id("fc", place),
        }
    }

    /// Whether a fragment belongs to this call: by its index and its id, as far as there are any.
    pub fn is_continued_by(&self, fragment: &Fragment<'_>) -> bool {
        let has_index = fragment.index.is_none() || self.index.is_none() || fragment.index == self.index;
        let has_id = match (fragment.id, &self.id) {
            (Some(id), Some(own)) if id == own => true,
            // A new id under the same index begins another call, unless the server makes one up for every fragment.
            (Some(_), _) => fragment.index.is_some() && !self.is_followed_by(fragment),
            // Without an id, the name may be that of every fragment.
            (None, _) => fragment.arguments.is_empty() || !self.is_followed_by(fragment),
        };
        has_index && has_id && !fragment.is_whole
    }

    pub fn has_id_of(&self, fragment: &Fragment<'_>) -> bool {
        fragment.id.is_some() && fragment.id == self.id.as_deref()
    }

    /// Whether more of this call may come after a fragment that begins another one: a server that goes back to a call names it
    /// by its index.
    pub fn may_go_on(&self, other: &Fragment<'_>) -> bool {
        let has_own_index = self.index.is_some() && other.index.is_some() && self.index != other.index;
        has_own_index && !self.progress.is_whole()
    }

    /// Whether a fragment that says which function it calls says so of another call.
    fn is_followed_by(&self, fragment: &Fragment<'_>) -> bool {
        let is_other =
            |name: &[u8]| self.progress.is_whole() || self.name.as_deref().is_some_and(|own| own != name);
        fragment.name.is_some_and(is_other)
    }

    /// Adds a fragment; returns the size of what it added.
    pub fn extend(&mut self, fragment: &Fragment<'_>, echo: &Echo) -> usize {
        // Some servers repeat the name in every fragment.
        if let (None, Some(name)) = (&self.name, fragment.name) {
            self.name = Some(name.to_vec());
            self.stand_in = stand_in(name, echo);
            self.item_id = echo.item_id(self.stand_in.as_ref().map_or("fc", StandIn::id_prefix), self.place);
        }
        // Some servers end with the call that they have streamed.
        if self.progress.is_whole() && fragment.arguments == self.arguments {
            return 0;
        }
        self.arguments.extend_from_slice(&fragment.arguments);
        if let Some(text) = json::string(&[b"\"", &fragment.arguments[..], b"\""].concat()) {
            self.progress.push(&text);
        }
        fragment.arguments.len() + fragment.name.map_or(0, <[u8]>::len)
    }

    /// Nothing more will come.
    pub fn settle(&mut self) {
        self.name.get_or_insert_default();
        if self.arguments.is_empty() {
            self.arguments.extend_from_slice(b"{}");
        }
        let stand_in = self.stand_in.as_ref().filter(|stand_in| !stand_in.is_streamed());
        self.is_plain = stand_in.is_some_and(|stand_in| stand_in.item(&self.arguments).is_none());
    }

    /// Whether its arguments are complete.
    pub fn is_whole(&self) -> bool {
        self.progress.is_whole()
    }

    pub fn has_name(&self) -> bool {
        self.name.is_some()
    }

    pub fn item_id(&self) -> &str {
        &self.item_id
    }

    pub fn arguments(&self) -> &[u8] {
        &self.arguments
    }

    /// How later fragments could name it.
    pub fn key(&self) -> (Option<u64>, Option<Vec<u8>>) {
        (self.index, self.id.clone())
    }

    /// Whether the item is announced before its arguments are complete. A call that holds an object is not.
    pub fn is_announced_early(&self) -> bool {
        self.is_plain || self.stand_in.as_ref().is_none_or(StandIn::is_streamed)
    }

    /// The arguments that the client has not got yet; `None` for a tool that streams none.
    pub fn take_new_arguments(&mut self) -> Option<Vec<u8>> {
        let is_streamed = self.is_announced && !matches!(self.stand_in, Some(StandIn::Custom(_)));
        let new = self.arguments.get(self.passed..).filter(|new| is_streamed && !new.is_empty())?.to_vec();
        self.passed = self.arguments.len();
        Some(new)
    }

    /// The function's own name.
    pub fn name(&self) -> &[u8] {
        match self.stand_in.as_ref().and_then(StandIn::own_name) {
            Some(own) => &own.name,
            None => self.name.as_deref().unwrap_or_default(),
        }
    }

    /// The input of a custom tool, as it stands in a JSON string.
    pub fn custom_input(&self) -> Option<Vec<u8>> {
        if !matches!(self.stand_in, Some(StandIn::Custom(_))) {
            return None;
        }
        let text = json::string(&[b"\"", &self.arguments[..], b"\""].concat()).map(Cow::into_owned);
        let input = text.as_deref().and_then(|text| {
            if json::validate(text.as_bytes()).is_err() {
                return cut_input(text);
            }
            json::member(text.as_bytes(), "input").and_then(inner).map(<[u8]>::to_vec)
        });
        // A model that writes no such object has written the input itself.
        Some(input.unwrap_or_else(|| self.arguments.clone()))
    }

    /// The item, with or without what the model wrote.
    pub fn item(&self, status: &str, is_whole: bool) -> Vec<u8> {
        let written = |text: &[u8]| if is_whole { text.to_vec() } else { Vec::new() };
        let mut name = [br#""name":""#, self.name(), b"\""].concat();
        let own = self.stand_in.as_ref().and_then(StandIn::own_name);
        if let Some(own) = own.filter(|own| !own.namespace.is_empty()) {
            put(&mut name, &[br#","namespace":""#, &own.namespace, b"\""]);
        }
        let own = match &self.stand_in {
            Some(StandIn::Custom(_)) => {
                let input = written(&self.custom_input().unwrap_or_default());
                Some(("custom_tool_call", [&name, &br#","input":""#[..], &input, b"\""].concat()))
            }
            Some(stand_in) if !self.is_plain => stand_in.item(&self.arguments),
            _ => None,
        };
        let (kind, members) = own.unwrap_or_else(|| {
            let arguments = written(&self.arguments);
            ("function_call", [&name, &br#","arguments":""#[..], &arguments, b"\""].concat())
        });
        // A patch that is whole is complete: there is no other status for it.
        let status = if kind == "apply_patch_call" && status == "incomplete" { "completed" } else { status };
        let mut out = format!(r#"{{"id":"{}","type":"{kind}","status":"{status}","call_id":""#, self.item_id)
            .into_bytes();
        put(&mut out, &[&self.call_id, b"\",", &members, b"}"]);
        out
    }
}

/// A member that is a string with something in it.
fn text(value: Option<&[u8]>) -> Option<&[u8]> {
    value.and_then(inner).filter(|text| !text.is_empty())
}

/// The input in arguments that were cut, as it stands in a JSON string.
fn cut_input(arguments: &str) -> Option<Vec<u8>> {
    let value = arguments.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"input\"")?;
    let input = value.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    // At most the last escape is cut, and a pair of them stands for one character.
    let is_string = |end: &usize| {
        let text = [b"\"", &input.as_bytes()[..*end], b"\""].concat();
        json::validate(&text).is_ok() && json::string(&text).is_some()
    };
    let end = (0..=input.len()).rev().take(LONGEST_ESCAPE).find(is_string)?;
    Some(input.as_bytes()[..end].to_vec())
}

/// What the function with this name stands in for.
fn stand_in(name: &[u8], echo: &Echo) -> Option<StandIn> {
    if echo.stand_ins.is_empty() {
        return None;
    }
    let name = json::string(&[b"\"", name, b"\""].concat())?.into_owned();
    echo.stand_ins.get(&name).cloned()
}
