//! `[[prices]]`: what tokens cost, by model, in US dollars for a million of them.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::error::Problems;
use super::glob::ModelGlob;

/// A price of a million tokens, in billionths of a dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsdPerMillion(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PriceConfig {
    /// The models, by the name that clients use. Of several entries that fit, the one with the most letters counts.
    pub model: ModelGlob,

    /// Input tokens.
    pub input: UsdPerMillion,

    /// Input tokens that the upstream had in its cache. Default: as input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<UsdPerMillion>,

    /// Output tokens.
    pub output: UsdPerMillion,

    /// Output tokens that were reasoning. Default: as output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<UsdPerMillion>,
}

/// A price as it is written; what is missing is reported with everything else.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct PriceDraft {
    model: String,
    input: Option<UsdPerMillion>,
    cached_input: Option<UsdPerMillion>,
    output: Option<UsdPerMillion>,
    reasoning: Option<UsdPerMillion>,
}

pub(super) fn resolve(drafts: Vec<PriceDraft>, problems: &mut Problems) -> Vec<PriceConfig> {
    let numbered = drafts.into_iter().enumerate();
    numbered.filter_map(|(index, draft)| draft.resolve(index, problems)).collect()
}

impl PriceDraft {
    fn resolve(self, index: usize, problems: &mut Problems) -> Option<PriceConfig> {
        let mut refuse = |field: &str, rule: &str| problems.refuse(format!("prices[{index}].{field}"), rule);
        let model = ModelGlob::parse(&self.model);
        if model.is_none() {
            refuse(
                "model",
                r#"must be a model's name, with * for any letters and ? for one, such as "gpt-*""#,
            );
        }
        for (field, price) in [("input", self.input), ("output", self.output)] {
            if price.is_none() {
                refuse(field, "must be set; 0 for tokens that cost nothing");
            }
        }
        Some(PriceConfig {
            model: model?,
            input: self.input?,
            cached_input: self.cached_input,
            output: self.output?,
            reasoning: self.reasoning,
        })
    }
}

// === impl UsdPerMillion ===

impl UsdPerMillion {
    const MAX_DOLLARS: u64 = 1_000_000;
    /// Of a decimal fraction.
    const DIGITS: usize = 9;

    /// A decimal number, exactly.
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || fraction.len() > Self::DIGITS {
            return None;
        }
        let dollars: u64 = whole.parse().ok().filter(|dollars| *dollars <= Self::MAX_DOLLARS)?;
        let nano: u64 = format!("{fraction:0<width$}", width = Self::DIGITS).parse().ok()?;
        Some(Self(dollars * 1_000_000_000 + nano))
    }
}

impl fmt::Display for UsdPerMillion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for UsdPerMillion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UsdPerMillion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PriceVisitor)
    }
}

/// A number, or a text that holds one.
struct PriceVisitor;

const RULE: &str =
    "a price in US dollars for a million tokens such as 1.25, at most 1000000, with up to nine decimals";

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

    /// The shortest text of a number is what was written.
    fn visit_f64<E: Error>(self, number: f64) -> Result<UsdPerMillion, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_exactly() {
        let read = |text: &str| UsdPerMillion::parse(text).map(|price| (price.0, price.to_string()));
        assert_eq!(read("1.25"), Some((1_250_000_000, "1.25".into())));
        assert_eq!(read("0.000000001"), Some((1, "0.000000001".into())));
        assert_eq!(read("10"), Some((10_000_000_000, "10".into())));
        assert_eq!(read("0"), Some((0, "0".into())));
        for wrong in ["", "-1", ".5", "1e3", "1,5", "1.2.3", "0.0000000001", "1000001", "NaN"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
