//! What the query parameters of lists have in common.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// How much of a value that can't be used is shown.
const SHOWN_LETTERS: usize = 64;

/// How many entries to show, from 1 to `MAX`; for `#[serde(deserialize_with)]`.
pub fn limit<'de, D, const MAX: u32>(deserializer: D) -> Result<Option<u32>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let limit = text.parse().ok().filter(|limit| (1..=MAX).contains(limit));
    limit.map(Some).ok_or_else(|| {
        let shown: String = text.chars().take(SHOWN_LETTERS).collect();
        D::Error::custom(format_args!("expected an integer from 1 to {MAX}, but got '{shown}'"))
    })
}
