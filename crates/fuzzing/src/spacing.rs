//! The same JSON with other whitespace.

/// Adds whitespace wherever JSON allows it. The text must be valid.
pub fn spaced(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let (mut in_string, mut is_escaped) = (false, false);
    for &byte in text {
        if in_string {
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            out.push(byte);
        } else if matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':') {
            out.extend_from_slice(b"\r\n");
            out.push(byte);
            out.extend_from_slice(b" \t");
        } else {
            in_string = byte == b'"';
            out.push(byte);
        }
    }
    out
}
