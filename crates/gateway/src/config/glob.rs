//! Patterns of model names.

use std::fmt;

use serde::{Serialize, Serializer};

/// A pattern in which `*` stands for any letters, `?` for one, and everything else for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelGlob {
    pattern: String,
}

impl ModelGlob {
    /// `None` if the text is no pattern: empty, with blanks, or with signs that other globs give a meaning.
    pub fn parse(pattern: &str) -> Option<Self> {
        let is_refused = |c: char| c.is_whitespace() || c.is_control() || "[]{}\\".contains(c);
        let is_valid = !pattern.is_empty() && !pattern.contains(is_refused);
        is_valid.then(|| Self { pattern: pattern.to_owned() })
    }

    /// The name, if the pattern fits only that one.
    pub fn literal(&self) -> Option<&str> {
        (!self.pattern.contains(['*', '?'])).then_some(self.pattern.as_str())
    }

    /// How many letters stand for themselves.
    pub fn letters(&self) -> usize {
        self.pattern.chars().filter(|c| !matches!(c, '*' | '?')).count()
    }

    /// Whether the whole name fits the pattern. Takes at most (length of the name × length of the pattern) steps.
    pub fn matches(&self, model: &str) -> bool {
        let (mut pattern, mut model) = (self.pattern.as_str(), model);
        // Where to go on when what follows the latest `*` does not fit: that `*` then takes one letter more.
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

impl fmt::Display for ModelGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl Serialize for ModelGlob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pattern)
    }
}
