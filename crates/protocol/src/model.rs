//! Model names and the patterns that match them.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

/// The tag that a name has when it has none, as Ollama and those who follow it have it.
const DEFAULT_TAG: &str = ":latest";

/// The other name of the same model: `name` and `name:latest` are one.
pub fn other_name(model: &str) -> Option<Cow<'_, str>> {
    match model.strip_suffix(DEFAULT_TAG) {
        Some(name) => Some(Cow::Borrowed(name)),
        // It has another tag.
        None if model.contains(':') => None,
        None => Some(Cow::Owned(format!("{model}{DEFAULT_TAG}"))),
    }
}

/// A glob for model names: `*` matches any characters, `?` matches one, everything else matches itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPattern {
    pattern: String,
}

impl ModelPattern {
    /// `None` if the text is not a valid pattern: empty, or with white space, control characters or any of `[]{}\\`.
    pub fn parse(pattern: &str) -> Option<Self> {
        let is_refused = |c: char| c.is_whitespace() || c.is_control() || "[]{}\\".contains(c);
        let is_valid = !pattern.is_empty() && !pattern.contains(is_refused);
        is_valid.then(|| Self { pattern: pattern.to_owned() })
    }

    /// The name, if the pattern matches only that one.
    pub fn literal(&self) -> Option<&str> {
        (!self.pattern.contains(['*', '?'])).then_some(self.pattern.as_str())
    }

    /// The number of characters that match themselves. A higher number means a more specific pattern.
    pub fn specificity(&self) -> usize {
        self.pattern.chars().filter(|c| !matches!(c, '*' | '?')).count()
    }

    /// Whether the pattern matches one of the model's names.
    pub fn covers(&self, model: &str) -> bool {
        self.matches(model) || other_name(model).is_some_and(|other| self.matches(&other))
    }

    /// Whether the pattern matches the whole name. Takes at most (length of the name × length of the pattern) steps.
    pub fn matches(&self, model: &str) -> bool {
        let (mut pattern, mut model) = (self.pattern.as_str(), model);
        // Where to continue when the text after the latest `*` does not match: that `*` then matches one more character.
        let mut retry: Option<(&str, &str)> = None;
        loop {
            let mut rest = pattern.chars();
            let mut name = model.chars();
            match (rest.next(), name.next()) {
                (Some('*'), _) => {
                    pattern = rest.as_str();
                    retry = Some((pattern, model));
                }
                (None, None) => return true,
                (Some(p), Some(m)) if p == '?' || p == m => (pattern, model) = (rest.as_str(), name.as_str()),
                _ => {
                    let Some((after_star, from)) = retry else { return false };
                    let mut shorter = from.chars();
                    if shorter.next().is_none() {
                        return false;
                    }
                    (pattern, model) = (after_star, shorter.as_str());
                    retry = Some((pattern, model));
                }
            }
        }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl Serialize for ModelPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_a_tag_is_the_latest_one() {
        assert_eq!(other_name("llama3").as_deref(), Some("llama3:latest"));
        assert_eq!(other_name("llama3:latest").as_deref(), Some("llama3"));
        assert_eq!(other_name("llama3:8b"), None);
        let pattern = ModelPattern::parse("llama3").unwrap();
        assert!(pattern.covers("llama3") && pattern.covers("llama3:latest") && !pattern.covers("llama3:8b"));
        assert!(ModelPattern::parse("llama3:latest").unwrap().covers("llama3"));
    }
}
