//! Functions that stand in for the tools that a chat does not have, and the calls of those tools.

use antiphon_protocol::json::{self, Object, Set};

use super::names::{ChatNames, OwnName, flat_name};
use super::{escaped, inner};

/// A tool that the model calls as a function, and the client gets as a call of another type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandIn {
    /// A function that the client calls otherwise.
    Renamed(OwnName),
    /// A custom tool. It has a name of its own if the client calls it otherwise.
    Custom(Option<OwnName>),
    LocalShell,
    Shell,
    ApplyPatch,
}

/// A call or an output in the context.
pub enum Past<'a> {
    /// Name and arguments are JSON strings.
    Call {
        id: &'a [u8],
        name: Vec<u8>,
        arguments: Vec<u8>,
    },
    Output {
        id: &'a [u8],
        output: &'a [u8],
    },
}

// === impl StandIn ===

impl StandIn {
    /// Of a tool that has no name of its own, if the client runs it.
    pub fn of_tool(kind: &str, tool: &Object<'_>) -> Option<Self> {
        let environment =
            tool.get("environment").and_then(|environment| json::string_member(environment, "type"));
        match kind {
            "local_shell" => Some(Self::LocalShell),
            "shell" if environment.is_none_or(|kind| kind == "local") => Some(Self::Shell),
            "apply_patch" => Some(Self::ApplyPatch),
            _ => None,
        }
    }

    pub fn own_name(&self) -> Option<&OwnName> {
        match self {
            Self::Renamed(own) => Some(own),
            Self::Custom(own) => own.as_ref(),
            Self::LocalShell | Self::Shell | Self::ApplyPatch => None,
        }
    }

    /// Whether the client gets what the model writes while it is being written, or at least hears of the call.
    pub fn is_streamed(&self) -> bool {
        matches!(self, Self::Renamed(_) | Self::Custom(_))
    }

    pub fn id_prefix(&self) -> &'static str {
        match self {
            Self::Renamed(_) => "fc",
            Self::Custom(_) => "ctc",
            Self::LocalShell => "lsh",
            Self::Shell => "sh",
            Self::ApplyPatch => "apc",
        }
    }

    /// The description and the parameters of the function.
    pub fn function(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Renamed(_) => None,
            Self::Custom(_) => Some((
                "",
                r#"{"type":"object","properties":{"input":{"type":"string","description":"The tool's input."}},"required":["input"],"additionalProperties":false}"#,
            )),
            Self::LocalShell => Some((
                "Runs a command on the user's machine and returns its output.",
                r#"{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"},"description":"The program and its arguments."},"working_directory":{"type":"string"},"timeout_ms":{"type":"integer"}},"required":["command"]}"#,
            )),
            Self::Shell => Some((
                "Runs commands in a shell on the user's machine and returns their output.",
                r#"{"type":"object","properties":{"commands":{"type":"array","items":{"type":"string"},"description":"The command lines, run one after the other."},"timeout_ms":{"type":"integer"},"max_output_length":{"type":"integer"}},"required":["commands"]}"#,
            )),
            Self::ApplyPatch => Some((
                "Creates, updates or deletes a file in the user's workspace.",
                r#"{"type":"object","properties":{"type":{"type":"string","enum":["create_file","update_file","delete_file"]},"path":{"type":"string"},"diff":{"type":"string","description":"A diff in the V4A format. Not for delete_file."}},"required":["type","path"]}"#,
            )),
        }
    }

    /// The item that a finished call becomes, without its id and status: type and own members. `None` if the arguments are not
    /// what the function takes; the client gets a function call then.
    pub fn item(&self, arguments: &[u8]) -> Option<(&'static str, Vec<u8>)> {
        let text = json::string(&[b"\"", arguments, b"\""].concat())?.into_owned();
        let object = Object::parse(text.as_bytes()).ok()?;
        match self {
            Self::Renamed(_) | Self::Custom(_) => None,
            Self::LocalShell => Some(("local_shell_call", local_shell_action(&object)?)),
            Self::Shell => Some(("shell_call", shell_action(&object)?)),
            Self::ApplyPatch => Some(("apply_patch_call", patch_operation(&object)?)),
        }
    }
}

fn local_shell_action(arguments: &Object<'_>) -> Option<Vec<u8>> {
    arguments.get("command").filter(|command| command.first() == Some(&b'['))?;
    let mut action = br#""action":"#.to_vec();
    let has_env = arguments.get("env").is_some_and(|env| env.first() == Some(&b'{'));
    let set =
        [Set { name: "type", value: br#""exec""#, add: true }, Set { name: "env", value: b"{}", add: true }];
    arguments.set(&set[..if has_env { 1 } else { 2 }], &mut action);
    Some(action)
}

fn shell_action(arguments: &Object<'_>) -> Option<Vec<u8>> {
    arguments.get("commands").filter(|commands| commands.first() == Some(&b'['))?;
    let mut members = br#""environment":{"type":"local"},"action":"#.to_vec();
    let absent = ["timeout_ms", "max_output_length"].into_iter().filter(|name| arguments.get(name).is_none());
    let set: Vec<_> = absent.map(|name| Set { name, value: b"null", add: true }).collect();
    arguments.set(&set, &mut members);
    Some(members)
}

fn patch_operation(arguments: &Object<'_>) -> Option<Vec<u8>> {
    let is_text = |name| arguments.get(name).is_some_and(|value| value.first() == Some(&b'"'));
    let is_whole = match &*arguments.get("type").and_then(json::string)? {
        "create_file" | "update_file" => is_text("path") && is_text("diff"),
        "delete_file" => is_text("path"),
        _ => false,
    };
    is_whole.then(|| [br#""operation":"#, arguments.text].concat())
}

/// The call or the output that an item is; `None` for every other item.
pub fn past<'a>(kind: &str, item: &Object<'a>, names: &ChatNames) -> Option<Past<'a>> {
    let get = |name| item.get(name).filter(|value| *value != b"null");
    let id = get("call_id").or_else(|| get("id")).filter(|id| inner(id).is_some());
    if kind.ends_with("_call_output") {
        let is_ours = matches!(
            kind,
            "function_call_output"
                | "custom_tool_call_output"
                | "local_shell_call_output"
                | "shell_call_output"
                | "apply_patch_call_output"
        );
        let output = get("output").or_else(|| get("status")).unwrap_or(b"\"\"");
        return Some(Past::Output { id: id?, output }).filter(|_| is_ours);
    }
    let text = |name| get(name).filter(|value| inner(value).is_some());
    let quoted = |bytes: &[u8]| [b"\"", &escaped(&String::from_utf8_lossy(bytes))[..], b"\""].concat();
    let (name, arguments) = match kind {
        "function_call" => {
            let name = flat_name(text("name")?, text("namespace"), names);
            let arguments = text("arguments").filter(|arguments| *arguments != b"\"\"").unwrap_or(b"\"{}\"");
            (name, arguments.to_vec())
        }
        "custom_tool_call" => {
            let input = text("input").unwrap_or(b"\"\"");
            (
                flat_name(text("name")?, text("namespace"), names),
                quoted(&[br#"{"input":"#, input, b"}"].concat()),
            )
        }
        "local_shell_call" => (b"\"local_shell\"".to_vec(), quoted(get("action")?)),
        "shell_call" => (b"\"shell\"".to_vec(), quoted(get("action")?)),
        "apply_patch_call" => (b"\"apply_patch\"".to_vec(), quoted(get("operation")?)),
        _ => return None,
    };
    Some(Past::Call { id: id?, name, arguments })
}
