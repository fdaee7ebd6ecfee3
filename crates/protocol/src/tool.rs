//! The tools of a request, as a response shows them.

use std::borrow::Cow;

use crate::json::{self, Object};
use crate::response::array;

/// An array of tools without their credentials.
pub fn shown_tools(tools: &[u8]) -> Cow<'_, [u8]> {
    if tools.first() != Some(&b'[') {
        return tools.into();
    }
    let shown = json::elements(tools).map_while(Result::ok).map(|tool| shown_tool(&tools[tool]));
    array(shown).into()
}

/// The type of tools with credentials.
const MCP: &str = "mcp";

/// A tool without the credentials for its server, which a response does not show and the store does not keep.
fn shown_tool(tool: &[u8]) -> Cow<'_, [u8]> {
    let Ok(object) = Object::scan(tool) else { return tool.into() };
    if object.get("type").and_then(json::string).is_none_or(|kind| kind != MCP) {
        return tool.into();
    }
    let members = object.members.iter().filter_map(|member| {
        let key = &tool[member.key.clone()];
        json::string(key).filter(|name| !matches!(&**name, "authorization" | "headers"))?;
        Some([key, b":", object.value(member)].concat())
    });
    [b"{", &members.collect::<Vec<_>>().join(&b","[..])[..], b"}"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_shown_without_the_credentials_for_their_servers() {
        let mcp =
            r#"{"authorization":"t0ken","type" : "mcp","headers":{"x":"s3cret"},"server_url":"https://a"}"#;
        let function = r#"{"type":"function","name":"f","headers":1}"#;
        let tools = format!("[{mcp}, {function},7]");
        let shown = shown_tools(tools.as_bytes());
        let expected = format!(r#"[{{"type":"mcp","server_url":"https://a"}},{function},7]"#);
        assert_eq!(String::from_utf8_lossy(&shown), expected);
        for tools in ["null", "[]", "[{\"type\":\"function\"}]"] {
            assert_eq!(&*shown_tools(tools.as_bytes()), tools.as_bytes());
        }
    }
}
