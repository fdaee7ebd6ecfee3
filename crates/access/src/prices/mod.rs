//! What turns cost: the operator's prices, then the list that comes with this build.

mod list;
mod usd;

use std::collections::HashMap;
use std::iter;

use antiphon_protocol::model::{ModelPattern, other_name};
use antiphon_protocol::usage::Usage;
use antiphon_store::MAX_COST_NANO_USD;
use serde::Serialize;

use self::list::LIST;
pub use self::usd::UsdPerMillion;

/// An operator's price for the models that match a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelPrice {
    /// The models, by the name that clients use. If several entries match, the most specific one applies.
    pub model: ModelPattern,

    /// Input tokens.
    pub input: UsdPerMillion,

    /// Input tokens that the upstream had in its cache. Default: the price of input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<UsdPerMillion>,

    /// Output tokens.
    pub output: UsdPerMillion,

    /// Output tokens that were reasoning. Default: the price of output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<UsdPerMillion>,
}

/// Prices in billionths of a dollar per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Price {
    input: u64,
    cached_input: u64,
    output: u64,
    reasoning: u64,
}

#[derive(Debug)]
pub struct Prices {
    own_names: HashMap<String, Price>,
    /// The most specific first.
    own_patterns: Vec<(ModelPattern, Price)>,
    list: HashMap<&'static str, Price>,
}

// === impl Prices ===

impl Prices {
    /// `own` are the operator's prices, which take precedence over the list.
    pub fn new(own: &[ModelPrice]) -> Self {
        let (mut own_names, mut own_patterns) = (HashMap::new(), Vec::new());
        for entry in own {
            match entry.model.literal() {
                Some(name) => drop(own_names.entry(name.to_owned()).or_insert(Price::from_entry(entry))),
                None => own_patterns.push((entry.model.clone(), Price::from_entry(entry))),
            }
        }
        own_patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.specificity()));
        let list = LIST.map(|(name, input, cached, output)| (name, Price::from_list(input, cached, output)));
        Self { own_names, own_patterns, list: HashMap::from(list) }
    }

    /// The cost of a turn in billionths of a dollar, rounded once, half up, and at most [`MAX_COST_NANO_USD`]. `None` if the
    /// turn used tokens and its model has no price.
    pub fn cost_nano_usd(&self, model: &str, usage: &Usage) -> Option<u64> {
        if *usage == Usage::default() {
            return Some(0);
        }
        self.price(model).map(|price| price.cost_nano_usd(usage))
    }

    fn price(&self, model: &str) -> Option<Price> {
        let other = other_name(model);
        let names = || iter::once(model).chain(other.as_deref());
        let by_pattern = || self.own_patterns.iter().find(|(pattern, _)| pattern.covers(model));
        let own = names().find_map(|name| self.own_names.get(name));
        let own = own.or_else(|| by_pattern().map(|(_, price)| price));
        let in_list = |name| self.list.get(name).or_else(|| self.list.get(strip_date(name)?));
        own.or_else(|| names().find_map(in_list)).copied()
    }
}

impl Price {
    fn from_entry(entry: &ModelPrice) -> Self {
        let UsdPerMillion(input) = entry.input;
        let UsdPerMillion(output) = entry.output;
        Self {
            input,
            cached_input: entry.cached_input.map_or(input, |price| price.0),
            output,
            reasoning: entry.reasoning.map_or(output, |price| price.0),
        }
    }

    fn from_list(input: u64, cached_input: Option<u64>, output: u64) -> Self {
        const NANO_PER_THOUSANDTH: u64 = 1_000_000;
        Self {
            input: input * NANO_PER_THOUSANDTH,
            cached_input: cached_input.unwrap_or(input) * NANO_PER_THOUSANDTH,
            output: output * NANO_PER_THOUSANDTH,
            reasoning: output * NANO_PER_THOUSANDTH,
        }
    }

    /// Input tokens include cached tokens, and output tokens include reasoning tokens.
    fn cost_nano_usd(&self, usage: &Usage) -> u64 {
        const MILLION: u128 = 1_000_000;
        let cached = usage.cached_tokens.min(usage.input_tokens);
        let reasoning = usage.reasoning_tokens.min(usage.output_tokens);
        let parts = [
            (usage.input_tokens - cached, self.input),
            (cached, self.cached_input),
            (usage.output_tokens - reasoning, self.output),
            (reasoning, self.reasoning),
        ];
        let millionths = parts.into_iter().fold(0_u128, |sum, (tokens, price)| {
            sum.saturating_add(u128::from(tokens).saturating_mul(u128::from(price)))
        });
        let cost = u64::try_from(millionths.saturating_add(MILLION / 2) / MILLION).unwrap_or(u64::MAX);
        cost.min(MAX_COST_NANO_USD)
    }
}

/// The model of which this is a dated snapshot: `gpt-5` for `gpt-5-2025-08-07`.
fn strip_date(model: &str) -> Option<&str> {
    let (name, date) = model.split_at_checked(model.len().checked_sub("-2025-08-07".len())?)?;
    let fits = |(byte, sign): (u8, u8)| if sign == b'-' { byte == b'-' } else { byte.is_ascii_digit() };
    date.bytes().zip(*b"-0000-00-00").all(fits).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(model: &str, input: u64, cached_input: Option<u64>, output: u64) -> ModelPrice {
        ModelPrice {
            model: ModelPattern::parse(model).unwrap(),
            input: UsdPerMillion(input),
            cached_input: cached_input.map(UsdPerMillion),
            output: UsdPerMillion(output),
            reasoning: None,
        }
    }

    fn usage(input_tokens: u64, cached_tokens: u64, output_tokens: u64, reasoning_tokens: u64) -> Usage {
        Usage { input_tokens, cached_tokens, output_tokens, reasoning_tokens, is_estimated: false }
    }

    #[test]
    fn kinds_of_tokens_are_priced_separately_and_rounded_once() {
        let prices = Prices::new(&[ModelPrice {
            reasoning: Some(UsdPerMillion(7_000_000)),
            ..own("m", 1_000_000, Some(100_000), 5_000_000)
        }]);
        let cost = |usage| prices.cost_nano_usd("m", &usage).unwrap();
        assert_eq!(cost(usage(100, 40, 10, 4)), 60 + 4 + 30 + 28);
        assert_eq!(cost(usage(0, 0, 0, 0)), 0);
        // Tenths of a billionth: below a half, a half, above.
        assert_eq!((cost(usage(4, 4, 0, 0)), cost(usage(5, 5, 0, 0)), cost(usage(16, 16, 0, 0))), (0, 1, 2));
        assert_eq!(cost(usage(1, 5, 1, 9)), 7, "parts never exceed their total");
        assert_eq!(cost(usage(u64::MAX, 0, u64::MAX, u64::MAX)), MAX_COST_NANO_USD);
    }

    #[test]
    fn both_names_of_a_model_have_its_price() {
        let prices = Prices::new(&[
            own("*", 1, None, 0),
            own("p?ain", 2, None, 0),
            own("tagged:latest", 3, None, 0),
            own("both", 4, None, 0),
            own("both:latest", 5, None, 0),
        ]);
        let input_price = |model| prices.price(model).map(|price| price.input);
        let found = ["plain:latest", "plain:8b", "tagged", "both", "both:latest"].map(input_price);
        assert_eq!(found, [Some(2), Some(1), Some(3), Some(4), Some(5)]);
        let listed = Prices::new(&[]);
        for model in ["gpt-5", "gpt-5-2025-08-07"] {
            assert_eq!(listed.price(&format!("{model}:latest")), listed.price(model));
        }
        assert_eq!(listed.price("gpt-5:8b"), None);
    }

    #[test]
    fn the_operators_prices_come_first_and_the_most_specific_pattern_among_them() {
        let input_price = |prices: &Prices, model| prices.price(model).map(|price| price.input);
        let prices = Prices::new(&[
            own("*", 1, None, 0),
            own("gpt-5*", 2, None, 0),
            own("gpt-5-m*", 3, None, 0),
            own("gpt-5-mini", 4, None, 0),
            own("gpt-5-mini", 5, None, 0),
        ]);
        let own_price = |model| input_price(&prices, model);
        let found = ["x", "gpt-5", "gpt-5-max", "gpt-5-mini"].map(own_price);
        assert_eq!(found, [Some(1), Some(2), Some(3), Some(4)]);
        let prices = Prices::new(&[own("gpt-5", 9, None, 0)]);
        let list_price = |model| input_price(&prices, model);
        assert_eq!(list_price("gpt-5"), Some(9));
        assert_eq!(list_price("gpt-5-2025-08-07"), Some(1_250_000_000), "another name");
        assert_eq!(
            list_price("gpt-4o-2024-05-13"),
            Some(5_000_000_000),
            "a snapshot with a price of its own"
        );
        let unknown = ["gpt-5.9", "gpt-5-preview", "ft:gpt-4o:mine", "gpt-5-2025-08-0x", ""];
        assert_eq!(unknown.map(list_price), [None; 5]);
        assert!(LIST.iter().all(|(_, input, cached, output)| cached.unwrap_or(0) < *input && input < output));
    }
}
