//! Directives: words in the newest user text that control the reply. The parent module has the table.

use super::glance::Glance;
use super::json::to_json;
use super::request::TurnRequest;
use super::script::{Close, Script};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::time::Duration;

const SENTENCE: &str = "The quick brown fox jumps over the lazy dog. ";

/// The script that the directives in the newest user text request, if any.
pub(super) fn script_for(request: &TurnRequest, items: &[Box<RawValue>], answer: &str) -> Option<Script> {
    let text = newest_user_text(items);
    let tool_has_answered =
        items.last().and_then(|item| Glance::at(item)).is_some_and(|last| last.is_tool_output());
    if let Some(argument) = find(&text, "ERROR") {
        return Some(refusal(argument));
    }
    let mut found = false;
    let mut script = Script::new();
    if find(&text, "REASON").is_some() {
        script = script.reasoning("Thinking it over.");
        found = true;
    }
    let said = content(request, &text, tool_has_answered);
    found |= said.is_some();
    script = match said.unwrap_or_else(|| Said::Text(answer.to_owned())) {
        Said::Text(text) => script.text(text),
        Said::Call { name, arguments } => script.tool_call(name, arguments),
    };
    if find(&text, "FAIL").is_some() {
        script = script.failed("server_error", "The simulator was asked to fail.");
        found = true;
    }
    if find(&text, "INCOMPLETE").is_some() {
        script = script.incomplete("max_output_tokens");
        found = true;
    }
    if let Some(milliseconds) = number(&text, "DELAY") {
        script = script.delay_headers(Duration::from_millis(milliseconds));
        found = true;
    }
    if let Some(events) = number(&text, "CUT") {
        script = script.cut_after(usize::try_from(events).unwrap_or(usize::MAX));
        found = true;
    }
    if let Some((events, code)) = closing(&text) {
        script = script.close_after(events, Close::Code(code));
        found = true;
    }
    found.then_some(script)
}

enum Said {
    Text(String),
    Call { name: String, arguments: String },
}

fn content(request: &TurnRequest, text: &str, tool_has_answered: bool) -> Option<Said> {
    if let Some(argument) = find(text, "TOOLCALL") {
        return Some(if tool_has_answered {
            Said::Text(String::from("The tool has answered."))
        } else {
            call(request, argument)
        });
    }
    if find(text, "ECHO").is_some() {
        return Some(Said::Text(request.raw("input").unwrap_or_default().to_owned()));
    }
    if let Some(length) = number(text, "LONG") {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        return Some(Said::Text(SENTENCE.chars().cycle().take(length).collect()));
    }
    find(text, "SAY").flatten().map(|said| Said::Text(said.to_owned()))
}

fn newest_user_text(items: &[Box<RawValue>]) -> String {
    let messages = items.iter().rev().filter_map(|item| Glance::at(item));
    messages.filter(Glance::is_user_message).map(|message| message.text()).next().unwrap_or_default()
}

/// The tools of coding agents that run a command, and arguments for them.
const SHELLS: [(&str, &str); 2] = [
    ("exec_command", r#"{"cmd":"echo tool-ran-ok"}"#),
    ("bash", r#"{"command":"echo tool-ran-ok","description":"Says so"}"#),
];

fn call(request: &TurnRequest, arguments: Option<&str>) -> Said {
    let tools: Vec<Value> = request.get("tools").unwrap_or_default();
    let functions: Vec<&Value> = tools.iter().filter(|tool| tool["type"] == "function").collect();
    // The tools of a chat hold their function as a member.
    let functions: Vec<&Value> =
        functions.into_iter().map(|tool| tool.get("function").unwrap_or(tool)).collect();
    let known = SHELLS.iter().find_map(|(name, arguments)| {
        Some((functions.iter().find(|tool| tool["name"] == *name)?, *arguments))
    });
    let Some(tool) = known.map(|(tool, _)| tool).or_else(|| functions.first()) else {
        return Said::Text(String::from("No function tool is offered."));
    };
    let arguments = match (arguments, known) {
        (Some(json), _) => format!("{{{json}}}"),
        (None, Some((_, arguments))) => String::from(arguments),
        (None, None) => to_json(&sample_arguments(&tool["parameters"])),
    };
    Said::Call { name: tool["name"].as_str().unwrap_or_default().to_owned(), arguments }
}

/// A value of the right type for each required property.
fn sample_arguments(schema: &Value) -> Map<String, Value> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    required.map(|name| (name.to_owned(), sample(&schema["properties"][name]))).collect()
}

fn sample(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("number" | "integer") => Value::from(1),
        Some("boolean") => Value::from(true),
        Some("array") => Value::Array(Vec::new()),
        Some("object") => Value::Object(sample_arguments(schema)),
        _ => Value::from("sample"),
    }
}

fn refusal(argument: Option<&str>) -> Script {
    let (status, code) = argument
        .and_then(|argument| argument.split_once(','))
        .unwrap_or((argument.unwrap_or("500"), "server_error"));
    let status = status.trim().parse().unwrap_or(500);
    Script::refusal(status, code.trim(), "The simulator was asked for this error.")
}

/// The number of events before the socket is closed, and the close code.
fn closing(text: &str) -> Option<(usize, u16)> {
    let (events, code) = find(text, "CLOSE")??.split_once(',')?;
    Some((events.trim().parse().ok()?, code.trim().parse().ok()?))
}

fn number(text: &str, word: &str) -> Option<u64> {
    find(text, word).flatten().and_then(|argument| argument.trim().parse().ok())
}

/// Finds a whole word; the inner value is the text in braces directly after it.
fn find<'t>(text: &'t str, word: &str) -> Option<Option<&'t str>> {
    let is_part_of_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).find_map(|(at, _)| {
        let rest = &text[at + word.len()..];
        let whole = !text[..at].ends_with(is_part_of_word) && !rest.starts_with(is_part_of_word);
        whole.then(|| braced(rest))
    })
}

fn braced(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('{')?;
    let mut depth = 1_usize;
    for (at, letter) in inside.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => (),
        }
        if depth == 0 {
            return Some(&inside[..at]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn a_directive_is_a_whole_word() {
        assert_eq!(find("please REASON.", "REASON"), Some(None));
        assert_eq!(find("REASONABLE", "REASON"), None);
        assert_eq!(find("UNREASON", "REASON"), None);
    }

    #[test]
    fn an_argument_ends_at_its_own_brace() {
        assert_eq!(find("do SAY{a {b} c} now}", "SAY"), Some(Some("a {b} c")));
        assert_eq!(find("SAY {a}", "SAY"), Some(None));
        assert_eq!(find("SAY{a", "SAY"), Some(None));
    }
}
