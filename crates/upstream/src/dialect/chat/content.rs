//! The content of messages and of tool outputs.
//!
//! Texts are copied as they are written, between their quotes, so that every escape survives.

use antiphon_protocol::error::ApiError;
use antiphon_protocol::json::{self, Object};

use super::{inner, put, unsupported};

/// Between the texts of one message, as it stands in a JSON string.
const LINE_END: &[u8] = b"\\n";

/// Content that has been taken apart.
#[derive(Debug, Default)]
pub struct Content {
    /// The texts, joined, as they stand in a JSON string.
    pub text: Vec<u8>,
    pub refusal: Vec<u8>,
    /// All parts in the format of chat completions.
    pub parts: Vec<Vec<u8>>,
    /// Those of them that are no texts.
    pub attachments: Vec<Vec<u8>>,
}

// === impl Content ===

impl Content {
    /// From the `content` of a message or the `output` of a tool: a string or an array of parts.
    pub fn parse(content: &[u8]) -> Result<Self, ApiError> {
        let mut this = Self::default();
        match content.first() {
            None | Some(b'n') => {}
            Some(b'"') => this.add_text(content)?,
            Some(b'[') => {
                for part in json::elements(content).map_while(Result::ok) {
                    this.add_part(&content[part])?;
                }
            }
            Some(_) => return Err(not_a_string()),
        }
        Ok(this)
    }

    /// The value of `content`: a string while there are only texts, because not every template knows arrays.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.attachments.is_empty() {
            put(out, &[b"\"", &self.text, b"\""]);
        } else {
            out.extend_from_slice(&antiphon_protocol::response::array(&self.parts));
        }
    }

    fn add_text(&mut self, text: &[u8]) -> Result<(), ApiError> {
        let text = inner(text).ok_or_else(not_a_string)?;
        if !self.parts.is_empty() {
            self.text.extend_from_slice(LINE_END);
        }
        self.text.extend_from_slice(text);
        self.parts.push([br#"{"type":"text","text":""#, text, b"\"}"].concat());
        Ok(())
    }

    fn add_part(&mut self, part: &[u8]) -> Result<(), ApiError> {
        let members = Object::scan(part).map_err(|_| not_a_string())?;
        let get = |name| members.get(name).filter(|value| *value != b"null");
        let kind = get("type").and_then(json::string).unwrap_or_default();
        match &*kind {
            "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
                return self.add_text(get("text").unwrap_or(b"\"\""));
            }
            "refusal" => {
                let refusal = get("refusal").and_then(inner).ok_or_else(not_a_string)?;
                self.refusal.extend_from_slice(refusal);
                return Ok(());
            }
            _ => {}
        }
        let attachment = match &*kind {
            "input_image" => image(get("image_url"), get("detail")),
            "input_file" => file(get("file_data"), get("filename")),
            "input_audio" => get("input_audio")
                .map(|audio| [br#"{"type":"input_audio","input_audio":"#, audio, b"}"].concat()),
            _ => None,
        };
        let attachment = attachment.ok_or_else(|| {
            let message = format!(
                "The upstream's chat completions can't take this content part of type '{kind}'. Send images and files inline."
            );
            unsupported("input", message)
        })?;
        self.attachments.push(attachment.clone());
        self.parts.push(attachment);
        Ok(())
    }
}

fn image(url: Option<&[u8]>, detail: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut out = [br#"{"type":"image_url","image_url":{"url":"#, url?].concat();
    if let Some(detail) = detail {
        put(&mut out, &[br#","detail":"#, detail]);
    }
    out.extend_from_slice(b"}}");
    Some(out)
}

fn file(data: Option<&[u8]>, name: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut out = [br#"{"type":"file","file":{"file_data":"#, data?].concat();
    if let Some(name) = name {
        put(&mut out, &[br#","filename":"#, name]);
    }
    out.extend_from_slice(b"}}");
    Some(out)
}

fn not_a_string() -> ApiError {
    ApiError {
        code: Some("invalid_type".into()),
        ..unsupported(
            "input",
            "Invalid type in 'input': content must be a string or an array of parts.".to_owned(),
        )
    }
}
