//! Patterns of model names, as operators write them.

use antiphon_protocol::model::ModelPattern;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const MAX_CHARACTERS: usize = 256;

/// Model name or pattern with `*` (any characters) and `?` (one character).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(as = ModelPattern, pattern = r"^[^\s\u0000-\u001f\u007f-\u009f\[\]{}\\]{1,256}$", example = "gpt-*")]
pub struct PatternText(pub String);

impl PatternText {
    /// `None` if it is not a valid pattern.
    pub fn parse(&self) -> Option<ModelPattern> {
        ModelPattern::parse(&self.0).filter(|_| self.0.chars().count() <= MAX_CHARACTERS)
    }
}
