//! When the arguments of a call are whole, which tells the next call from a fragment of the same one.

/// How far into a JSON object the arguments are. Every fragment is looked at once.
#[derive(Debug, Default)]
pub struct Progress {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    is_whole: bool,
}

// === impl Progress ===

impl Progress {
    pub fn push(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.is_whole |= self.depth == 0;
                }
                _ => {}
            }
        }
    }

    /// Whether the object has been closed.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_whole_once_its_own_bracket_is_closed() {
        let text = r#" {"a": ["}\"}", {"b": {}}], "c\\": 1}"#;
        let mut progress = Progress::default();
        for (at, letter) in text.char_indices() {
            assert!(!progress.is_whole(), "at {at}");
            progress.push(&letter.to_string());
        }
        assert!(progress.is_whole());
    }
}
