//! Query parameters that all lists share.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// How much of an invalid value an error shows.
const SHOWN_CHARACTERS: usize = 64;

/// The maximum number of entries to show, from 1 to `MAX`; for `#[serde(deserialize_with)]`.
pub fn limit<'de, D, const MAX: u32>(deserializer: D) -> Result<Option<u32>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let limit = text.parse().ok().filter(|limit| (1..=MAX).contains(limit));
    limit.map(Some).ok_or_else(|| {
        let shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
        D::Error::custom(format_args!("expected an integer from 1 to {MAX}, but got '{shown}'"))
    })
}
