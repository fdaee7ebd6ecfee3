//! `[[prices]]`: the price of tokens by model, in US dollars per million tokens.

use std::fmt;

use antiphon_access::prices::{ModelPrice, UsdPerMillion};
use antiphon_protocol::model::ModelPattern;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::error::Problems;

/// A price as it is written. No field is required here, so that missing ones are reported with all other problems.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct PriceDraft {
    model: String,
    #[serde(deserialize_with = "usd")]
    input: Option<UsdPerMillion>,
    #[serde(deserialize_with = "usd")]
    cached_input: Option<UsdPerMillion>,
    #[serde(deserialize_with = "usd")]
    output: Option<UsdPerMillion>,
    #[serde(deserialize_with = "usd")]
    reasoning: Option<UsdPerMillion>,
}

pub(super) fn resolve(drafts: Vec<PriceDraft>, problems: &mut Problems) -> Vec<ModelPrice> {
    let numbered = drafts.into_iter().enumerate();
    numbered.filter_map(|(index, draft)| draft.resolve(index, problems)).collect()
}

impl PriceDraft {
    fn resolve(self, index: usize, problems: &mut Problems) -> Option<ModelPrice> {
        let mut reject = |field: &str, rule: &str| problems.reject(format!("prices[{index}].{field}"), rule);
        let model = ModelPattern::parse(&self.model);
        if model.is_none() {
            reject(
                "model",
                r#"must be a model name or a pattern with * (any characters) and ? (one character), such as "gpt-*""#,
            );
        }
        for (field, price) in [("input", self.input), ("output", self.output)] {
            if price.is_none() {
                reject(field, "must be set; use 0 for tokens that are free");
            }
        }
        Some(ModelPrice {
            model: model?,
            input: self.input?,
            cached_input: self.cached_input,
            output: self.output?,
            reasoning: self.reasoning,
        })
    }
}

fn usd<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UsdPerMillion>, D::Error> {
    deserializer.deserialize_any(PriceVisitor).map(Some)
}

/// A number, or a string that holds one.
struct PriceVisitor;

const RULE: &str =
    "a price in US dollars per million tokens such as 1.25, at most 1000000, with up to nine decimals";

impl Visitor<'_> for PriceVisitor {
    type Value = UsdPerMillion;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(RULE)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<UsdPerMillion, E> {
        UsdPerMillion::parse(text).ok_or_else(|| E::custom(RULE))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<UsdPerMillion, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<UsdPerMillion, E> {
        self.visit_str(&number.to_string())
    }

    /// The shortest decimal form of the float is what was written.
    fn visit_f64<E: Error>(self, number: f64) -> Result<UsdPerMillion, E> {
        self.visit_str(&number.to_string())
    }
}
