//! Generated images in a context, as messages: OpenAI takes the call that made an image only where it keeps the response.

use bytes::Bytes;
use memchr::memmem;

use crate::json;

const CALL: &str = "image_generation_call";

/// Whether there may be such a call in the parts of a context.
pub fn may_be_in(parts: &[Bytes]) -> bool {
    parts.iter().any(|part| memmem::find(part, CALL.as_bytes()).is_some())
}

/// The items of an array, joined by commas, with a user's message in place of each call that made an image. Calls that made none are
/// left out. One without a `result` names an image by its id, and stays.
pub fn as_messages(items: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len());
    for item in json::elements(items).map_while(Result::ok) {
        let item = &items[item];
        let is_call = json::string_member(item, "type").is_some_and(|kind| kind == CALL);
        let result = json::member(item, "result").filter(|_| is_call);
        let message = match result {
            None => Some(item.to_vec()),
            Some(result) => image_of(result).map(|image| message_of(item, image)),
        };
        let Some(message) = message else { continue };
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(&message);
    }
    out
}

fn image_of(result: &[u8]) -> Option<&[u8]> {
    result.strip_prefix(b"\"")?.strip_suffix(b"\"").filter(|image| !image.is_empty())
}

fn message_of(call: &[u8], image: &[u8]) -> Vec<u8> {
    let format = match json::string_member(call, "output_format").as_deref() {
        Some("jpeg") => "jpeg",
        Some("webp") => "webp",
        _ => "png",
    };
    let before = format!(
        r#"{{"type":"message","role":"user","content":[{{"type":"input_text","text":"The generated image:"}},{{"type":"input_image","detail":"auto","image_url":"data:image/{format};base64,"#
    );
    [before.as_bytes(), image, br#""}]}"#].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_becomes_its_image_and_is_left_out_if_it_made_none() {
        let user = r#"{"role":"user","content":"image_generation_call"}"#;
        let items = format!(
            r#"[{user}, {{"type":"image_generation_call","id":"ig_1","status":"completed","result":"eA==","output_format":"webp","action":"generate"}},
             {{"type":"image_generation_call","id":"ig_2","status":"failed","result":null}},{{"type":"image_generation_call","result":"eQ=="}}]"#
        );
        let messages = String::from_utf8(as_messages(items.as_bytes())).unwrap();
        let messages: Vec<serde_json::Value> = serde_json::from_str(&format!("[{messages}]")).unwrap();
        assert_eq!(messages[0], serde_json::from_str::<serde_json::Value>(user).unwrap());
        let images: Vec<_> =
            messages[1..].iter().map(|message| &message["content"][1]["image_url"]).collect();
        assert_eq!(images, ["data:image/webp;base64,eA==", "data:image/png;base64,eQ=="]);
        let named = br#"{"type":"image_generation_call","id":"ig_1"}"#;
        assert_eq!(as_messages(&[b"[", &named[..], b"]"].concat()), named);
    }
}
